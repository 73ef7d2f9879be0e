"""How much of a host's volumes a user may have: the sizes of their own, and of those held or attached, each once. Pure.

A VM that has its volumes keeps them, however small the grant becomes: only what would be added is judged. A volume that
is not here any more (its pool is gone) has no size, and gives nobody anything.
"""

from collections.abc import Callable, Collection, Iterable

from matcher.offers.ledger import User
from matcher.trust.grants import Narrowing
from matcher.wire.messages import Reason
from specs.ids import UserId, Vid
from specs.units import GB_MIB, show_gb
from storaged.claims import VolumeShare
from storaged.volume import Snapshot


class Quota:
    """One host's judge. `shares` tells what is attached now."""

    def __init__(
        self,
        *,
        host: str,
        shares: Callable[[], Collection[VolumeShare]],
        snapshot: Callable[[], Snapshot],
        volumes_gb: int | None = None,
    ) -> None:
        self._host, self._shares, self._snapshot = host, shares, snapshot
        self._narrowing = Narrowing(volumes_gb=volumes_gb)

    def use_mib(self, user_id: UserId, residents: Collection[VolumeShare] = ()) -> int:
        """What one user has of this host: their own volumes, attachments, and holds (`residents`)."""
        snapshot = self._snapshot()
        others = (vid for vid in self._vids(user_id, residents) if not _is_own(vid, user_id, snapshot))
        rooms = sum(r.room.size_mib for r in residents if r.room is not None and r.user_id == user_id)
        return snapshot.owned_mib(user_id) + _size_mib(others, snapshot) + rooms

    def left_mib(self, user: User, residents: Collection[VolumeShare] = ()) -> int | None:
        """How much more the user may have; `None` where there is no limit."""
        most_gb = self._narrowing.narrowed(user.grant).volumes_gb
        return None if most_gb is None else max(0, most_gb * GB_MIB - self.use_mib(UserId(user.id), residents))

    def allows(self, residents: Collection[VolumeShare], claim: VolumeShare, user: User) -> bool:
        """The ledger's judge; `residents` are its holds."""
        return claim.user_id == user.id and not self.against(claim, user, residents)

    def against(self, claim: VolumeShare, user: User, residents: Collection[VolumeShare]) -> tuple[Reason, ...]:
        """Why the user may not have the volumes of `claim` too; empty where they may."""
        left_mib, user_id = self.left_mib(user, residents), UserId(user.id)
        if left_mib is None:
            return ()
        snapshot, had = self._snapshot(), self._vids(user_id, residents)
        new = (v.vid for v in claim.volumes if v.vid not in had and not _is_own(v.vid, user_id, snapshot))
        more_mib = _size_mib(new, snapshot) + (claim.room.size_mib if claim.room else 0)
        if not more_mib or more_mib <= left_mib:
            return ()
        most_gb = self._narrowing.narrowed(user.grant).volumes_gb
        has = f"{show_gb(left_mib)} of your {most_gb} GB are left on {self._host}"
        hint = "remove a volume, or a VM that has volumes here: electros volume rm, electros rm"
        return (Reason("grant volumes", show_gb(more_mib), has, hint),)

    def _vids(self, user_id: UserId, residents: Collection[VolumeShare]) -> set[Vid]:
        mine = (share for share in (*self._shares(), *residents) if share.user_id == user_id)
        return {volume.vid for share in mine for volume in share.volumes}


def _is_own(vid: Vid, user_id: UserId, snapshot: Snapshot) -> bool:
    volume = snapshot.volumes.get(vid)
    return volume is not None and volume.owner == user_id


def _size_mib(vids: Iterable[Vid], snapshot: Snapshot) -> int:
    return sum(snapshot.volumes[vid].size_mib for vid in vids if vid in snapshot.volumes)
