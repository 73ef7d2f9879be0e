"""Signed where it counts: what a host says of itself nobody else can say, and what is no news costs no check."""

from dataclasses import replace
from random import Random

import pytest

from matcher.gossip.effects import Greet, Send, Shout
from matcher.gossip.membership import Membership
from matcher.gossip.roster import Charge, Record, short_of
from matcher.net.gossip import scribe as module
from matcher.net.gossip.scribe import Lacking, Scribe
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.wire.codec import BadBytes, encode
from matcher.wire.envelope import HOSTS, Kind, seal, signed
from matcher.wire.gossip import Alive, Claim, Digest, Ping, Says, Statement, Tidings, Want
from matcher.wire.messages import DATAGRAM_MAX_BYTES, Address, Role
from specs.ids import HostId
from tests.fakes.realms import Realm, make_realm

THERE = Address("10.0.0.9", 7766)
DIGEST = Digest((Role.COMPUTE, Role.STORAGE), "X86_64", "x86-64-v3", 4096, 4096, 2**26, 2**26, 99, 99, 10**6, 10**6, 99)


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "ann", "h1", "h2", "h3")


def short(identity: Identity) -> bytes:
    return short_of(HostId(identity.principal.id))


def member(identity: Identity, *others: Identity) -> tuple[Scribe, Membership]:
    scribe = Scribe(identity)
    alive = Alive(1, 0, (Address("10.0.0.1", 7766), Address("fe80::1234:5678:9abc:def0", 7766)), 7443, DIGEST)
    made = Membership(alive, scribe, random=Random(1), now_s=0.0)
    for other in others:
        made.heard(Scribe(other).record(alive), 0.0)
    return scribe, made


def heard(scribe: Scribe, made: Membership, data: bytes, now_s: float = 1.0) -> Record | Charge | None:
    (statement,) = scribe.open(data, THERE.ip, now_s).statements
    return scribe.told(statement, made, now_s)


def test_what_a_host_says_of_itself_is_heard_by_another_and_fits_a_datagram(realm: Realm) -> None:
    speaking, speaker = member(realm["h1"])
    hearing, hearer = member(realm["h2"])
    said = speaker.roster.records[short(realm["h1"])]
    introduced = Send(THERE, Tidings(said.short, b""), (said,), certified=True)
    for effect in (Shout(said), Greet(THERE, said), introduced):
        data = speaking.datagram(effect)
        assert len(data) < DATAGRAM_MAX_BYTES
        assert heard(hearing, hearer, data) == said
        message = hearing.open(data, THERE.ip, 1.0).message
        assert (message is None) is (effect != introduced), "only so it says that it has heard the other"


def test_a_claim_is_heard_of_a_member_and_costs_nothing_the_second_time(realm: Realm) -> None:
    speaking, _ = member(realm["h1"])
    hearing, hearer = member(realm["h2"], realm["h1"], realm["h3"])
    said = speaking.charge(Claim(HostId(realm["h3"].principal.id), 1, Says.SUSPECT))
    data = speaking.datagram(Shout(said))
    assert heard(hearing, hearer, data) == said
    hearer.charged(said, 1.0)
    assert heard(hearing, hearer, data) is None


def test_statements_are_passed_on_with_and_without_their_certificates(realm: Realm) -> None:
    passing, _ = member(realm["h1"])
    said = Scribe(realm["h3"]).record(Alive(1, 1, (THERE,), 7443, DIGEST))
    hearing, hearer = member(realm["h2"])
    for certified in (False, True):
        data = passing.datagram(Send(THERE, Tidings(short(realm["h1"]), b""), (said,), certified))
        opened = hearing.open(data, THERE.ip, 1.0)
        assert isinstance(opened.message, Tidings)
        (statement,) = opened.statements
        if certified:
            assert hearing.told(statement, hearer, 1.0) == said
        else:
            with pytest.raises(Lacking):
                hearing.told(statement, hearer, 1.0)
    hearer.heard(said, 1.0)
    newer = Scribe(realm["h3"]).record(Alive(1, 2, (THERE,), 7443, DIGEST))
    data = passing.datagram(Send(THERE, Tidings(short(realm["h1"]), b""), (newer,)))
    (statement,) = hearing.open(data, THERE.ip, 1.0).statements
    assert hearing.told(statement, hearer, 1.0) == newer


def forged(realm: Realm, by: Identity, alive: Alive) -> Statement:
    payload = encode(alive)
    made = signed(Kind.ALIVE, payload, realm_id=by.realm.realm_id, signer=by, audience=HOSTS)
    return Statement(Kind.ALIVE, b"", made.certificate, made.signature, payload)


