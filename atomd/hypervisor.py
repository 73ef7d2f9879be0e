"""libvirt, behind one door: the only file that imports it.

    async with Hypervisor.open() as hypervisor:
        await hypervisor.start(domain_xml(spec))
        async for event in hypervisor.events: ...

Every call runs in a worker thread and has 30 s. Past that, or when the connection breaks meanwhile, a change is
`Unknown`, never failed: a create that was given up on may still succeed minutes later. libvirt's events come from one
thread of its own into one bounded channel. When libvirtd dies the VMs live on: `ConnectionLost` is said once, the
connection is made anew, and then `Resync`.

Only domains that bear our name can be started, stopped or looked into: a client chooses its vm_id, and must not reach
a sysadmin's own domain by choosing that one's UUID.
"""

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, Self, TypeVar

import libvirt
import trio
from lxml import etree

from atomd.disk_xml import NAME_PREFIX, Disks, one_disk_xml, secret_xml
from atomd.domain_xml import GUEST_AGENT, NAMESPACE, PLATFORMS, domain_name, read_tag, vm_id_of
from atomd.domains import (
    UNPLUG_S,
    Capabilities,
    ConnectionLost,
    ConsoleBusy,
    DomainEvent,
    DomainExists,
    DomainSecret,
    DomainState,
    Event,
    HypervisorDown,
    HypervisorError,
    NoDomain,
    NoNetwork,
    NotNow,
    NotPlugged,
    ObservedDomain,
    Resync,
    StartFailed,
    Unknown,
    What,
    Why,
)
from atomd.libvirt_words import explain_plug, explain_start, plain
from matcher.wire.messages import Firmware
from matcher.wire.volumes import AttachedVolume
from specs.ids import VmId, parse_id

CALL_S = 30.0
CALLS_MAX = 8  # at once; libvirt itself serves as many clients' calls in parallel
EVENTS_MAX = 1024  # beyond these a `Resync` stands for the lost ones
CONSOLES_MAX = 64
CONSOLE_BUFFER_MAX_BYTES = 256 * 1024
CHUNK_BYTES = 16 * 1024
KEEPALIVE_S = 2  # a frozen libvirtd frees its callers after KEEPALIVE_S * KEEPALIVES_MAX
KEEPALIVES_MAX = 3
UNPLUG_LOOK_S = 0.1
RETRY_MIN_S = 0.1
RETRY_MAX_S = 5.0
AGENT_S = 2  # the guest's agent is the guest's: it may never answer
ADDRESSES_MAX = 16

T = TypeVar("T")

# Without this, libvirt writes every error on stderr, those that we expect too.
libvirt.registerErrorHandler(lambda _context, _error: None, None)


