"""Volumes as one user may see them: a volume says that it is attached, and to which of this user's own VMs."""

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
        for volume in self._snapshot().volumes.values():
            if volume.visible_to(user_id):
                yield self._view(volume, user_id, by_vid.get(volume.vid, ()))

    def one(self, vid: Vid, user_id: UserId) -> VolumeView | None:
        """`None` for another user's private volume as for one that is not here."""
        volume = self._snapshot().volumes.get(vid)
        if volume is None or not volume.visible_to(user_id):
            return None
        return self._view(volume, user_id, self._having(vid))

    def _having(self, vid: Vid) -> Sequence[VolumeShare]:
        return [share for share in self._keeper.shares() if any(has.vid == vid for has in share.volumes)]

    def _view(self, volume: Volume, user_id: UserId, having: Sequence[VolumeShare]) -> VolumeView:
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
            why=(volume.note or _left(volume, having))[:240],
            goes_with=volume.goes_with,
            sha256=volume.sha256,
            vms=tuple(share.vm_name or share.vm_id for share in having if share.user_id == user_id)[:VMS_MAX],
        )


def _left(volume: Volume, having: Sequence[VolumeShare]) -> str:
    """Of a seed that nobody has: only a person can say that its VM is gone, and not about to start somewhere."""
    if volume.goes_with is None or having:
        return ""
    return f"VM {dashed(volume.goes_with)}, with which it goes, does not have it; if that is gone: electros volume rm"
