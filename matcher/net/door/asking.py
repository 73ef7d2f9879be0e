"""What every room of the front door works with: one question by one caller, and typed answers, yes or no."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from matcher.net.caller import Caller
from matcher.net.door.routes import Route
from matcher.trust.principal import is_fingerprint
from matcher.wire.codec import BadBytes, M, from_json, to_json
from matcher.wire.messages import Message, Reason, Refused
from specs.ids import UserId, Vid, VmId, parse_id

T = TypeVar("T")

STATUS = {
    "not-found": 404,
    "denied": 403,
    "bad-request": 400,
    "bad-method": 405,
    "too-large": 413,
    "too-many": 429,
    "unavailable": 503,
    "fault": 500,
}


class Denied(Exception):
    """A refusal on its way out. `is_last`: nothing more is read on this connection."""

    def __init__(self, refused: Refused, *, is_last: bool = False) -> None:
        super().__init__(refused.code)
        self.refused = refused
        self.is_last = is_last


@dataclass(frozen=True, slots=True)
class Asking:
    """`leaf` (DER) is what the caller has shown."""

    route: Route
    arguments: dict[str, str]
    caller: Caller
    leaf: bytes
    connection: HTTPConnection
    body_max_bytes: int

    @property
    def vm_id(self) -> VmId:
        """Raises `Denied`: what is no id is as little there as one that nobody has."""
        vm_id = parse_id(self.arguments["id"])
        if vm_id is None:
            raise Denied(refused("not-found", "vm", "a VM", "no such VM of yours here", "electros ps shows yours"))
        return VmId(vm_id)

    @property
    def vid(self) -> Vid:
        """Raises `Denied`, as `vm_id` does."""
        vid = parse_id(self.arguments.get("vid", self.arguments["id"]))
        if vid is None:
            hint = "electros volume ls shows what you may see"
            raise Denied(refused("not-found", "volume", "a volume", "no such volume here", hint))
        return Vid(vid)

    @property
    def user_id(self) -> UserId:
        """Raises `Denied`."""
        user_id = self.arguments["user"]
        if not is_fingerprint(user_id):
            raise Denied(refused("bad-request", "user", "a user", "a user's id has 64 hex digits", "electros user ls"))
        return UserId(user_id)

    @property
    def websocket(self) -> WebSocket:
        assert isinstance(self.connection, WebSocket)
        return self.connection

    def query(self, default: str = "") -> str:
        """The route's parameter behind the question mark."""
        assert self.route.query is not None
        return self.connection.query_params.get(self.route.query.name, default)

    async def body(self) -> bytes:
        """Raises `Denied` where it is too long; one that says so beforehand is not read at all."""
        assert isinstance(self.connection, Request)
        told = self.connection.headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:12]) > self.body_max_bytes:
            raise self._too_large()
        body = bytearray()
        async with aclosing(self.connection.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > self.body_max_bytes:
                    raise self._too_large()
        return bytes(body)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """A long body, as it comes. Raises `Disconnected`."""
        assert isinstance(self.connection, Request)
        async with aclosing(self.connection.stream()) as chunks:
            async for chunk in chunks:
                if chunk:
                    yield chunk

    async def message(self, cls: type[M]) -> M:
        """The JSON in the body. Raises `Denied`."""
        try:
            return from_json(cls, await self.body())
        except BadBytes as error:
            raise Denied(refused("bad-request", "body", cls.__name__, str(error), "GET /v1/openapi.json")) from None

    def _too_large(self) -> Denied:
        return Denied(refused("too-large", "body", "more", f"at most {self.body_max_bytes} bytes"))


class News(StreamingResponse):
    """A line of JSON for each thing that happens; over with the last, or when nobody listens any more."""

    def __init__(self, lines: AsyncGenerator[str, None]) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._lines):
            await super().__call__(scope, receive, send)


Handler = Callable[[Asking], Awaitable[Response | None]]
Disconnected = ClientDisconnect


def granted(answer: T | Refused) -> T:
    """Raises `Denied`."""
    if isinstance(answer, Refused):
        raise Denied(answer)
    return answer


def said(message: Message) -> Response:
    return Response(to_json(message), media_type="application/json")


def no(refusal: Refused, headers: dict[str, str] | None = None) -> Response:
    status = STATUS.get(refusal.code, 409)
    return Response(to_json(refusal), status_code=status, headers=headers, media_type="application/json")


def octets(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream")


def refused(code: str, resource: str, asked: str, has: str, hint: str = "") -> Refused:
    return Refused(code, (Reason(resource[:80], asked[:120], has[:120], hint[:160]),))