def test_no_host_speaks_for_another_and_no_user_for_any(realm: Realm) -> None:
    hearing, hearer = member(realm["h2"], realm["h1"])
    alive = Alive(9, 0, (THERE,), 7443, DIGEST)
    of_h3 = forged(realm, realm["h3"], alive)
    with pytest.raises(BadBytes, match="another's"):
        hearing.told(replace(of_h3, signer=short(realm["h1"])), hearer, 1.0)
    with pytest.raises(Untrusted):
        hearing.told(forged(realm, realm["ann"], alive), hearer, 1.0)
    with pytest.raises(BadBytes):
        hearing.told(replace(of_h3, payload=encode(replace(alive, counter=7))), hearer, 1.0)
    with pytest.raises(Lacking):
        hearing.told(replace(of_h3, signer=short(realm["h1"]), certificate=b""), hearer, 1.0)


def test_a_statement_that_is_no_news_is_not_checked(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    hearing, hearer = member(realm["h2"], realm["h1"])
    checks: list[object] = []
    monkeypatch.setattr(module, "open_sealed", lambda *_args, **_more: checks.append(1))
    data = Scribe(realm["h1"]).datagram(Shout(hearer.roster.records[short(realm["h1"])]))
    older = forged(realm, realm["h1"], Alive(0, 5, (THERE,), 7443, DIGEST))
    assert hearing.told(older, hearer, 1.0) is None
    said = heard(hearing, hearer, data)
    assert said == hearer.roster.records[short(realm["h1"])], "the very bytes that were checked before"
    assert not checks


def test_who_says_too_much_is_heard_so_often_and_others_still_are(realm: Realm) -> None:
    hearing, hearer = member(realm["h2"], realm["h1"], realm["h3"])
    for counter in range(1, int(module.SIGNER.burst) + 1):
        hearing.told(forged(realm, realm["h1"], Alive(1, counter, (THERE,), 7443, DIGEST)), hearer, 1.0)
    with pytest.raises(BadBytes, match="signer rate"):
        hearing.told(forged(realm, realm["h1"], Alive(1, 999, (THERE,), 7443, DIGEST)), hearer, 1.0)
    assert hearing.told(forged(realm, realm["h3"], Alive(1, 9, (THERE,), 7443, DIGEST)), hearer, 1.0) is not None


def test_a_machine_that_sends_too_much_is_read_so_often(realm: Realm) -> None:
    speaking, _ = member(realm["h1"])
    hearing, _ = member(realm["h2"])
    data = speaking.datagram(Send(THERE, Want(short(realm["h1"]), b"")))
    for _ in range(int(module.SOURCE.burst)):
        hearing.open(data, THERE.ip, 1.0)
    with pytest.raises(BadBytes, match="source rate"):
        hearing.open(data, THERE.ip, 1.0)
    hearing.open(data, "10.0.0.8", 1.0)


def test_what_is_no_gossip_is_none(realm: Realm) -> None:
    hearing, hearer = member(realm["h2"], realm["h1"])
    mine = realm["h1"]
    for data in (b"", b"x" * 100, seal(Kind.REVEAL, b"x", realm=mine.realm, signer=None, audience=HOSTS)):
        with pytest.raises(BadBytes):
            hearing.open(data, THERE.ip, 1.0)
    with pytest.raises(BadBytes):
        hearing.told(Statement(Kind.PING, short(mine), b"", bytes(64), b""), hearer, 1.0)


def test_a_refused_ping_is_known_by_its_nonce_and_nothing_else_is(realm: Realm) -> None:
    speaking, _ = member(realm["h1"])
    me = short(realm["h1"])
    ping = speaking.datagram(Send(THERE, Ping(77, me, me, me)))
    assert speaking.refused_nonce(ping) == 77
    assert speaking.refused_nonce(ping[:40]) is None
    assert speaking.refused_nonce(speaking.datagram(Send(THERE, Want(me, b"")))) is None


def test_an_older_tag_key_is_used_while_both_are_good(realm: Realm) -> None:
    speaking, speaker = member(realm["h1"])
    said = speaker.roster.records[short(realm["h1"])]
    before = speaking.datagram(Shout(said))
    mine = realm["h1"]
    old = mine.realm
    try:
        mine.realm = replace(old, tag_key=bytes(32), older=(old.tag_key,))
        assert speaking.datagram(Shout(said)) == before
        mine.realm = replace(old, tag_key=bytes(32))
        (statement,) = Scribe(mine).open(speaking.datagram(Shout(said)), THERE.ip, 1.0).statements
        assert statement.signature in before, "only the tag is new"
    finally:
        mine.realm = old
