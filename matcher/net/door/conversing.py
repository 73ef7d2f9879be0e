"""HTTP/1.1 on one secured connection, with a time for everything that the other side does. The file that knows h11.

    idle --first byte--> asking --last byte--> answering --> idle
      '-- idle_s            '-- request_s         '-- taking_s for each piece

One task: while a request is answered nothing is read, so that what comes too early waits in the kernel, and its sender
with it. The time of a request is what the other side lets us wait; what we take ourselves counts for nobody.

A head whose lines end otherwise than in CR LF is not read: who stands in between may take it for another one (RFC
9112, 2.2 and 11.2). HTTP/2 is not spoken: whoever begins so without ALPN is hung up on; who offers it is answered.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_to_bytes

import h11
import trio

from matcher.net.door.admission import Limits
from matcher.net.door.asking import Disconnected
from matcher.net.door.secured import Secured

HEAD_MAX_BYTES = 16 * 1024
REQUESTS_MAX = 1000  # on one connection
UPLOAD_WINDOW_BYTES = 64 * 1024  # of a long body, within the time of one request
ASGI = {"version": "3.0", "spec_version": "2.4"}  # from which on who sends is told that nobody listens

_BARE_LF = re.compile(rb"(?<!\r)\n")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
# As ASGI has it: what was asked, and how to read on and to answer.
App = Callable[[Any, Receive, Send], Awaitable[None]]


class Gone(Disconnected, OSError):
    """Nobody hears the answer any more; by the name that rooms have for it, and by ASGI's."""


