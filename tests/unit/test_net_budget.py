"""What a datagram may cost is shared out: whoever floods uses up their own share, and the others are served."""

import dataclasses
import os
import socket
from collections.abc import Iterator

import pytest

from matcher.net import budget, intake
from matcher.net.budget import (
    LEAF,
    NEWS,
    PLEDGES,
    QUERIES,
    REVEALS,
    SOURCE,
    STRANGER_WEIGHT,
    STRANGERS,
    TOTAL,
    Budget,
    source_key,
)
from matcher.net.intake import Arrival, Intake
from matcher.net.token_bucket import Rate
from matcher.offers.offering import PLEDGE_MEMORY_S, PLEDGES_MAX
from matcher.trust.identity import Identity
from matcher.wire.codec import encode
from matcher.wire.envelope import REALM, REPLAY_KEEP_S, REPLAY_KEYS_MAX, Kind, seal
from matcher.wire.messages import Message, Pledge, Query, Reveal
from tests.fakes.realms import Realm, make_realm
from tests.unit.test_net_intake import HERE, NOW_MS, PLEDGE, QUERY, Daemon, Forger


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1", "fe80::2", False),
        ("fe80::1", "fe80::1%3", True),
        ("fd00::1", "fd00::2", True),
    ],
)
def test_an_ipv6_network_is_one_source_and_a_link_local_address_as_well(one: str, other: str, shared: bool) -> None:
    assert (source_key(one) == source_key(other)) is shared


# ---- a daemon's budget


def taken(limit: Rate) -> range:
    return range(int(limit.burst))


def test_a_source_that_floods_uses_up_its_own_share_alone() -> None:
    mine = Budget()
    assert {mine.refuses("10.0.0.1", b"%d" % n, 0.0) for n in taken(SOURCE)} == {None}
    for n in range(3 * int(TOTAL.burst)):
        assert mine.refuses("10.0.0.1", b"%d" % n, 0.0) == "source rate"
    assert mine.refuses("10.0.0.2", b"1", 0.0) is None


def test_a_leaf_that_is_shown_from_everywhere_uses_up_its_own_share_alone() -> None:
    mine = Budget()
    assert {mine.refuses(f"10.0.{n % 250}.1", b"ann", 0.0) for n in taken(LEAF)} == {None}
    for n in range(3 * int(TOTAL.burst)):
        assert mine.refuses(f"10.{n // 250}.{n % 250}.1", b"ann", 0.0) == "leaf rate"
    assert mine.refuses("10.0.0.1", b"bob", 0.0) is None


def test_leaves_not_seen_before_share_one_rate_and_leave_room_for_the_known() -> None:
    mine = Budget()
    assert {mine.refuses(f"10.0.{n % 250}.1", None, 0.0) for n in taken(STRANGERS)} == {None}
    assert mine.refuses("10.0.0.2", None, 0.0) == "stranger rate"
    assert mine.refuses("10.0.0.2", b"ann", 0.0) is None
    assert STRANGERS.burst * STRANGER_WEIGHT < TOTAL.burst / 2
    assert STRANGERS.per_s * STRANGER_WEIGHT < TOTAL.per_s / 2


def test_a_leaf_not_seen_before_weighs_more() -> None:
    one, other = Budget(), Budget()
    one.refuses(None, None, 0.0), other.refuses(None, b"known", 0.0)
    left = [0, 0]
    for index, each in enumerate((one, other)):
        while each.refuses(None, b"%d" % left[index], 0.0) is None:
            left[index] += 1
    assert left == [TOTAL.burst - STRANGER_WEIGHT, TOTAL.burst - 1]


def test_all_together_have_a_limit_whoever_they_are() -> None:
    mine = Budget()
    said = [mine.refuses(f"10.0.{n // 200}.{n % 200}", b"%d" % n, 0.0) for n in range(int(TOTAL.burst) + 10)]
    assert said == [None] * int(TOTAL.burst) + ["total rate"] * 10
    assert mine.refuses("10.9.9.9", b"new", 0.1) is None


def test_reveals_have_a_limit_of_their_own() -> None:
    mine = Budget()
    said = [mine.refuses_reveal(f"10.0.{n // 200}.{n % 200}", 0.0) for n in range(int(REVEALS.burst) + 3)]
    assert said == [None] * int(REVEALS.burst) + ["reveal rate"] * 3
    one = Budget()
    assert {one.refuses_reveal("10.0.0.1", 0.0) for _ in taken(SOURCE)} == {None}
    assert one.refuses_reveal("10.0.0.1", 0.0) == "source rate"


