"""What a relay sends on: a user's own words, for an address that was lent to them, and not too often."""

import dataclasses
import random

import pytest

from matcher.net.relay.judging import PLEDGES_MAX, QUESTIONS, Judge, NotPassed, Shares
from matcher.trust.identity import Identity
from matcher.wire.codec import encode
from matcher.wire.envelope import REALM, Kind, seal
from matcher.wire.messages import DATAGRAM_MAX_BYTES, Address, Message, Pledge, Query, Reveal
from matcher.wire.realm import Grant, Verb
from matcher.wire.relay import Place
from matcher.wire.seal import Seal
from tests.fakes.realms import Realm, make_realm
from tests.unit.test_net_intake import NOW_MS, PLEDGE, QUERY

LENT = (Place((Address("10.0.0.1", 4000),), has_ipv4=True), Place((Address("10.9.0.1", 4000),)))
SEAL = Seal.new(random.Random(1))
ASKED = dataclasses.replace(PLEDGE, reply=LENT[0].reply, seal=SEAL.sealed)


@pytest.fixture
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "ann", "bob", "h1")


@pytest.fixture
def judge(realm: Realm) -> Judge:
    return Judge(realm["h1"], realm["ann"].principal, LENT, Shares())


def sealed(message: Message, by: Identity | None, realm: Realm) -> bytes:
    kinds = {Pledge: Kind.PLEDGE, Query: Kind.QUERY, Reveal: Kind.REVEAL}
    return seal(kinds[type(message)], encode(message), realm=realm["h1"].realm, signer=by, audience=REALM)


def why_not(judge: Judge, data: bytes, now_s: float = 0.0) -> str:
    try:
        judge.passes(data, now_s=now_s, wall_s=NOW_MS / 1000)
    except NotPassed as error:
        return error.reason
    return ""


def test_a_pledge_passes_as_it_is_for_the_place_that_it_names(judge: Judge, realm: Realm) -> None:
    data = sealed(ASKED, realm["ann"], realm)
    passed = judge.passes(data, now_s=0.0, wall_s=NOW_MS / 1000)
    assert (passed.data, passed.message, passed.place, passed.is_new) == (data, ASKED, 0, True)
    assert not judge.passes(data, now_s=0.0, wall_s=NOW_MS / 1000).is_new
    other = dataclasses.replace(ASKED, reply=LENT[1].reply)
    assert judge.passes(sealed(other, realm["ann"], realm), now_s=0.0, wall_s=NOW_MS / 1000).place == 1


def test_what_names_another_address_does_not_pass_so_that_nobody_has_a_third_answered(
    judge: Judge, realm: Realm
) -> None:
    for reply in ((), (Address("10.0.0.66", 4000),), (Address("10.0.0.1", 53),), (*LENT[0].reply, *LENT[1].reply)):
        data = sealed(dataclasses.replace(ASKED, reply=reply), realm["ann"], realm)
        assert why_not(judge, data) == "it names an address that was not lent here"


def test_what_somebody_else_has_signed_does_not_pass(judge: Judge, realm: Realm, tmp_path: object) -> None:
    assert why_not(judge, sealed(ASKED, realm["bob"], realm)) == "it is signed by somebody else"
    assert why_not(judge, sealed(ASKED, realm["h1"], realm)) != ""
    good = sealed(ASKED, realm["ann"], realm)
    for place in (25, 200, len(good) - 1):
        assert why_not(judge, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]) == "tag"
    assert why_not(judge, b"") == "length"
    assert why_not(judge, good + b"\0" * DATAGRAM_MAX_BYTES) == "length"


def test_who_is_revoked_or_may_not_run_has_nothing_sent(judge: Judge, realm: Realm) -> None:
    eve = realm.add("eve", Grant(verbs=(Verb.PLEDGE,)))
    of_eve = Judge(realm["h1"], eve.principal, LENT, Shares())
    assert why_not(of_eve, sealed(dataclasses.replace(ASKED, dry=False), eve, realm)) == "your grant lacks run"
    assert why_not(of_eve, sealed(ASKED, eve, realm)) == ""
    gone = realm.issuer.revoke("user", realm["ann"].principal.id, "left", wall_s=NOW_MS / 1000)
    realm["h1"].learn([gone], NOW_MS / 1000)
    assert why_not(judge, sealed(ASKED, realm["ann"], realm)) == "its certificate was revoked"


def test_what_is_stale_does_not_pass_and_says_by_how_much(judge: Judge, realm: Realm) -> None:
    for off_ms in (-31_000, 31_000):
        stale = dataclasses.replace(QUERY, reply=LENT[0].reply, sent_at_ms=NOW_MS + off_ms)
        assert why_not(judge, sealed(stale, realm["ann"], realm)) == "it is 31 s off this host's clock"


def test_a_user_asks_so_often_and_no_more_by_all_lines_together(realm: Realm) -> None:
    shares, ann = Shares(), realm["ann"]
    judges = [Judge(realm["h1"], ann.principal, LENT, shares) for _ in range(2)]
    data = sealed(ASKED, ann, realm)
    said = [why_not(judges[n % 2], data) for n in range(int(QUESTIONS.burst) + 1)]
    assert said == [""] * int(QUESTIONS.burst) + ["you ask too often"]
    assert why_not(judges[0], data, now_s=1.0) == ""


def test_a_word_passes_that_opens_the_seal_of_a_pledge_of_this_line_and_no_other(judge: Judge, realm: Realm) -> None:
    word = sealed(Reveal(ASKED.pledge_id, SEAL.done), None, realm)
    assert why_not(judge, word) == "a word about no pledge of this line"
    assert why_not(judge, sealed(ASKED, realm["ann"], realm)) == ""
    assert why_not(judge, sealed(Reveal(ASKED.pledge_id, b"x" * 32), None, realm)) != ""
    assert judge.passes(word, now_s=0.0, wall_s=NOW_MS / 1000).place == -1


def test_pledges_of_a_line_are_forgotten_beyond_a_number(judge: Judge, realm: Realm) -> None:
    for number in range(PLEDGES_MAX + 1):
        asked = dataclasses.replace(ASKED, pledge_id=f"{number:032x}")
        assert why_not(judge, sealed(asked, realm["ann"], realm)) == ""
    assert len(judge._pledges) == PLEDGES_MAX
    assert why_not(judge, sealed(Reveal(f"{0:032x}", SEAL.done), None, realm)) != ""
