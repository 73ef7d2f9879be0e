"""HTTP/1.1 at the front door as its RFCs have it: what goes on, what is the last, and what is not read."""

from pathlib import Path

import pytest
import trio

import matcher.net.door.conversing as conversing
from matcher.wire.codec import BODY_MAX_BYTES
from tests.fakes.door import VM_ID, open_door, until
from tests.fakes.realms import Realm, make_realm

ASKED = b"HTTP/1.1\r\nHost: h0\r\n"


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    return make_realm(tmp_path / "home", "ann", "h1")


async def test_who_waits_to_be_asked_for_a_body_is_asked_where_it_is_wanted(realm: Realm) -> None:
    """curl does with a long one (RFC 9110, 10.1.1)."""
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(b"POST /v1/pledges " + ASKED + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n")
        assert (await to.answer())[0] == 100
        await to.tls.send_all(b"x")
        assert (await to.answer())[0] == 200
        assert door.host.bodies[-1] == b"x"
        too_long = f"Content-Length: {BODY_MAX_BYTES + 1}\r\nExpect: 100-continue\r\n\r\n".encode()
        await to.tls.send_all(b"POST /v1/pledges " + ASKED + too_long)
        assert (await to.answer())[0] == 413
        assert await to.is_over(), "they may send it all the same"


async def test_a_head_alone_is_answered_with_a_head(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(b"HEAD /v1/host " + ASKED + b"\r\n" + b"GET /v1/host " + ASKED + b"\r\n")
        head = await to.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (await to.answer())[0] == 200, "and nothing is between them"


async def test_a_body_that_nobody_wanted_is_read_if_it_is_here_and_not_waited_for(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        for _ in range(2):
            assert (await to.ask("GET", "/v1/none", b"x" * 100))[0] == 404
        await to.tls.send_all(b"GET /v1/none " + ASKED + b"Content-Length: 100\r\n\r\nx")
        assert (await to.answer())[0] == 404
        assert await to.is_over()


async def test_the_last_request_of_a_connection_is_told_so(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversing, "REQUESTS_MAX", 2)
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        assert (await to.ask("GET", "/v1/host"))[0] == 200
        await to.tls.send_all(b"GET /v1/host " + ASKED + b"\r\n")
        assert b"connection: close" in (await to.read_until(b"\r\n\r\n")).lower()


async def test_a_path_that_is_no_text_is_refused(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        assert (await to.ask("GET", "/v1/%ff"))[0] == 400
        assert door.counters["faults"] == 0


async def test_a_client_that_is_gone_before_its_answer_is_nobodys_fault(realm: Realm) -> None:
    """Whether the answer is one piece, or news."""
    async with open_door(realm) as door:
        for path in (f"/v1/vms/{VM_ID}/stop", "/v1/confirms"):
            before = door.host.waiting
            to = await door.connect(realm["ann"])
            await to.tls.send_all(f"POST {path} HTTP/1.1\r\nHost: h0\r\nContent-Length: 1\r\n\r\nx".encode())
            await until(lambda before=before: door.host.waiting > before)  # type: ignore[misc]
            await to.reset()
        await trio.sleep(0.05)  # what the kernel has heard of it
        door.host.go.set()
        await until(lambda: door.host.waiting == 0)
        assert (await (await door.connect(realm["ann"])).ask("GET", "/v1/host"))[0] == 200
        assert door.counters["faults"] == 0


async def test_a_length_and_chunks_that_break_off_are_nobodys_fault(realm: Realm) -> None:
    async with open_door(realm) as door:
        for part in (b"Content-Length: 9\r\n\r\nx", b"Transfer-Encoding: chunked\r\n\r\n5\r\nx"):
            to = await door.connect(realm["ann"])
            await to.tls.send_all(b"POST /v1/pledges " + ASKED + part)
            await to.reset()
        assert (await (await door.connect(realm["ann"])).ask("GET", "/v1/host"))[0] == 200
        assert (door.host.bodies, door.counters["faults"]) == ([], 0)


async def test_chunks_that_are_none_are_told_so(realm: Realm) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        await to.tls.send_all(b"POST /v1/pledges " + ASKED + b"Transfer-Encoding: chunked\r\n\r\nno length\r\n")
        assert (await to.answer())[0] == 400
        assert await to.is_over()
        assert (door.host.bodies, door.counters["faults"]) == ([], 0)
