"""In whatever order pledges, confirms, ends and time arrive, a host never promises more than it has."""

from collections.abc import Sequence
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from matcher.offers.ledger import HOLD_MAX_S, HOLDS_MAX, PLEDGES_HELD_MAX, Ledger, Refusal
from specs.ids import OfferId, PledgeId, UserId, new_id

CAPACITY = 10
USERS = [UserId(digit * 64) for digit in "ab"]


class LedgerRules(RuleBasedStateMachine):
    """A claim is a number, and all claims together are `CAPACITY` at most."""

    def __init__(self) -> None:
        super().__init__()
        self.random = Random(1)
        self.now_s = 1000.0
        self.ledger = Ledger[int](self.admits)
        self.offers: list[OfferId] = []
        self.until: dict[OfferId, float] = {}
        self.committed: dict[OfferId, int] = {}
        self.pledges: dict[OfferId, tuple[UserId, PledgeId]] = {}
        self.recent: list[PledgeId] = []

    def admits(self, residents: Sequence[int], claim: int) -> bool:
        return sum(residents) + claim <= CAPACITY

    @rule(
        claim=st.integers(1, 6),
        user=st.sampled_from(USERS),
        for_s=st.sampled_from([0.1, 3.0, 60.0]),
        again=st.booleans(),
    )
    def hold(self, claim: int, user: UserId, for_s: float, again: bool) -> None:
        offer_id = OfferId(new_id(self.random))
        pledge_id = self.recent[-1] if again and self.recent else PledgeId(new_id(self.random))
        before = sum(self.ledger.residents(self.now_s))
        mine = {pledge for held in self.live() if (pledge := self.pledges[held][1]) and self.pledges[held][0] == user}
        refusal = self.ledger.hold(offer_id, claim, pledge_id=pledge_id, user_id=user, for_s=for_s, now_s=self.now_s)
        if pledge_id not in mine and len(mine) >= PLEDGES_HELD_MAX:
            assert refusal is Refusal.TOO_MANY_HOLDS
        elif before + claim > CAPACITY:
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
        was_live = offer_id in self.live()
        first = self.ledger.commit(offer_id, self.now_s)
        assert self.ledger.commit(offer_id, self.now_s) == first
        if offer_id in self.committed:
            assert first == self.committed[offer_id]
        elif was_live:
            assert not isinstance(first, Refusal)
            self.committed[offer_id] = first
            del self.until[offer_id]
        else:
            assert first is Refusal.HOLD_LAPSED

    @precondition(lambda self: self.offers)
    @rule(data=st.data())
    def release_twice(self, data: st.DataObject) -> None:
        offer_id = data.draw(st.sampled_from(self.offers))
        self.ledger.release(offer_id)
        self.ledger.release(offer_id)
        self.committed.pop(offer_id, None)
        self.until.pop(offer_id, None)

    @rule(claim=st.integers(1, 6))
    def readmit(self, claim: int) -> None:
        offer_id = OfferId(new_id(self.random))
        fits = sum(self.committed.values()) + claim <= CAPACITY
        self.ledger.lapse(self.now_s)
        if fits and not self.live():  # as at a start, when nothing is held
            self.ledger.readmit(offer_id, claim)
            self.offers.append(offer_id)
            self.committed[offer_id] = claim

    @rule(seconds=st.sampled_from([0.05, 0.1, 1.0, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def live(self) -> list[OfferId]:
        return [offer_id for offer_id, until_s in self.until.items() if until_s > self.now_s]

    @invariant()
    def never_more_than_there_is(self) -> None:
        assert sum(self.ledger.residents(self.now_s)) <= CAPACITY

    @invariant()
    def holds_lapse_in_time_and_not_before(self) -> None:
        held = self.ledger.holds(self.now_s)
        assert sorted(held) == sorted(self.live())
        assert len(held) <= HOLDS_MAX

    @invariant()
    def commitments_stay_until_they_are_released(self) -> None:
        assert sorted(self.ledger.committed()) == sorted(self.committed.values())

    @invariant()
    def nobody_is_greedy(self) -> None:
        for user in USERS:
            mine = {self.pledges[offer_id][1] for offer_id in self.live() if self.pledges[offer_id][0] == user}
            assert len(mine) <= PLEDGES_HELD_MAX


TestLedger = LedgerRules.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
