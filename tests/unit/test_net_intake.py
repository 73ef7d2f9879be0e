"""A daemon's datagrams: only what a user of the realm signed, a moment ago, is answered, and only where it says."""

import dataclasses
import socket
import time
from collections.abc import Sequence

import pytest

from matcher.net.intake import CLOCK_ANSWER_S, FRESH_MS, Arrival, Intake, Outgoing
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.trust.principal import Principal
from matcher.wire.codec import encode
from matcher.wire.envelope import REALM, Kind, host_audience, seal, unseal, user_audience
from matcher.wire.messages import (
    DATAGRAM_MAX_BYTES,
    REASONS_MAX,
    Address,
    Answer,
    Clock,
    Message,
    Pledge,
    Policy,
    Query,
    Reason,
    Reveal,
    Role,
    Unfit,
    VmOffer,
    VolumeOffer,
)
from specs.ids import HostId, UserId
from tests.fakes.realms import make_realm

NOW_MS = time.time_ns() // 1_000_000
HERE = Arrival(socket.AF_INET, 0)
QUERY = Query("a" * 32, NOW_MS, (Address("10.0.0.9", 4000),), "", False)
PLEDGE = Pledge(
    pledge_id="b" * 32,
    sent_at_ms=NOW_MS,
    reply=(Address("10.0.0.9", 4000),),
    dry=True,
    vm_id="c" * 32,
    generation=1,
    vm=None,
    volumes=("d" * 32,),
    seal=b"s" * 32,
    hold_ms=3000,
    hosts_known=0,
    policy=Policy.PACK,
)

ANSWER = Answer("a" * 32, "h1", Role.COMPUTE, 7766, 3, "0.1.0", 0, "CPU", "X86_64", "tcg", 2, 2, 100, 100, 0, 0)


