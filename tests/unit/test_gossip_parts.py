"""The small parts: how long a suspicion takes, what is passed on, whose turn it is, what claims come to."""

from random import Random

import pytest

from matcher.gossip import rumors as rumors_module
from matcher.gossip.agenda import Agenda
from matcher.gossip.judging import Judge
from matcher.gossip.probing import ERRANDS_MAX, ROUND_S, Prober
from matcher.gossip.roster import Roster
from matcher.gossip.rumors import Rumors
from matcher.gossip.suspicion import HEALTH_MAX, LONGEST_TIMES, Health, shortest_s, suspicion_s
from matcher.wire.gossip import HostState, Says
from tests.fakes.gossip import address, charge, record, roster, short

SILENT, REFUSED, GONE = Says.SUSPECT, Says.REFUSED, Says.GONE


# ---- suspicion


def test_the_more_find_it_silent_the_sooner_a_suspicion_ends_and_never_too_soon() -> None:
    for hosts in (4, 10, 100, 10_000):
        times = [suspicion_s(hosts, witnesses) for witnesses in range(1, 10)]
        assert times == sorted(times, reverse=True)
        assert times[0] == pytest.approx(LONGEST_TIMES * shortest_s(hosts))
        assert times[-1] == pytest.approx(shortest_s(hosts))
        assert times[-1] > 3.0, "hosts may be stopped for so long"


def test_where_nobody_else_can_say_so_one_witness_is_all_there_is() -> None:
    assert suspicion_s(2, 1) == shortest_s(2)


def test_health_has_its_bounds() -> None:
    health = Health()
    health.better()
    assert health.times == 1
    health.worse(100)
    assert health.score == HEALTH_MAX


# ---- rumors


def test_a_rumor_is_told_some_times_log_n_and_then_no_more() -> None:
    rumors = Rumors()
    rumors.add(record(1), 100)
    told = 0
    while rumors.take(1000):
        told += 1
    assert told == 4 * 3
    assert len(rumors) == 0


def test_rumors_fit_the_room_and_those_told_least_come_first() -> None:
    rumors = Rumors()
    for number in range(5):
        rumors.add(record(number), 10)
    first, second = rumors.take(700), rumors.take(700)
    assert len(first) == len(second) == 2
    assert not {*first} & {*second}
    assert rumors.take(100) == ()


def test_a_newer_statement_takes_the_place_of_the_older() -> None:
    rumors = Rumors()
    rumors.add(record(1, 1), 10)
    rumors.add(record(1, 2), 10)
    rumors.add(charge(2, 1, SILENT), 10)
    assert len(rumors) == 2
    rumors.drop_claims(short(1))
    assert rumors.take(1000) == (record(1, 2),)


def test_there_are_so_many_rumors_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rumors_module, "RUMORS_MAX", 3)
    rumors = Rumors()
    for number in range(9):
        rumors.add(record(number), 10)
    assert len(rumors) == 3


# ---- the agenda


def test_what_is_due_is_done_in_its_order_and_what_it_asks_for_later() -> None:
    agenda, done = Agenda(), list[object]()
    agenda.at(2.0, lambda now_s: done.append(("second", now_s)))
    agenda.at(1.0, lambda now_s: (done.append("first"), agenda.at(now_s, lambda _: done.append("again")))[0])
    agenda.at(9.0, lambda _: done.append("never"))
    agenda.run(3.0)
    assert done == ["first", ("second", 3.0)]
    assert agenda.next_s == 3.0
    agenda.run(3.0)
    assert done[-1] == "again"
    assert agenda.next_s == 9.0


# ---- probing


def prober(hosts: int = 10) -> Prober:
    return Prober(roster(hosts), Random(1), ahead_s=0.0, now_s=100.0)


def test_a_host_pings_once_a_round_and_each_other_one_in_turn() -> None:
    probing, now_s, targets = prober(), 100.0, []
    for _ in range(9):
        assert 0 < probing.due_s - now_s <= 2 * ROUND_S
        now_s = probing.due_s
        probe = probing.begin(now_s)
        assert probe is not None
        targets.append(probe.target)
        assert probing.acked(probe.nonce, now_s + 0.001)
    assert len({*targets}) == 9


def test_an_ack_with_another_nonce_is_none() -> None:
    probing = prober()
    probe = probing.begin(probing.due_s)
    assert probe is not None
    assert not probing.acked(probe.nonce + 1, probing.due_s)
    assert probing.probe is probe


