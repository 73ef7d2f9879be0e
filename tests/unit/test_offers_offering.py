"""A host's answers to pledges: once for each, the same again while its hold lives, and bounded whatever comes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest

from matcher.offers.ledger import HOLD_MAX_S, HOLDS_MAX, PLEDGES_HELD_MAX, Ledger, Refusal, User
from matcher.offers.offering import PLEDGE_MEMORY_S, PLEDGES_MAX, REPEAT_S, Nothing, Offering, Proposal, Reply
from matcher.trust.principal import Principal
from matcher.wire.messages import (
    REASONS_MAX,
    Accelerator,
    Arch,
    Firmware,
    Pledge,
    Policy,
    Reason,
    Reveal,
    Role,
    Unfit,
    VmAsk,
    VmOffer,
)
from matcher.wire.seal import Seal
from specs.ids import OfferId, PledgeId, UserId, new_id

ANN = Principal("user", "a" * 64, "ann")
BOB = Principal("user", "b" * 64, "bob")
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
SEAL = Seal(b"x" * 32)
WHY = Reason("slots", "4", "2 free", "wait")
NOW_S = 100.0


def anybody(residents: Sequence[int], claim: int, user: User) -> bool:
    return True


@dataclass
class Threads:
    """A proposer with some threads; a claim is their number."""

    threads: int = 2
    reasons: tuple[Reason, ...] = (WHY,)
    aloud: bool = False
    asked: int = 0

    def propose(self, pledge: Pledge, user: User, residents: Sequence[int]) -> Proposal[int] | Nothing:
        self.asked += 1
        if sum(residents) >= self.threads:
            return Nothing(self.reasons, aloud=self.aloud)
        offer = VmOffer(pledge.pledge_id, "", "h1", 1, 0, 0, 0.5, (0,), 1, 0, (), Arch.X86_64, Accelerator.KVM)
        return Proposal(1, offer)


class Room:
    def __init__(self, proposer: Threads | None = None) -> None:
        self.proposer = proposer or Threads()
        self.random = Random(1)
        self.allowed = 10**9
        self.ledger = Ledger[int](
            lambda residents, claim: sum(residents) + claim <= self.proposer.threads,
            lambda residents, claim, user: sum(residents) + claim <= self.allowed,
        )
        self.offering = Offering(
            host="h1", role=Role.COMPUTE, proposer=self.proposer, ledger=self.ledger, random=self.random
        )

    def pledge(self, *, dry: bool = False, hold_ms: int = 3000) -> Pledge:
        return Pledge(
            new_id(self.random), 0, (), dry, new_id(self.random), 1, ASK, (), SEAL.sealed, hold_ms, 0, Policy.PACK
        )

    def offer(self, pledge: Pledge, user: Principal = ANN, now_s: float = NOW_S) -> VmOffer:
        (offer,) = self.offering.pledge(pledge, user, now_s)
        assert isinstance(offer, VmOffer)
        return offer


def test_an_offer_is_held_for_as_long_as_it_says_and_no_longer() -> None:
    room = Room()
    offer = room.offer(room.pledge(hold_ms=2500))
    assert offer.expires_in_ms == 2500
    assert room.ledger.held(OfferId(offer.offer_id), NOW_S + 2.4) is not None
    assert room.ledger.held(OfferId(offer.offer_id), NOW_S + 2.5) is None


def test_a_pledge_that_comes_by_two_links_is_answered_once() -> None:
    room = Room()
    pledge = room.pledge()
    room.offer(pledge)
    assert room.offering.pledge(pledge, ANN, NOW_S + REPEAT_S / 2) == ()
    assert room.proposer.asked == 1


def test_a_repeated_pledge_gets_the_same_offer_with_the_time_that_is_left() -> None:
    room = Room()
    pledge = room.pledge()
    first = room.offer(pledge)
    again = room.offer(pledge, now_s=NOW_S + 1)
    assert again == replace(first, expires_in_ms=2000)
    assert len(room.ledger.residents(NOW_S + 1)) == 1


def test_repeats_are_answered_ten_times_a_second_at_most() -> None:
    """A recorded pledge, sent again and again, must not make a host sign without end."""
    room = Room()
    pledge = room.pledge()
    answers = [room.offering.pledge(pledge, ANN, NOW_S + tick / 100) for tick in range(100)]
    assert sum(map(len, answers)) <= 10


def test_a_pledge_repeated_after_its_hold_has_lapsed_takes_nothing_more() -> None:
    room = Room()
    pledge = room.pledge()
    room.offer(pledge)
    assert room.offering.pledge(pledge, ANN, NOW_S + 3.5) == ()
    assert room.ledger.residents(NOW_S + 3.5) == ()


@pytest.mark.parametrize("threads", [0, 2])
def test_a_dry_pledge_is_answered_again_when_it_is_repeated_since_answers_get_lost(threads: int) -> None:
    room = Room(Threads(threads))
    pledge = room.pledge(dry=True)
    first = room.offering.pledge(pledge, ANN, NOW_S)
    assert first
    assert room.offering.pledge(pledge, ANN, NOW_S + 0.15) == first


def test_a_dry_pledge_holds_nothing() -> None:
    room = Room()
    offer = room.offer(room.pledge(dry=True))
    assert offer.expires_in_ms == 0
    assert room.ledger.residents(NOW_S) == ()


def test_whoever_does_not_fit_is_silent_unless_asked_dry_or_told_to_speak() -> None:
    room = Room(Threads(0))
    assert room.offering.pledge(room.pledge(), ANN, NOW_S) == ()
    assert _reasons(room.offering.pledge(room.pledge(dry=True), ANN, NOW_S)) == (WHY,)
    room.proposer.aloud = True
    assert _reasons(room.offering.pledge(room.pledge(), ANN, NOW_S)) == (WHY,)


def test_no_more_reasons_are_sent_than_a_message_carries() -> None:
    room = Room(Threads(0, reasons=(WHY,) * (REASONS_MAX + 1)))
    assert len(_reasons(room.offering.pledge(room.pledge(dry=True), ANN, NOW_S))) == REASONS_MAX


def test_another_user_gets_nothing_by_repeating_a_pledge() -> None:
    room = Room()
    pledge = room.pledge()
    room.offer(pledge)
    assert room.offering.pledge(pledge, BOB, NOW_S + 1) == ()
    assert room.offering.pledged(PledgeId(pledge.pledge_id), UserId(BOB.id)) is None
    assert room.offering.pledged(PledgeId(pledge.pledge_id), UserId(ANN.id)) == pledge


def test_done_frees_every_other_hold_and_keeps_the_one_that_was_taken() -> None:
    room = Room()
    kept, other = room.pledge(), room.pledge()
    taken, left = room.offer(kept), room.offer(other)
    room.offering.reveal(Reveal(kept.pledge_id, SEAL.done, taken.offer_id), NOW_S)
    room.offering.reveal(Reveal(other.pledge_id, SEAL.done, taken.offer_id), NOW_S)
    assert room.ledger.held(OfferId(taken.offer_id), NOW_S) is not None
    assert room.ledger.held(OfferId(left.offer_id), NOW_S) is None


def test_done_does_not_free_what_is_committed() -> None:
    room = Room()
    pledge = room.pledge()
    offer = room.offer(pledge)
    assert room.ledger.commit(OfferId(offer.offer_id), ANN, NOW_S) == 1
    room.offering.reveal(Reveal(pledge.pledge_id, SEAL.done), NOW_S)
    assert room.ledger.committed() == (1,)


def test_enough_silences_and_frees_nothing() -> None:
    room = Room()
    pledge = room.pledge()
    offer = room.offer(pledge)
    room.offering.reveal(Reveal(pledge.pledge_id, SEAL.enough), NOW_S)
    assert room.ledger.held(OfferId(offer.offer_id), NOW_S) is not None
    assert room.offering.pledge(pledge, ANN, NOW_S + 1) == ()


@pytest.mark.parametrize("secret", [b"y" * 32, b"", b"x" * 31, SEAL.sealed])
def test_a_secret_that_opens_nothing_changes_nothing(secret: bytes) -> None:
    room = Room()
    pledge = room.pledge()
    offer = room.offer(pledge)
    room.offering.reveal(Reveal(pledge.pledge_id, secret), NOW_S)
    assert room.ledger.held(OfferId(offer.offer_id), NOW_S) is not None
    assert room.offering.pledge(pledge, ANN, NOW_S + 1)


def test_a_reveal_for_a_pledge_never_heard_changes_nothing() -> None:
    Room().offering.reveal(Reveal("0" * 32, SEAL.done), NOW_S)


def test_one_user_holds_offers_of_three_pledges_at_most_and_is_told() -> None:
    room = Room(Threads(100))
    for _ in range(PLEDGES_HELD_MAX):
        room.offer(room.pledge())
    (refusal,) = _reasons(room.offering.pledge(room.pledge(), ANN, NOW_S))
    assert refusal.resource == "holds"
    room.offer(room.pledge(), BOB)
    room.offer(room.pledge(), now_s=NOW_S + 3.1)


def test_a_placement_that_the_ledger_does_not_admit_is_no_offer() -> None:
    room = Room()
    room.ledger.restore(OfferId("1" * 32), 1)
    room.ledger.restore(OfferId("2" * 32), 1)
    room.proposer.threads = 3
    ledger = Ledger[int](lambda residents, claim: False, anybody)
    offering = Offering(host="h1", role=Role.COMPUTE, proposer=room.proposer, ledger=ledger, random=room.random)
    assert not any(isinstance(reply, VmOffer) for reply in offering.pledge(room.pledge(), ANN, NOW_S))


def test_pledges_are_remembered_for_a_minute_and_not_without_bound() -> None:
    room = Room(Threads(0))
    pledges = [room.pledge(dry=True) for _ in range(PLEDGES_MAX + 1)]
    answered = [bool(room.offering.pledge(pledge, ANN, NOW_S)) for pledge in pledges]
    assert answered == [True] * PLEDGES_MAX + [False]
    later_s = NOW_S + PLEDGE_MEMORY_S
    assert room.offering.pledge(pledges[-1], ANN, later_s)
    assert room.offering.pledged(PledgeId(pledges[0].pledge_id), UserId(ANN.id)) is None


def test_an_offer_that_the_grant_does_not_allow_is_refused_aloud_and_holds_nothing() -> None:
    room = Room()
    room.allowed = 0
    (refusal,) = _reasons(room.offering.pledge(room.pledge(), ANN, NOW_S))
    assert refusal.resource == "grant"
    assert room.ledger.residents(NOW_S) == ()


# ---- the ledger beneath


def test_a_grant_that_has_become_smaller_since_the_hold_is_judged_again_at_the_commitment() -> None:
    room = Room()
    offer = room.offer(room.pledge())
    room.allowed = 0
    assert room.ledger.commit(OfferId(offer.offer_id), ANN, NOW_S) is Refusal.OVER_GRANT
    assert room.ledger.committed() == ()
    room.allowed = 1
    assert room.ledger.commit(OfferId(offer.offer_id), ANN, NOW_S) == 1


def test_other_holds_do_not_stand_against_a_commitment() -> None:
    room = Room()
    first, _ = room.offer(room.pledge()), room.offer(room.pledge())
    room.allowed = 1
    assert room.ledger.commit(OfferId(first.offer_id), ANN, NOW_S) == 1


def test_a_flood_of_holds_is_bounded() -> None:
    ledger = Ledger[int](lambda residents, claim: True, anybody)
    for number in range(HOLDS_MAX):
        user = Principal("user", f"{number:064x}", "many")
        assert _hold(ledger, number, user) is None
    assert _hold(ledger, HOLDS_MAX, ANN) is Refusal.TOO_MANY_HOLDS


def test_no_hold_is_longer_than_the_longest() -> None:
    ledger = Ledger[int](lambda residents, claim: True, anybody)
    _hold(ledger, 1, ANN, for_s=1e9)
    assert ledger.held(OfferId(f"{1:032x}"), NOW_S + HOLD_MAX_S) is None


def test_a_restored_commitment_stands_even_where_it_no_longer_fits_and_a_readmitted_one_keeps_others_out() -> None:
    ledger = Ledger[int](lambda residents, claim: sum(residents) + claim <= 2, anybody)
    ledger.restore(OfferId("a"), 2)
    ledger.restore(OfferId("b"), 1)
    ledger.readmit(OfferId("c"), 1)
    assert ledger.committed() == (2, 1)
    assert ledger.residents(NOW_S) == (2, 1, 1)
    ledger.release(OfferId("a"))
    assert _hold(ledger, 1, ANN) is Refusal.NO_CAPACITY, "what it may still use is nobody's"
    ledger.release(OfferId("c"))
    assert _hold(ledger, 1, ANN) is None
    ledger.release(OfferId(f"{1:032x}"))
    ledger.readmit(OfferId("c"), 1)
    assert ledger.committed() == (1, 1)


def _hold(ledger: Ledger[int], number: int, user: Principal, for_s: float = 3.0) -> Refusal | None:
    name = f"{number:032x}"
    return ledger.hold(OfferId(name), 1, pledge_id=PledgeId(name), user=user, for_s=for_s, now_s=NOW_S)


def _reasons(replies: tuple[Reply, ...]) -> tuple[Reason, ...]:
    (unfit,) = replies
    assert isinstance(unfit, Unfit)
    return unfit.reasons