class Daemon:
    """Answers everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Message, str]] = []
        self.answers: Sequence[VmOffer | VolumeOffer | Unfit] = ()

    def pledge(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit]:
        self.asked.append((pledge, user.name))
        return self.answers

    def reveal(self, reveal: Reveal, now_s: float) -> None:
        self.asked.append((reveal, ""))

    def query(self, query: Query, user: Principal) -> Answer:
        self.asked.append((query, user.name))
        return dataclasses.replace(ANSWER, query_id=query.query_id)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """ann, bob, h1 and h2 of one realm, and eve of another."""
    top = tmp_path_factory.mktemp("realms")
    home, away = make_realm(top / "home", "ann", "bob", "h1", "h2"), make_realm(top / "away", "eve")
    return home.members | away.members


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def intake(members: dict[str, Identity], daemon: Daemon) -> Intake:
    return Intake(members["h1"], daemon)


def sealed(message: Message, kind: Kind, by: Identity, audience: bytes = REALM) -> bytes:
    return seal(kind, encode(message), realm=by.realm, signer=by, audience=audience, pad_bytes=DATAGRAM_MAX_BYTES)


def heard(intake: Intake, data: bytes, *, now_s: float = 0.0, arrival: Arrival = HERE) -> list[Outgoing]:
    return intake.receive(data, arrival, now_s=now_s, wall_ms=NOW_MS)


def opened(out: Outgoing, reader: Identity) -> Message:
    """What the user reads out of an answer, having checked who signed it."""
    box = unseal(out[0], realm=reader.realm)
    audience = user_audience(UserId(reader.principal.id))
    message, host = open_sealed(box, reader, audience=audience, signer="host", wall_s=NOW_MS / 1000)
    assert host.name == "h1"
    return message


def test_a_users_query_is_answered_to_the_address_that_it_names(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    ann = members["ann"]
    (out,) = heard(intake, sealed(QUERY, Kind.QUERY, ann))
    assert out[1] == ("10.0.0.9", 4000)
    assert opened(out, ann) == ANSWER
    assert daemon.asked == [(QUERY, "ann")]
    assert intake.counters == {"query": 1}


def test_no_answer_is_larger_than_its_question(intake: Intake, daemon: Daemon, members: dict[str, Identity]) -> None:
    daemon.answers = (unfit(REASONS_MAX),)
    question = sealed(PLEDGE, Kind.PLEDGE, members["ann"])
    for data, _ in heard(intake, question):
        assert len(data) <= len(question) == DATAGRAM_MAX_BYTES


def unfit(reasons: int) -> Unfit:
    told = tuple(Reason(f"resource {n}", "a" * 120, "h" * 120, "i" * 160) for n in range(reasons))
    return Unfit(PLEDGE.pledge_id, "h1", Role.COMPUTE, 0, told)


def test_reasons_that_do_not_fit_a_datagram_are_left_out_from_the_end(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    daemon.answers = (unfit(REASONS_MAX),)
    (out,) = heard(intake, sealed(PLEDGE, Kind.PLEDGE, members["ann"]))
    told = opened(out, members["ann"])
    assert isinstance(told, Unfit)
    assert 0 < len(told.reasons) < REASONS_MAX
    assert told.reasons == unfit(REASONS_MAX).reasons[: len(told.reasons)]


def test_over_https_all_reasons_fit(intake: Intake, daemon: Daemon, members: dict[str, Identity]) -> None:
    daemon.answers = (unfit(REASONS_MAX),)
    (body,) = intake.receive_body(sealed(PLEDGE, Kind.PLEDGE, members["ann"]), now_s=0.0, wall_ms=NOW_MS)
    assert len(body) > DATAGRAM_MAX_BYTES


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("ann", lambda data: data[:20], "length"),
        ("ann", lambda data: data + b"x", "length"),
        ("ann", lambda data: b"XXXX" + data[4:], "magic"),
        ("ann", lambda data: data[:-1] + b"x", "tag"),
        ("eve", lambda data: data, "realm"),
    ],
)
def test_what_is_damaged_or_from_another_realm_meets_silence_and_a_counter(
    intake: Intake, daemon: Daemon, members: dict[str, Identity], name: str, damage: object, why: str
) -> None:
    assert callable(damage)
    assert heard(intake, damage(sealed(QUERY, Kind.QUERY, members[name]))) == []
    assert intake.counters == {why: 1}
    assert daemon.asked == []


def test_a_host_may_not_ask_as_a_user(intake: Intake, daemon: Daemon, members: dict[str, Identity]) -> None:
    assert heard(intake, sealed(QUERY, Kind.QUERY, members["h2"])) == []
    assert intake.counters == {"its certificate is not a user's": 1}
    assert daemon.asked == []


def test_a_signature_for_another_audience_is_none(intake: Intake, daemon: Daemon, members: dict[str, Identity]) -> None:
    elsewhere = host_audience(HostId(members["h1"].principal.id), Role.COMPUTE)
    assert heard(intake, sealed(QUERY, Kind.QUERY, members["ann"], elsewhere)) == []
    assert intake.counters == {"signature": 1}


def test_a_signature_for_another_kind_of_message_is_none(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    """The kind stands in what is signed, so that a query's bytes can't come again as a pledge."""
    ann = members["ann"]
    query = unseal(sealed(QUERY, Kind.QUERY, ann), realm=ann.realm)
    forged = Forger(query.certificate, query.signature)
    data = seal(Kind.PLEDGE, query.payload, realm=ann.realm, signer=forged, audience=REALM)
    assert heard(intake, data) == []
    assert intake.counters == {"signature": 1}
    assert daemon.asked == []


@dataclasses.dataclass(frozen=True)
class Forger:
    """Has a certificate and a signature of somebody else, and no key."""

    certificate: bytes
    signature: bytes

    def sign(self, data: bytes) -> bytes:
        return self.signature


def test_answers_and_confirms_are_no_questions(intake: Intake, daemon: Daemon, members: dict[str, Identity]) -> None:
    assert heard(intake, sealed(ANSWER, Kind.ANSWER, members["h2"])) == []
    assert intake.counters == {"unexpected kind": 1}
    assert daemon.asked == []


@pytest.mark.parametrize("off_ms", [-FRESH_MS - 1, FRESH_MS + 1])
def test_a_stale_question_is_told_the_hosts_clock_once_a_second(
    intake: Intake, daemon: Daemon, members: dict[str, Identity], off_ms: int
) -> None:
    ann = members["ann"]
    stale = sealed(dataclasses.replace(QUERY, sent_at_ms=NOW_MS + off_ms), Kind.QUERY, ann)
    (out,) = heard(intake, stale, now_s=10.0)
    assert opened(out, ann) == Clock(QUERY.query_id, "h1", NOW_MS)
    assert heard(intake, stale, now_s=10.0 + CLOCK_ANSWER_S / 2) == []
    assert len(heard(intake, stale, now_s=10.0 + CLOCK_ANSWER_S)) == 1
    assert intake.counters["stale"] == 3
    assert daemon.asked == [], "and nothing else happens"


@pytest.mark.parametrize("off_ms", [-FRESH_MS, 0, FRESH_MS])
def test_a_question_of_half_a_minute_ago_is_fresh(
    intake: Intake, daemon: Daemon, members: dict[str, Identity], off_ms: int
) -> None:
    heard(intake, sealed(dataclasses.replace(PLEDGE, sent_at_ms=NOW_MS + off_ms), Kind.PLEDGE, members["ann"]))
    assert len(daemon.asked) == 1


def test_a_query_by_two_ways_at_once_is_answered_once(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    data = sealed(QUERY, Kind.QUERY, members["ann"])
    answers = heard(intake, data, now_s=1.0) + heard(intake, data, now_s=1.001)
    assert len(answers) == 1
    assert len(daemon.asked) == 1


@pytest.mark.parametrize(
    ("reply", "arrival", "why"),
    [
        ((), HERE, "nowhere"),
        ((Address("fe80::9", 4000),), HERE, "of another family"),
        ((Address("224.0.0.1", 4000),), HERE, "a group"),
        ((Address("0.0.0.0", 4000),), HERE, "no address"),
        ((Address("1.2.3", 4000),), HERE, "none at all"),
        ((Address("10.0.0.9", 4000),), Arrival(socket.AF_INET6, 3), "of another family"),
    ],
)
def test_a_question_without_an_address_to_answer_is_not_even_looked_at(
    intake: Intake,
    daemon: Daemon,
    members: dict[str, Identity],
    reply: tuple[Address, ...],
    arrival: Arrival,
    why: str,
) -> None:
    question = sealed(dataclasses.replace(PLEDGE, reply=reply), Kind.PLEDGE, members["ann"])
    assert heard(intake, question, arrival=arrival) == [], why
    assert intake.counters == {"no address to answer": 1}
    assert daemon.asked == [], "nothing is held for somebody who could not hear of it"


def test_a_reveal_needs_no_signature_but_the_realms_tag(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    reveal = Reveal("b" * 32, b"x" * 32)
    for who in ("ann", "eve"):
        realm = members[who].realm
        heard(intake, seal(Kind.REVEAL, encode(reveal), realm=realm, signer=None, audience=REALM))
    assert daemon.asked == [(reveal, "")]
    assert intake.counters == {"realm": 1}


def test_whatever_a_stranger_writes_nothing_is_raised(intake: Intake, members: dict[str, Identity]) -> None:
    question = sealed(QUERY, Kind.QUERY, members["ann"])
    for position in range(0, len(question), 7):
        for byte in (0, 255):
            heard(intake, question[:position] + bytes([byte]) + question[position + 1 :])
            heard(intake, question[:position])
    assert len(intake.counters) < 12, "a handful of reasons, whatever comes"


def test_the_same_bytes_by_the_other_family_are_neither_verified_nor_answered_again(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    question = sealed(PLEDGE, Kind.PLEDGE, members["ann"])
    heard(intake, question, now_s=1.0)
    heard(intake, question, now_s=1.01, arrival=Arrival(socket.AF_INET6, 3))
    assert daemon.asked == [(PLEDGE, "ann")]
    assert intake.counters == {"pledge": 1, "copy": 1}
    heard(intake, question, now_s=1.2)
    assert daemon.asked == [(PLEDGE, "ann")] * 2, "later it is the user who repeats it"


def test_a_copy_is_answered_where_the_first_could_not_be(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    question = sealed(PLEDGE, Kind.PLEDGE, members["ann"])  # it names an IPv4 address alone
    assert heard(intake, question, arrival=Arrival(socket.AF_INET6, 3)) == []
    heard(intake, question)
    assert daemon.asked == [(PLEDGE, "ann")]


def test_what_a_daemon_ignores_is_dropped_before_a_signature_is_checked(
    daemon: Daemon, members: dict[str, Identity]
) -> None:
    deaf = Intake(members["h1"], daemon, ignores=lambda sealed: sealed.kind is Kind.PLEDGE)
    assert heard(deaf, sealed(PLEDGE, Kind.PLEDGE, members["ann"])) == []
    assert daemon.asked == []
    heard(deaf, sealed(QUERY, Kind.QUERY, members["ann"]))
    assert daemon.asked == [(QUERY, "ann")]
