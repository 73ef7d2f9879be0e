"""The front door from outside: who gets in, how far, and what becomes of those who should not."""

import json
import shutil
import ssl
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from matcher.net.door.admission import Limits
from matcher.net.token_bucket import Rate
from matcher.trust.identity import client_tls
from matcher.trust.requests import make_request
from matcher.wire.codec import BODY_MAX_BYTES, from_json, to_json
from matcher.wire.framing import frame, unframe
from matcher.wire.messages import Message, Refused
from matcher.wire.realm import (
    Admitted,
    ChangeGrant,
    Grant,
    InviteHost,
    InviteUser,
    Members,
    Renew,
    Revoke,
    UserUses,
    Verb,
    WhoAmI,
)
from tests.fakes.door import ANN, VM_ID, Running, To, open_door, stranger_tls, until
from tests.fakes.realms import Realm, make_realm

SHORT = Limits(handshake_s=0.1, request_s=0.1, idle_s=0.1, taking_s=0.1, watch_s=0.01)
LOOKER = Grant(verbs=(Verb.PLEDGE,))


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "home", "ann", "h1")
    made.add("lou", LOOKER)
    return made


def refusal(answer: tuple[int, bytes]) -> tuple[int, str]:
    status, body = answer
    return status, from_json(Refused, body).code


def body(message: Message) -> bytes:
    return to_json(message).encode()


async def seen(counters: Counter[str], name: str, times: int = 1) -> None:
    """Wait until something has been counted so often."""
    await until(lambda: counters[name] >= times)


async def waiting(door: Running, times: int) -> None:
    await until(lambda: door.host.waiting >= times)


# ---- who gets in


async def test_a_user_is_served_and_known(realm: Realm) -> None:
    async with open_door(realm) as door:
        status, said = await (await door.connect(realm["ann"])).ask("GET", "/v1/whoami")
    known = from_json(WhoAmI, said)
    assert status == 200
    assert (known.name, known.id, known.ends_s) == ("ann", realm["ann"].principal.id, int(realm["ann"].expires_s))


