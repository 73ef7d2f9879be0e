"""Volumes as one user may see them: a volume says that it is attached, and to which of this user's own VMs.

What a pool that may not be written withholds is listed as well, with the reason. In a pool that several servers serve,
a volume is attached whichever of them has given it.
"""

from collections.abc import Callable, Iterator, Sequence

from matcher.wire.volumes import VolumeView
from specs.ids import HostId, UserId, Vid, dashed
from storaged.claims import VolumeShare
from storaged.keeper import Keeper
from storaged.volume import Snapshot, Volume

VMS_MAX = 64


class Views:
    """Of one host's volumes."""

    def __init__(self, host: str, host_id: HostId, keeper: Keeper, snapshot: Callable[[], Snapshot]) -> None:
        self._host, self._host_id, self._keeper, self._snapshot = host, host_id, keeper, snapshot

    def all(self, user_id: UserId) -> Iterator[VolumeView]:
        """Those that the user may see."""
        by_vid: dict[Vid, list[VolumeShare]] = {}
        for share in self._keeper.shares():
            for has in share.volumes:
                by_vid.setdefault(has.vid, []).append(share)
        snapshot = self._snapshot()
        for volume in snapshot.volumes.values():
            if volume.visible_to(user_id):
                yield self._view(volume, user_id, by_vid.get(volume.vid, ()))
        for bad in snapshot.bad.values():
            if bad.withheld is not None and bad.visible_to(user_id):
                yield self._view(bad.withheld, user_id, by_vid.get(bad.withheld.vid, ()), why=bad.reason)

    def one(self, vid: Vid, user_id: UserId) -> VolumeView | None:
        """`None` for another user's private volume as for one that is not here."""
        snapshot = self._snapshot()
        bad = snapshot.bad.get(vid)
        volume = snapshot.volumes.get(vid) or (bad.withheld if bad is not None else None)
        if volume is None or not volume.visible_to(user_id):
            return None
        return self._view(volume, user_id, self._having(vid), why=bad.reason if bad is not None else "")

    def _having(self, vid: Vid) -> Sequence[VolumeShare]:
        return [share for share in self._keeper.shares() if any(has.vid == vid for has in share.volumes)]

    def _view(self, volume: Volume, user_id: UserId, having: Sequence[VolumeShare], *, why: str = "") -> VolumeView:
        """`why` it is withheld, if so."""
        is_shared = self._snapshot().is_shared(volume.pool)
        lent = volume.right if is_shared and volume.right is not None and volume.right.held else None
        away = lent is not None and lent.server != self._host_id and not having
        vms = [share.vm_name or share.vm_id for share in having if share.user_id == user_id]
        if lent is not None and away and lent.user_id == user_id:
            vms.append(lent.vm_id)
        state = "attached" if having or away else "bad" if why else "free"
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
            state=state,
            why=(why or volume.note or _left(volume, having))[:240],
            goes_with=volume.goes_with,
            sha256=volume.sha256,
            vms=tuple(vms)[:VMS_MAX],
            shared=is_shared,
            lent_by=lent.server if lent is not None and away else self._host_id if is_shared and having else None,
        )


def _left(volume: Volume, having: Sequence[VolumeShare]) -> str:
    """Of a seed that nobody has: only a person can say that its VM is gone, and not about to start somewhere."""
    if volume.goes_with is None or having:
        return ""
    return f"VM {dashed(volume.goes_with)}, with which it goes, does not have it; if that is gone: electros volume rm"
