"""Whether a VM may have the volumes that its user's confirm claims from this host: reach, hold, jobs, grant.

    confirm --reachable, and held for it--> its turn --not let go, at rest, within the grant--> the keeper decides

A VM on another host needs the hold of an offer: that host could bring old words of a user for as long as it lives. What
a life of a VM has already, it keeps.
Pure: callers pass `now_s`, one monotonic clock.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from matcher.offers.ledger import Ledger, Refusal, User
from matcher.wire.messages import REASONS_MAX, Reason, Refused
from specs.ids import HostId, OfferId, UserId, Vid, VmId
from storaged.attachments import Refusal as No
from storaged.claims import VolumeShare, shared
from storaged.fit import being_done, in_use_reason, reason
from storaged.quota import Quota
from storaged.volume import Snapshot, Volume
from storaged.wish import Wish

LET_GO_MAX = 4096  # offers; one lives 10 s, so that forgetting the oldest is harmless

LetGo = tuple[HostId, OfferId, Vid | None]  # `None`: all that the offer gave


class Having(Protocol):
    """A `Keeper`: who has what."""

    def shares(self) -> Collection[VolumeShare]: ...

    def has(self, vm_id: VmId, generation: int, user_id: UserId, host_id: HostId, vids: Collection[Vid]) -> bool: ...


class Admission:
    """One host's judge. `why_not` says why a volume can't reach other hosts; `doing` tells what a job does to one."""

    def __init__(
        self,
        server: HostId,
        having: Having,
        ledger: Ledger[VolumeShare],
        snapshot: Callable[[], Snapshot],
        quota: Quota,
        *,
        why_not: Callable[[Volume], str | None],
        doing: Callable[[Vid], str | None],
    ) -> None:
        self._server, self._having, self._ledger, self._snapshot = server, having, ledger, snapshot
        self._quota, self._why_not, self._doing = quota, why_not, doing
        self._let_go: dict[LetGo, None] = {}  # a confirm served after its detach must not attach

    def has(self, wish: Wish, user_id: UserId) -> bool:
        """Whether this life of the VM has these volumes already, on the host that asks."""
        return self._having.has(wish.vm_id, wish.generation, user_id, wish.host_id, wish.vids)

    def let_go(self, host_id: HostId, offer_id: OfferId, vids: Collection[Vid] = ()) -> None:
        """The VM of that confirm has ended, or goes on without these."""
        for vid in vids or (None,):
            while len(self._let_go) >= LET_GO_MAX:
                del self._let_go[next(iter(self._let_go))]
            self._let_go[host_id, offer_id, vid] = None

    def against(self, wish: Wish, user: User, now_s: float) -> Refused | None:
        """As soon as it comes: its holds, if it has any, have done their work."""
        return self._out_of_reach(wish) or self._take_hold(wish, UserId(user.id), now_s)

    def against_in_turn(self, wish: Wish, user: User, *, had: bool) -> Refused | None:
        """When its turn comes: what has changed meanwhile. `had`: whether the VM had them when it came."""
        if any((wish.host_id, wish.offer_id, vid) in self._let_go for vid in (None, *wish.vids)):
            return _refused("let-go", "this confirm was let go of meanwhile")
        if had and wish.host_id != self._server and not self.has(wish, UserId(user.id)):
            return self._not_held(wish, UserId(user.id))  # it came by what the VM had, and needs a hold now
        if (busy := self._changing(wish.vids)) is not None:
            return busy
        over = self._over(wish, user)
        return Refused(Refusal.OVER_GRANT, over) if over else None

    def _out_of_reach(self, wish: Wish) -> Refused | None:
        if not wish.claims:
            return _refused("not-here", "none of them is claimed from this host")
        if wish.host_id == self._server:
            return None
        volumes = self._snapshot().volumes
        found = [volumes[vid] for vid in wish.vids if vid in volumes]
        why_not = [reason(volume.vid, why) for volume in found if (why := self._why_not(volume)) is not None]
        return Refused("not-reachable", tuple(why_not[:REASONS_MAX])) if why_not else None

    def _changing(self, vids: Sequence[Vid]) -> Refused | None:
        found = [being_done(vid, doing) for vid in vids if (doing := self._doing(vid)) is not None]
        return Refused("busy", tuple(found[:REASONS_MAX])) if found else None

    def _over(self, wish: Wish, user: User) -> tuple[Reason, ...]:
        """Judged again, as the grant may be smaller by now; other holds do not count, as they may lapse."""
        found = [self._snapshot().volumes.get(vid) for vid in wish.vids]
        volumes = tuple(shared(volume) for volume in found if volume is not None)
        claim = VolumeShare(wish.vm_id, wish.generation, UserId(user.id), volumes)
        return self._quota.against(claim, user, ())

    def _take_hold(self, wish: Wish, user_id: UserId, now_s: float) -> Refused | None:
        """The offer's hold becomes the attachment. Without one (it lapsed, or this host has restarted since) a VM here
        may still have the volumes, if nobody else's hold is on them. One on another host may not: that host could
        bring old words of a user for as long as it lives."""
        offers = dict.fromkeys(OfferId(claim.offer_id) for claim in wish.claims)
        held = [offer_id for offer_id in offers if self._holds(offer_id, wish, user_id, now_s)]
        for offer_id in held:
            self._ledger.release(offer_id)
        if not held and wish.host_id != self._server and not self.has(wish, user_id):
            return self._not_held(wish, user_id)
        vids = set(wish.vids)
        for other in self._ledger.residents(now_s):
            is_own = (other.vm_id, other.user_id) == (wish.vm_id, user_id)
            if not is_own and any(v.exclusive and v.vid in vids for v in other.volumes):
                return _refused("hold-lapsed", "held for another VM meanwhile")
        return None

    def _not_held(self, wish: Wish, user_id: UserId) -> Refused:
        """And who has the volumes instead, if anybody: the VM's host may ask for a VM that runs."""
        claim = VolumeShare(wish.vm_id, wish.generation, user_id, ())
        having = {volume.vid: share for share in self._having.shares() for volume in share.volumes}
        reasons = [
            in_use_reason(vid, having[vid], claim)
            if vid in having
            else reason(vid, "not held for this VM any more", "run it again")
            for vid in wish.vids
        ]
        return Refused(No.NOT_HELD.value, tuple(reasons[:REASONS_MAX]))

    def _holds(self, offer_id: OfferId, wish: Wish, user_id: UserId, now_s: float) -> bool:
        hold = self._ledger.held(offer_id, now_s)
        return hold is not None and hold.user_id == user_id and hold.claim.vm_id == wish.vm_id


def _refused(code: str, has: str) -> Refused:
    return Refused(code, (Reason("volumes", "to use it", has, "run it again"),))
