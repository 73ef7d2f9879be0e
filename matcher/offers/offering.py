"""A host's answers to pledges: what it can give becomes a hold and an offer, once for each pledge.

A pledge comes by several links and is repeated by a client that heard nothing, so the answers given are remembered by
pledge id: a repeat is answered as the first was, but for offers whose holds have ended, and never takes anything more.
A host that had nothing to say looks again. That memory is the replay window as well: an old pledge is stale before it
is forgotten.

    pledge --small realm, or at once--> ANSWERED
       '-----> WAITING --due--> ANSWERED: fit and hold
                  '--*enough*, *done*--> silent

In a large realm the best answer first (`matcher.offers.feedback`). What waits holds nothing: it is looked at when its
pledge comes, to know its class, and looked at again when its time has come.
Pure: callers pass `now_s`, one monotonic clock.
"""

import dataclasses
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

from matcher.offers.feedback import chance_of, survey_wait_s, wait_s
from matcher.offers.ledger import PLEDGES_HELD_MAX, Ledger, Refusal, User
from matcher.wire.messages import REASONS_MAX, Pledge, Reason, Reveal, Role, Unfit, VmOffer, VolumeOffer
from matcher.wire.seal import opens
from matcher.wire.slots import LAST, is_spread, slot_of
from specs.ids import OfferId, PledgeId, UserId, new_id

PLEDGES_MAX = 4096  # remembered at once; beyond it new pledges meet silence
PLEDGE_MEMORY_S = 65.0  # a pledge is stale after 30 s by either side's clock
WAITING_MAX = 1024  # answers that wait for their time; beyond it, they do not wait
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
    things that are here and cannot be given. `at_once`: it is better than its score says, so that it never waits."""

    claim: C
    offer: Offer
    reasons: tuple[Reason, ...] = ()
    at_once: bool = False


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
    waits: bool = False

    def offers(self) -> tuple[Offer, ...]:
        return tuple(reply for reply in self.replies if not isinstance(reply, Unfit))


class Offering(Generic[C]):
    """One daemon's offering side; `host` and `role` name it in what it sends."""

    def __init__(self, *, host: str, role: Role, proposer: Proposer[C], ledger: Ledger[C], random: Random) -> None:
        self.host, self.role = host, role
        self.hosts_known = 0
        self._proposer, self._ledger, self._random = proposer, ledger, random
        self._answered: dict[PledgeId, _Answered] = {}
        self._due: list[tuple[float, PledgeId]] = []  # a heap

    def hear(self, pledge: Pledge, user: User, now_s: float) -> tuple[Reply, ...] | None:
        """As `pledge`; but in a large realm the answer may have to wait, which is `None`, and `due` names it once. A
        repeat starts nothing anew."""
        self._forget(now_s)
        known, hosts = self._answered.get(PledgeId(pledge.pledge_id)), max(self.hosts_known, pledge.hosts_known)
        if known is not None and known.waits:
            return None
        if not is_spread(hosts) or len(self._due) >= WAITING_MAX or self._is_settled(known, UserId(user.id), now_s):
            return self._pledge(pledge, known, user, now_s)
        chance = chance_of(pledge.pledge_id, self.host)
        if pledge.dry:
            self._wait(pledge, user, now_s, now_s + survey_wait_s(hosts, chance))
            return None
        if known is None and len(self._answered) >= PLEDGES_MAX:
            return ()
        proposal = self._proposer.propose(pledge, user, self._ledger.residents(now_s))
        slot = _slot(proposal)
        if slot is None:
            return self._reply(pledge, proposal, user, now_s)
        self._wait(pledge, user, now_s, now_s + wait_s(slot, hosts, chance))
        return None

    def next_deadline_s(self) -> float | None:
        return self._due[0][0] if self._due else None

    def due(self, now_s: float) -> list[PledgeId]:
        """The pledges to be answered now, by `pledge`; those that were silenced meanwhile get no answer there."""
        found = []
        while self._due and self._due[0][0] <= now_s:
            _, pledge_id = heapq.heappop(self._due)
            if (known := self._answered.get(pledge_id)) is not None:
                known.waits = False
            found.append(pledge_id)
        return found

    def pledge(self, pledge: Pledge, user: User, now_s: float) -> tuple[Reply, ...]:
        """The answers to send for this pledge, now; empty for silence."""
        self._forget(now_s)
        return self._pledge(pledge, self._answered.get(PledgeId(pledge.pledge_id)), user, now_s)

    def _pledge(self, pledge: Pledge, known: _Answered | None, user: User, now_s: float) -> tuple[Reply, ...]:
        user_id = UserId(user.id)
        if known is not None and (known.replies or not self._may_repeat(known, user_id, now_s)):
            return self._repeat(known, user_id, now_s)
        if known is None and len(self._answered) >= PLEDGES_MAX:
            return ()
        proposal = self._proposer.propose(pledge, user, self._ledger.residents(now_s))
        return self._reply(pledge, proposal, user, now_s)

    def _is_settled(self, known: _Answered | None, user_id: UserId, now_s: float) -> bool:
        """Whether it has its answer already: to be sent again, or silence."""
        if known is None:
            return False
        return not self._may_repeat(known, user_id, now_s) or bool(known.replies and not known.pledge.dry)

    def _wait(self, pledge: Pledge, user: User, now_s: float, due_s: float) -> None:
        pledge_id = PledgeId(pledge.pledge_id)
        fresh = _Answered(pledge, UserId(user.id), now_s, float("-inf"), ())
        self._answered.setdefault(pledge_id, fresh).waits = True
        heapq.heappush(self._due, (due_s, pledge_id))

    def _reply(self, pledge: Pledge, proposal: Proposal[C] | Nothing, user: User, now_s: float) -> tuple[Reply, ...]:
        known = self._answered.get(PledgeId(pledge.pledge_id))
        if isinstance(proposal, Nothing):
            offers: tuple[Reply, ...] = ()
            unfit = self._unfit(pledge, proposal.reasons, aloud=proposal.aloud)
        else:
            offers = self._offer(pledge, proposal, user, now_s)
            unfit = self._unfit(pledge, proposal.reasons, aloud=True)
        replies = (*offers, *unfit)
        heard_s, waits = (known.heard_s, known.waits) if known is not None else (now_s, False)
        answered = _Answered(pledge, UserId(user.id), heard_s, now_s, replies, waits=waits)
        self._answered[PledgeId(pledge.pledge_id)] = answered
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


def _slot(proposal: Proposal[C] | Nothing) -> int | None:
    """When the answer may come; `None`: at once. Refusals come last, as they help nobody who hears an offer."""
    if isinstance(proposal, Nothing):
        return LAST if proposal.reasons and proposal.aloud else None
    if proposal.at_once or not isinstance(proposal.offer, VmOffer):
        return None
    return slot_of(proposal.offer)
