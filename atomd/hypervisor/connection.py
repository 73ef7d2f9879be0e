"""The connection to libvirt, made anew whenever it breaks, and what comes over it.

Every call runs in a worker thread and has 30 s. Past that, or when the connection breaks meanwhile, a change is
`Unknown`, never failed: a create that was given up on may still succeed minutes later. libvirt's events come from one
thread of its own into one bounded channel. When libvirtd dies the VMs live on: `ConnectionLost` is said once, the
connection is made anew, and then `Resync`.
"""

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeVar

import libvirt
import trio

from atomd.hypervisor.disk_xml import NAME_PREFIX
from atomd.hypervisor.domains import ConnectionLost, DomainEvent, Event, HypervisorDown, Resync
from atomd.hypervisor.event_loop import EVENT_LOOP
from atomd.hypervisor.secrets import forget_secrets
from atomd.hypervisor.translating import LIFECYCLE, is_alive, no_answer, plain_words, translated
from specs.ids import VmId, parse_id

CALL_S = 30.0
CALLS_MAX = 8  # at once; libvirt itself serves as many clients' calls in parallel
EVENTS_MAX = 1024  # beyond these a `Resync` stands for the lost ones
KEEPALIVE_S = 2  # a frozen libvirtd frees its callers after KEEPALIVE_S * KEEPALIVES_MAX
KEEPALIVES_MAX = 3
RETRY_MIN_S = 0.1
RETRY_MAX_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Line:
    connection: Any
    lifecycle_id: int  # of the registered callback


