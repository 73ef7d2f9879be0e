"""Room in the pools that volumes will take once their jobs have ended, and how much of it a user may still have."""

from dataclasses import dataclass

from matcher.net.caller import Caller
from matcher.net.peer import now_s
from matcher.offers.ledger import Ledger
from matcher.wire.messages import Refused
from matcher.wire.volumes import NewVolume
from specs.ids import OfferId, UserId, Vid
from storaged.claims import VolumeShare, left_mib
from storaged.gathering import why_not_shared
from storaged.quota import Quota
from storaged.shelf import Shelf, no


@dataclass(frozen=True, slots=True)
class Promised:
    """What a volume will take of a pool."""

    user_id: UserId
    pool: str
    size_mib: int
    pool_id: str | None = None


class Promises:
    """One host's, each from the start of a job to its end."""

    def __init__(self, shelf: Shelf, ledger: Ledger[VolumeShare], quota: Quota) -> None:
        self._shelf, self._ledger, self._quota = shelf, ledger, quota
        self._promised: dict[Vid, Promised] = {}

    def keep(self, vid: Vid, promised: Promised) -> None:
        self._promised[vid] = promised

    def end(self, vid: Vid) -> None:
        self._promised.pop(vid, None)

    def held(self) -> set[Vid]:
        """The volumes that offers hold for some seconds."""
        return {volume.vid for share in self._ledger.residents(now_s()) for volume in share.volumes}

    def taken(self, new: NewVolume, caller: Caller) -> Promised | Refused:
        """The room that an offer has held for a new volume; the offer is used up by this."""
        vid, offer_id = Vid(new.vid), OfferId(new.offer_id)
        hold = self._ledger.held(offer_id, now_s())
        room = hold.claim.room if hold is not None and hold.user_id == caller.id else None
        if room is None or hold is None or str(hold.claim.vm_id) != vid or room.size_mib < new.size_mib:
            return no("hold-lapsed", vid, "make it", "the room that was offered is not held any more", "try again")
        if self._shelf.knows(vid):
            return no("exists", vid, "make it", "there is a volume with this UUID", "electros volume inspect")
        why = "" if new.readonly else why_not_shared(new.format, shareable=new.shareable)
        if why and self._shelf.snapshot().is_shared(room.pool):
            return no("not-shared", vid, "make it", why, "make it on another host")
        self._ledger.release(offer_id)
        pool_id = next((use.pool_id for use in self._shelf.snapshot().pools if use.path == room.pool), None)
        return Promised(UserId(caller.id), room.pool, min(room.size_mib, self.most_mib(caller, room.pool)), pool_id)

    def most_mib(self, caller: Caller, pool: str, *, more: int = 1) -> int:
        """How much this user may have more in that pool, for `more` volumes than there are."""
        residents = self._ledger.residents(now_s())
        coming = sum(p.pool == pool and not self._shelf.knows(vid) for vid, p in self._promised.items())
        in_pool = left_mib(self._shelf.snapshot(), pool, residents, more=more and more + coming)
        in_pool -= sum(p.size_mib for p in self._promised.values() if p.pool == pool)
        granted = self._quota.left_mib(caller.who, residents)
        if granted is not None:
            granted -= sum(p.size_mib for p in self._promised.values() if p.user_id == caller.id)
        return max(0, in_pool if granted is None else min(in_pool, granted))
