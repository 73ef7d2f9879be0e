"""The WebSocket that a request has asked for, as ASGI has it: accepted or answered with a no, and then messages both
ways until either side ends it. Nothing is waited for in vain: who revokes or closes ends the connection as a whole.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import h11
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, TextMessage
from wsproto.utilities import generate_accept_token

if TYPE_CHECKING:
    from matcher.net.door.conversing import App, Conversation

MESSAGE_MAX_BYTES = 64 * 1024
PART_BYTES = 64  # that a part of a message costs beside what is in it
VERSION = b"13"
TOO_BIG = 1009  # RFC 6455, 7.4.1
AWAY = 1006


class WebSocketSide:
    """Ours, of one WebSocket. The conversation has its connection, and says no in its stead."""

    def __init__(self, conversation: "Conversation", request: h11.Request, scope: dict[str, Any]) -> None:
        self._conversation = conversation
        self._headers = dict(request.headers)
        self._scope = scope | {
            "type": "websocket",
            "scheme": "wss",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        self._speaking = trio.Lock()  # a message is not broken by another one
        self._frames = Connection(ConnectionType.SERVER)
        self._is_open = False
        self._events: Iterator[Any] = iter(())
        self._parts: list[Any] = []
        self._parts_bytes = 0
        self._is_connecting = True

    async def serve(self, app: "App") -> None:
        """Raises `Gone`."""
        if self._headers.get(b"sec-websocket-version") != VERSION or b"sec-websocket-key" not in self._headers:
            refused = {"status": 400, "headers": [(b"sec-websocket-version", VERSION), (b"content-length", b"0")]}
            await self._conversation.respond({"type": "http.response.start", **refused})
            await self._conversation.respond({"type": "http.response.body"})
            return
        await app(self._scope, self._receive, self._send)
        if self._is_open:
            await self._close(1000)

    async def _receive(self) -> dict[str, Any]:
        if self._is_connecting:
            self._is_connecting = False
            return {"type": "websocket.connect"}
        while True:
            for event in self._events:
                if (message := await self._heard(event)) is not None:
                    return message
            data = await self._conversation.hear()
            if not data:
                self._is_open = False
                return {"type": "websocket.disconnect", "code": AWAY}
            self._frames.receive_data(data)
            self._events = self._frames.events()

    async def _heard(self, event: Any) -> dict[str, Any] | None:
        match event:
            case Ping():
                await self._say(event.response())
            case CloseConnection():
                if self._is_open:
                    await self._say(event.response())
                self._is_open = False
                return {"type": "websocket.disconnect", "code": event.code}
            case Message():
                return await self._part(event)
        return None

    async def _part(self, event: "Message[Any]") -> dict[str, Any] | None:
        self._parts.append(event.data)
        self._parts_bytes += len(event.data) + PART_BYTES
        if self._parts_bytes > MESSAGE_MAX_BYTES:
            await self._close(TOO_BIG)
            return {"type": "websocket.disconnect", "code": TOO_BIG}
        if not event.message_finished:
            return None
        parts, self._parts, self._parts_bytes = self._parts, [], 0
        if isinstance(event, TextMessage):
            return {"type": "websocket.receive", "text": "".join(parts)}
        return {"type": "websocket.receive", "bytes": b"".join(parts)}

    async def _send(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "websocket.accept":
                await self._accept()
            case "websocket.send" if message.get("bytes") is not None:
                await self._say(BytesMessage(message["bytes"]))
            case "websocket.send":
                await self._say(TextMessage(message["text"]))
            case "websocket.close":
                await self._close(message.get("code", 1000))
            case _:
                await self._conversation.respond(message)

    async def _accept(self) -> None:
        token = generate_accept_token(self._headers[b"sec-websocket-key"])
        headers = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", token)]
        said, heard = self._conversation.switch(headers)
        self._frames.receive_data(heard)
        self._events = self._frames.events()
        self._is_open = True
        await self._conversation.say(said)

    async def _close(self, code: int) -> None:
        if self._is_open:
            self._is_open = False
            await self._say(CloseConnection(code))

    async def _say(self, event: Any) -> None:
        async with self._speaking:
            await self._conversation.say(self._frames.send(event), self._conversation.console_taking_s)
