"""One TLS connection on the side of the host, over a trio socket: the handshake, bytes, and an end that is told.

Unlike trio's own, a handshake that fails tells the other side why (the alert goes out), so that a client can say
"your certificate has expired" and not "connection reset". OpenSSL is fed from memory: RFC 8446 has no renegotiation, so
that reading never waits for writing.
"""

import errno
import os
import ssl
from contextlib import suppress
from types import TracebackType

import trio

READ_BYTES = 65_536
RUN_MAX = 16
PIECE_BYTES = 65_536  # of what is sent; each is to be taken within its time
BYE_S = 1.0  # for the other side to hear the end of a connection, and to end its own sending
BYE_MAX_BYTES = 8 << 20


class Plain:
    """A TCP connection, read and written without a turn of trio's loop where none is needed: they are much of what a
    short request costs. Others have their turn after `RUN_MAX` such steps.

    One task reads and one writes at a time.
    """

    def __init__(self, connected: trio.socket.SocketType) -> None:
        connected.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        self._socket = connected
        self._run = 0

    async def receive_some(self, size: int) -> bytes:
        """b"" at the end. Raises `trio.BrokenResourceError` or `trio.ClosedResourceError`."""
        await self._let_others()
        while True:
            try:
                return os.read(self._socket.fileno(), size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                self._run = 0
            except OSError as error:
                raise _gone(error) from error

    async def send_all(self, data: bytes) -> None:
        await self._let_others()
        with memoryview(data) as rest:
            sent = 0
            while sent < len(rest):
                try:
                    sent += os.write(self._socket.fileno(), rest[sent:])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                    self._run = 0
                except OSError as error:
                    raise _gone(error) from error

    def send_eof(self) -> None:
        try:
            self._socket.shutdown(trio.socket.SHUT_WR)
        except OSError as error:
            raise _gone(error) from error

    def close(self) -> None:
        self._socket.close()

    async def _let_others(self) -> None:
        self._run += 1
        if self._run > RUN_MAX:
            self._run = 0
            await trio.lowlevel.checkpoint()


def _gone(error: OSError) -> Exception:
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError("it was closed here")
    return trio.BrokenResourceError(os.strerror(error.errno or 0))


class Secured:
    """`leaf` is what the other side has shown (DER), empty where it has shown nothing; after `handshake`."""

    def __init__(self, plain: Plain, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._sending = trio.StrictFIFOLock()
        self.leaf = b""
        self.alpn: str | None = None

    async def __aenter__(self) -> "Secured":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._plain.close()

    async def handshake(self) -> None:
        """Raises `ssl.SSLError`, once the other side was told, or `trio.BrokenResourceError`."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise trio.BrokenResourceError("it ended early") from None
            except ssl.SSLError:
                await self._flush()
                await self._bye()
                raise
            else:
                break
        await self._flush()
        self.leaf = self._tls.getpeercert(binary_form=True) or b""
        self.alpn = self._tls.selected_alpn_protocol()

    async def receive(self) -> bytes:
        """What has arrived; b"" at the end. Raises `trio.BrokenResourceError`."""
        while True:
            try:
                return self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    return b""
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(error.reason or "TLS") from error

    async def send(self, data: bytes, taking_s: float) -> None:
        """Each piece must be taken within `taking_s`. Raises `trio.TooSlowError` or `trio.BrokenResourceError`; then
        nothing more can be sent."""
        for at in range(0, len(data), PIECE_BYTES):
            self._write(data[at : at + PIECE_BYTES])
            with trio.fail_after(taking_s):
                await self._flush()

    async def close(self, *, is_heard: bool = False) -> None:
        """Tell that this is the end. `is_heard`: the other side may still be sending, and reads our last words only
        if what it sends is taken from it."""
        with trio.move_on_after(BYE_S):
            with suppress(ssl.SSLError):  # it wants to read the other side's end, which nobody waits for
                self._tls.unwrap()
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._flush()
                if is_heard:
                    await self._bye()
        self._plain.close()

    async def _bye(self) -> None:
        """A connection that is closed with bytes unread is reset, and our last words with it."""
        with trio.move_on_after(BYE_S):
            try:
                self._plain.send_eof()
                taken = 0
                while taken < BYE_MAX_BYTES and (data := await self._plain.receive_some(READ_BYTES)):
                    taken += len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    def _write(self, data: bytes) -> None:
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(error.reason or "TLS") from error

    async def _flush(self) -> None:
        """Send what TLS has to say; in its own order, whoever else is sending."""
        if not self._out.pending:
            return
        async with self._sending:
            if self._out.pending:
                await self._plain.send_all(self._out.read())

    async def _fill(self) -> bool:
        data = await self._plain.receive_some(READ_BYTES)
        self._in.write(data)
        return bool(data)
