"""HTTP/1.1 on one secured connection, with a time for everything that the other side does. The file that knows anycorn.

    idle --first byte--> asking --last byte--> answering --> idle
      '-- idle_s            '-- request_s         '-- taking_s for each piece

A head whose lines end otherwise than in CR LF is not read: who stands in between may take it for another one (RFC
9112, 2.2 and 11.2).

anycorn's h11 protocol turns bytes into ASGI and back; its server, which has no such limits, is not used. HTTP/2 is not
spoken: whoever asks for it by other means than ALPN is hung up on.
"""

import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, cast

import h11
import trio
from anycorn.config import Config
from anycorn.events import Closed, Event, RawData, Updated
from anycorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol
from anycorn.task_group import TaskGroup
from anycorn.typing import AppWrapper, ConnectionState
from anycorn.worker_context import WorkerContext

from matcher.net.door.admission import Limits
from matcher.net.door.secured import Secured

HEAD_MAX_BYTES = 16 * 1024
REQUESTS_MAX = 1000  # on one connection
UPLOAD_WINDOW_BYTES = 64 * 1024  # of a long body, within the time of one request
WEBSOCKET_MAX_BYTES = 64 * 1024

_BARE_LF = re.compile(rb"(?<!\r)\n")

# As ASGI has it: what was asked, and how to read on and to answer.
App = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


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
        self._protocol: H11Protocol
        self._reading = trio.CancelScope()
        self._begun_s: float | None = None  # the first byte of the request, or the window of a body, that is coming in
        self._window_bytes = 0
        self._idle_since_s = trio.current_time()
        self._is_over = False
        self._head = b""

    async def run(self) -> None:
        """Until either side ends it; what is being answered by then may go on for a while, unheard."""
        async with TaskGroup() as tasks:
            self._protocol = H11Protocol(
                cast(AppWrapper, self._asked),
                _CONFIG,
                WorkerContext(None),
                tasks,
                ConnectionState({}),
                (self._address, 0),
                None,
                self._send,
                {},  # TLS it is; the certificate goes another way
            )
            await self._read()
            await self._protocol.handle(Closed())
            await self._secured.close(is_heard=self._their_state in (h11.SEND_BODY, h11.ERROR))

    async def _asked(self, scope: Any, receive: Any, send: Any, *_: object) -> None:
        if not self._is_over:
            await self._app(scope, receive, send)

    async def _read(self) -> None:
        while not self._is_over:
            with trio.CancelScope(deadline=self._deadline_s()) as self._reading:
                try:
                    data = await self._secured.receive()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if self._reading.cancelled_caught:
                self._counters["idle" if self._begun_s is None else "slow sender"] += not self._is_over
                return
            if not data:
                return
            if self._begun_s is None:
                self._begun_s = trio.current_time()
            if self._has_bare_lf(data):
                return
            given_s = trio.current_time()
            try:
                await self._protocol.handle(RawData(data))
            except (H2CProtocolRequiredError, H2ProtocolAssumedError):
                self._counters["http/2"] += 1
                return
            self._keeps_coming(len(data), trio.current_time() - given_s)

    def _keeps_coming(self, size: int, waited_s: float) -> None:
        """A long body gets a new window for each `UPLOAD_WINDOW_BYTES`; that we took our time counts for nobody."""
        if self._begun_s is None or not self._uploads():
            return
        self._begun_s += waited_s
        self._window_bytes += size
        if self._window_bytes >= UPLOAD_WINDOW_BYTES:
            self._begun_s, self._window_bytes = trio.current_time(), 0

    def _deadline_s(self) -> float:
        """Until when the other side must have said something more."""
        if self._their_state is h11.IDLE:
            begun_s = self._begun_s
            return self._idle_since_s + self._limits.idle_s if begun_s is None else begun_s + self._limits.request_s
        if self._their_state is h11.SEND_BODY and self._begun_s is not None:
            return self._begun_s + self._limits.request_s
        return math.inf  # it is our turn, or a console

    def _has_bare_lf(self, data: bytes) -> bool:
        """In the head that is coming in: in what has come of it already, and `data`."""
        if self._their_state is not h11.IDLE:
            return False
        head = (self._protocol.connection.trailing_data[0] + data).partition(b"\r\n\r\n")[0]
        if _BARE_LF.search(head) is None:
            return False
        self._counters["bare lf"] += 1
        return True

    @property
    def _their_state(self) -> Any:
        return self._protocol.connection.their_state

    async def _send(self, event: Event) -> None:
        """What the protocol has to say to the other side, or to this connection."""
        match event:
            case RawData():
                await self._say(event.data)
            case Closed():
                self._end()
            case Updated(idle=True):
                self._begun_s, self._idle_since_s = None, trio.current_time()
                self._reading.deadline = self._deadline_s()
                if self._has_bare_lf(b""):  # it came before the last answer was given
                    self._end()

    async def _say(self, data: bytes) -> None:
        """To a side that can't, or won't, take it, nothing more is said. An answer's head waits for what follows it at
        once: its body, or the end."""
        if self._is_over:
            return
        if data[:5] == b"HTTP/" and self._protocol.connection.our_state is h11.SEND_BODY:
            self._head = data
            return
        data, self._head = self._head + data, b""
        is_console = self._their_state is None
        try:
            await self._secured.send(data, self._limits.console_taking_s if is_console else self._limits.taking_s)
        except trio.TooSlowError:
            self._counters["slow reader"] += 1
            self._end()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end()

    def _end(self) -> None:
        self._is_over = True
        self._reading.cancel()


class _Config(Config):
    def __init__(self) -> None:
        super().__init__()
        self.errorlog = None
        self.include_server_header = False
        self.h11_max_incomplete_size = HEAD_MAX_BYTES
        self.keep_alive_max_requests = REQUESTS_MAX
        self.websocket_max_message_size = WEBSOCKET_MAX_BYTES


_CONFIG = _Config()
