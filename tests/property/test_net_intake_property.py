"""Whatever strangers and members send, in whatever order and from wherever: nothing is raised, no map grows beyond its
limit, nothing is decided twice for the same bytes, and no answer goes anywhere but to where its question came from."""

import dataclasses
import socket
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from matcher.net import budget, intake
from matcher.net.intake import Arrival, Intake
from matcher.net.token_bucket import TokenBuckets
from matcher.trust.identity import Identity
from matcher.wire.codec import encode
from matcher.wire.envelope import HOSTS, REALM, UNSIGNED, Kind, ReplayWindow, seal
from matcher.wire.messages import Address, Message, Query, Reveal
from matcher.wire.realm import News
from tests.fakes.realms import make_realm
from tests.unit.test_net_intake import PLEDGE, QUERY, Daemon, Forger

FEW = 2
HEARD_MAX = 8  # more, else it would hide that the others have limits of their own
LIMITS = {
    budget: ("SOURCES_MAX", "LEAVES_MAX", "MEMBERS_MAX"),
    intake: ("HEARD_MAX", "QUERIES_MAX", "VAIN_MAX", "COUNTERS_MAX"),
}
ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "2001:db8::1", "fe80::1", "fe80::2", "fe80::3"]
WALL_MS = time.time_ns() // 1_000_000

members: dict[str, Identity] = {}


@pytest.fixture(scope="module", autouse=True)
def realms() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home, away = (
            make_realm(Path(folder) / "home", "ann", "bob", "cat", "dan", "h1", "h2", "h3"),
            make_realm(Path(folder) / "away", "eve"),
        )
        members.update(home.members | away.members)


def sizes(of: Intake) -> dict[str, int]:
    """Every map that an intake has, found by itself: one that is added later is looked at as well."""
    found: dict[str, int] = {}
    for owner in (of, of._budget):
        for name, part in vars(owner).items():
            if isinstance(part, ReplayWindow | TokenBuckets | dict | set | list):
                found[name] = len(part)
    return found


arrivals = st.builds(
    lambda ip, scope: Arrival(socket.AF_INET6, scope, ip) if ":" in ip else Arrival(socket.AF_INET, 0, ip),
    st.sampled_from(ADDRESSES),
    st.integers(0, 2),
)
people = st.sampled_from(["ann", "bob", "cat", "dan", "h1", "h2", "h3", "eve"])
users = st.sampled_from(["ann", "bob", "cat", "dan"])
moments = st.sampled_from([-40_000, -29_000, 0, 1, 29_000, 40_000])


class Sending(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.daemon = Daemon()
        self.now_s = 0.0
        self.sent: list[tuple[bytes, Arrival]] = []
        self.decided: set[bytes] = set()
        few = {module: dict.fromkeys(names, FEW) for module, names in LIMITS.items()}
        few[intake]["HEARD_MAX"] = HEARD_MAX
        with patch.multiple(budget, **few[budget]), patch.multiple(intake, **few[intake]):
            self.intake = Intake(members["h1"], self.daemon, hears_news=lambda *_: None)

    def send(self, data: bytes, arrival: Arrival) -> None:
        self.sent.append((data, arrival))
        decided = len(self.daemon.asked)
        with patch.object(intake, "COUNTERS_MAX", FEW):
            replies = self.intake.receive(data, arrival, now_s=self.now_s, wall_ms=WALL_MS + int(self.now_s * 1000))
        if len(self.daemon.asked) > decided and not isinstance(self.daemon.asked[-1][0], Reveal):
            assert data not in self.decided
            self.decided.add(data)
        for answer, address in replies:
            assert address[0] == arrival.source
            assert len(answer) <= len(data)

    @rule(step_s=st.sampled_from([0.01, 1.0, 50.0]))
    def wait(self, step_s: float) -> None:
        self.now_s += step_s

    @rule(data=st.binary(max_size=100), arrival=arrivals)
    def noise(self, data: bytes, arrival: Arrival) -> None:
        self.send(data, arrival)

    @rule(data=st.data(), arrival=arrivals)
    def again(self, data: st.DataObject, arrival: Arrival) -> None:
        if self.sent:
            self.send(data.draw(st.sampled_from(self.sent))[0], arrival)

    @rule(who=users | people, pledges=st.booleans(), off_ms=moments, ip=st.sampled_from(ADDRESSES), arrival=arrivals)
    def ask(self, who: str, pledges: bool, off_ms: int, ip: str, arrival: Arrival) -> None:
        message: Message = dataclasses.replace(
            PLEDGE if pledges else QUERY,
            sent_at_ms=WALL_MS + int(self.now_s * 1000) + off_ms,
            reply=(Address(ip, 4000), Address(arrival.source, 4001)),
        )
        if isinstance(message, Query):
            message = dataclasses.replace(message, query_id=f"{len(self.sent):032x}")
        self.send(self.sealed(message, Kind.PLEDGE if pledges else Kind.QUERY, who, REALM), arrival)

    @rule(who=people, off_ms=moments, arrival=arrivals)
    def tell(self, who: str, off_ms: int, arrival: Arrival) -> None:
        news = News(who, WALL_MS + int(self.now_s * 1000) + off_ms, b"d" * 32, 1, 7766, b"")
        self.send(self.sealed(news, Kind.NEWS, who, HOSTS), arrival)

    @rule(kind=st.sampled_from(sorted(set(Kind) - UNSIGNED)), leaf=st.binary(min_size=1, max_size=9), a=arrivals)
    def forge(self, kind: Kind, leaf: bytes, a: Arrival) -> None:
        """As a member would that was revoked, and has the realm's tag key still."""
        signer = Forger(leaf, b"\1" * 64)
        self.send(seal(kind, b"", realm=members["ann"].realm, signer=signer, audience=REALM), a)

    @rule(who=people, arrival=arrivals)
    def forge_under_a_known_leaf(self, who: str, arrival: Arrival) -> None:
        signer = Forger(members[who].certificate, b"\1" * 64)
        self.send(seal(Kind.QUERY, b"", realm=members["ann"].realm, signer=signer, audience=REALM), arrival)

    @rule(payload=st.one_of(st.binary(max_size=9), st.just(encode(Reveal("b" * 32, b"x" * 32)))), arrival=arrivals)
    def reveal(self, payload: bytes, arrival: Arrival) -> None:
        self.send(seal(Kind.REVEAL, payload, realm=members["ann"].realm, signer=None, audience=REALM), arrival)

    def sealed(self, message: Message, kind: Kind, who: str, audience: bytes) -> bytes:
        by = members[who]
        return seal(kind, encode(message), realm=by.realm, signer=by, audience=audience, pad_bytes=1200)

    @invariant()
    def nothing_grows_beyond_its_limit(self) -> None:
        for name, size in sizes(self.intake).items():
            assert size <= (HEARD_MAX if name == "_heard" else FEW + (name == "counters")), name


TestSending = Sending.TestCase
TestSending.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


def test_the_maps_that_are_looked_at_are_all_that_there_are(realms: None) -> None:
    assert set(sizes(Intake(members["h1"], Daemon()))) == {
        "counters",
        "_asked_before",  # as many as `later` lets wait: `test_offers_offering`
        "_heard",
        "_vain",
        "_queries",
        "_sources",
        "_leaves",
        "pledges",
        "queries",
        "news",
        "clocks",
    }
