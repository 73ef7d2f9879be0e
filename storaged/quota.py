"""How much of a host's volumes a user may have: the sizes of those held or attached, each volume once. Pure.

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
        """What one user has of this host, by attachments and holds (`residents`) together."""
        return _size_mib(self._vids(user_id, residents), self._snapshot())

    def allows(self, residents: Collection[VolumeShare], claim: VolumeShare, user: User) -> bool:
        """The ledger's judge; `residents` are its holds."""
        return claim.user_id == user.id and not self.against(claim, user, residents)

    def against(self, claim: VolumeShare, user: User, residents: Collection[VolumeShare]) -> tuple[Reason, ...]:
        """Why the user may not have the volumes of `claim` too; empty where they may."""
        most_gb = self._narrowing.narrowed(user.grant).volumes_gb
        if most_gb is None:
            return ()
        snapshot, had = self._snapshot(), self._vids(UserId(user.id), residents)
        more_mib = _size_mib({volume.vid for volume in claim.volumes} - had, snapshot)
        left_mib = max(0, most_gb * GB_MIB - _size_mib(had, snapshot))
        if not more_mib or more_mib <= left_mib:
            return ()
        has = f"{show_gb(left_mib)} of your {most_gb} GB are left on {self._host}"
        return (Reason("grant volumes", show_gb(more_mib), has, "remove a VM that has volumes here: electros rm"),)

    def _vids(self, user_id: UserId, residents: Collection[VolumeShare]) -> set[Vid]:
        mine = (share for share in (*self._shares(), *residents) if share.user_id == user_id)
        return {volume.vid for share in mine for volume in share.volumes}


def _size_mib(vids: Iterable[Vid], snapshot: Snapshot) -> int:
    return sum(snapshot.volumes[vid].size_mib for vid in vids if vid in snapshot.volumes)