class _EventLoop:
    """libvirt's event loop, in one thread for as long as anybody needs it. It sleeps until something happens; a timer
    that never fires by itself wakes it to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._timer: int | None = None
        self._stopping = False

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._thread is not None:
                return
            if self._timer is None:  # once a process, before any connection
                libvirt.virEventRegisterDefaultImpl()
                self._timer = libvirt.virEventAddTimeout(-1, self._wake, None)
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)
            self._thread.start()

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users or self._thread is None:
                return
            self._stopping = True
            libvirt.virEventUpdateTimeout(self._timer, 0)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stopping:
            libvirt.virEventRunDefaultImpl()

    def _wake(self, timer: int, _opaque: object) -> None:
        libvirt.virEventUpdateTimeout(timer, -1)


_EVENT_LOOP = _EventLoop()


@dataclass(frozen=True, slots=True)
class _Line:
    connection: Any
    lifecycle_id: int  # of the registered callback


class Hypervisor:
    """This host's domains. Make it by `open`."""

    def __init__(self, uri: str, nursery: trio.Nursery) -> None:
        self._uri = uri
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._calls = trio.CapacityLimiter(CALLS_MAX)
        self._dialling = trio.CapacityLimiter(1)  # a libvirtd that accepts and is silent holds one thread, no more
        self._send: trio.MemorySendChannel[Event]
        self.events: trio.MemoryReceiveChannel[Event]
        self._send, self.events = trio.open_memory_channel[Event](EVENTS_MAX)
        self._owes_resync = False
        self._told_down = False
        self._line: _Line | None = None
        self._lost = trio.Event()
        self._consoles: set[LibvirtConsole] = set()
        self.down: str | None = "libvirt was not asked yet"

    @classmethod
    @asynccontextmanager
    async def open(cls, uri: str = "qemu:///system") -> AsyncIterator[Self]:
        """A hypervisor that connects by itself, now and whenever it must. It opens even where libvirtd is down: see
        `down`."""
        await trio.to_thread.run_sync(_EVENT_LOOP.enter)
        try:
            async with trio.open_nursery() as nursery:
                hypervisor = cls(uri, nursery)
                await nursery.start(hypervisor._keep_connected)
                try:
                    yield hypervisor
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_EVENT_LOOP.leave)

    # ---- the connection

    async def _keep_connected(self, *, task_status: trio.TaskStatus[None]) -> None:
        retry_s = RETRY_MIN_S
        try:
            while True:
                problem = await self._connect()
                if problem is None:
                    retry_s = RETRY_MIN_S
                    self._deliver(Resync())
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
            self._deliver(ConnectionLost(reason))

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
            return f"{hint} ({_plain(error)})"
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
            _forget_secrets(connection)
        except libvirt.libvirtError:
            connection.close()
            raise
        if given_up.is_set():  # nobody waits any more: two lines would tell everything twice
            _close(line)
            return None
        return line

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        for console in tuple(self._consoles):
            console.end()
        if line is not None:
            with trio.move_on_after(CALL_S):
                await trio.to_thread.run_sync(_close, line, abandon_on_cancel=True)

    # ---- libvirt's thread: hand over and return, never raise

    def _on_close(self, _connection: Any, _reason: int, lost: trio.Event) -> None:
        _post(self._token, lost.set)

    def _on_lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        name: str = domain.name()
        vm_id = parse_id(name.removeprefix(NAME_PREFIX)) if name.startswith(NAME_PREFIX) else None
        happened = _LIFECYCLE.get((event, detail)) or _LIFECYCLE.get((event, None))
        if vm_id is not None and happened is not None:
            _post(self._token, partial(self._deliver, DomainEvent(VmId(vm_id), *happened)))

    # ---- trio's thread

    def _deliver(self, event: Event) -> None:
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

    async def _call(self, doing: str, work: Callable[[Any], T], *, changes: bool) -> T:
        """Run `work(connection)` in a thread; `doing` completes "libvirt did not answer while …"."""
        line, began = self._line, False

        def begin() -> T:
            nonlocal began
            if not _is_alive(connection):
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
            raise _no_answer(doing, f"in {CALL_S:.0f} s", changes=changes and began) from None
        except libvirt.libvirtError as error:
            if not _is_alive(connection):
                raise _no_answer(doing, "before its connection broke", changes=changes) from error
            raise _translated(error, doing) from error

    # ---- domains

    async def domains(self) -> tuple[ObservedDomain, ...]:
        """All on this host, those that are not ours too."""
        return await self._call("listing domains", _observe_all, changes=False)

    async def start(self, xml: str, secrets: Sequence[DomainSecret] = (), *, paused: bool = False) -> None:
        """Start a transient domain: when it ends, it is gone. Returns once its vCPUs run, or could. QEMU keeps the
        secrets to itself, to connect anew; libvirt has them for the length of this call."""
        vm_id = vm_id_of(xml)
        create = partial(_create, xml=xml, vm_id=vm_id, secrets=secrets, paused=paused)
        await self._call(f"starting {domain_name(vm_id)}", create, changes=True)

    async def shutdown(self, vm_id: VmId) -> None:
        await self._on_domain("shutting down", vm_id, lambda domain: domain.shutdown())

    async def reboot(self, vm_id: VmId) -> None:
        await self._on_domain("rebooting", vm_id, lambda domain: domain.reboot())

    async def resume(self, vm_id: VmId) -> None:
        await self._on_domain("resuming", vm_id, lambda domain: domain.resume())

    async def destroy(self, vm_id: VmId) -> None:
        await self._on_domain("destroying", vm_id, _destroy)

    async def plug(self, vm_id: VmId, volume: AttachedVolume, secrets: Sequence[DomainSecret] = ()) -> None:
        """A domain is transient: what it has now is all that libvirt has to know."""
        plug = partial(_plug, vm_id=vm_id, volume=volume, secrets=secrets)
        await self._call(f"giving {domain_name(vm_id)} a disk", plug, changes=True)

    async def unplug(self, vm_id: VmId, vid: str, *, asks: bool) -> bool:
        """libvirt tells a guest and waits for none; so it is looked at until the guest has obeyed."""
        doing = f"looking at the disks of {domain_name(vm_id)}"
        look = partial(_is_without, vm_id=vm_id, vid=vid)
        if await self._call(doing, partial(look, settles=True), changes=False):
            return True
        if asks:
            ask = partial(_ask_to_let_go, vm_id=vm_id, vid=vid)
            with contextlib.suppress(NotNow, NoDomain):  # it is being let go of, or has been; the look tells
                await self._call(f"taking a disk from {domain_name(vm_id)}", ask, changes=True)
            for _ in range(round(UNPLUG_S / UNPLUG_LOOK_S)):
                if await self._call(doing, look, changes=False):
                    return True
                await trio.sleep(UNPLUG_LOOK_S)
        return False

    async def _on_domain(self, doing: str, vm_id: VmId, work: Callable[[Any], object]) -> None:
        await self._call(f"{doing} {domain_name(vm_id)}", lambda c: work(_find(c, vm_id)), changes=True)

    async def addresses(self, vm_id: VmId) -> tuple[str, ...]:
        """From the DHCP leases of the VM's network; where there are none, from the guest's agent, if it has one."""
        return await self._call("reading addresses", lambda c: _addresses(_find(c, vm_id)), changes=False)

    async def open_console(self, vm_id: VmId, *, force: bool = False) -> "LibvirtConsole":
        if len(self._consoles) >= CONSOLES_MAX:
            raise ConsoleBusy(f"{CONSOLES_MAX} consoles are open on this host already; close one")
        console = LibvirtConsole(self._token, self._call, self._consoles.discard)
        self._consoles.add(console)
        try:
            await console.attach(vm_id, force=force)
        except BaseException:
            self._consoles.discard(console)
            raise
        return console

    # ---- the host

    async def capabilities(self) -> Capabilities:
        return await self._call("reading capabilities", _capabilities, changes=False)

    async def ensure_network(self, name: str) -> None:
        await self._call(f"starting the network {name}", partial(_start_network, name=name), changes=True)


