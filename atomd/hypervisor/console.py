"""A guest's serial terminal, by libvirt."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import libvirt
import trio

from atomd.hypervisor.connection import CALL_S, Connection, post
from atomd.hypervisor.domain_xml import domain_name
from atomd.hypervisor.domains import HypervisorError
from atomd.hypervisor.life import find
from specs.ids import VmId

CONSOLE_BUFFER_MAX_BYTES = 256 * 1024
CHUNK_BYTES = 16 * 1024


class LibvirtConsole:
    """A guest's serial terminal, as an async byte stream. libvirt's thread reads it at once, always: whatever is not
    read would pile up inside libvirt, without a bound."""

    def __init__(self, connection: Connection, forget: Callable[["LibvirtConsole"], None]) -> None:
        self._connection, self._forget = connection, forget
        self._stream: Any = None
        self._buffer = bytearray()
        self._ended = False
        self._news = trio.Event()
        self.dropped_bytes = 0  # by a reader that was too slow

    async def attach(self, vm_id: VmId, *, force: bool) -> None:
        flags = libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0

        def work(connection: Any) -> Any:
            domain = find(connection, vm_id)
            stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            domain.openConsole(None, stream, flags)
            wanted = (
                libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
            )
            stream.eventAddCallback(wanted, self._on_ready, None)
            return stream

        self._stream = await self._connection.call(f"opening the console of {domain_name(vm_id)}", work, changes=False)

    def _on_ready(self, stream: Any, _events: int, _opaque: object) -> None:
        """In libvirt's thread. An ended stream is ready for ever: stop listening, or it spins."""
        data, ended = _drain(stream)
        if ended:
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
        post(self._connection.token, partial(self._arrived, data, ended))

    def _arrived(self, data: bytes, ended: bool) -> None:
        self._buffer += data
        excess = len(self._buffer) - CONSOLE_BUFFER_MAX_BYTES
        if excess > 0:
            del self._buffer[:excess]
            self.dropped_bytes += excess
        if ended:
            self.end()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def end(self) -> None:
        """The guest, the connection or another user has ended it; what arrived before can still be read."""
        self._ended = True
        self._wake()

    async def receive(self) -> bytes:
        while not self._buffer and not self._ended:
            await self._news.wait()
        await trio.lowlevel.checkpoint()
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            await self._send_chunk(data[start : start + CHUNK_BYTES])

    async def _send_chunk(self, chunk: bytes) -> None:
        while chunk:
            if self._ended:
                raise trio.ClosedResourceError("the console has ended")
            try:
                sent = await self._connection.call("typing", partial(_send, self._stream, chunk), changes=False)
            except HypervisorError:
                self.end()
                continue
            if sent < 0:  # -2: libvirt's queue is full
                await trio.sleep(0.01)
            chunk = chunk[max(sent, 0) :]

    async def aclose(self) -> None:
        self.end()
        self._forget(self)
        stream, self._stream = self._stream, None
        if stream is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(CALL_S):
                await trio.to_thread.run_sync(_abort, stream, abandon_on_cancel=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _drain(stream: Any) -> tuple[bytes, bool]:
    """All that is there, and whether it has ended."""
    data = bytearray()
    try:
        while len(data) < CONSOLE_BUFFER_MAX_BYTES:
            chunk = stream.recv(CHUNK_BYTES)
            if chunk == -2:  # nothing now
                return bytes(data), False
            if not chunk:
                return bytes(data), True
            data += chunk
    except libvirt.libvirtError:
        return bytes(data), True
    return bytes(data), False


def _send(stream: Any, chunk: bytes, _connection: Any) -> int:
    return int(stream.send(chunk))


def _abort(stream: Any) -> None:
    for step in (stream.eventRemoveCallback, stream.abort):
        with contextlib.suppress(libvirt.libvirtError):
            step()
