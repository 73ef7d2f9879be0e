"""Strangers make room for strangers and for nobody else; members have what is theirs, and no more."""

from matcher.net.door.admission import Places, Share, source_of


def test_the_oldest_makes_room_for_the_newest() -> None:
    share = Share[str](2, 2)
    assert [share.enter(each, address) for each, address in (("a", "1"), ("b", "2"), ("c", "3"))] == [None, None, "a"]
    assert len(share) == 2


def test_one_address_pushes_out_its_own_and_not_others() -> None:
    share = Share[str](100, 2)
    share.enter("honest", "10.0.0.1")
    out = [share.enter(f"flood{n}", "10.0.0.2") for n in range(5)]
    assert out == [None, None, "flood0", "flood1", "flood2"]
    assert len(share) == 3


def test_who_was_pushed_out_may_leave_again() -> None:
    share = Share[str](1, 1)
    share.enter("a", "1")
    assert share.enter("b", "1") == "a"
    share.leave("a")
    assert len(share) == 1
    share.leave("b")
    assert len(share) == 0
    assert share.enter("c", "1") is None


def test_an_ipv6_network_is_one_source_however_many_addresses_it_makes_up() -> None:
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:2") != source_of("2001:db8:0:1::1")
    assert source_of("fe80::1%eth0") == source_of("fe80::2%eth0")
    assert source_of("10.0.0.1") != source_of("10.0.0.2")


def test_a_member_with_all_of_their_places_takes_none_of_the_others() -> None:
    places = Places(3, 2)
    assert [places.enter(who) is None for who in ("ann", "ann", "ann", "bob", "bob")] == [
        True,
        True,
        False,
        True,
        False,
    ]
    places.leave("ann")
    assert places.enter("bob") is None
    assert len(places) == 3