class LibvirtConsole:
    """A guest's serial terminal, as an async byte stream. libvirt's thread reads it at once, always: whatever is not
    read would pile up inside libvirt, without a bound."""

    def __init__(
        self,
        token: trio.lowlevel.TrioToken,
        call: Callable[..., Any],
        forget: Callable[["LibvirtConsole"], None],
    ) -> None:
        self._token, self._call, self._forget = token, call, forget
        self._stream: Any = None
        self._buffer = bytearray()
        self._ended = False
        self._news = trio.Event()
        self.dropped_bytes = 0  # by a reader that was too slow

    async def attach(self, vm_id: VmId, *, force: bool) -> None:
        flags = libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0

        def work(connection: Any) -> Any:
            domain = _find(connection, vm_id)
            stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            domain.openConsole(None, stream, flags)
            wanted = (
                libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
            )
            stream.eventAddCallback(wanted, self._on_ready, None)
            return stream

        self._stream = await self._call(f"opening the console of {domain_name(vm_id)}", work, changes=False)

    def _on_ready(self, stream: Any, _events: int, _opaque: object) -> None:
        """In libvirt's thread. An ended stream is ready for ever: stop listening, or it spins."""
        data, ended = _drain(stream)
        if ended:
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
        _post(self._token, partial(self._arrived, data, ended))

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
                sent = await self._call("typing", lambda _, now=chunk: self._stream.send(now), changes=False)
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


# ---- in worker threads, with a connection


def _post(token: trio.lowlevel.TrioToken, work: Callable[[], None]) -> None:
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


def _abort(stream: Any) -> None:
    for step in (stream.eventRemoveCallback, stream.abort):
        with contextlib.suppress(libvirt.libvirtError):
            step()


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


