"""A daemon's datagrams: only what a user of the realm signed, a moment ago, is answered, and only where it says."""

import dataclasses
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from matcher.net.budget import CLOCKS, NEWS
from matcher.net.intake import COUNTERS_MAX, FRESH_MS, REPEAT_S, Arrival, Intake, Outgoing
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.trust.principal import Principal
from matcher.wire.codec import BadBytes, encode
from matcher.wire.envelope import HOSTS, REALM, REPLAY_KEEP_S, Kind, host_audience, seal, unseal, user_audience
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
from matcher.wire.realm import Grant, News, Verb
from specs.ids import HostId, UserId
from tests.fakes.realms import Realm, make_realm

NOW_MS = time.time_ns() // 1_000_000 + 3_600_000  # the members' certificates are made later than this line is read
HERE = Arrival(socket.AF_INET, 0, "10.0.0.9")
HERE_6 = Arrival(socket.AF_INET6, 3, "fe80::9")
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

NEWS_OF_H2 = News("h2", NOW_MS, b"d" * 32, 1, 7766, b"")
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


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    """One that a test may change: members may be revoked, keys replaced."""
    return make_realm(tmp_path, "ann", "h1")


def sealed(message: Message, kind: Kind, by: Identity, audience: bytes = REALM) -> bytes:
    return seal(kind, encode(message), realm=by.realm, signer=by, audience=audience, pad_bytes=DATAGRAM_MAX_BYTES)


def heard(intake: Intake, data: bytes, *, now_s: float = 0.0, arrival: Arrival = HERE) -> list[Outgoing]:
    return intake.receive(data, arrival, now_s=now_s, wall_ms=NOW_MS)


def asked_at(wall_ms: int, message: Query | Pledge = QUERY) -> Query | Pledge:
    return dataclasses.replace(message, sent_at_ms=wall_ms)


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


@pytest.mark.parametrize("pad_bytes", [DATAGRAM_MAX_BYTES, 1100])
def test_no_answer_is_larger_than_its_question(
    intake: Intake, daemon: Daemon, members: dict[str, Identity], pad_bytes: int
) -> None:
    daemon.answers = (unfit(REASONS_MAX),)
    ann = members["ann"]
    question = seal(Kind.PLEDGE, encode(PLEDGE), realm=ann.realm, signer=ann, audience=REALM, pad_bytes=pad_bytes)
    ((data, _),) = heard(intake, question)
    assert len(question) - 500 < len(data) <= len(question) == pad_bytes


