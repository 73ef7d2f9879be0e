"""In whatever order pledges, confirms, ends and time arrive, a host never promises more than it has, nor anybody more
than their grant."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from matcher.offers.ledger import HOLD_MAX_S, HOLDS_MAX, PLEDGES_HELD_MAX, Ledger, Refusal, User
from matcher.trust.principal import Principal
from specs.ids import OfferId, PledgeId, new_id

CAPACITY = 10
USERS = [Principal("user", digit * 64, digit) for digit in "ab"]


@dataclass(frozen=True)
class Share:
    user_id: str
    size: int


def total(shares: Sequence[Share], user: User | None = None) -> int:
    return sum(share.size for share in shares if user is None or share.user_id == user.id)


class LedgerRules(RuleBasedStateMachine):
    """A claim is a number; all together are `CAPACITY` at most, and each user's as many as their grant says now."""

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(1)
        self.now_s = 1000.0
        self.grants = {user.id: CAPACITY for user in USERS}
        self.ledger = Ledger[Share](self.admits, self.allows)
        self.offers: list[OfferId] = []
        self.until: dict[OfferId, float] = {}
        self.committed: dict[OfferId, Share] = {}
        self.pledges: dict[OfferId, tuple[Principal, PledgeId]] = {}
        self.recent: list[PledgeId] = []

    def admits(self, residents: Sequence[Share], claim: Share) -> bool:
        return total(residents) + claim.size <= CAPACITY

    def allows(self, residents: Sequence[Share], claim: Share, user: User) -> bool:
        return total(residents, user) + claim.size <= self.grants[user.id]

    @rule(
        size=st.integers(1, 6),
        user=st.sampled_from(USERS),
        for_s=st.sampled_from([0.1, 3.0, 60.0]),
        again=st.booleans(),
    )
    def hold(self, size: int, user: Principal, for_s: float, again: bool) -> None:
        offer_id, claim = OfferId(new_id(self.random)), Share(user.id, size)
        pledge_id = self.recent[-1] if again and self.recent else PledgeId(new_id(self.random))
        before = self.ledger.residents(self.now_s)
        mine = {pledge for held in self.live() if (pledge := self.pledges[held][1]) and self.pledges[held][0] == user}
        refusal = self.ledger.hold(offer_id, claim, pledge_id=pledge_id, user=user, for_s=for_s, now_s=self.now_s)
        if pledge_id not in mine and len(mine) >= PLEDGES_HELD_MAX:
            assert refusal is Refusal.TOO_MANY_HOLDS
        elif total(before, user) + size > self.grants[user.id]:
            assert refusal is Refusal.OVER_GRANT, "I12"
        elif total(before) + size > CAPACITY:
            assert refusal is Refusal.NO_CAPACITY
        else:
            assert refusal is None, "nothing stands against it"
            self.offers.append(offer_id)
            self.until[offer_id] = self.now_s + min(for_s, HOLD_MAX_S)
            self.pledges[offer_id] = (user, pledge_id)
            self.recent.append(pledge_id)

    @precondition(lambda self: self.offers)
    @rule(data=st.data())
    def confirm_twice(self, data: st.DataObject) -> None:
        offer_id = data.draw(st.sampled_from(self.offers))
        user = self.pledges[offer_id][0]
        was_live = offer_id in self.live()
        before = total(self.ledger.committed(), user)
        first = self.ledger.commit(offer_id, user, self.now_s)
        assert self.ledger.commit(offer_id, user, self.now_s) == first
        if offer_id in self.committed:
            assert first == self.committed[offer_id]
        elif not was_live:
            assert first is Refusal.HOLD_LAPSED
        elif first is Refusal.OVER_GRANT:
            held = self.ledger.held(offer_id, self.now_s)
            assert held is not None
            assert before + held.claim.size > self.grants[user.id]
        else:
            assert isinstance(first, Share)
            assert before + first.size <= self.grants[user.id], "I12: as the grant is now, not as it was"
            self.committed[offer_id] = first
            del self.until[offer_id]

    @rule(user=st.sampled_from(USERS), limit=st.integers(0, CAPACITY))
    def change_grant(self, user: Principal, limit: int) -> None:
        """What runs stays; see `confirm_twice` and `hold` for what is new."""
        self.grants[user.id] = limit

    @precondition(lambda self: self.offers)
    @rule(data=st.data())
    def release_twice(self, data: st.DataObject) -> None:
        offer_id = data.draw(st.sampled_from(self.offers))
        self.ledger.release(offer_id)
        self.ledger.release(offer_id)
        self.committed.pop(offer_id, None)
        self.until.pop(offer_id, None)

    @rule(size=st.integers(1, 6), user=st.sampled_from(USERS))
    def readmit(self, size: int, user: Principal) -> None:
        offer_id, claim = OfferId(new_id(self.random)), Share(user.id, size)
        fits = total(tuple(self.committed.values())) + size <= CAPACITY
        self.ledger.lapse(self.now_s)
        if fits and not self.live():  # as at a start, when nothing is held
            self.ledger.readmit(offer_id, claim)
            self.offers.append(offer_id)
            self.committed[offer_id] = claim
            self.pledges[offer_id] = (user, PledgeId(new_id(self.random)))

    @rule(seconds=st.sampled_from([0.05, 0.1, 1.0, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def live(self) -> list[OfferId]:
        return [offer_id for offer_id, until_s in self.until.items() if until_s > self.now_s]

    @invariant()
    def never_more_than_there_is(self) -> None:
        assert total(self.ledger.promised(self.now_s)) <= CAPACITY

    @invariant()
    def holds_lapse_in_time_and_not_before(self) -> None:
        held = self.ledger.holds(self.now_s)
        assert sorted(held) == sorted(self.live())
        assert len(held) <= HOLDS_MAX

    @invariant()
    def commitments_stay_until_they_are_released(self) -> None:
        assert sorted(share.size for share in self.ledger.committed()) == sorted(
            share.size for share in self.committed.values()
        )

    @invariant()
    def nobody_is_greedy(self) -> None:
        for user in USERS:
            mine = {self.pledges[offer_id][1] for offer_id in self.live() if self.pledges[offer_id][0] == user}
            assert len(mine) <= PLEDGES_HELD_MAX


TestLedger = LedgerRules.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
