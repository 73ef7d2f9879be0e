"""A console through the front door, by RFC 6455: both ways, whatever its frames, and no more than it may hold."""

from pathlib import Path

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from matcher.net.door.websocket import MESSAGE_MAX_BYTES, TOO_BIG
from matcher.wire.realm import Grant, Verb
from tests.fakes.door import VM_ID, Echo, To, open_door, until
from tests.fakes.realms import Realm, make_realm
from tests.unit.test_net_door import LOOKER, SHORT

CONSOLE = f"/v1/vms/{VM_ID}/console"
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
KEYED = f"{UPGRADE}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "home", "ann", "h1")
    made.add("lou", LOOKER)
    return made


class WebSocket:
    """The client's end of a console."""

    def __init__(self, to: To) -> None:
        self.to, self.protocol = to, WSConnection(ConnectionType.CLIENT)

    async def open(self, path: str) -> object:
        await self.to.tls.send_all(self.protocol.send(Request(host="h0", target=path)))
        return await self.hear()

    async def say(self, *events: object) -> None:
        await self.to.tls.send_all(b"".join(self.protocol.send(event) for event in events))  # type: ignore[arg-type]

    async def hear(self) -> object:
        """The next event; `None` where the connection is over."""
        while True:
            for event in self.protocol.events():
                return event
            try:
                data = await self.to.tls.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self.protocol.receive_data(bytes(data))


async def test_a_console_goes_both_ways_and_ends_when_its_user_is_revoked(realm: Realm) -> None:
    con = realm.add("con", Grant(verbs=(Verb.CONSOLE,)))
    async with open_door(realm, SHORT) as door:
        socket = WebSocket(await door.connect(con))
        assert isinstance(await socket.open(f"/v1/vms/{VM_ID}/console"), AcceptConnection)
        for word in (b"login:", b"root"):
            await socket.to.tls.send_all(socket.protocol.send(BytesMessage(word)))
            assert await socket.hear() == BytesMessage(bytearray(word))
            await trio.sleep(0.2)  # a person thinks longer than a request may take
        door.desk.revoke_now("con")
        assert isinstance(await socket.hear(), CloseConnection | None)
        await until(lambda: door.host.echo.is_closed)
        assert door.counters["revoked sessions"] == 1


@pytest.mark.parametrize(("name", "vm_id", "status"), [("lou", VM_ID, 403), ("ann", "b" * 32, 404)])
async def test_a_console_that_is_not_given_is_a_typed_no(realm: Realm, name: str, vm_id: str, status: int) -> None:
    async with open_door(realm) as door:
        rejected = await WebSocket(await door.connect(realm[name])).open(f"/v1/vms/{vm_id}/console")
        assert isinstance(rejected, RejectConnection)
        assert rejected.status_code == status


async def test_a_message_in_fragments_is_one_and_a_ping_between_them_is_answered(realm: Realm) -> None:
    async with open_door(realm, SHORT) as door:
        socket = WebSocket(await door.connect(realm["ann"]))
        await socket.open(CONSOLE)
        await socket.say(BytesMessage(b"ro", message_finished=False), Ping(b"?"), BytesMessage(b"ot"))
        assert await socket.hear() == Pong(bytearray(b"?"))
        assert await socket.hear() == BytesMessage(bytearray(b"root"))


async def test_what_is_said_together_with_the_request_is_heard(realm: Realm) -> None:
    async with open_door(realm, SHORT) as door:
        to = await door.connect(realm["ann"])
        early = b"\x82\x82\0\0\0\0hi"  # a masked frame, its mask being nothing
        head = f"GET {CONSOLE} HTTP/1.1\r\nHost: h0\r\n{KEYED}Sec-WebSocket-Version: 13\r\n\r\n"
        await to.tls.send_all(head.encode() + early)
        assert (await to.answer())[0] == 101
        assert await to.read(4) == b"\x82\x02hi"


@pytest.mark.parametrize("part", [b"x" * 1000, b""])
async def test_a_message_without_end_is_not_kept(realm: Realm, part: bytes) -> None:
    """Nor are its parts where nothing is in them."""
    async with open_door(realm, SHORT) as door:
        socket = WebSocket(await door.connect(realm["ann"]))
        await socket.open(CONSOLE)
        part_of_many = BytesMessage(part, message_finished=False)
        await socket.say(*[part_of_many] * (MESSAGE_MAX_BYTES // (len(part) + 64) + 1))
        closed = await socket.hear()
        assert isinstance(closed, CloseConnection)
        assert closed.code == TOO_BIG
        await until(lambda: door.host.echo.is_closed)


async def test_text_is_not_spoken_and_what_is_no_frame_ends_it(realm: Realm) -> None:
    async with open_door(realm, SHORT) as door:
        for wrong in (WSConnection(ConnectionType.CLIENT), None):
            socket = WebSocket(await door.connect(realm["ann"]))
            await socket.open(CONSOLE)
            if wrong is not None:
                await socket.say(TextMessage("root"))
            else:
                await socket.to.tls.send_all(b"\xff" * 8)
            assert isinstance(await socket.hear(), CloseConnection)
        assert door.counters["faults"] == 0


class Broken(Echo):
    """A guest that speaks without end, and can't be spoken to."""

    async def send(self, data: bytes) -> None:
        raise trio.BrokenResourceError

    async def receive(self) -> bytes:
        await trio.sleep(0.01)
        return b"x" * 1000


@pytest.mark.parametrize("who", ["the client", "the guest"])
async def test_a_side_that_breaks_ends_the_console_and_is_no_fault_of_ours(
    realm: Realm, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    async with open_door(realm, SHORT) as door:
        door.host.echo = Broken()
        socket = WebSocket(await door.connect(realm["ann"]))
        await socket.open(CONSOLE)
        if who == "the guest":
            await socket.say(BytesMessage(b"root"))
        else:
            await trio.aclose_forcefully(socket.to.tls)
        await until(lambda: door.host.echo.is_closed)
    assert "fault" not in caplog.text


async def test_a_client_that_says_goodbye_is_answered(realm: Realm) -> None:
    async with open_door(realm, SHORT) as door:
        socket = WebSocket(await door.connect(realm["ann"]))
        await socket.open(CONSOLE)
        await socket.say(CloseConnection(1000))
        assert isinstance(await socket.hear(), CloseConnection)
        await until(lambda: door.host.echo.is_closed)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (KEYED, 400),  # of no version
        (f"{KEYED}Sec-WebSocket-Version: 8\r\n", 400),
        (f"{UPGRADE}Sec-WebSocket-Version: 13\r\n", 400),  # without a key
        (f"{KEYED}Sec-WebSocket-Version: 13\r\nContent-Length: 2\r\n", 404),  # a body, or a frame?
    ],
)
async def test_an_upgrade_that_is_none_is_refused_and_the_connection_goes_on(
    realm: Realm, headers: str, status: int
) -> None:
    async with open_door(realm) as door:
        to = await door.connect(realm["ann"])
        body = b"hi" if "Content-Length" in headers else b""
        await to.tls.send_all(f"GET {CONSOLE} HTTP/1.1\r\nHost: h0\r\n{headers}\r\n".encode() + body)
        assert (await to.answer())[0] == status
        assert (await to.ask("GET", "/v1/host"))[0] == 200