def test_what_can_not_be_cut_to_its_question_is_not_said(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    ann = members["ann"]
    assert heard(intake, seal(Kind.QUERY, encode(QUERY), realm=ann.realm, signer=ann, audience=REALM)) == []
    assert intake.counters == {"query": 1, "answer too long": 1}


def unfit(reasons: int) -> Unfit:
    told = tuple(Reason(f"resource {n}", "a" * 120, "h" * 120, "i" * 160) for n in range(reasons))
    return Unfit(PLEDGE.pledge_id, "h1", Role.COMPUTE, 0, told)


def test_what_does_not_fit_a_datagram_goes_from_the_end_hints_first_and_reasons_are_counted(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    daemon.answers = (unfit(REASONS_MAX),)
    (out,) = heard(intake, sealed(PLEDGE, Kind.PLEDGE, members["ann"]))
    told = opened(out, members["ann"])
    assert isinstance(told, Unfit)
    assert 0 < len(told.reasons) < REASONS_MAX
    assert told.reasons == tuple(replace(r, hint="") for r in unfit(REASONS_MAX).reasons[: len(told.reasons)])
    assert told.left_off == REASONS_MAX - len(told.reasons)


def test_a_hint_goes_before_any_reason_does(intake: Intake, daemon: Daemon, members: dict[str, Identity]) -> None:
    first, second = (replace(reason, asked="8", has="4") for reason in unfit(2).reasons)
    daemon.answers = (replace(unfit(2), reasons=(first, second, replace(second, edit="e" * 80))),)
    (out,) = heard(intake, sealed(PLEDGE, Kind.PLEDGE, members["ann"]))
    told = opened(out, members["ann"])
    assert isinstance(told, Unfit)
    assert (told.left_off, len(told.reasons), told.reasons[2].edit) == (0, 3, "e" * 80)
    assert [bool(reason.hint) for reason in told.reasons] == [True, True, False]


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
    ann, step = members["ann"], 1 if off_ms > 0 else -1
    stale = [sealed(asked_at(NOW_MS + off_ms + n * step), Kind.QUERY, ann) for n in range(3)]
    (out,) = heard(intake, stale[0], now_s=10.0)
    assert opened(out, ann) == Clock(QUERY.query_id, "h1", NOW_MS)
    assert heard(intake, stale[1], now_s=10.0 + 0.5 / CLOCKS.per_s) == []
    assert len(heard(intake, stale[2], now_s=10.0 + 1 / CLOCKS.per_s)) == 1
    assert intake.counters == {"stale": 3}
    assert daemon.asked == [], "and nothing else happens"


def test_one_users_stale_questions_do_not_keep_the_clock_from_another(
    intake: Intake, members: dict[str, Identity]
) -> None:
    for name in ("ann", "bob"):
        assert len(heard(intake, sealed(asked_at(0), Kind.QUERY, members[name]), now_s=10.0)) == 1


def test_the_same_stale_bytes_are_not_checked_twice(intake: Intake, members: dict[str, Identity]) -> None:
    old = sealed(asked_at(0), Kind.QUERY, members["ann"])
    heard(intake, old, now_s=10.0)
    assert heard(intake, old, now_s=20.0) == []
    assert intake.counters == {"stale": 1, "heard before": 1}


@pytest.mark.parametrize("off_ms", [-FRESH_MS, 0, FRESH_MS])
def test_a_question_of_half_a_minute_ago_is_fresh(
    intake: Intake, daemon: Daemon, members: dict[str, Identity], off_ms: int
) -> None:
    heard(intake, sealed(dataclasses.replace(PLEDGE, sent_at_ms=NOW_MS + off_ms), Kind.PLEDGE, members["ann"]))
    assert len(daemon.asked) == 1


def test_a_query_by_two_links_at_once_is_answered_once_and_a_repeat_again(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    first, other_link, repeat = (sealed(asked_at(NOW_MS + n), Kind.QUERY, members["ann"]) for n in range(3))
    answers = heard(intake, first, now_s=1.0) + heard(intake, other_link, now_s=1.001)
    assert len(answers) == 1
    assert len(heard(intake, repeat, now_s=1.01 + REPEAT_S)) == 1
    assert len(daemon.asked) == 2


@pytest.mark.parametrize(
    ("reply", "arrival", "why"),
    [
        ((), HERE, "nowhere"),
        ((Address("fe80::9", 4000),), HERE, "of another family"),
        ((Address("10.0.0.8", 4000),), HERE, "a third one's"),
        ((Address("fe80::8", 4000),), HERE_6, "a third one's"),
        ((Address("1.2.3", 4000),), HERE, "none at all"),
        ((Address("10.0.0.9", 4000),), HERE_6, "of another family"),
    ],
)
def test_a_question_that_does_not_name_where_it_came_from_is_not_even_looked_at(
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


def test_the_same_bytes_are_answered_once_for_as_long_as_they_can_be_fresh(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    both = (Address("10.0.0.9", 4000), Address("fe80::9", 4000))
    question = sealed(dataclasses.replace(PLEDGE, reply=both), Kind.PLEDGE, members["ann"])
    heard(intake, question, now_s=1.0)
    assert heard(intake, question, now_s=1.01, arrival=HERE_6) == [], "the copy by the other family"
    assert heard(intake, question, now_s=1.0 + 2 * FRESH_MS / 1000) == [], "somebody repeats it"
    assert len(daemon.asked) == 1
    assert intake.counters == {"pledge": 1, "heard before": 2}
    assert 2 * FRESH_MS / 1000 < REPLAY_KEEP_S


def test_other_padding_or_another_tag_make_no_new_message(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    """Any member can write these, over what another has signed."""
    ann = members["ann"]
    heard(intake, sealed(PLEDGE, Kind.PLEDGE, ann))
    box = unseal(sealed(PLEDGE, Kind.PLEDGE, ann), realm=ann.realm)
    again = Forger(box.certificate, box.signature)
    heard(intake, seal(Kind.PLEDGE, box.payload, realm=ann.realm, signer=again, audience=REALM, pad_bytes=1000))
    assert len(daemon.asked) == 1
    assert intake.counters == {"pledge": 1, "heard before": 1}


def test_a_user_who_asks_again_signs_anew_and_is_heard(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    for n in range(2):
        heard(intake, sealed(asked_at(NOW_MS + n, PLEDGE), Kind.PLEDGE, members["ann"]), now_s=1.0 + 0.2 * n)
    assert len(daemon.asked) == 2


def test_a_copy_is_answered_where_the_first_could_not_be(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    question = sealed(PLEDGE, Kind.PLEDGE, members["ann"])  # it names an IPv4 address alone
    assert heard(intake, question, arrival=HERE_6) == []
    heard(intake, question)
    assert daemon.asked == [(PLEDGE, "ann")]


def test_what_somebody_else_sends_on_is_not_checked_again(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    question = sealed(PLEDGE, Kind.PLEDGE, members["ann"])
    for n in range(3):
        heard(intake, question, arrival=Arrival(socket.AF_INET, 0, f"10.0.0.{n + 100}"))
    assert intake.counters == {"no address to answer": 1, "heard before": 2}
    assert daemon.asked == []


def test_what_a_daemon_ignores_is_dropped_before_a_signature_is_checked(
    daemon: Daemon, members: dict[str, Identity]
) -> None:
    deaf = Intake(members["h1"], daemon, ignores=lambda sealed: sealed.kind is Kind.PLEDGE)
    assert heard(deaf, sealed(PLEDGE, Kind.PLEDGE, members["ann"])) == []
    assert daemon.asked == []
    heard(deaf, sealed(QUERY, Kind.QUERY, members["ann"]))
    assert daemon.asked == [(QUERY, "ann")]


# ---- who may ask


def revoked(realm: Realm, name: str) -> None:
    realm["h1"].learn([realm.issuer.revoke("user", name, "", wall_s=NOW_MS / 1000)], NOW_MS / 1000)


@pytest.mark.parametrize("was_seen", [True, False])
def test_a_revoked_user_meets_silence_from_the_next_datagram_on(realm: Realm, daemon: Daemon, was_seen: bool) -> None:
    intake = Intake(realm["h1"], daemon)
    if was_seen:
        heard(intake, sealed(QUERY, Kind.QUERY, realm["ann"]))
    revoked(realm, "ann")
    assert heard(intake, sealed(asked_at(NOW_MS + 1), Kind.QUERY, realm["ann"]), now_s=1.0) == []
    assert intake.counters["its certificate was revoked"] == 1
    assert len(daemon.asked) == was_seen


@pytest.mark.parametrize(
    ("days", "why"), [(-1, "its certificate is not valid yet"), (200, "its certificate has expired")]
)
@pytest.mark.parametrize("was_seen", [True, False])
def test_a_leaf_outside_its_time_meets_silence(
    members: dict[str, Identity], daemon: Daemon, days: int, why: str, was_seen: bool
) -> None:
    intake, then_ms = Intake(members["h1"], daemon), NOW_MS + days * 86_400_000
    if was_seen:
        heard(intake, sealed(QUERY, Kind.QUERY, members["ann"]))
    question = sealed(asked_at(then_ms), Kind.QUERY, members["ann"])
    assert intake.receive(question, HERE, now_s=1.0, wall_ms=then_ms) == []
    assert intake.counters[why] == 1
    assert len(daemon.asked) == was_seen


def test_a_query_of_who_may_not_even_ask_meets_silence(realm: Realm, daemon: Daemon) -> None:
    eve = realm.add("eve", Grant(verbs=(Verb.RUN, Verb.CONSOLE)))
    intake = Intake(realm["h1"], daemon)
    assert heard(intake, sealed(QUERY, Kind.QUERY, eve)) == []
    assert intake.counters == {"query": 1, "grant": 1}
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("verb", "dry", "lacks"),
    [
        (Verb.PLEDGE, True, None),
        (Verb.PLEDGE, False, "run"),
        (Verb.RUN, False, None),
        (Verb.RUN, True, "pledge"),
        (Verb.ADMIN, True, "pledge"),
        (Verb.ADMIN, False, "run"),
    ],
)
def test_a_pledge_beyond_its_users_grant_is_told_what_is_lacking(
    realm: Realm, daemon: Daemon, verb: Verb, dry: bool, lacks: str | None
) -> None:
    eve = realm.add("eve", Grant(verbs=(verb,)))
    intake = Intake(realm["h1"], daemon, role=Role.STORAGE)
    pledge = dataclasses.replace(PLEDGE, dry=dry)
    out = heard(intake, sealed(pledge, Kind.PLEDGE, eve))
    if lacks is None:
        assert daemon.asked == [(pledge, "eve")]
        return
    told = opened(out[0], eve)
    assert isinstance(told, Unfit)
    assert (told.pledge_id, told.host, told.role) == (PLEDGE.pledge_id, "h1", Role.STORAGE)
    assert [(reason.resource, reason.asked) for reason in told.reasons] == [("grant", lacks)]
    assert daemon.asked == []


def test_who_has_the_older_key_alone_is_answered_with_that(realm: Realm, daemon: Daemon) -> None:
    ann, h1 = realm["ann"], realm["h1"]
    h1.learn([realm.issuer.new_tag_key(b"k" * 32, number=2, wall_s=NOW_MS / 1000)], NOW_MS / 1000)
    assert h1.realm.tag_key != ann.realm.tag_key
    (out,) = heard(Intake(h1, daemon), sealed(QUERY, Kind.QUERY, ann))
    assert opened(out, ann) == ANSWER


# ---- bodies


def body(intake: Intake, data: bytes, caller_id: str | None = None) -> list[bytes]:
    return intake.receive_body(data, now_s=1.0, wall_ms=NOW_MS, caller_id=caller_id)


def test_a_body_is_a_pledge_of_its_caller_or_is_told_what_it_is_not(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    ann, bob = members["ann"], members["bob"]
    pledge = sealed(PLEDGE, Kind.PLEDGE, ann)
    with pytest.raises(BadBytes, match="unexpected kind"):
        body(intake, sealed(QUERY, Kind.QUERY, ann))
    with pytest.raises(BadBytes, match="length"):
        body(intake, b"nonsense")
    with pytest.raises(Untrusted, match="not the caller's"):
        body(intake, pledge, bob.principal.id)
    assert intake.counters.total() == 3
    assert daemon.asked == []
    assert body(intake, pledge, ann.principal.id) == []
    assert daemon.asked == [(PLEDGE, "ann")]


def test_a_body_that_came_before_is_met_with_silence_and_by_a_datagram_too(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    pledge = sealed(PLEDGE, Kind.PLEDGE, members["ann"])
    assert [body(intake, pledge) for _ in range(2)] == [[], []]
    assert heard(intake, pledge) == []
    assert len(daemon.asked) == 1
    assert intake.counters == {"pledge": 1, "heard before": 2}


def test_a_body_that_the_daemon_ignores_gets_no_answers(daemon: Daemon, members: dict[str, Identity]) -> None:
    deaf = Intake(members["h1"], daemon, ignores=lambda _: True)
    assert body(deaf, sealed(PLEDGE, Kind.PLEDGE, members["ann"])) == []
    assert daemon.asked == []


# ---- news


class Ear:
    def __init__(self) -> None:
        self.heard: list[tuple[News, str, str]] = []

    def __call__(self, news: News, host: Principal, address: str) -> None:
        self.heard.append((news, host.name, address))


def test_news_of_a_host_is_heard_once_with_who_and_where(members: dict[str, Identity], daemon: Daemon) -> None:
    ear = Ear()
    intake = Intake(members["h1"], daemon, hears_news=ear)
    news = sealed(NEWS_OF_H2, Kind.NEWS, members["h2"], HOSTS)
    assert heard(intake, news, arrival=HERE_6) == heard(intake, news) == []
    later = sealed(dataclasses.replace(NEWS_OF_H2, sent_at_ms=NOW_MS + 1), Kind.NEWS, members["h2"], HOSTS)
    heard(intake, later)
    assert [(who, where) for _, who, where in ear.heard] == [("h2", "fe80::9%3"), ("h2", "10.0.0.9")]
    assert ear.heard[0][0] == NEWS_OF_H2
    assert intake.counters == {"news": 2, "heard before": 1}


@pytest.mark.parametrize(
    ("who", "audience", "off_ms", "why"),
    [
        ("ann", HOSTS, 0, "its certificate is not a host's"),
        ("h2", REALM, 0, "signature"),
        ("eve", HOSTS, 0, "realm"),
        ("h2", HOSTS, FRESH_MS + 1, "stale news"),
        ("h2", HOSTS, -FRESH_MS - 1, "stale news"),
    ],
)
def test_what_no_host_of_the_realm_said_to_hosts_just_now_is_no_news(
    members: dict[str, Identity], daemon: Daemon, who: str, audience: bytes, off_ms: int, why: str
) -> None:
    ear = Ear()
    intake = Intake(members["h1"], daemon, hears_news=ear)
    news = dataclasses.replace(NEWS_OF_H2, sent_at_ms=NOW_MS + off_ms)
    assert heard(intake, sealed(news, Kind.NEWS, members[who], audience)) == []
    assert ear.heard == []
    assert intake.counters == {why: 1}


def test_one_host_can_not_keep_another_busy_with_news(members: dict[str, Identity], daemon: Daemon) -> None:
    ear, most = Ear(), int(NEWS.burst)
    intake = Intake(members["h1"], daemon, hears_news=ear)
    for n in range(most + 5):
        news = dataclasses.replace(NEWS_OF_H2, sent_at_ms=NOW_MS + n)
        heard(intake, sealed(news, Kind.NEWS, members["h2"], HOSTS))
    assert len(ear.heard) == most
    assert intake.counters["news rate"] == 5


def test_a_daemon_without_an_ear_for_news_checks_none(intake: Intake, members: dict[str, Identity]) -> None:
    assert heard(intake, sealed(NEWS_OF_H2, Kind.NEWS, members["h2"], HOSTS)) == []
    assert intake.counters == {"unexpected kind": 1}


def test_reasons_beyond_a_number_are_counted_as_one(intake: Intake) -> None:
    for n in range(COUNTERS_MAX + 10):
        intake.count(f"reason {n}")
    intake.count("reason 1")
    assert len(intake.counters) == COUNTERS_MAX + 1
    assert (intake.counters["other"], intake.counters["reason 1"]) == (10, 2)


# ---- relayed


def relayed(intake: Intake, data: bytes, relay: str = "10.0.0.9") -> list[bytes]:
    return intake.receive_relayed(data, relay, now_s=1.0, wall_ms=NOW_MS)


def test_what_a_relay_brings_is_answered_if_its_user_has_named_that_relay(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    (answer,) = relayed(intake, sealed(QUERY, Kind.QUERY, members["ann"]))
    assert opened((answer, ("", 0)), members["ann"]) == ANSWER


def test_what_was_relayed_once_and_is_relayed_again_is_dropped(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    """By HTTPS as by multicast: the second relay is not the one that the user has signed for."""
    for message, kind in ((QUERY, Kind.QUERY), (PLEDGE, Kind.PLEDGE)):
        data = sealed(message, kind, members["ann"])
        with pytest.raises(Untrusted, match="not given to this relay"):
            relayed(intake, data, "10.0.0.10")
        assert heard(intake, data, arrival=dataclasses.replace(HERE, source="10.0.0.10")) == []
    assert daemon.asked == []


def test_a_pledge_that_comes_by_multicast_and_relayed_is_answered_once(
    intake: Intake, daemon: Daemon, members: dict[str, Identity]
) -> None:
    data = sealed(PLEDGE, Kind.PLEDGE, members["ann"])
    heard(intake, data)
    assert relayed(intake, data) == []
    assert daemon.asked == [(PLEDGE, "ann")]


def test_a_word_is_relayed_and_nothing_else_is(intake: Intake, daemon: Daemon, members: dict[str, Identity]) -> None:
    reveal = Reveal(PLEDGE.pledge_id, b"x" * 32)
    data = seal(Kind.REVEAL, encode(reveal), realm=members["h1"].realm, signer=None, audience=REALM)
    assert relayed(intake, data) == []
    assert daemon.asked == [(reveal, "")]
    with pytest.raises(BadBytes):
        relayed(intake, b"x" * 100)
    with pytest.raises((BadBytes, Untrusted)):
        relayed(intake, sealed(QUERY, Kind.QUERY, members["h2"]))
    assert len(daemon.asked) == 1