class Connection:
    """Make it by `open`. `hangs_up` is called, in trio's thread, whenever what was open over it has to end."""

    def __init__(self, uri: str, nursery: trio.Nursery, hangs_up: Callable[[], None]) -> None:
        self._uri, self._nursery, self._hangs_up = uri, nursery, hangs_up
        self.token = trio.lowlevel.current_trio_token()
        self._calls = trio.CapacityLimiter(CALLS_MAX)
        self._dialling = trio.CapacityLimiter(1)  # a libvirtd that accepts and is silent holds one thread, no more
        self._send: trio.MemorySendChannel[Event]
        self.events: trio.MemoryReceiveChannel[Event]
        self._send, self.events = trio.open_memory_channel[Event](EVENTS_MAX)
        self._owes_resync = False
        self._told_down = False
        self._line: _Line | None = None
        self._lost = trio.Event()
        self.down: str | None = "libvirt was not asked yet"

    @classmethod
    @asynccontextmanager
    async def open(cls, uri: str, hangs_up: Callable[[], None]) -> AsyncIterator[Self]:
        """One that connects by itself, now and whenever it must. It opens even where libvirtd is down: see `down`."""
        await trio.to_thread.run_sync(EVENT_LOOP.enter)
        try:
            async with trio.open_nursery() as nursery:
                connection = cls(uri, nursery, hangs_up)
                await nursery.start(connection._keep_connected)
                try:
                    yield connection
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(EVENT_LOOP.leave)

    async def _keep_connected(self, *, task_status: trio.TaskStatus[None]) -> None:
        retry_s = RETRY_MIN_S
        try:
            while True:
                problem = await self._connect()
                if problem is None:
                    retry_s = RETRY_MIN_S
                    self.deliver(Resync())
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await self._lost.wait()
                    self._say_down("the connection to libvirt broke: libvirtd ended or froze")
                    await self._hang_up()
                else:
                    self._say_down(problem)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    await trio.sleep(retry_s)
                    retry_s = min(2 * retry_s, RETRY_MAX_S)
        finally:
            with trio.CancelScope(shield=True):
                await self._hang_up()

    def _say_down(self, reason: str) -> None:
        """Once for each time that it goes down; the retries stay silent."""
        self.down = reason
        if not self._told_down:
            self._told_down = True
            self.deliver(ConnectionLost(reason))

    async def _connect(self) -> str | None:
        """The reason where it fails."""
        self._lost = trio.Event()
        lost = self._lost
        hint = f"libvirt does not answer at {self._uri}: is libvirtd (or virtqemud) running on this host?"
        given_up = threading.Event()
        dial = partial(self._dial, lost, given_up)
        try:
            with trio.fail_after(CALL_S):
                self._line = await trio.to_thread.run_sync(dial, abandon_on_cancel=True, limiter=self._dialling)
        except trio.TooSlowError:
            given_up.set()
            return f"{hint} No answer in {CALL_S:.0f} s"
        except libvirt.libvirtError as error:
            return f"{hint} ({plain_words(error)})"
        self.down, self._told_down = None, False
        return None

    def _dial(self, lost: trio.Event, given_up: threading.Event) -> "_Line | None":
        """In a worker thread. Events are asked for before anybody can look, so that nothing happens unseen."""
        connection = libvirt.open(self._uri)
        try:
            connection.setKeepAlive(KEEPALIVE_S, KEEPALIVES_MAX)
            connection.registerCloseCallback(self._on_close, lost)
            lifecycle = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
            line = _Line(connection, connection.domainEventRegisterAny(None, lifecycle, self._on_lifecycle, None))
            forget_secrets(connection)
        except libvirt.libvirtError:
            connection.close()
            raise
        if given_up.is_set():  # nobody waits any more: two lines would tell everything twice
            _close(line)
            return None
        return line

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        self._hangs_up()
        if line is not None:
            with trio.move_on_after(CALL_S):
                await trio.to_thread.run_sync(_close, line, abandon_on_cancel=True)

    # ---- libvirt's thread: hand over and return, never raise

    def _on_close(self, _connection: Any, _reason: int, lost: trio.Event) -> None:
        post(self.token, lost.set)

    def _on_lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        name: str = domain.name()
        vm_id = parse_id(name.removeprefix(NAME_PREFIX)) if name.startswith(NAME_PREFIX) else None
        happened = LIFECYCLE.get((event, detail)) or LIFECYCLE.get((event, None))
        if vm_id is not None and happened is not None:
            post(self.token, partial(self.deliver, DomainEvent(VmId(vm_id), *happened)))

    # ---- trio's thread

    def deliver(self, event: Event) -> None:
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            if not self._owes_resync:
                self._owes_resync = True
                self._nursery.start_soon(self._pay_resync)
        except trio.BrokenResourceError:
            pass  # the reader has closed its end: nobody wants to know

    async def _pay_resync(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await self._send.send(Resync())
        self._owes_resync = False

    async def call(self, doing: str, work: Callable[[Any], T], *, changes: bool) -> T:
        """Run `work(connection)` in a thread; `doing` completes "libvirt did not answer while …"."""
        line, began = self._line, False

        def begin() -> T:
            nonlocal began
            if not is_alive(connection):
                raise HypervisorDown("the connection to libvirt broke; it is being made anew")
            began = True
            return work(connection)

        if line is None:
            raise HypervisorDown(self.down or "libvirt is not asked any more")
        connection = line.connection
        try:
            with trio.fail_after(CALL_S):
                return await trio.to_thread.run_sync(begin, abandon_on_cancel=True, limiter=self._calls)
        except trio.TooSlowError:
            raise no_answer(doing, f"in {CALL_S:.0f} s", changes=changes and began) from None
        except libvirt.libvirtError as error:
            if not is_alive(connection):
                raise no_answer(doing, "before its connection broke", changes=changes) from error
            raise translated(error, doing) from error


def post(token: trio.lowlevel.TrioToken, work: Callable[[], None]) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(work)


def _close(line: _Line) -> None:
    """A callback keeps its connection alive: take them off first. On a dead connection some of this fails."""
    connection = line.connection
    for step in (
        partial(connection.domainEventDeregisterAny, line.lifecycle_id),
        connection.unregisterCloseCallback,
        connection.close,
    ):
        with contextlib.suppress(libvirt.libvirtError):
            step()
