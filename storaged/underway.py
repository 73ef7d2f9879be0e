"""Volumes with what is being done to them: a change shows with the volume, and what is being made is listed for the
user who has it made, until it is there.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from matcher.wire.volumes import CloneVolume, ImportVolume, NewSeed, NewVolume, VolumeView
from specs.ids import HostId, UserId, Vid
from specs.units import show_mib
from storaged.jobs import Job, Jobs
from storaged.views import Views
from storaged.volume import Snapshot, Volume


class UnderWay:
    """One host's."""

    def __init__(self, host: str, host_id: HostId, views: Views, jobs: Jobs, snapshot: Callable[[], Snapshot]) -> None:
        self._host, self._host_id, self._views, self._jobs, self._snapshot = host, host_id, views, jobs, snapshot

    def all(self, user_id: UserId) -> Iterator[VolumeView]:
        """Those that the user may see."""
        for view in self._views.all(user_id):
            yield self._with_job(view)
        for job in self._jobs.made_for(user_id):
            if (new := self._new(job)) is not None:
                yield new

    def one(self, vid: Vid, user_id: UserId) -> VolumeView | None:
        view = self._views.one(vid, user_id)
        if view is not None:
            return self._with_job(view)
        job = self._jobs.changing(vid)
        return self._new(job) if job is not None and job.order.user_id == user_id else None

    def _with_job(self, view: VolumeView) -> VolumeView:
        job = self._jobs.changing(Vid(view.vid))
        if job is None:
            return view
        return replace(view, state="busy" if view.state == "free" else view.state, why=_how_far(job))

    def _new(self, job: Job) -> VolumeView | None:
        """A volume that is not there yet, as it is to be."""
        volumes = self._snapshot().volumes
        if job.order.vid in volumes:
            return None
        match job.order.asked:
            case NewVolume() as new:
                return self._view(new, job)
            case ImportVolume(new=new) | NewSeed(new=new):
                return self._view(new, job)
            case CloneVolume() as clone:
                source = next((volumes[vid] for vid in job.order.reads if vid in volumes), None)
                return None if source is None else self._view(_copy(clone, source), job)
        return None

    def _view(self, new: NewVolume, job: Job) -> VolumeView:
        return VolumeView(
            vid=new.vid,
            name=new.name,
            size_mib=new.size_mib,
            format=new.format,
            bootable=new.bootable,
            private=new.private,
            shareable=new.shareable,
            readonly=new.readonly,
            owner=job.order.user_id,
            host=self._host,
            host_id=self._host_id,
            pool="",
            state="busy",
            why=_how_far(job),
        )


def _copy(clone: CloneVolume, source: Volume) -> NewVolume:
    private = clone.private or source.private
    traits = (source.size_mib, source.format, source.bootable, private, False, False)
    return NewVolume(clone.vid, "", clone.name, *traits)


def _how_far(job: Job) -> str:
    now = job.now("doing")
    of = f" {100 * now.done_mib // now.total_mib} % of {show_mib(now.total_mib)}" if now.total_mib else ""
    step = f", {now.step}{of}" if now.step else ""
    return f"it is being {job.order.doing}{step}"[:240]