def test_who_hears_nothing_doubts_itself_unless_its_helpers_say_that_they_hear_it() -> None:
    for nackers, doubts in ((0, 3), (2, 1), (3, 0)):
        probing = prober()
        probe = probing.begin(probing.due_s)
        assert probe is not None
        probing.ask_for_help(3, probing.due_s)
        probe.nackers |= {short(number) for number in range(1, nackers + 1)}
        now_s = probing.due_s
        assert probing.failed(now_s) == probe.target
        assert probing.health.score == doubts
        assert probing.due_s - now_s > (doubts - 1) * ROUND_S, "and asks more seldom"


def test_helpers_are_others_and_in_no_trouble() -> None:
    view = roster(6)
    view.set_state(short(3), HostState.SUSPECT, 1.0)
    probing = Prober(view, Random(1), ahead_s=0.0, now_s=0.0)
    for _ in range(50):
        assert {*probing.helpers(short(1))} <= {short(2), short(4), short(5)}
    assert Prober(roster(2), Random(1), ahead_s=0.0, now_s=0.0).helpers(short(1)) == []


def test_there_are_so_many_errands_and_no_more() -> None:
    probing = prober()
    taken = [probing.errand(address(1), number, short(2)) for number in range(ERRANDS_MAX + 1)]
    assert taken[-1] is None
    assert None not in taken[:-1]


# ---- claims


def judging(hosts: int = 10) -> tuple[Judge, Roster]:
    view = roster(hosts)
    return Judge(view, Random(1)), view


def test_one_who_says_so_makes_a_suspect_and_more_make_it_short() -> None:
    judge, view = judging()
    assert judge.weigh(charge(1, 5, SILENT), 10.0)
    trouble = view.troubles[short(5)]
    alone_s = trouble.due_s
    assert view.state(short(5)) is HostState.SUSPECT
    assert not judge.weigh(charge(1, 5, SILENT), 11.0), "the same one again is no other witness"
    assert trouble.due_s == alone_s
    for by in (2, 3, 4):
        judge.weigh(charge(by, 5, SILENT), 11.0)
    assert 10.0 + shortest_s(10) <= trouble.due_s < alone_s


def test_a_claim_counts_for_one_incarnation_from_a_member_about_another() -> None:
    judge, view = judging()
    for unheard in (
        charge(1, 5, SILENT, incarnation=2),
        charge(1, 5, SILENT, incarnation=0),
        charge(5, 5, SILENT),
        charge(77, 5, SILENT),
        charge(1, 77, SILENT),
    ):
        assert not judge.weigh(unheard, 1.0)
    assert not view.troubles


def test_one_refusal_is_none_and_two_witnesses_make_it_down_at_once() -> None:
    judge, view = judging()
    judge.weigh(charge(1, 5, REFUSED), 1.0)
    assert view.state(short(5)) is HostState.ALIVE
    judge.weigh(charge(2, 5, REFUSED), 1.0)
    assert view.state(short(5)) is HostState.DOWN
    assert view.troubles[short(5)].due_s == float("inf")


def test_nobody_is_gone_on_hearsay_before_it_was_silent_here_as_well() -> None:
    judge, view = judging()
    judge.weigh(charge(1, 5, GONE), 10.0)
    assert view.state(short(5)) is HostState.SUSPECT
    judge.weigh(charge(2, 5, GONE), 10.0 + 0.5 * shortest_s(10))
    assert view.state(short(5)) is HostState.SUSPECT
    judge.weigh(charge(3, 5, GONE), 10.0 + shortest_s(10))
    assert view.state(short(5)) is HostState.GONE


def test_a_refusal_ends_a_suspicion_as_a_machine_that_answers_is_not_gone() -> None:
    judge, view = judging()
    judge.weigh(charge(1, 5, SILENT), 1.0)
    judge.weigh(charge(1, 5, REFUSED), 2.0)
    judge.weigh(charge(2, 5, REFUSED), 2.0)
    assert view.state(short(5)) is HostState.DOWN
    assert view.troubles[short(5)].due_s == float("inf")
    judge.weigh(charge(3, 5, GONE), 60.0)
    assert view.state(short(5)) is HostState.DOWN, "its silence begins anew"


def test_what_this_host_slept_through_is_held_against_nobody() -> None:
    judge, view = judging()
    judge.weigh(charge(1, 5, SILENT), 1.0)
    due_s = view.troubles[short(5)].due_s
    judge.slept(7.0)
    assert view.troubles[short(5)].due_s == due_s + 7.0
    judge.weigh(charge(2, 5, GONE), 1.0 + shortest_s(10))
    assert view.state(short(5)) is HostState.SUSPECT
