"""Two views that differ are compared and mended, within a few datagrams that fit."""

from random import Random

import pytest

from matcher.gossip import syncing
from matcher.gossip.roster import Charge, Record, Roster
from matcher.wire.codec import BadBytes, encode
from matcher.wire.envelope import HEADER
from matcher.wire.gossip import HostState, Listing, Says, Summary, Tidings, Want, split
from matcher.wire.messages import DATAGRAM_MAX_BYTES
from tests.fakes.gossip import charge, record, roster, short


def exchange(asking: Roster, answering: Roster, seed: int = 1) -> int:
    """One, there and back, as two members would have it; how many datagrams it took."""
    listing = syncing.listing(answering, Summary(asking.me, asking.marks()), Random(seed))
    if listing is None:
        return 0
    want, parcels = syncing.compare(asking, listing)
    give(answering, parcels)
    answers = syncing.answer(answering, want) if want is not None else []
    give(asking, answers)
    return 2 + (want is not None) + len(parcels) + len(answers)


def give(view: Roster, parcels: list[syncing.Parcel]) -> None:
    for told, certified in parcels:
        size = sum(syncing.size_of(each, certified=certified) for each in told)
        assert HEADER.size + len(encode(Tidings(view.me, bytes(size)))) <= DATAGRAM_MAX_BYTES
        for each in told:
            if isinstance(each, Record):
                assert certified or each.short in view.records, "who does not know it needs its certificate"
                view.put(each, 0.0)
            else:
                view.trouble(each.about, 1.0).note(each)


def test_views_that_are_the_same_have_nothing_to_say() -> None:
    assert exchange(roster(50), roster(50)) == 0


@pytest.mark.parametrize(("here", "there"), [(1, 100), (100, 1), (60, 100), (2, 400)])
def test_views_that_differ_agree_after_some_exchanges(here: int, there: int) -> None:
    one, other = roster(here), Roster(record(there - 1))
    for number in range(there):
        other.put(record(number, 1, number % 3), 0.0)
    for number in range(0, here, 7):
        one.put(record(number, 2, number % 5), 0.0)
    exchanges = 0
    while one.mark != other.mark:
        assert exchange(one, other, seed=exchanges) <= 30
        exchanges += 1
        assert exchanges < 60
    assert len(one) == len(other)


def test_what_is_held_against_a_host_goes_with_what_it_says() -> None:
    one, other = roster(5), roster(5)
    other.trouble(short(3), 1.0).note(charge(1, 3, Says.SUSPECT))
    other.set_state(short(3), HostState.SUSPECT, 1.0)
    exchange(one, other)
    assert list(one.troubles[short(3)].charges.values()) == [charge(1, 3, Says.SUSPECT)]


def test_who_never_heard_of_one_that_is_gone_need_not_hear_of_it() -> None:
    one, other = roster(4), roster(5)
    other.set_state(short(4), HostState.GONE, 1.0)
    assert exchange(one, other) == 0
    listing = Listing(other.me, 2**64 - 1, bytes(8), b"\xff" * 8, b"".join(map(other.entry, other.records)))
    assert syncing.compare(one, listing) == (None, [])


def test_a_want_is_answered_with_a_few_datagrams_however_much_it_asks_for() -> None:
    view = roster(200)
    parcels = syncing.answer(view, Want(short(1), b"".join(short(number) + b"\1" for number in range(1, 110))))
    assert len(parcels) == syncing.TIDINGS_MAX
    assert syncing.answer(view, Want(short(1), short(777) + b"\0")) == []


def test_lists_that_are_none_are_bad_bytes() -> None:
    with pytest.raises(BadBytes):
        syncing.answer(roster(3), Want(short(1), b"123"))
    with pytest.raises(BadBytes):
        syncing.compare(roster(3), Listing(short(1), 1, bytes(8), bytes(8), b"123"))
    with pytest.raises(BadBytes):
        split(b"\x14" + bytes(30))


def test_a_charge_is_no_longer_for_being_certified() -> None:
    assert syncing.size_of(charge(1, 2, Says.GONE), certified=True) == len(charge(1, 2, Says.GONE).proof)
    assert isinstance(charge(1, 2, Says.GONE), Charge)
