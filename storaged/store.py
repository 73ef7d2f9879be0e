"""What stands behind storaged's front door: users look at volumes and have them changed, hosts attach them.

Another user's private volume is "not found", whoever asks for what.
"""

from collections.abc import AsyncIterator, Sequence

from matcher.net.audit import Audit
from matcher.net.caller import Caller
from matcher.wire.messages import Refused
from matcher.wire.realm import Done
from matcher.wire.volumes import (
    VOLUMES_LISTED_MAX,
    Attached,
    ChangeVolume,
    CloneVolume,
    Detach,
    Detached,
    DropSnapshot,
    ImportVolume,
    NewSeed,
    NewVolume,
    RollBack,
    Snapshots,
    TakeSnapshot,
    VolumeView,
    VolumeViews,
)
from specs.ids import HostId, UserId, Vid
from storaged.arrivals import Arrivals
from storaged.attaching import Attaching
from storaged.changes import Changes
from storaged.jobs import Job
from storaged.measuring import Measures
from storaged.shelf import ABSENT
from storaged.underway import UnderWay
from storaged.working import Working


class Store:
    """The front door's counterpart on a storage host."""

    def __init__(
        self,
        views: UnderWay,
        attaching: Attaching,
        arrivals: Arrivals,
        changes: Changes,
        working: Working,
        measures: Measures,
        audit: Audit,
    ) -> None:
        self._views, self._attaching, self._audit = views, attaching, audit
        self._arrivals, self._changes, self._working, self._measures = arrivals, changes, working, measures

    async def volumes(self, caller: Caller) -> VolumeViews:
        views = tuple(self._views.all(UserId(caller.id)))
        taken = await self._measures.taken(views[:VOLUMES_LISTED_MAX])
        return VolumeViews(taken, max(0, len(views) - VOLUMES_LISTED_MAX))

    async def volume(self, vid: Vid, caller: Caller) -> VolumeView | Refused:
        view = self._views.one(vid, UserId(caller.id))
        return ABSENT if view is None else (await self._measures.taken((view,)))[0]

    async def create(self, new: NewVolume, caller: Caller) -> Job | Refused:
        return await self._arrivals.create(new, caller)

    async def import_(self, asked: ImportVolume, caller: Caller) -> Job | Refused:
        return await self._arrivals.import_(asked, caller)

    async def upload(self, vid: Vid, pieces: AsyncIterator[bytes], caller: Caller) -> Done | Refused:
        return await self._arrivals.upload(vid, pieces, caller)

    async def change(self, vid: Vid, change: ChangeVolume, caller: Caller) -> Job | Refused:
        return await self._changes.change(vid, change, caller)

    async def clone(self, vid: Vid, clone: CloneVolume, caller: Caller) -> Job | Refused:
        return await self._arrivals.clone(vid, clone, caller)

    async def remove(self, vid: Vid, caller: Caller) -> Job | Refused:
        return await self._changes.remove(vid, caller)

    async def cancel(self, vid: Vid, caller: Caller) -> Done | Refused:
        return await self._working.cancel(vid, caller)

    async def take_over(self, vid: Vid, caller: Caller, *, is_said_dead: bool) -> Done | Refused:
        volume = self._changes.own(vid, caller)
        if isinstance(volume, Refused):
            return volume
        return await self._attaching.free(vid, caller, is_said_dead=is_said_dead)

    async def seed(self, seed: NewSeed, caller: Caller) -> Job | Refused:
        return await self._arrivals.seed(seed, caller)

    async def snapshots(self, vid: Vid, caller: Caller) -> Snapshots | Refused:
        return await self._changes.snapshots(vid, caller)

    async def snapshot(self, vid: Vid, asked: TakeSnapshot | RollBack | DropSnapshot, caller: Caller) -> Job | Refused:
        return await self._changes.snapshot(vid, asked, caller)

    async def attach(self, confirm: bytes, caller: Caller, without: Sequence[Vid]) -> Attached | Refused:
        return await self._attaching.attach(confirm, HostId(caller.id), caller.address, without)

    async def detach(self, detach: Detach, caller: Caller) -> Detached | Refused:
        return await self._attaching.detach(detach, HostId(caller.id))

    def denied(self, caller: Caller, asked: str, why: str) -> None:
        self._audit.note(caller, "denied", asked, "refused: denied", why)
