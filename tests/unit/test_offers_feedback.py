"""A realm of thousands answers a pledge with few offers, the best first; a small one at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest

from matcher.offers import offering as module
from matcher.offers.feedback import chance_of, survey_wait_s, wait_s
from matcher.offers.ledger import User
from matcher.offers.offering import Nothing, Proposal
from matcher.wire.messages import Accelerator, Arch, Pledge, Reveal, VmOffer, VolumeOffer
from matcher.wire.slots import AT_ONCE_HOSTS, FLOORS, GAP_S, LAST, SLOT_S, slot_begins_s, slot_of, survey_s
from specs.ids import OfferId
from tests.unit.test_offers_offering import ANN, BOB, NOW_S, SEAL, WHY, Room, Threads

MANY = 10_000


def offer(score: float, accelerator: Accelerator = Accelerator.KVM) -> VmOffer:
    return VmOffer("", "", "h1", 1, 0, 0, score, (0,), 1, 0, (), Arch.X86_64, accelerator)


# ---- the timers


@pytest.mark.parametrize("hosts", [0, 1, 50, AT_ONCE_HOSTS])
def test_in_a_small_realm_nobody_waits(hosts: int) -> None:
    assert {wait_s(slot, hosts, chance) for slot in range(8) for chance in (0.0, 0.5, 0.999)} == {0.0}
    assert survey_wait_s(hosts, 0.999) == 0.0


def test_a_better_class_has_its_turn_before_a_worse_one() -> None:
    for slot in range(LAST):
        last_s = wait_s(slot, MANY, 0.999999)
        assert slot_begins_s(slot) <= wait_s(slot, MANY, 0.0) <= last_s <= slot_begins_s(slot + 1) - GAP_S


def test_scores_fall_into_eight_classes_and_who_emulates_comes_last() -> None:
    assert [slot_of(offer(score)) for score in (1.0, *FLOORS, 0.0)] == [0, *range(8)]
    assert slot_of(offer(1.0, Accelerator.TCG)) == LAST


@pytest.mark.parametrize("hosts", [100, 1000, 10_000])
def test_of_however_many_equals_few_have_answered_when_the_first_is_silenced(hosts: int) -> None:
    """*Enough* takes a sixth of a slot."""
    random = Random(hosts)
    counts = []
    for _ in range(20):
        times = sorted(wait_s(0, hosts, random.random()) for _ in range(hosts))
        counts.append(sum(1 for at_s in times if at_s <= times[0] + SLOT_S / 6))
        assert times[0] < SLOT_S * 0.7
    assert sum(counts) / len(counts) < 24


def test_a_host_meets_the_same_wait_again_and_another_one_with_each_pledge() -> None:
    chances = [chance_of(pledge, host) for pledge in ("a", "b") for host in ("h1", "h2")]
    assert len(set(chances)) == 4
    assert all(0 <= chance < 1 for chance in chances)
    assert chance_of("a", "h1") == chances[0]


def test_answers_to_a_dry_pledge_come_no_faster_than_a_client_reads() -> None:
    assert 2 < survey_s(MANY) < 4
    assert survey_wait_s(MANY, 0.5) == survey_s(MANY) / 2


# ---- the host that waits


@dataclass
class Scored(Threads):
    """`Threads` that score as they are told to."""

    score: float = 0.0
    at_once: bool = False

    def propose(self, pledge: Pledge, user: User, residents: Sequence[int]) -> Proposal[int] | Nothing:
        found = super().propose(pledge, user, residents)
        if isinstance(found, Nothing):
            return found
        return Proposal(1, offer(self.score), at_once=self.at_once)


class LargeRoom(Room):
    def __init__(self, proposer: Threads | None = None) -> None:
        super().__init__(proposer or Scored())
        self.offering.hosts_known = MANY


def test_an_answer_waits_for_its_turn_and_nothing_is_held_before() -> None:
    room = LargeRoom()
    pledge = room.pledge()
    assert room.offering.hear(pledge, ANN, NOW_S) is None
    due_s = room.offering.next_deadline_s()
    assert due_s is not None
    assert slot_begins_s(LAST) <= due_s - NOW_S <= slot_begins_s(LAST + 1)
    assert room.offering.due(due_s - 0.001) == []
    assert room.ledger.residents(NOW_S) == ()
    assert room.offering.due(due_s) == [pledge.pledge_id]
    assert room.offering.next_deadline_s() is None
    offered = room.offer(pledge, now_s=due_s)
    assert offered.hosts_known == MANY
    held = room.ledger.held(OfferId(offered.offer_id), due_s)
    assert held is not None
    assert held.until_s == due_s + 3


def test_what_a_host_can_give_is_looked_at_again_when_its_turn_has_come() -> None:
    room = LargeRoom()
    pledge = room.pledge()
    assert room.offering.hear(pledge, ANN, NOW_S) is None
    room.proposer.threads = 0
    (due,) = room.offering.due(NOW_S + 1)
    assert due == pledge.pledge_id
    assert room.offering.pledge(pledge, ANN, NOW_S + 1) == ()


@pytest.mark.parametrize("secret", [SEAL.enough, SEAL.done])
def test_who_waits_is_silenced_by_enough_and_by_done(secret: bytes) -> None:
    room = LargeRoom()
    pledge = room.pledge()
    assert room.offering.hear(pledge, ANN, NOW_S) is None
    room.offering.reveal(Reveal(pledge.pledge_id, secret), NOW_S)
    assert room.offering.due(NOW_S + 1) == [pledge.pledge_id]
    assert room.offering.pledge(pledge, ANN, NOW_S + 1) == ()
    assert room.ledger.residents(NOW_S + 1) == ()


def test_a_repeat_does_not_start_the_wait_anew() -> None:
    room = LargeRoom()
    pledge = room.pledge()
    assert room.offering.hear(pledge, ANN, NOW_S) is None
    due_s = room.offering.next_deadline_s()
    for user in (ANN, BOB):
        assert room.offering.hear(pledge, user, NOW_S + 0.11) is None
    assert room.offering.next_deadline_s() == due_s
    assert room.offering.due(NOW_S + 1) == [pledge.pledge_id]


def test_a_repeat_of_what_was_answered_is_answered_at_once() -> None:
    room = LargeRoom()
    pledge = room.pledge()
    assert room.offering.hear(pledge, ANN, NOW_S) is None
    room.offering.due(NOW_S + 0.28)
    first = room.offer(pledge, now_s=NOW_S + 0.28)
    again = room.offering.hear(pledge, ANN, NOW_S + 0.4)
    assert again is not None
    assert [answer.offer_id for answer in again if isinstance(answer, VmOffer)] == [first.offer_id]
    assert room.offering.hear(pledge, BOB, NOW_S + 0.6) == ()


def test_who_has_nothing_to_say_does_not_wait_and_looks_again_at_a_repeat() -> None:
    room = LargeRoom(Scored(threads=0))
    pledge = room.pledge()
    assert room.offering.hear(pledge, ANN, NOW_S) == ()
    assert room.offering.next_deadline_s() is None
    room.proposer.threads = 2
    assert room.offering.hear(pledge, ANN, NOW_S + 0.05) == ()
    assert room.offering.hear(pledge, ANN, NOW_S + 0.3) is None


def test_a_refusal_that_is_said_aloud_comes_after_all_offers() -> None:
    room = LargeRoom(Scored(threads=0, aloud=True))
    assert room.offering.hear(room.pledge(), ANN, NOW_S) is None
    due_s = room.offering.next_deadline_s()
    assert due_s is not None
    assert due_s - NOW_S >= slot_begins_s(LAST)


def test_who_is_better_than_its_score_says_never_waits() -> None:
    room = LargeRoom(Scored(at_once=True))
    answers = room.offering.hear(room.pledge(), ANN, NOW_S)
    assert answers is not None
    assert len(answers) == 1


class Stored(Threads):
    """As storaged: what it offers are volumes."""

    def propose(self, pledge: Pledge, user: User, residents: Sequence[int]) -> Proposal[int] | Nothing:
        return Proposal(1, VolumeOffer(pledge.pledge_id, "", "h1", 0, 0, ()))


def test_volumes_are_offered_at_once() -> None:
    room = LargeRoom(Stored())
    assert room.offering.hear(room.pledge(), ANN, NOW_S)
    assert room.offering.next_deadline_s() is None


def test_a_client_that_knows_of_more_hosts_makes_a_host_wait_that_knows_none() -> None:
    room = LargeRoom()
    room.offering.hosts_known = 0
    assert room.offering.hear(room.pledge(), ANN, NOW_S)
    pledge = replace(room.pledge(), hosts_known=MANY)
    assert room.offering.hear(pledge, ANN, NOW_S) is None


@pytest.mark.parametrize("threads", [0, 2])
def test_a_dry_pledge_is_answered_by_all_each_at_its_time_and_so_is_its_repeat(threads: int) -> None:
    room = LargeRoom(Scored(threads, reasons=(WHY,)))
    pledge = room.pledge(dry=True)
    for now_s in (NOW_S, NOW_S + 10):
        assert room.offering.hear(pledge, ANN, now_s) is None
        due_s = room.offering.next_deadline_s()
        assert due_s is not None
        assert 0 <= due_s - now_s <= survey_s(MANY)
        assert room.offering.due(due_s) == [pledge.pledge_id]
        assert len(room.offering.pledge(pledge, ANN, due_s)) == 1


def test_no_flood_makes_more_wait_than_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    room = LargeRoom(Scored(threads=100))
    pledges = [room.pledge() for _ in range(4)]
    for pledge in pledges[:3]:
        assert room.offering.hear(pledge, ANN, NOW_S) is None
        room.offering.reveal(Reveal(pledge.pledge_id, SEAL.enough), NOW_S)  # silenced, and still there
    assert room.offering.hear(pledges[3], ANN, NOW_S)
    assert len(room.offering.due(NOW_S + 1)) == 3


def test_a_pledge_answered_by_another_way_meanwhile_is_due_once() -> None:
    """One that is heard by HTTPS as well is answered there."""
    room = LargeRoom(Scored(threads=0))
    pledge = room.pledge(dry=True)
    assert room.offering.hear(pledge, ANN, NOW_S) is None
    assert room.offering.pledge(pledge, ANN, NOW_S)
    assert room.offering.hear(pledge, ANN, NOW_S + 0.2) is None
    assert room.offering.due(NOW_S + 10) == [pledge.pledge_id]
