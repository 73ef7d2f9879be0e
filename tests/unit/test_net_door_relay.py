"""The rooms of a relay, where the one who has called goes away while hosts answer."""

import dataclasses
from typing import Any

import trio
from starlette.websockets import WebSocketDisconnect

from matcher.net.caller import Caller
from matcher.net.door.relay_rooms import RelayRooms
from matcher.net.relay.lines import Ends
from matcher.wire.messages import Refused


class Answered:
    """A line on which an answer comes while the user's next word is awaited."""

    is_closed = False

    async def run(self, ends: Ends) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.say, b"an answer")
            await ends.hear()

    def close(self) -> None:
        self.is_closed = True


class FakeRelay:
    def __init__(self) -> None:
        self.opened = Answered()

    def line(self, caller: Caller) -> Any:
        return self.opened

    async def tunnel(self, host_id: str, port: int, caller: Caller) -> Refused:
        raise NotImplementedError

    async def relayed(self, envelope: bytes, caller: Caller) -> Refused:
        raise NotImplementedError


class Gone:
    """A WebSocket whose client is away, and that has not been told yet."""

    async def accept(self) -> None: ...

    async def send_bytes(self, data: bytes) -> None:
        raise WebSocketDisconnect(1006)

    async def receive_bytes(self) -> bytes:
        await trio.sleep_forever()
        raise AssertionError


@dataclasses.dataclass
class Asked:
    websocket: Any
    caller: Any


async def test_a_user_who_goes_away_while_an_answer_is_passed_on_ends_the_line_and_nothing_else() -> None:
    relay = FakeRelay()
    await RelayRooms(relay).handlers()["relay"](Asked(Gone(), None))  # type: ignore[arg-type]
    assert relay.opened.is_closed