def _is_alive(connection: Any) -> bool:
    """One that another thread has closed meanwhile is no connection at all."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def _find(connection: Any, vm_id: VmId) -> Any:
    """By name, not by UUID: the name is ours alone."""
    return connection.lookupByName(domain_name(vm_id))


def _create(connection: Any, *, xml: str, vm_id: VmId, secrets: Sequence[DomainSecret], paused: bool) -> None:
    try:
        with _secrets(connection, secrets):
            connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)
    except libvirt.libvirtError as error:
        if not _is_alive(connection):
            raise
        with contextlib.suppress(libvirt.libvirtError):
            if _find(connection, vm_id).isActive():
                raise DomainExists(f"{domain_name(vm_id)} runs already") from error
        raise StartFailed(explain_start(_plain(error))) from error


def _plug(connection: Any, *, vm_id: VmId, volume: AttachedVolume, secrets: Sequence[DomainSecret]) -> None:
    """The secrets as for a start: see `_create`."""
    domain = _find(connection, vm_id)
    disks = Disks(domain.XMLDesc())
    if disks.has(volume.vid):
        return
    with _secrets(connection, secrets):
        try:
            domain.attachDeviceFlags(one_disk_xml(volume, vm_id, disks.names), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except StartFailed as error:
            raise NotPlugged(str(error)) from error
        except libvirt.libvirtError as error:
            if not _is_alive(connection) or error.get_error_code() in _NOT_SURE:
                raise
            raise NotPlugged(explain_plug(_plain(error))) from error


def _ask_to_let_go(connection: Any, *, vm_id: VmId, vid: str) -> None:
    domain = _find(connection, vm_id)
    disks = Disks(domain.XMLDesc())
    if (empty := disks.without_disc(vid)) is not None:
        domain.updateDeviceFlags(empty, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    elif disks.has(vid):
        domain.detachDeviceAlias(disks.alias(vid), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _is_without(connection: Any, *, vm_id: VmId, vid: str, settles: bool = False) -> bool:
    """`settles`: not before a change that is under way has ended, such as one of an atomd that has died in it. Changes
    of a domain wait for each other, one that names nothing too."""
    try:
        domain = _find(connection, vm_id)
        if settles:
            try:
                domain.detachDeviceAlias("ua-none", libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as error:
                if not _is_alive(connection) or error.get_error_code() in _NOT_SURE:
                    raise
        return not Disks(domain.XMLDesc()).has(vid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return True
        raise


@contextlib.contextmanager
def _secrets(connection: Any, secrets: Sequence[DomainSecret]) -> Iterator[None]:
    """libvirt has them meanwhile."""
    kept = []
    try:
        for secret in secrets:
            kept.append(connection.secretDefineXML(secret_xml(secret.usage)))
            kept[-1].setValue(secret.value.encode())
        yield
    finally:
        for each in kept:
            with contextlib.suppress(libvirt.libvirtError):  # it goes with libvirtd at the latest
                each.undefine()


def _forget_secrets(connection: Any) -> None:
    """Those that an atomd which died in a start has left. A start that is under way on another connection may lose
    its own, and fails; that connection has broken, and its start is unknown and comes again."""
    with contextlib.suppress(libvirt.libvirtError):  # a libvirtd without secrets has none of ours
        for secret in connection.listAllSecrets(0):
            if secret.usageID().startswith(NAME_PREFIX):
                secret.undefine()


def _destroy(domain: Any) -> None:
    """A libvirtd that has just come back may find the domain gone under its hands: QEMU has ended, which is what was
    asked for. (No event tells of it then.)"""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _observe_all(connection: Any) -> tuple[ObservedDomain, ...]:
    observed = (_observe(domain) for domain in connection.listAllDomains(0))
    return tuple(domain for domain in observed if domain is not None)


def _observe(domain: Any) -> ObservedDomain | None:
    """`None` where it ended while we looked."""
    try:
        state, because = domain.state()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    try:
        metadata = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
    except libvirt.libvirtError:
        metadata = None
    name = domain.name()
    vm_id = VmId(domain.UUIDString().replace("-", ""))
    tag = read_tag(metadata or "")
    agrees = tag.vm_id == vm_id and name == domain_name(vm_id)
    return ObservedDomain(
        vm_id=vm_id,
        name=name,
        generation=tag.generation if agrees else None,
        user_id=tag.user_id if agrees else None,
        state=_STATES.get(state, DomainState.UNKNOWN),
        ours=name.startswith(NAME_PREFIX) or metadata is not None,
        why=_PAUSED.get(because) if state == libvirt.VIR_DOMAIN_PAUSED else None,
    )


def _addresses(domain: Any) -> tuple[str, ...]:
    leased = _interface_addresses(domain, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
    if leased or GUEST_AGENT not in domain.XMLDesc():
        return leased
    with contextlib.suppress(libvirt.libvirtError):
        domain.agentSetResponseTimeout(AGENT_S)
        return _interface_addresses(domain, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    return ()


def _interface_addresses(domain: Any, source: int) -> tuple[str, ...]:
    """The guest may say what it likes: only what is an address, and of use to somebody else, is taken."""
    found = {}
    for interface in domain.interfaceAddresses(source).values():
        for entry in interface.get("addrs") or ():
            with contextlib.suppress(ValueError):
                address = ip_address(entry["addr"])
                if not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast):
                    found[str(address)] = address.version
    return tuple(sorted(found, key=lambda text: (found[text], text)))[:ADDRESSES_MAX]


def _capabilities(connection: Any) -> Capabilities:
    everything = etree.fromstring(connection.getCapabilities())
    emulated = {arch.get("name") for arch in everything.iterfind("guest/arch")}
    host = everything.findtext("host/cpu/arch") or ""
    return Capabilities(
        hypervisor_version=_version(connection.getVersion()),
        libvirt_version=_version(connection.getLibVersion()),
        host_arch=host,
        archs=frozenset(arch for arch, platform in PLATFORMS.items() if platform.libvirt_arch in emulated),
        firmwares=_firmwares(connection, host),
    )


def _firmwares(connection: Any, host_arch: str) -> frozenset[Firmware]:
    platform = next((p for p in PLATFORMS.values() if p.libvirt_arch == host_arch), None)
    if platform is None:
        return frozenset()
    known = etree.fromstring(connection.getDomainCapabilities(None, host_arch, platform.machine, "qemu", 0))
    offered = {value.text for value in known.iterfind("os/enum[@name='firmware']/value")}
    uefi = "efi" in offered and platform.has_uefi
    return frozenset({Firmware.BIOS} if not platform.uefi_only else set()) | ({Firmware.UEFI} if uefi else set())


def _start_network(connection: Any, *, name: str) -> None:
    hint = "define it, or name another one in atomd's configuration"
    try:
        network = connection.networkLookupByName(name)
    except libvirt.libvirtError as error:
        raise NoNetwork(f"libvirt has no network {name!r}: {hint}") from error
    try:
        if not network.isActive():
            network.create()
    except libvirt.libvirtError as error:
        if _is_alive(connection) and not network.isActive():
            raise NoNetwork(f"libvirt can't start its network {name!r}: {_plain(error)}") from error


# ---- libvirt's words to ours


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _plain(error: Any) -> str:
    return plain(error.get_error_message() or str(error))


def _no_answer(doing: str, how_long: str, *, changes: bool) -> HypervisorError:
    text = f"libvirt did not answer {how_long}, while {doing}"
    if changes:
        return Unknown(f"{text}: it may have happened or may still happen")
    return HypervisorDown(text)


def _translated(error: Any, doing: str) -> HypervisorError:
    code, words = error.get_error_code(), _plain(error)
    if code == libvirt.VIR_ERR_NO_DOMAIN or "domain is not running" in words:
        return NoDomain(f"{doing}: there is no such domain on this host")
    if "Active console session exists" in words:
        return ConsoleBusy("somebody is at this console already; --force takes it over")
    return NotNow(f"{doing}: {words}")


# Another change of the domain was under way for too long, or QEMU does not answer.
_NOT_SURE = frozenset({libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_AGENT_UNRESPONSIVE})

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.SHUTTING_DOWN,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
}

_PAUSED = {libvirt.VIR_DOMAIN_PAUSED_USER: Why.ASKED, libvirt.VIR_DOMAIN_PAUSED_IOERROR: Why.IO_ERROR}

_LIFECYCLE: dict[tuple[int, int | None], tuple[What, Why | None, str]] = {
    (libvirt.VIR_DOMAIN_EVENT_STARTED, None): (What.STARTED, None, ""),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, None): (What.PAUSED, Why.ASKED, "paused by somebody on this host"),
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR): (
        What.PAUSED,
        Why.IO_ERROR,
        "paused: a volume can't be read or written",
    ),
    (libvirt.VIR_DOMAIN_EVENT_RESUMED, None): (What.RESUMED, None, ""),
    # A shutdown by the HOST is QEMU obeying a destroy: its `STOPPED` says all.
    (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST): (What.SHUTTING_DOWN, None, ""),
    (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_FINISHED): (What.SHUTTING_DOWN, None, ""),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, None): (What.STOPPED, Why.OTHER, "saved or moved by somebody on this host"),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN): (
        What.STOPPED,
        Why.POWERED_OFF,
        "the guest powered off",
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED): (
        What.STOPPED,
        Why.DESTROYED,
        "the domain was destroyed",
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED): (
        What.STOPPED,
        Why.CRASHED,
        "the guest crashed",
    ),
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED): (
        What.STOPPED,
        Why.FAILED,
        "QEMU ended by itself",
    ),
    (libvirt.VIR_DOMAIN_EVENT_CRASHED, None): (What.CRASHED, Why.CRASHED, "the guest's kernel panicked"),
}
