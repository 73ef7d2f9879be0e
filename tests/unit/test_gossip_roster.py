"""A view only climbs, has one mark, and never grows beyond its limits."""

from collections import Counter

import pytest

from matcher.gossip import roster as module
from matcher.gossip.roster import Full, Roster, stride
from matcher.wire.gossip import HostState, Says
from tests.fakes.gossip import charge, record, roster, short


def test_the_newest_version_counts_and_an_older_one_changes_nothing() -> None:
    view = Roster(record(0))
    assert view.put(record(1, 5, 2), 0.0)
    mark = view.mark
    assert not view.put(record(1, 5, 2), 0.0)
    assert not view.put(record(1, 5, 1), 0.0)
    assert not view.put(record(1, 4, 9), 0.0)
    assert view.mark == mark
    assert view.put(record(1, 5, 3), 0.0)
    assert view.version(short(1)) == (5, 3)
    assert view.mark != mark


def test_two_views_that_know_the_same_have_the_same_mark_in_whatever_order_they_learned_it() -> None:
    one, other = roster(20), Roster(record(7))
    for number in reversed(range(20)):
        other.put(record(number), 0.0)
    assert (one.mark, one.marks(), one.ring) == (other.mark, other.marks(), other.ring)
    one.set_state(short(3), HostState.SUSPECT, 1.0)
    assert one.mark != other.mark
    assert one.marks() != other.marks()
    other.set_state(short(3), HostState.SUSPECT, 9.0)
    assert one.mark == other.mark


def test_within_an_incarnation_a_state_only_climbs_and_a_new_incarnation_clears_it() -> None:
    view = roster(3)
    assert view.set_state(short(1), HostState.DOWN, 1.0)
    assert not view.set_state(short(1), HostState.SUSPECT, 2.0)
    view.put(record(1, 1, 1), 0.0)
    assert view.state(short(1)) is HostState.DOWN
    view.put(record(1, 2, 0), 0.0)
    assert view.state(short(1)) is HostState.ALIVE
    assert short(1) not in view.lost
    assert view.ring.count(short(1)) == 1


def test_a_suspect_that_objects_stands_once_in_the_ring() -> None:
    view = roster(3)
    view.set_state(short(1), HostState.SUSPECT, 1.0)
    view.put(record(1, 2), 0.0)
    assert sorted(view.ring) == sorted(short(number) for number in range(3))


def test_who_is_gone_or_has_left_counts_for_nothing_in_the_mark() -> None:
    view = roster(3)
    view.set_state(short(2), HostState.GONE, 1.0)
    view.put(record(1, 1, 1, leaving=True), 0.0)
    assert view.state(short(1)) is HostState.LEFT
    assert view.mark == Roster(record(0)).mark
    assert view.ring == [short(0)]


def test_another_host_with_the_same_short_id_is_not_taken_for_it() -> None:
    view = roster(2)
    impostor = record(2, 9)
    impostor = type(impostor)(short(1), impostor.host_id, impostor.name, impostor.alive)
    assert not view.put(impostor, 0.0)


def test_there_are_so_many_hosts_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOSTS_MAX", 3)
    view = roster(3)
    with pytest.raises(Full):
        view.put(record(3), 0.0)
    view.set_state(short(1), HostState.GONE, 1.0)
    assert view.put(record(3), 0.0), "one that is lost makes room"
    assert short(1) not in view.records
    assert len(view) == 3


def test_of_the_lost_those_are_forgotten_that_were_lost_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOST_MAX", 2)
    view = roster(6)
    for number in (4, 2, 3):
        view.set_state(short(number), HostState.GONE, 1.0)
    assert list(view.lost) == [short(2), short(3)]
    assert short(4) not in view.records
    view.drop(view.me)
    assert view.me in view.records, "never itself"


def test_so_many_charges_of_a_kind_are_kept_and_a_flood_of_one_keeps_no_other_out() -> None:
    view = roster(20)
    trouble = view.trouble(short(1), 0.0)
    for by in range(2, 20):
        trouble.note(charge(by, 1, Says.SUSPECT))
    assert len(trouble.charges) == module.CLAIMS_MAX
    assert trouble.note(charge(19, 1, Says.GONE))
    assert not trouble.note(charge(19, 1, Says.GONE))


@pytest.mark.parametrize("others", [1, 2, 3, 4, 7, 10, 49, 99, 100, 1000])
def test_over_the_rounds_each_distance_comes_once(others: int) -> None:
    assert sorted(stride(number, others) for number in range(5, 5 + others)) == list(range(1, others + 1))


def test_in_one_round_each_host_is_pinged_by_exactly_one_other() -> None:
    views = []
    for me in range(30):
        view = Roster(record(me))
        for number in range(30):
            view.put(record(number), 0.0)
        views.append(view)
    for number in range(100):
        turns = Counter(view.turn(number) for view in views)
        assert set(turns.values()) == {1}
        assert all(view.turn(number) != view.me for view in views)


def test_who_is_alone_pings_nobody() -> None:
    assert Roster(record(0)).turn(3) is None
