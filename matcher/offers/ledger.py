"""What this host has promised: holds that lapse, commitments that do not.

    (free) --hold--> HELD --commit--> COMMITTED --release--> (free)
                       '---deadline passes, freed---> (free)

Silence frees a hold, so there is no "cancel" to lose on the way. The ledger does not know what a claim is: `admits`
says whether one more claim may stand beside the others, and it is asked again for every hold, so that a mistake in
placement cannot promise a thread, a MiB or a device twice (I1, I2). `allows` says whether a user may have it, beside
what they have; it is asked at the hold and again at the commitment, since a grant may have become smaller meanwhile
(I12).
Pure: callers pass `now_s`, one monotonic clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from matcher.wire.realm import Grant
from specs.ids import OfferId, PledgeId, UserId

HOLDS_MAX = 256  # a flood of pledges must not grow memory
PLEDGES_HELD_MAX = 3  # of one user at one time on one host
HOLD_MAX_S = 10.0

C = TypeVar("C")


class Refusal(StrEnum):
    """Expected answers, sent to the peer as they are. Bugs are asserts instead."""

    NO_CAPACITY = "no-capacity"
    TOO_MANY_HOLDS = "too-many-holds"
    HOLD_LAPSED = "hold-lapsed"
    OVER_GRANT = "over-grant"


class User(Protocol):
    """Whoever asks: who they are, and what they may have. A `Principal` is one."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def grant(self) -> Grant: ...


@dataclass(frozen=True, slots=True)
class Hold(Generic[C]):
    claim: C
    pledge_id: PledgeId
    user_id: UserId
    until_s: float


class Ledger(Generic[C]):
    """Claims on one host, by the id of the offer that promised them."""

    def __init__(
        self, admits: Callable[[Sequence[C], C], bool], allows: Callable[[Sequence[C], C, User], bool]
    ) -> None:
        self._admits, self._allows = admits, allows
        self._holds: dict[OfferId, Hold[C]] = {}
        self._committed: dict[OfferId, C] = {}
        self._leaving: dict[OfferId, C] = {}  # readmitted, and overlapping with others

    def promised(self, now_s: float) -> tuple[C, ...]:
        """All that is held or committed at `now_s`."""
        self.lapse(now_s)
        return (*self._committed.values(), *(hold.claim for hold in self._holds.values()))

    def residents(self, now_s: float) -> tuple[C, ...]:
        """What a new claim has to stand beside: all that is promised, and what may not be gone yet."""
        return (*self.promised(now_s), *self._leaving.values())

    def committed(self) -> tuple[C, ...]:
        return tuple(self._committed.values())

    def hold(
        self, offer_id: OfferId, claim: C, *, pledge_id: PledgeId, user: User, for_s: float, now_s: float
    ) -> Refusal | None:
        """Reserve `claim` for `for_s` seconds (at most `HOLD_MAX_S`); `None` when it is held."""
        assert offer_id not in self._holds, "an offer id is made once"
        assert offer_id not in self._committed, "an offer id is made once"
        promised, user_id = self.promised(now_s), UserId(user.id)
        if len(self._holds) >= HOLDS_MAX or self._is_greedy(user_id, pledge_id):
            return Refusal.TOO_MANY_HOLDS
        if not self._allows(promised, claim, user):
            return Refusal.OVER_GRANT
        if not self._admits(self.residents(now_s), claim):
            return Refusal.NO_CAPACITY
        self._holds[offer_id] = Hold(claim, pledge_id, user_id, now_s + min(for_s, HOLD_MAX_S))
        return None

    def held(self, offer_id: OfferId, now_s: float) -> Hold[C] | None:
        self.lapse(now_s)
        return self._holds.get(offer_id)

    def commit(self, offer_id: OfferId, user: User, now_s: float) -> C | Refusal:
        """Turn a hold into a commitment; repeating it gives the same answer, since networks repeat themselves.

        The user's other holds do not count here: they may lapse, and are judged when their turn comes.
        """
        self.lapse(now_s)
        if offer_id in self._committed:
            return self._committed[offer_id]
        if offer_id not in self._holds:
            return Refusal.HOLD_LAPSED
        if not self._allows(self.committed(), self._holds[offer_id].claim, user):
            return Refusal.OVER_GRANT
        self._committed[offer_id] = self._holds.pop(offer_id).claim
        return self._committed[offer_id]

    def restore(self, offer_id: OfferId, claim: C) -> None:
        """Take back a commitment that the journal remembers: it stands, even if the host has become smaller since."""
        self._committed[offer_id] = claim

    def readmit(self, offer_id: OfferId, claim: C) -> None:
        """For what was about to be released when the host went down: it may be in use still, and it may have been
        released and given to another. Where it fits it stands; where it does not, one of those that overlap has it in
        use, nobody knows which, and so nobody new gets any of it before each of them is released."""
        if self._admits(self.committed(), claim):
            self._committed[offer_id] = claim
        else:
            self._leaving[offer_id] = claim

    def release(self, offer_id: OfferId) -> None:
        """Free what the offer took, held or committed; nothing when it took nothing."""
        self._holds.pop(offer_id, None)
        self._committed.pop(offer_id, None)
        self._leaving.pop(offer_id, None)

    def lapse(self, now_s: float) -> None:
        for offer_id in [o for o, hold in self._holds.items() if hold.until_s <= now_s]:
            del self._holds[offer_id]

    def holds(self, now_s: float) -> dict[OfferId, Hold[C]]:
        self.lapse(now_s)
        return dict(self._holds)

    def _is_greedy(self, user_id: UserId, pledge_id: PledgeId) -> bool:
        pledges = {hold.pledge_id for hold in self._holds.values() if hold.user_id == user_id}
        return pledge_id not in pledges and len(pledges) >= PLEDGES_HELD_MAX
