"""A grant in a leaf is read as it was given, or not at all; a host can take away from it and never add."""

import msgpack
import pytest

from matcher.trust.grants import (
    GRANT_MAX_BYTES,
    NOTHING,
    Narrowing,
    grant_bytes,
    grant_problem,
    limit_for,
    parse_pci_limit,
    read_grant,
    show_pci_limit,
)
from matcher.wire.codec import BadBytes
from matcher.wire.realm import Grant, PciLimit, Verb

FULL = Grant(
    verbs=tuple(Verb),
    slots=4096,
    ram_mib=64 * 1024 * 1024,
    vms=4096,
    volumes_gb=2**31 - 1,
    pci=tuple(PciLimit("10de", f"{number:04x}", 4096) for number in range(16)),
    overprovision_min=64,
    lease_max_s=2**31 - 1,
    groups=tuple(f"{number}" + "g" * 31 for number in range(8)),
    until_s=2**40,
)


@pytest.mark.parametrize("grant", [NOTHING, FULL, Grant((Verb.RUN,), slots=0), Grant(pci=(PciLimit("*", "*", 0),)),
                                   Grant(usb=(PciLimit("1050", "0407", 1),))])  # fmt: skip
def test_a_grant_is_read_as_it_was_written(grant: Grant) -> None:
    assert read_grant(grant_bytes(grant)) == grant
    assert grant_problem(grant) is None


def test_nothing_is_small_and_the_largest_grant_fits() -> None:
    assert len(grant_bytes(NOTHING)) == 1
    assert len(grant_bytes(FULL)) <= GRANT_MAX_BYTES


@pytest.mark.parametrize(
    "letters",
    [
        {"x": 1},  # of a later version: it may take something away
        {"v": "q"},
        {"v": "rp"},
        {"v": "pp"},
        {"v": "p\n"},
        {"s": -1},
        {"s": 4097},
        {"s": True},
        {"s": "9"},
        {"s": "9" * 40},
        {"s": 1.0},
        {"r": 2**63},
        {"n": 4097},
        {"g": 2**31},
        {"o": 0},
        {"o": None},
        {"l": 59},
        {"u": 2**40 + 1},
        {"d": ["10de"]},
        {"d": ["10de:*=4097"]},
        {"d": ["*:24b0=1"]},
        {"b": ["*:0407=1"]},
        {"d": ["10de:*=1"] * 17},
        {"m": ["a b"]},
        {"m": ["g"] * 9},
        {"m": [b"g"]},
    ],
)
def test_what_is_not_known_here_makes_the_whole_unreadable(letters: dict[str, object]) -> None:
    with pytest.raises(BadBytes):
        read_grant(msgpack.packb(letters))


@pytest.mark.parametrize("bad", [Grant(pci=(PciLimit("*", "24b0", 1),)), Grant(slots=-1), Grant(until_s=2**41)])
def test_a_grant_that_no_leaf_can_carry_is_told_before_one_is_made(bad: Grant) -> None:
    problem = grant_problem(bad)
    assert problem is not None
    assert len(problem) <= 120


def test_pci_limits_are_written_as_people_do() -> None:
    for text, limit in (
        ("10de:24b0=2", PciLimit("10de", "24b0", 2)),
        ("10DE:*=1", PciLimit("10de", "*", 1)),
        ("10de:24b0", PciLimit("10de", "24b0", 1)),
        ("*:*=4096", PciLimit("*", "*", 4096)),
        ("10de:*=0", PciLimit("10de", "*", 0)),
    ):
        assert parse_pci_limit(text) == limit
        assert parse_pci_limit(show_pci_limit(limit)) == limit
    for bad in ("", "10de", ":", "10de:", "*:24b0", "10de:24b0=", "10de:24b0=-1", "10de:*=4097", "10de:*=²", "x:y=1"):
        with pytest.raises(ValueError, match=r"limit of devices|how many"):
            parse_pci_limit(bad)


def test_the_most_exact_limit_counts_for_a_device_and_the_lower_of_two() -> None:
    limits = (PciLimit("*", "*", 9), PciLimit("10de", "*", 3), PciLimit("10de", "24b0", 5), PciLimit("10de", "24b0", 1))
    assert limit_for(limits, "10de", "24b0") == PciLimit("10de", "24b0", 1)
    assert limit_for(limits, "10de", "1111") == PciLimit("10de", "*", 3)
    assert limit_for(limits, "1002", "1111") == PciLimit("*", "*", 9)
    assert limit_for(limits[1:], "1002", "1111") is None


def test_a_host_takes_away_and_never_gives() -> None:
    narrowing = Narrowing(slots=4, ram_mib=None, vms=9, overprovision_min=2, lease_max_s=3600)
    here = narrowing.narrowed(Grant((Verb.RUN,), slots=8, ram_mib=512, vms=2, overprovision_min=1, groups=("g",)))
    expected = Grant((Verb.RUN,), 4, 512, 2, overprovision_min=2, lease_max_s=3600, groups=("g",))
    assert here == expected
    assert Narrowing().narrowed(FULL) == FULL


def test_a_host_may_serve_some_users_and_some_hours() -> None:
    some = Narrowing(users=("ann", "@lab"), hours=((22 * 60, 6 * 60), (720, 780)))
    assert some.admits_user("ann", ())
    assert some.admits_user("bob", ("x", "lab"))
    assert not some.admits_user("bob", ("x",))
    assert not some.admits_user("lab", ())
    assert [some.is_open(minute) for minute in (0, 359, 360, 719, 720, 779, 780, 1319, 1320)] == [
        *(True, True, False, False, True, True, False, False, True)
    ]
    assert Narrowing().admits_user("anybody", ())
    assert Narrowing().is_open(5)