def test_no_user_can_fill_what_a_host_remembers() -> None:
    assert PLEDGES.most_in(PLEDGE_MEMORY_S) <= PLEDGES_MAX / 4
    said = sum(rate.most_in(REPLAY_KEEP_S) for rate in (PLEDGES, QUERIES))
    assert said <= REPLAY_KEYS_MAX / 8
    assert NEWS.most_in(REPLAY_KEEP_S) <= REPLAY_KEYS_MAX / 8


# ---- an intake within its budget


@pytest.fixture
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "ann", "bob", "h1")


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def flooded(realm: Realm, daemon: Daemon) -> Intake:
    """Who has heard of bob before."""
    made = Intake(realm["h1"], daemon)
    assert is_answered(made, realm["bob"])
    daemon.asked.clear()
    made.counters.clear()
    return made


_numbers = iter(range(1_000_000))


def new(message: Query | Pledge) -> Message:
    """The same, of another moment: nothing that was heard before."""
    return dataclasses.replace(message, sent_at_ms=NOW_MS + next(_numbers) % 20_000)


def sealed(message: Message, kind: Kind, by: Identity) -> bytes:
    return seal(kind, encode(message), realm=by.realm, signer=by, audience=REALM, pad_bytes=1200)


def is_answered(asked: Intake, by: Identity, *, now_s: float = 0.0, arrival: Arrival = HERE) -> bool:
    query = dataclasses.replace(new(QUERY), query_id=os.urandom(16).hex())
    return bool(asked.receive(sealed(query, Kind.QUERY, by), arrival, now_s=now_s, wall_ms=NOW_MS))


def everywhere() -> Iterator[Arrival]:
    """Made-up addresses without end."""
    for n in range(1_000_000):
        yield Arrival(socket.AF_INET, 0, f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}")


def test_a_revoked_member_who_floods_uses_up_nobodys_share(realm: Realm, flooded: Intake) -> None:
    """Not even from the address of the honest one."""
    old = sealed(new(QUERY), Kind.QUERY, realm["ann"])
    flooded.receive(old, HERE, now_s=0.0, wall_ms=NOW_MS)
    realm["h1"].learn([realm.issuer.revoke("user", "ann", "", wall_s=NOW_MS / 1000)], NOW_MS / 1000)
    forged = Forger(realm["ann"].certificate, b"\0" * 64)
    flood = 5 * int(TOTAL.burst)
    for n in range(flood):
        data = seal(Kind.QUERY, b"%d" % n, realm=realm["ann"].realm, signer=forged, audience=REALM)
        assert flooded.receive(data, HERE, now_s=0.0, wall_ms=NOW_MS) == []
    assert flooded.counters["its certificate was revoked"] == flood
    assert is_answered(flooded, realm["bob"])


def test_bytes_that_are_sent_again_and_again_use_up_nobodys_share(realm: Realm, flooded: Intake) -> None:
    data = sealed(new(QUERY), Kind.QUERY, realm["bob"])
    for _ in range(5 * int(SOURCE.burst)):
        flooded.receive(data, HERE, now_s=0.0, wall_ms=NOW_MS)
    assert is_answered(flooded, realm["bob"])


def test_forgeries_under_one_users_leaf_leave_room_for_the_others(realm: Realm, flooded: Intake) -> None:
    assert is_answered(flooded, realm["ann"])
    forged = Forger(realm["ann"].certificate, b"\0" * 64)
    for n, arrival in zip(range(2 * int(TOTAL.burst)), everywhere(), strict=False):
        data = seal(Kind.QUERY, b"%d" % n, realm=realm["ann"].realm, signer=forged, audience=REALM)
        flooded.receive(data, arrival, now_s=0.0, wall_ms=NOW_MS)
    assert set(flooded.counters) == {"query", "signature", "leaf rate"}
    assert is_answered(flooded, realm["bob"])
    assert not is_answered(flooded, realm["ann"])
    assert is_answered(flooded, realm["ann"], now_s=1.0)


