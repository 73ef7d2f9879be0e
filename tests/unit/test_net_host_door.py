"""One host asks another: pinned by its key, given up at any moment, and what was not answered is told from what never
was asked."""

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from matcher.net.door.secured import Plain, Secured
from matcher.net.host_door import HostDoors
from matcher.net.https import NotAdmitted, Unanswered, Unreachable
from matcher.trust.identity import Identity, server_tls
from matcher.wire.codec import to_json
from matcher.wire.messages import Address, Reason, Refused
from matcher.wire.volumes import Detach, Detached
from specs.ids import HostId
from tests.fakes.realms import make_realm

DETACH = Detach("a" * 32, 1, "b" * 32)
REFUSED = Refused("unavailable", (Reason("volumes", "it", "not now", ""),))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    top = tmp_path_factory.mktemp("realms")
    home, away = make_realm(top / "home", "ann", "h1", "h2", "h3"), make_realm(top / "away", "h9")
    return home.members | away.members


Script = Callable[["trio.SSLStream[trio.SocketStream]"], Awaitable[None]]


@asynccontextmanager
async def door(identity: Identity, script: Script) -> AsyncIterator[Address]:
    """A front door that follows a script for each that comes."""

    async def serve(plain: trio.SocketStream) -> None:
        secured = trio.SSLStream(plain, server_tls(identity), server_side=True)
        try:
            await secured.do_handshake()
            await script(secured)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(secured)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        with trio.fail_after(20):
            yield Address("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def says(status: int, body: bytes, *, length: int | None = None, asked: list[bytes] | None = None) -> Script:
    async def script(secured: "trio.SSLStream[trio.SocketStream]") -> None:
        got = await secured.receive_some(65536)
        if asked is not None:
            asked.append(bytes(got))
        said = len(body) if length is None else length
        await secured.send_all(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, said, body))

    return script


async def ask(me: Identity, other: Identity, at: Address) -> Detached | Refused:
    line = await HostDoors(me).open(HostId(other.principal.id), at)
    try:
        return await line.ask("/v1/detachments", DETACH, Detached)
    finally:
        await line.aclose()


async def test_the_host_that_is_meant_answers(members: dict[str, Identity]) -> None:
    asked: list[bytes] = []
    async with door(members["h2"], says(200, to_json(Detached()).encode(), asked=asked)) as at:
        assert await ask(members["h1"], members["h2"], at) == Detached()
    assert asked[0].startswith(b"POST /v1/detachments HTTP/1.1\r\n")
    assert asked[0].endswith(to_json(DETACH).encode())


async def test_a_refusal_is_an_answer(members: dict[str, Identity]) -> None:
    async with door(members["h2"], says(503, to_json(REFUSED).encode())) as at:
        assert await ask(members["h1"], members["h2"], at) == REFUSED


@pytest.mark.parametrize("who", ["h3", "ann", "h9"])
async def test_nobody_else_is_told_anything(members: dict[str, Identity], who: str) -> None:
    heard: list[bytes] = []

    async def listens(secured: "trio.SSLStream[trio.SocketStream]") -> None:
        heard.append(bytes(await secured.receive_some(100)))

    async with door(members[who], listens) as at:
        with pytest.raises(Unreachable):
            await ask(members["h1"], members["h2"], at)
    assert heard in ([], [b""])


async def test_nobody_at_the_address_is_unreachable(members: dict[str, Identity]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for ip in ("127.0.0.1", "::1"):
        with pytest.raises(Unreachable):
            await ask(members["h1"], members["h2"], Address(ip, port))


async def test_who_says_something_else_than_tls_is_unreachable(members: dict[str, Identity]) -> None:
    async def talks(plain: trio.SocketStream) -> None:
        await plain.send_all(b"220 smtp ready\r\n" * 10)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, talks, [listener])
        with pytest.raises(Unreachable):
            await ask(members["h1"], members["h2"], Address("127.0.0.1", listener.socket.getsockname()[1]))
        nursery.cancel_scope.cancel()


async def test_a_host_that_is_silent_is_given_up_and_leaves_nothing(
    members: dict[str, Identity], autojump_clock: trio.testing.MockClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # the kernel accepts, nobody else does
        at = Address("127.0.0.1", listening.getsockname()[1])
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.2):
            await HostDoors(members["h1"]).open(HostId(members["h2"].principal.id), at)


@pytest.mark.parametrize(
    "script",
    [
        says(200, b"{}", length=100),
        says(200, b'{"nonsense": 1}'),
        says(500, b"Internal Server Error"),
        says(200, b"x" * 100, length=0),
    ],
    ids=["breaks off", "no such answer", "no refusal", "no end"],
)
async def test_what_is_no_answer_leaves_open_what_became_of_it(members: dict[str, Identity], script: Script) -> None:
    async with door(members["h2"], script) as at:
        with pytest.raises(Unanswered):
            await ask(members["h1"], members["h2"], at)


async def test_what_is_no_http_leaves_it_open_too(members: dict[str, Identity]) -> None:
    async def talks(secured: "trio.SSLStream[trio.SocketStream]") -> None:
        await secured.receive_some(65536)
        await secured.send_all(b"hello there\r\n\r\n")

    async with door(members["h2"], talks) as at:
        with pytest.raises(Unanswered):
            await ask(members["h1"], members["h2"], at)


async def test_a_host_that_does_not_take_our_certificate_has_not_listened(members: dict[str, Identity]) -> None:
    """As one that has heard that we are revoked; here its TLS knows another realm's issuers alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(members["h2"].folder / "leaf.pem", members["h2"].folder / "key.pem")
    context.load_verify_locations(members["h9"].folder / "root.pem")

    async def turns_away(plain: trio.SocketStream) -> None:
        async with Secured(Plain(plain.socket), context) as secured:
            with pytest.raises(ssl.SSLError):
                await secured.handshake()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, turns_away, [listener])
        with pytest.raises(NotAdmitted):
            await ask(members["h1"], members["h2"], Address("127.0.0.1", listener.socket.getsockname()[1]))
        nursery.cancel_scope.cancel()
