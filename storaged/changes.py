"""What becomes of volumes that are there, on their owners' word: another name, size, format or state, or none.

Each is a job, which needs the volume at rest, but for a new name and for a snapshot that is dropped.
"""

from collections.abc import Callable

import trio

from matcher.net.caller import Caller
from matcher.wire.messages import Refused
from matcher.wire.volumes import (
    ChangeVolume,
    DropSnapshot,
    RemoveVolume,
    RollBack,
    Snapshots,
    SnapshotView,
    TakeSnapshot,
)
from specs.ids import UserId, Vid, VmId
from storaged.beneath import Unusable
from storaged.images import changing, snapshots
from storaged.images.copying import Progress
from storaged.images.sandbox import Sandbox
from storaged.jobs import Job
from storaged.promises import Promised
from storaged.shelf import COPY, VmLife, no
from storaged.volume import Volume
from storaged.working import Working, order

_DOING = {TakeSnapshot: "kept as a snapshot", RollBack: "rolled back", DropSnapshot: "relieved of a snapshot"}


class Changes:
    """One host's. `sandbox` is asked anew for each job, as its user may have been made since."""

    def __init__(self, working: Working, *, sandbox: Callable[[], Sandbox] = Sandbox.of) -> None:
        self._working, self._sandbox = working, sandbox
        self._shelf, self._promises = working.shelf, working.promises

    async def change(self, vid: Vid, change: ChangeVolume, caller: Caller) -> Job | Refused:
        async with self._working.turn:
            return self._change(vid, change, caller)

    async def remove(self, vid: Vid, caller: Caller) -> Job | Refused:
        async with self._working.turn:
            return self._remove(vid, caller)

    async def snapshots(self, vid: Vid, caller: Caller) -> Snapshots | Refused:
        """Of a volume that is the caller's."""
        volume = self.own(vid, caller)
        if isinstance(volume, Refused):
            return volume
        try:
            found = await trio.to_thread.run_sync(snapshots.snapshots_of, volume)
        except Unusable as problem:
            return no("not-done", vid, "list its snapshots", str(problem), "")
        return Snapshots(tuple(SnapshotView(each.name, each.size_mib, max(0, each.taken_s)) for each in found))

    async def snapshot(self, vid: Vid, asked: TakeSnapshot | RollBack | DropSnapshot, caller: Caller) -> Job | Refused:
        async with self._working.turn:
            return self._snapshot(vid, asked, caller)

    def own(self, vid: Vid, caller: Caller, hint: str = "") -> Volume | Refused:
        """The volume, if it is the caller's to change; `hint`: what whose it is not can do instead."""
        volume = self._shelf.own(vid, caller, hint)
        if isinstance(volume, Refused):
            return self._working.making(vid, caller) or volume
        return volume

    # ---- in turn: nothing is awaited from the first look to the start of the job

    def _change(self, vid: Vid, change: ChangeVolume, caller: Caller) -> Job | Refused:
        wanted = [what for what in (change.name, change.size_mib, change.format) if what is not None]
        if len(wanted) != 1:
            return no("bad-request", vid, "change it", "one thing at a time: name, size or format", "")
        if change.name is not None:
            return self._rename(vid, change, change.name, caller)
        asked = order(caller, vid, "made larger" if change.size_mib else "converted", change, changes=(vid,))
        if (again := self._working.same(asked)) is not None:
            return again
        volume = self.own(vid, caller, COPY)
        if isinstance(volume, Refused):
            return volume
        if (refusal := self._working.is_leased(volume, asked)) is not None:
            return refusal
        most_mib = volume.size_mib + self._promises.most_mib(caller, volume.pool, more=0)
        more_mib = max(0, (change.size_mib or 0) - volume.size_mib)

        def work(progress: Progress) -> None:
            if change.size_mib is not None:
                changing.resize(self._sandbox(), volume, change.size_mib, most_mib=most_mib)
            elif change.format is not None:
                changing.convert(self._sandbox(), volume, change.format, progress=progress)

        promised = Promised(asked.user_id, volume.pool, more_mib)
        return self._working.start(asked, caller, volume.path, work, promised=promised)

    def _rename(self, vid: Vid, change: ChangeVolume, name: str, caller: Caller) -> Job | Refused:
        """A VM may have it meanwhile."""
        volume = self.own(vid, caller, COPY)
        if isinstance(volume, Refused):
            return volume
        asked = order(caller, vid, "renamed", change)
        return self._working.start(asked, caller, volume.path, lambda _: changing.rename(volume, name))

    def _remove(self, vid: Vid, caller: Caller) -> Job | Refused:
        asked = order(caller, vid, "removed", RemoveVolume(), changes=(vid,))
        if (again := self._working.same(asked)) is not None:
            return again
        volume = self.own(vid, caller)
        if isinstance(volume, Refused):
            return volume
        last = self._shelf.views.one(vid, UserId(caller.id))

        def work(_: Progress) -> None:
            self._shelf.under_lease(volume, lambda: changing.remove(volume))

        return self._working.start(asked, caller, volume.path, work, last=last)

    def _snapshot(self, vid: Vid, asked: TakeSnapshot | RollBack | DropSnapshot, caller: Caller) -> Job | Refused:
        """A VM may have the volume while one is dropped."""
        changes = () if isinstance(asked, DropSnapshot) else (vid,)
        wanted = order(caller, vid, _DOING[type(asked)], asked, changes=changes)
        if (again := self._working.same(wanted)) is not None:
            return again
        volume = self.own(vid, caller, COPY)
        if isinstance(volume, Refused):
            return volume
        if changes and (refusal := self._working.is_leased(volume, wanted)) is not None:
            return refusal
        of = None if isinstance(asked, DropSnapshot) or asked.of is None else asked.of
        life = None if of is None else (VmId(of.vm_id), of.generation)

        def work(progress: Progress) -> None:
            if life is not None:
                self._shelf.close(vid, *life, self._shelf.snapshot())
            _keep(volume, asked, life, progress)

        return self._working.start(wanted, caller, volume.path, work, life=life)


def _keep(
    volume: Volume, asked: TakeSnapshot | RollBack | DropSnapshot, life: VmLife | None, progress: Progress
) -> None:
    match asked:
        case TakeSnapshot(name=name):
            snapshots.take(volume, name, stopped=life is not None, progress=progress)
        case RollBack(name=name):
            snapshots.rollback(volume, name, stopped=life is not None, progress=progress)
        case DropSnapshot(name=name):
            snapshots.drop(volume, name)