def test_forgeries_from_one_machine_leave_room_even_for_whose_leaf_they_show(realm: Realm, flooded: Intake) -> None:
    forged = Forger(realm["bob"].certificate, b"\0" * 64)
    for n in range(60 * 200):  # a minute, from an address of its own
        data = seal(Kind.QUERY, b"%d" % n, realm=realm["ann"].realm, signer=forged, audience=REALM)
        flooded.receive(data, Arrival(socket.AF_INET, 0, "10.66.6.6"), now_s=n / 200, wall_ms=NOW_MS)
    assert is_answered(flooded, realm["bob"], now_s=60.0)
    assert LEAF.per_s > SOURCE.per_s and LEAF.burst > SOURCE.burst  # noqa: PT018  one thought


def test_leaves_without_end_leave_room_for_the_known(realm: Realm, flooded: Intake) -> None:
    for n, arrival in zip(range(2 * int(TOTAL.burst)), everywhere(), strict=False):
        forged = Forger(b"no certificate %d" % n, b"\0" * 64)
        data = seal(Kind.QUERY, b"", realm=realm["ann"].realm, signer=forged, audience=REALM)
        flooded.receive(data, arrival, now_s=0.0, wall_ms=NOW_MS)
    assert flooded.counters["its certificate can't be read"] == STRANGERS.burst - 1, "bob was one"
    assert is_answered(flooded, realm["bob"])


def test_a_source_with_forgeries_of_all_kinds_is_cut_off_alone(realm: Realm, flooded: Intake) -> None:
    forged = Forger(realm["bob"].certificate, b"\0" * 64)
    for n in range(int(SOURCE.burst) + 5):
        data = seal(Kind.QUERY, b"%d" % n, realm=realm["ann"].realm, signer=forged, audience=REALM)
        flooded.receive(data, Arrival(socket.AF_INET, 0, "10.66.6.6"), now_s=0.0, wall_ms=NOW_MS)
    assert flooded.counters["source rate"] == 5
    assert is_answered(flooded, realm["bob"], now_s=0.1)


def test_one_users_pledges_do_not_silence_the_host_for_another(realm: Realm, flooded: Intake, daemon: Daemon) -> None:
    """For as long as a host remembers pledges, and much faster than a person types."""
    ann, seconds = realm["ann"], int(PLEDGE_MEMORY_S)
    for n in range(seconds * 40):
        pledge = dataclasses.replace(new(PLEDGE), pledge_id=f"{n:032x}")
        flooded.receive(sealed(pledge, Kind.PLEDGE, ann), HERE, now_s=n / 40, wall_ms=NOW_MS)
    assert len(daemon.asked) <= PLEDGES.most_in(seconds)
    assert flooded.counters["user rate"] == seconds * 40 - len(daemon.asked)
    assert is_answered(flooded, ann, now_s=seconds), "queries have a share of their own"
    pledge = sealed(new(PLEDGE), Kind.PLEDGE, realm["bob"])
    flooded.receive(pledge, HERE, now_s=seconds, wall_ms=NOW_MS)
    assert daemon.asked[-1][1] == "bob"


def test_one_users_queries_are_limited_as_well(realm: Realm, flooded: Intake, daemon: Daemon) -> None:
    asked = [is_answered(flooded, realm["ann"]) for _ in range(int(QUERIES.burst) + 10)]
    assert asked == [True] * int(QUERIES.burst) + [False] * 10
    assert is_answered(flooded, realm["bob"])


def test_reveals_without_end_are_cut_off(realm: Realm, flooded: Intake, daemon: Daemon) -> None:
    for n, arrival in zip(range(int(REVEALS.burst) + 7), everywhere(), strict=False):
        reveal = encode(Reveal(f"{n:032x}", b"x" * 32))
        data = seal(Kind.REVEAL, reveal, realm=realm["ann"].realm, signer=None, audience=REALM)
        flooded.receive(data, arrival, now_s=0.0, wall_ms=NOW_MS)
    assert len(daemon.asked) == REVEALS.burst
    assert flooded.counters == {"reveal rate": 7}
    assert is_answered(flooded, realm["bob"])


def test_a_full_window_is_silence_and_no_replay(realm: Realm, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "HEARD_MAX", 2)
    small = Intake(realm["h1"], daemon)
    assert [is_answered(small, realm["ann"]) for _ in range(3)] == [True, True, False]
    assert small.counters == {"query": 2, "replay window full": 1}
    assert is_answered(small, realm["ann"], now_s=REPLAY_KEEP_S + 1)


def test_a_budget_knows_how_much_it_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SOURCES_MAX", 5)
    mine = Budget()
    for n in range(20):
        mine.refuses(f"10.0.0.{n}", b"ann", 0.0)
    assert len(mine) == 5 + 1
