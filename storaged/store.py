"""What users may see of this host's volumes, and do with them: what stands behind storaged's front door.

Another user's private volume is "not found", and so are VMs of others: a volume says that it is attached, not to whom.
"""

from collections.abc import Callable, Iterator

from matcher.net.audit import Audit
from matcher.net.caller import Caller
from matcher.wire.messages import Reason, Refused
from matcher.wire.volumes import VOLUMES_LISTED_MAX, Attached, Detach, Detached, VolumeView, VolumeViews
from specs.ids import HostId, UserId, Vid
from storaged.attaching import Attaching
from storaged.claims import VolumeShare
from storaged.keeper import Keeper
from storaged.volume import Snapshot, Volume

VMS_MAX = 64
ABSENT = Refused(
    "not-found", (Reason("volume", "this volume", "no such volume here", "electros volume ls shows what you may see"),)
)


class Store:
    """The front door's counterpart on a storage host."""

    def __init__(
        self,
        host: str,
        host_id: HostId,
        keeper: Keeper,
        snapshot: Callable[[], Snapshot],
        attaching: Attaching,
        audit: Audit,
    ) -> None:
        self._host, self._host_id, self._keeper = host, host_id, keeper
        self._snapshot, self._attaching, self._audit = snapshot, attaching, audit

    async def volumes(self, caller: Caller) -> VolumeViews:
        views = tuple(self._visible(UserId(caller.id)))
        return VolumeViews(views[:VOLUMES_LISTED_MAX], max(0, len(views) - VOLUMES_LISTED_MAX))

    async def volume(self, vid: Vid, caller: Caller) -> VolumeView | Refused:
        volume = self._snapshot().volumes.get(vid)
        if volume is None or not volume.visible_to(UserId(caller.id)):
            return ABSENT
        return self._view(volume, UserId(caller.id), self._keeper.shares())

    async def attach(self, confirm: bytes, caller: Caller) -> Attached | Refused:
        return await self._attaching.attach(confirm, HostId(caller.id), caller.address)

    async def detach(self, detach: Detach, caller: Caller) -> Detached | Refused:
        return await self._attaching.detach(detach, HostId(caller.id))

    def denied(self, caller: Caller, asked: str, why: str) -> None:
        self._audit.note(caller, "denied", asked, "refused: denied", why)

    def _visible(self, user_id: UserId) -> Iterator[VolumeView]:
        shares = self._keeper.shares()
        for volume in self._snapshot().volumes.values():
            if volume.visible_to(user_id):
                yield self._view(volume, user_id, shares)

    def _view(self, volume: Volume, user_id: UserId, shares: tuple[VolumeShare, ...]) -> VolumeView:
        having = [share for share in shares if any(has.vid == volume.vid for has in share.volumes)]
        return VolumeView(
            vid=volume.vid,
            name=volume.name,
            size_mib=volume.size_mib,
            format=volume.format,
            bootable=volume.bootable,
            private=volume.private,
            shareable=volume.shareable,
            readonly=volume.readonly,
            owner=volume.owner,
            host=self._host,
            host_id=self._host_id,
            pool=volume.pool[:240],
            state="attached" if having else "free",
            why=volume.note[:240],
            vms=tuple(share.vm_name or share.vm_id for share in having if share.user_id == user_id)[:VMS_MAX],
        )