async def test_without_a_certificate_there_is_the_handshake_and_nothing_else(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(None)
        with suppress(trio.BrokenResourceError):
            await to.tls.send_all(b"GET /v1/host HTTP/1.1\r\nHost: h0\r\n\r\n")
        assert await to.is_over()
        await seen(door.counters, "tls peer_did_not_return_a_certificate")
        assert door.host.asked == []


async def test_while_a_token_is_pending_a_stranger_still_gets_nothing_but_joining(realm: Realm) -> None:
    async with open_door(realm) as door:
        door.desk.token("user", "eve", door.port)
        for alpn in ("", "http/1.1", "h2"):
            to = await door.connect(None, alpn=alpn)
            with suppress(trio.BrokenResourceError):
                await to.tls.send_all(b"GET /v1/host HTTP/1.1\r\nHost: h0\r\n\r\n")
            assert await to.is_over()
        await seen(door.counters, "no certificate", 3)
        assert door.host.asked == []
        assert (await (await door.connect(realm["ann"])).ask("GET", "/v1/host"))[0] == 200


async def test_a_certificate_of_another_realm_is_none(realm: Realm, tmp_path: Path) -> None:
    eve = make_realm(tmp_path / "away", "eve")["eve"]
    context = stranger_tls()
    context.load_cert_chain(eve.folder / "leaf.pem", eve.folder / "key.pem")
    async with open_door(realm) as door:
        for _ in range(2):
            to = await door.connect(None, context=context)
            assert await to.is_over()
            door.desk.token("user", "x", door.port)  # the second time, with a door that takes strangers to join
        await until(lambda: sum(times for name, times in door.counters.items() if name.startswith("tls ")) == 2)


async def test_tls_1_2_and_plain_text_are_refused(realm: Realm) -> None:
    old = client_tls(realm["ann"])
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with open_door(realm) as door:
        with pytest.raises(trio.BrokenResourceError):
            await door.connect(None, context=old)
        plain = await door.plain()
        await plain.send_all(b"GET /v1/host HTTP/1.1\r\nHost: h0\r\n\r\n")
        answer = b""
        with suppress(trio.BrokenResourceError):
            while data := await plain.receive_some():
                answer += data
        assert b"HTTP" not in answer
        await seen(door.counters, "tls unsupported_protocol")
        await seen(door.counters, "tls http_request")


async def test_http_2_is_not_spoken_even_where_it_is_asked_for_without_alpn(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert await to.is_over()
        assert door.host.asked == []
        assert (door.counters["http/2"], door.counters["faults"]) == (1, 0)
        to = await door.connect(realm["ann"])
        await to.tls.send_all(
            b"GET /v1/host HTTP/1.1\r\nHost: h0\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        assert (await to.answer())[0] == 200, "in HTTP/1.1: an offer may be ignored (RFC 9110, 7.8)"


async def test_a_renewed_leaf_is_what_the_door_shows_from_then_on(realm: Realm) -> None:
    h0 = realm["h0"]
    async with open_door(realm) as door:
        before = (await door.connect(realm["ann"])).tls.getpeercert(binary_form=True)
        renewed = realm.issuer.renew(h0.certificate, make_request(h0.key, "h0"), wall_s=h0.starts_s + 600).leaf
        h0.adopt_leaf(renewed)
        to = await door.connect(realm["ann"])
        assert to.tls.getpeercert(binary_form=True) == renewed != before
        assert (await to.ask("GET", "/v1/host"))[0] == 200


# ---- floods


async def test_hundreds_of_silent_connections_do_not_keep_a_user_out(realm: Realm) -> None:
    limits = replace(SHORT, handshake_s=600.0, idle_s=600.0, silent_max=16, per_address_max=8)
    async with open_door(realm, limits) as door:
        opened = [await door.plain() for _ in range(300)]
        assert (await (await door.connect(realm["ann"])).ask("GET", "/v1/host"))[0] == 200
        await seen(door.counters, "strangers pushed out", 292)
        assert not await opened[0].receive_some()


async def test_half_handshakes_do_not_keep_a_user_out(realm: Realm) -> None:
    limits = replace(SHORT, handshake_s=600.0, idle_s=600.0, shaking_max=16, per_address_max=8)
    async with open_door(realm, limits) as door:
        opened = [await door.plain() for _ in range(100)]
        for each in opened:
            with suppress(trio.BrokenResourceError):
                await each.send_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert (await (await door.connect(realm["ann"])).ask("GET", "/v1/host"))[0] == 200
        await seen(door.counters, "strangers pushed out")
        assert not await opened[0].receive_some()


async def test_a_slow_handshake_is_ended(realm: Realm) -> None:
    async with open_door(realm, SHORT) as door:
        silent = await door.plain()
        slow = await door.plain()
        await slow.send_all(b"\x16\x03\x01\x02\x00\x01")
        for each in (silent, slow):
            assert not await each.receive_some()
        await seen(door.counters, "slow or pushed out", 2)


async def test_a_member_has_so_many_connections_and_others_have_theirs(realm: Realm) -> None:
    limits = Limits(connections_per_member_max=2)
    async with open_door(realm, limits) as door:
        mine = [await door.connect(realm["ann"]) for _ in range(2)]
        for each in mine:
            assert (await each.ask("GET", "/v1/host"))[0] == 200
        assert await (await door.connect(realm["ann"])).is_over()
        assert (await (await door.connect(realm["lou"])).ask("GET", "/v1/host"))[0] == 200
        assert door.counters["too many connections"] == 1


# ---- slow sides


@pytest.mark.parametrize(
    "part",
    [
        b"GET /v1/ho",
        b"POST /v1/pledges HTTP/1.1\r\nHost: h0\r\nContent-Length: 100\r\n\r\nabc",
        b"POST /v1/pledges HTTP/1.1\r\nHost: h0\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
async def test_a_request_that_does_not_come_in_whole_is_not_waited_for(realm: Realm, part: bytes) -> None:
    async with open_door(realm, replace(SHORT, idle_s=600.0)) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(part)
        assert await to.is_over()
        assert door.counters["slow sender"] == 1
        assert door.host.bodies == []


async def test_a_request_that_trickles_in_has_no_more_time_than_one_that_stops(realm: Realm) -> None:
    async with open_door(realm, replace(SHORT, idle_s=600.0)) as door:
        to = await door.connect(realm["ann"])
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            for byte in b"GET /v1/host HTTP/1.1\r\nHost: h0\r\nX-Long: " + b"y" * 5000:
                await to.tls.send_all(bytes([byte]))
                await trio.sleep(0.01)
        await seen(door.counters, "slow sender")
        assert door.host.asked == []


async def test_a_connection_that_asks_nothing_more_is_ended_and_not_before_its_answer(realm: Realm) -> None:
    async with open_door(realm, SHORT) as door:
        to = await door.connect(realm["ann"])
        async with trio.open_nursery() as nursery:

            async def go() -> None:
                await waiting(door, 1)
                await trio.sleep(0.3)  # longer than anybody may be idle, or slow to ask
                door.host.go.set()

            nursery.start_soon(go)
            assert (await to.ask("POST", f"/v1/vms/{VM_ID}/stop"))[0] == 200
        assert (await to.ask("GET", "/v1/host"))[0] == 200
        assert await to.is_over()
        await seen(door.counters, "idle")
        assert door.counters["slow sender"] == 0


async def test_an_answer_that_nobody_takes_is_given_up(realm: Realm) -> None:
    async with open_door(realm, SHORT) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(f"GET /v1/vms/{VM_ID}/log HTTP/1.1\r\nHost: h0\r\n\r\n".encode())
        await seen(door.counters, "slow reader")


# ---- too much


async def test_a_body_that_says_that_it_is_too_long_is_not_read(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(f"POST /v1/confirms HTTP/1.1\r\nHost: h0\r\nContent-Length: {10**15}\r\n\r\n".encode())
        assert refusal(await to.answer()) == (413, "too-large")
        assert door.host.bodies == []


async def test_a_body_that_turns_out_too_long_is_refused(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(b"POST /v1/confirms HTTP/1.1\r\nHost: h0\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%s\r\n" % (32_768, b"x" * 32_768)
        for _ in range(8):
            await to.tls.send_all(chunk)
        assert refusal(await to.answer()) == (413, "too-large")
        to = await door.connect(realm["ann"])
        assert (await to.ask("POST", "/v1/pledges", bytes(BODY_MAX_BYTES)))[0] == 200
        assert [len(each) for each in door.host.bodies] == [BODY_MAX_BYTES]


async def test_who_says_more_after_their_last_request_hears_the_answer_all_the_same(realm: Realm) -> None:
    """Else their sending would fail, and many a program that can't send does not look for an answer."""
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        for part in b"POST /v1/pledges HTTP/1.1\r\nHost: h0\r\nConnection: close\r\n\r\n", bytes(9), bytes(9):
            await to.tls.send_all(part)
            await trio.sleep(0.1)
        assert (await to.answer())[0] == 200


async def test_a_whole_bundle_may_be_brought_by_hosts_and_admins_alone(realm: Realm) -> None:
    large = bytes(BODY_MAX_BYTES + 1)
    async with open_door(realm) as door:
        for name, status in (("h1", 200), ("ann", 200), ("lou", 413)):
            assert (await (await door.connect(realm[name])).ask("POST", "/v1/realm/documents", large))[0] == status
        to = await door.connect(realm["h1"])
        assert (await to.ask("POST", "/v1/realm/documents", bytes((4 << 20) + 1)))[0] == 413


async def test_a_head_without_end_is_refused(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(b"GET /v1/host HTTP/1.1\r\nHost: h0\r\nX: " + b"y" * 40_000)
        assert (await to.answer())[0] == 431


ASK = b"GET /v1/host HTTP/1.1\r\nHost: h0\r\n\r\n"
PLEDGE = b"POST /v1/pledges HTTP/1.1\r\nHost: h0\r\nContent-Length: 1\r\n\r\nx"


LF_ALONE = ASK.replace(b"\r", b"")
CHUNKS = PLEDGE.replace(b"\r\n\r\nx", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (CHUNKS, 400),
        (ASK.replace(b"/v1", b"http://h0/v1"), 400),
        (LF_ALONE, None),
        (ASK.replace(b"\r\n\r\n", b"\r\nX: y\n\n"), None),
        (ASK + LF_ALONE, 200),
    ],
)
async def test_a_request_that_others_may_read_as_another_is_the_last_of_its_connection(
    realm: Realm, first: bytes, status: int | None
) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(first + PLEDGE)
        assert status is None or (await to.answer())[0] == status
        assert await to.is_over()
        assert door.host.bodies == []
        assert door.counters["bare lf"] + door.counters["refused bad-request"] == 1


async def test_a_bare_line_feed_is_found_wherever_a_head_is_cut(realm: Realm) -> None:
    head = b"GET /v1/host HTTP/1.1\r\nHost: h0\r\nX: y\nZ: z\r\n\r\n"
    async with open_door(realm) as door:
        for at in range(1, len(head)):
            to = await door.connect(realm["ann"])
            with suppress(trio.BrokenResourceError):
                await to.tls.send_all(head[:at])
                await to.tls.send_all(head[at:])
            assert await to.is_over()
        assert door.counters["bare lf"] == len(head) - 1
        assert door.host.asked == []


async def test_what_is_asked_before_the_last_answer_is_answered_after_it(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(PLEDGE + PLEDGE)
        await until(lambda: len(door.host.bodies) == 2)


async def test_a_member_may_not_have_too_many_requests_at_once_and_others_are_served(realm: Realm) -> None:
    async with open_door(realm, Limits(requests_per_member_max=2)) as door, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon((await door.connect(realm["ann"])).ask, "POST", f"/v1/vms/{VM_ID}/stop")
        await waiting(door, 2)
        assert refusal(await (await door.connect(realm["ann"])).ask("GET", "/v1/host")) == (429, "too-many")
        assert (await (await door.connect(realm["lou"])).ask("GET", "/v1/host"))[0] == 200
        door.host.go.set()


async def test_all_together_may_not_have_too_many_requests_at_once(realm: Realm) -> None:
    async with open_door(realm, Limits(requests_max=1)) as door, trio.open_nursery() as nursery:
        nursery.start_soon((await door.connect(realm["ann"])).ask, "POST", f"/v1/vms/{VM_ID}/stop")
        await waiting(door, 1)
        assert refusal(await (await door.connect(realm["lou"])).ask("GET", "/v1/host")) == (429, "too-many")
        door.host.go.set()


async def test_a_member_may_not_ask_too_often(realm: Realm) -> None:
    async with open_door(realm, Limits(requests_rate=Rate(per_s=0.001, burst=3.0))) as door:
        to = await door.connect(realm["ann"])
        assert [(await to.ask("GET", "/v1/host"))[0] for _ in range(4)] == [200, 200, 200, 429]
        assert (await (await door.connect(realm["lou"])).ask("GET", "/v1/host"))[0] == 200


# ---- rights


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/confirms"),
        ("POST", "/v1/abandons"),
        ("POST", f"/v1/vms/{VM_ID}/stop"),
        ("POST", f"/v1/vms/{VM_ID}/reboot"),
        ("DELETE", f"/v1/vms/{VM_ID}"),
        ("GET", f"/v1/vms/{VM_ID}/log"),
        ("POST", "/v1/realm/hosts"),
        ("POST", "/v1/realm/users"),
        ("POST", "/v1/realm/grants"),
        ("POST", "/v1/realm/revocations"),
        ("POST", "/v1/realm/issuers"),
        ("GET", "/v1/realm/members"),
        ("GET", "/v1/realm/uses/{user}"),
    ],
)
async def test_what_the_grant_lacks_is_refused_named_and_told_to_the_desk(realm: Realm, method: str, path: str) -> None:
    async with open_door(realm) as door:
        status, said = await (await door.connect(realm["lou"])).ask(method, path)
        refused = from_json(Refused, said)
        assert (status, refused.code) == (403, "denied")
        assert "lacks the verb" in refused.reasons[0].has
        assert "it has pledge" in refused.reasons[0].has
        assert door.desk.denials == [("lou", f"{method} {path.replace(VM_ID, '{id}')}")]
        assert (door.host.bodies, door.host.waiting) == ([], 0)


async def test_an_admin_is_told_what_any_user_has(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        status, said = await to.ask("GET", f"/v1/realm/uses/{ANN}")
        assert (status, from_json(UserUses, said).here.vms) == (200, 2)
        for wrong in ("ann", ANN[:16], "A" * 64):
            assert refusal(await to.ask("GET", f"/v1/realm/uses/{wrong}")) == (400, "bad-request")


async def test_who_may_only_pledge_sees_and_asks(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["lou"])
        for path in ("/v1/host", "/v1/vms", f"/v1/vms/{VM_ID}", "/v1/whoami", "/v1/realm", "/v1/openapi.json"):
            assert (await to.ask("GET", path))[0] == 200, path
        status, said = await to.ask("POST", "/v1/pledges", b"a pledge")
        assert (status, list(unframe(said))) == (200, [b"one", b"two"])


async def test_a_host_may_ask_of_the_realm_and_nothing_that_is_for_users(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["h1"])
        for path in ("/v1/realm", "/v1/realm/bundle", "/v1/openapi.json"):
            assert (await to.ask("GET", path))[0] == 200
        for method, path in (
            ("GET", "/v1/host"),
            ("GET", "/v1/vms"),
            ("GET", "/v1/whoami"),
            ("POST", "/v1/confirms"),
            ("GET", "/v1/realm/members"),
            ("POST", "/v1/realm/hosts"),
        ):
            assert refusal(await to.ask(method, path)) == (403, "denied")


async def test_an_admin_asks_the_desk(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        assert (await to.ask("POST", "/v1/realm/hosts", body(InviteHost())))[0] == 200
        refused = await to.ask("POST", "/v1/realm/users", body(InviteUser("bob", LOOKER)))
        assert refusal(refused) == (409, "not-an-issuer")
        members = from_json(Members, (await to.ask("GET", "/v1/realm/members"))[1])
        assert {member.name for member in members.members} == {"h0", "h1", "ann", "lou"}
        assert (await to.ask("GET", "/v1/realm/bundle"))[1] == door.desk.bundle()


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b'{"name":"x","extra":1}', b'{"name":"x","name":"y"}', b"\xff"])
async def test_a_body_that_is_no_such_message_is_refused(realm: Realm, bad: bytes) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        assert refusal(await to.ask("POST", "/v1/realm/hosts", bad)) == (400, "bad-request")


async def test_what_is_not_there_is_said_in_json(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        assert refusal(await to.ask("GET", "/v1/nothing")) == (404, "not-found")
        assert refusal(await to.ask("GET", "/v1/vms/not-an-id")) == (404, "not-found")
        assert refusal(await to.ask("GET", f"/v1/vms/{'b' * 32}")) == (404, "not-found")
        assert refusal(await to.ask("PATCH", "/v1/vms")) == (405, "bad-method")


async def test_a_web_page_can_not_ask_in_its_readers_name(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        answer = await to.ask("POST", "/v1/confirms", b"x", headers="Origin: https://elsewhere.example\r\n")
        assert refusal(answer) == (403, "denied")
        assert door.host.bodies == []


async def test_a_fault_of_ours_is_one_answer_and_the_door_goes_on(
    realm: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        assert refusal(await to.ask("POST", f"/v1/vms/{VM_ID}/reboot")) == (500, "fault")
        assert (await to.ask("GET", "/v1/host"))[0] == 200
    assert "a fault of ours" in caplog.text


async def test_the_door_describes_itself(realm: Realm) -> None:
    async with open_door(realm) as door:
        _, said = await (await door.connect(realm["h1"])).ask("GET", "/v1/openapi.json")
    assert json.loads(said)["openapi"] == "3.1.0"


# ---- revocation


async def test_the_next_request_of_a_revoked_user_is_refused(realm: Realm) -> None:
    async with open_door(realm, Limits(watch_s=600.0)) as door:
        to = await door.connect(realm["lou"])
        assert (await to.ask("GET", "/v1/host"))[0] == 200
        door.desk.revoke_now("lou")
        assert refusal(await to.ask("GET", "/v1/host")) == (403, "denied")
        anew = await door.connect(realm["lou"])
        assert refusal(await anew.ask("GET", "/v1/host")) == (403, "denied")
        assert refusal(await anew.ask("POST", "/v1/realm/renewals", b"{}")) == (403, "denied")
        assert (await (await door.connect(realm["ann"])).ask("GET", "/v1/host"))[0] == 200


async def test_the_news_of_a_confirm_end_when_its_user_is_revoked(realm: Realm) -> None:
    async with open_door(realm, SHORT) as door:
        realm.add("bob")
        to = await door.connect(realm["bob"])
        await to.tls.send_all(b"POST /v1/confirms HTTP/1.1\r\nHost: h0\r\nContent-Length: 1\r\n\r\nx")
        await waiting(door, 1)
        door.desk.revoke_now("bob")
        said = b""
        with suppress(trio.BrokenResourceError), trio.fail_after(5):
            while data := await to.tls.receive_some():
                said += data
        assert b'"event":"committed"' in said
        assert b'"event":"running"' not in said


async def test_who_is_revoked_by_their_own_word_still_gets_the_answer(realm: Realm) -> None:
    async with open_door(realm, replace(SHORT, watch_s=0.001)) as door:
        to = await door.connect(realm["ann"])
        assert (await to.ask("POST", "/v1/realm/revocations", body(Revoke("user", "ann"))))[0] == 200


async def test_a_superseded_leaf_may_renew_itself_and_nothing_else(realm: Realm) -> None:
    lou = realm["lou"]
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        more = Grant(verbs=(Verb.PLEDGE, Verb.RUN))
        assert (await to.ask("POST", "/v1/realm/grants", body(ChangeGrant("lou", more))))[0] == 200
        to = await door.connect(lou)
        assert refusal(await to.ask("GET", "/v1/whoami")) == (403, "denied")
        assert refusal(await to.ask("GET", "/v1/realm")) == (403, "denied")
        status, said = await to.ask("POST", "/v1/realm/renewals", body(Renew(make_request(lou.key, "lou"))))
        assert status == 200
        lou.adopt_leaf(from_json(Admitted, said).leaf)
        assert lou.principal.grant.verbs == more.verbs


async def test_bringing_documents_is_open_to_members_and_they_count_at_once(realm: Realm) -> None:
    async with open_door(realm) as door:
        told = realm.issuer.revoke("user", "lou", "", wall_s=realm["lou"].starts_s + 400)
        to = await door.connect(realm["h1"])
        assert (await to.ask("POST", "/v1/realm/documents", frame([told.data])))[0] == 200
        assert refusal(await (await door.connect(realm["lou"])).ask("GET", "/v1/host")) == (403, "denied")


# ---- plain HTTPS, for whoever has the files


@pytest.fixture
def addressed(realm: Realm) -> Realm:
    """The founder's leaf names an address, as one does that was made on a real host."""
    h0 = realm["h0"]
    request = make_request(h0.key, "h0")
    h0.adopt_leaf(realm.issuer.renew(h0.certificate, request, wall_s=h0.starts_s + 600, addresses=["127.0.0.1"]).leaf)
    return realm


@pytest.mark.parametrize("name", ["h0", "127.0.0.1"])
async def test_a_tls_library_that_checks_names_and_knows_the_root_alone_is_content(addressed: Realm, name: str) -> None:
    ann = addressed["ann"].folder
    context = ssl.create_default_context(cafile=str(ann / "root.pem"))
    context.load_cert_chain(ann / "leaf.pem", ann / "key.pem")
    async with open_door(addressed) as door:
        tls = trio.SSLStream(await door.plain(), context, server_hostname=name, https_compatible=True)
        await tls.do_handshake()
        assert (await To(tls).ask("GET", "/v1/vms"))[0] == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("name", ["h0", "127.0.0.1"])
async def test_curl_asks_with_the_files_of_an_identity(addressed: Realm, name: str) -> None:
    ann = addressed["ann"].folder
    files = ["--cert", str(ann / "leaf.pem"), "--key", str(ann / "key.pem"), "--cacert", str(ann / "root.pem")]
    async with open_door(addressed) as door:

        async def curl(*arguments: str) -> str:
            resolve = ["--resolve", f"h0:{door.port}:127.0.0.1"]
            ran = await trio.run_process(
                ["curl", "--silent", "--show-error", "--noproxy", "*", *files, *resolve, *arguments],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
            assert ran.returncode == 0, ran.stderr
            return ran.stdout.decode()

        top = f"https://{name}:{door.port}/v1"
        assert json.loads(await curl(f"{top}/vms"))["vms"][0]["name"] == "web"
        assert json.loads(await curl(f"{top}/nothing"))["code"] == "not-found"
        large = addressed.folder / "large"
        large.write_bytes(bytes(6 << 20))
        assert json.loads(await curl("--data-binary", f"@{large}", f"{top}/confirms"))["code"] == "too-large"
        assert json.loads(await curl("-d", '{"name":"h5"}', f"{top}/realm/hosts"))["expires_in_s"] == 900