class Conversation:
    """All requests of one connection, one after the other."""

    def __init__(
        self,
        secured: Secured,
        address: str,
        app: App,
        uploads: Callable[[], bool],
        limits: Limits,
        counters: Counter[str],
    ) -> None:
        """`uploads` tells whether the body that is coming in may be long, as long as it keeps coming."""
        self._uploads = uploads
        self._secured, self._address = secured, address
        self._app, self._limits, self._counters = app, limits, counters
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        self._left_s = 0.0  # of the time that the other side has for what it is saying
        self._window_bytes = 0
        self._is_idle = True
        self._is_head = False  # of the request under way: only the answer's head is wanted
        self._head = b""
        self._is_last = False

    async def run(self) -> None:
        """Until either side ends it."""
        for left in reversed(range(REQUESTS_MAX)):
            request = await self._request()
            if request is None:
                break
            self._is_last = left == 0
            with suppress(Disconnected):
                await self._serve(request)
            if not self._is_done():
                break
            self._http.start_next_cycle()
        # Who has said that this is their last request may send more all the same, and would not hear the answer to it.
        await self._secured.close(is_heard=self._http.their_state in (h11.SEND_BODY, h11.MUST_CLOSE, h11.ERROR))

    async def _serve(self, request: h11.Request) -> None:
        scope = self._scope(request)
        if scope is None:
            await self._protest(400)
        elif is_upgrade(request):
            from matcher.net.door.websocket import WebSocketSide  # most connections ask for none

            await WebSocketSide(self, request, scope).serve(self._app)
        else:
            await self._app(scope, self._receive, self.respond)

    def _scope(self, request: h11.Request) -> dict[str, Any] | None:
        """None: its path is no text."""
        raw_path, _, query = request.target.partition(b"?")
        try:
            path = unquote_to_bytes(raw_path).decode()
        except UnicodeDecodeError:
            return None
        return {
            "type": "http",
            "asgi": ASGI,
            "http_version": request.http_version.decode(),
            "method": request.method.decode().upper(),
            "scheme": "https",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": list(request.headers),
            "client": (self._address, 0),
            "server": None,
        }

    def _is_done(self) -> bool:
        """Whether this request is over on both sides, and another one may come. Of a body that nobody wanted, only
        what is here already is read."""
        if self._http.our_state is not h11.DONE:
            return False
        with suppress(h11.RemoteProtocolError):
            while self._http.their_state is h11.SEND_BODY and self._http.next_event() is not h11.NEED_DATA:
                pass
        return self._http.their_state is h11.DONE

    # ---- what they say

    async def _request(self) -> h11.Request | None:
        self._is_idle, self._left_s = True, self._limits.idle_s
        if self._http.trailing_data[0]:
            self._begin()
        request = await self._event()
        if not isinstance(request, h11.Request):
            return None
        if request.http_version == b"2.0":
            self._counters["http/2"] += 1
            return None
        self._is_head, self._head = request.method == b"HEAD", b""
        return request

    def _begin(self) -> None:
        """The first byte of a request is here."""
        self._is_idle, self._left_s, self._window_bytes = False, self._limits.request_s, 0

    async def _receive(self) -> dict[str, Any]:
        """Of the body, as ASGI has it."""
        match await self._event():
            case h11.Data(data=data):
                return {"type": "http.request", "body": bytes(data), "more_body": True}
            case h11.EndOfMessage():
                return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def _event(self) -> Any:
        """What comes next; None where it has ended, is broken, or comes too slowly."""
        while True:
            if self._has_bare_lf():
                return None
            if self._http.they_are_waiting_for_100_continue:
                await self.say(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                with suppress(Gone):
                    await self._protest(error.error_status_hint)
                return None
            if event is not h11.NEED_DATA:
                return event
            data = await self._more()
            if not data:
                return None
            self._http.receive_data(data)

    def _has_bare_lf(self) -> bool:
        """In as much of the head as has come."""
        if self._http.their_state is not h11.IDLE:
            return False
        head = self._http.trailing_data[0].partition(b"\r\n\r\n")[0]
        if _BARE_LF.search(head) is None:
            return False
        self._counters["bare lf"] += 1
        return True

    async def _more(self) -> bytes:
        """b"" at the end, whoever has ended it."""
        begun_s = trio.current_time()
        with trio.move_on_after(max(0.0, self._left_s)) as waiting:  # what came last may have come too late
            data = await self.hear()
        if waiting.cancelled_caught:
            self._counters["idle" if self._is_idle else "slow sender"] += 1
            return b""
        if self._is_idle:
            self._begin()
            return data
        self._left_s -= trio.current_time() - begun_s
        if self._uploads():  # a long body gets a new time for each window
            self._window_bytes += len(data)
            if self._window_bytes >= UPLOAD_WINDOW_BYTES:
                self._left_s, self._window_bytes = self._limits.request_s, 0
        return data

    async def hear(self) -> bytes:
        try:
            return await self._secured.receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    # ---- what we say

    async def respond(self, message: Any) -> None:
        """An answer, as ASGI has it; its head waits for what follows. Raises `Gone`."""
        if message["type"].endswith(".start"):
            if self._http.our_state is not h11.SEND_RESPONSE:
                raise Gone  # another answer has begun, or they were told that they can't be understood
            headers = [*message["headers"], *([(b"connection", b"close")] if self._is_last else [])]
            self._head = self._http.send(h11.Response(status_code=message["status"], headers=headers)) or b""
            return
        if self._http.our_state is not h11.SEND_BODY:
            raise Gone
        said, self._head = self._head, b""
        if message.get("body") and not self._is_head:
            said += self._http.send(h11.Data(data=message["body"])) or b""
        if not message.get("more_body", False):
            said += self._http.send(h11.EndOfMessage()) or b""
        await self.say(said)

    async def _protest(self, status: int) -> None:
        """That they can't be understood."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        said = self._http.send(h11.Response(status_code=status, headers=headers)) or b""
        await self.say(said + (self._http.send(h11.EndOfMessage()) or b""))

    def switch(self, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        """From HTTP to what was asked for: what says so, and what has come of it already."""
        while self._http.their_state is h11.SEND_BODY:
            self._http.next_event()  # there is none: see `is_upgrade`
        said = self._http.send(h11.InformationalResponse(status_code=101, headers=headers))
        assert said is not None
        return said, self._http.trailing_data[0]

    async def say(self, data: bytes | None, taking_s: float | None = None) -> None:
        """Raises `Gone` where the other side can't, or won't, take it within `taking_s` for each piece."""
        try:
            await self._secured.send(data or b"", self._limits.taking_s if taking_s is None else taking_s)
        except trio.TooSlowError:
            self._counters["slow reader"] += 1
            raise Gone from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Gone from None

    @property
    def console_taking_s(self) -> float:
        return self._limits.console_taking_s


def is_upgrade(request: h11.Request) -> bool:
    """To a WebSocket; by a request without a body, of which the first message would else be part."""
    headers = dict(request.headers)
    if headers.keys() & {b"content-length", b"transfer-encoding"}:
        return False
    tokens = {token.strip() for token in headers.get(b"connection", b"").lower().split(b",")}
    return request.method == b"GET" and b"upgrade" in tokens and headers.get(b"upgrade", b"").lower() == b"websocket"
