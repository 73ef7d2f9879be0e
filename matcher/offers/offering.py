"""A host's answers to pledges: what it can give becomes a hold and an offer, once for each pledge.

A pledge comes by several links and is repeated by a client that heard nothing, so the answers given are remembered by
pledge id: a repeat is answered as the first was, but for offers whose holds have ended, and never takes anything more.
A host that had nothing to say looks again. That memory is the replay window as well: an old pledge is stale before it
is forgotten.
Pure: callers pass `now_s`, one monotonic clock.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

from matcher.offers.ledger import PLEDGES_HELD_MAX, Ledger, Refusal, User
from matcher.wire.messages import REASONS_MAX, Pledge, Reason, Reveal, Role, Unfit, VmOffer, VolumeOffer
from matcher.wire.seal import opens
from specs.ids import OfferId, PledgeId, UserId, new_id

PLEDGES_MAX = 4096  # remembered at once; beyond it new pledges meet silence
PLEDGE_MEMORY_S = 65.0  # a pledge is stale after 30 s by either side's clock
REPEAT_S = 0.1  # the same pledge by IPv4 and IPv6 is one pledge; a client repeats later than that

_HOLDS_FULL = Reason(
    "holds", "one more", f"you hold offers of {PLEDGES_HELD_MAX} pledges here", "they lapse in seconds: try again"
)
_TAKEN = Reason("capacity", "a hold", "taken a moment ago", "try again")
_OVER_GRANT = Reason("grant", "one more", "more than your grant allows here", "electros whoami shows what is used")
_WHY = {Refusal.TOO_MANY_HOLDS: _HOLDS_FULL, Refusal.OVER_GRANT: _OVER_GRANT}

C = TypeVar("C")
Offer = VmOffer | VolumeOffer
Reply = Offer | Unfit


@dataclass(frozen=True, slots=True)
class Proposal(Generic[C]):
    """What the host would give: the claim to hold, and the offer but for its id and its time. `reasons` tell of asked
    things that are here and cannot be given."""

    claim: C
    offer: Offer
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Nothing:
    """The host cannot serve the pledge. `aloud`: say why even to a pledge that is not dry."""

    reasons: tuple[Reason, ...]
    aloud: bool = False


class Proposer(Protocol[C]):
    """A daemon's own knowledge of what it has (`atomd` of threads and RAM, `storaged` of volumes), and of what a user
    may have of it."""

    def propose(self, pledge: Pledge, user: User, residents: Sequence[C]) -> Proposal[C] | Nothing: ...


@dataclass(slots=True)
class _Answered:
    pledge: Pledge
    user_id: UserId
    heard_s: float
    answered_s: float
    replies: tuple[Reply, ...]
    silenced: bool = False

    def offers(self) -> tuple[Offer, ...]:
        return tuple(reply for reply in self.replies if not isinstance(reply, Unfit))


class Offering(Generic[C]):
    """One daemon's offering side; `host` and `role` name it in what it sends."""

    def __init__(self, *, host: str, role: Role, proposer: Proposer[C], ledger: Ledger[C], random: Random) -> None:
        self.host, self.role = host, role
        self.hosts_known = 0
        self._proposer, self._ledger, self._random = proposer, ledger, random
        self._answered: dict[PledgeId, _Answered] = {}

    def pledge(self, pledge: Pledge, user: User, now_s: float) -> tuple[Reply, ...]:
        """The answers to send for this pledge, now; empty for silence."""
        user_id = UserId(user.id)
        self._forget(now_s)
        known = self._answered.get(PledgeId(pledge.pledge_id))
        if known is not None and (known.replies or not self._may_repeat(known, user_id, now_s)):
            return self._repeat(known, user_id, now_s)
        if known is None and len(self._answered) >= PLEDGES_MAX:
            return ()
        proposal = self._proposer.propose(pledge, user, self._ledger.residents(now_s))
        if isinstance(proposal, Nothing):
            offers: tuple[Reply, ...] = ()
            unfit = self._unfit(pledge, proposal.reasons, aloud=proposal.aloud)
        else:
            offers = self._offer(pledge, proposal, user, now_s)
            unfit = self._unfit(pledge, proposal.reasons, aloud=True)
        replies = (*offers, *unfit)
        heard_s = known.heard_s if known is not None else now_s
        self._answered[PledgeId(pledge.pledge_id)] = _Answered(pledge, user_id, heard_s, now_s, replies)
        return replies

    def reveal(self, reveal: Reveal, now_s: float) -> None:
        """*Enough* keeps this host silent about a pledge that it has not answered; *done* frees its other holds."""
        known = self._answered.get(PledgeId(reveal.pledge_id))
        if known is None:
            return
        meaning = opens(known.pledge.seal, reveal.secret)
        if meaning is not None:
            known.silenced = True
        if meaning == "done":
            for offer in known.offers():
                if offer.offer_id != reveal.keep and self._ledger.held(OfferId(offer.offer_id), now_s):
                    self._ledger.release(OfferId(offer.offer_id))

    def pledged(self, pledge_id: PledgeId, user_id: UserId) -> Pledge | None:
        """The pledge as this host heard it from this user: a confirm has to match it."""
        known = self._answered.get(pledge_id)
        return known.pledge if known is not None and known.user_id == user_id else None

    def _offer(self, pledge: Pledge, proposal: Proposal[C], user: User, now_s: float) -> tuple[Reply, ...]:
        offer_id = OfferId(new_id(self._random))
        if not pledge.dry:
            refusal = self._ledger.hold(
                offer_id,
                proposal.claim,
                pledge_id=PledgeId(pledge.pledge_id),
                user=user,
                for_s=pledge.hold_ms / 1000,
                now_s=now_s,
            )
            if refusal is not None:
                return self._unfit(pledge, (_WHY.get(refusal, _TAKEN),), aloud=True)
        expires_in_ms = 0 if pledge.dry else pledge.hold_ms
        offer = dataclasses.replace(
            proposal.offer, offer_id=offer_id, expires_in_ms=expires_in_ms, hosts_known=self.hosts_known
        )
        return (offer,)

    def _unfit(self, pledge: Pledge, reasons: Sequence[Reason], *, aloud: bool) -> tuple[Unfit, ...]:
        if not reasons or not (pledge.dry or aloud):
            return ()
        return (Unfit(pledge.pledge_id, self.host, self.role, self.hosts_known, tuple(reasons[:REASONS_MAX])),)

    def _repeat(self, known: _Answered, user_id: UserId, now_s: float) -> tuple[Reply, ...]:
        if not self._may_repeat(known, user_id, now_s):
            return ()
        known.answered_s = now_s
        return tuple(again for reply in known.replies if (again := self._as_of(reply, known, now_s)) is not None)

    def _may_repeat(self, known: _Answered, user_id: UserId, now_s: float) -> bool:
        return known.user_id == user_id and not known.silenced and now_s - known.answered_s >= REPEAT_S

    def _as_of(self, reply: Reply, known: _Answered, now_s: float) -> Reply | None:
        """The same answer, with the time that is left of its hold; `None` once the hold has ended."""
        if isinstance(reply, Unfit) or known.pledge.dry:
            return reply
        hold = self._ledger.held(OfferId(reply.offer_id), now_s)
        return None if hold is None else dataclasses.replace(reply, expires_in_ms=int((hold.until_s - now_s) * 1000))

    def _forget(self, now_s: float) -> None:
        """Oldest first: a dict keeps the order in which pledges were heard."""
        while self._answered:
            pledge_id, oldest = next(iter(self._answered.items()))
            if now_s - oldest.heard_s < PLEDGE_MEMORY_S:
                return
            del self._answered[pledge_id]
