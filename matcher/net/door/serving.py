"""The door itself: sockets, TLS, and who goes where. What fails before a request is silence and a counter.

    accept -> silent share -> first byte -> shaking share -> TLS 1.3 -> join ALPN?   -> joining
                                                                     -> certificate? -> HTTP
                                                                     -> neither: the end

A task for each connection. Nothing of what a stranger does is logged, and nothing that one connection raises ends the
door.
"""

import errno
import logging
import resource
import socket
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import trio

from matcher.net.door.admission import Limits, Places, Share
from matcher.net.door.asking import Handler
from matcher.net.door.behind import Board, Desk, Host, Neighbours, Relay, Store
from matcher.net.door.conversing import Conversation
from matcher.net.door.describing import OPENAPI, described
from matcher.net.door.entrance import Denial, Entrance, Line
from matcher.net.door.hosts_rooms import HostsRooms
from matcher.net.door.joining import Joins
from matcher.net.door.realm_rooms import BoardRooms, RealmRooms
from matcher.net.door.relay_rooms import RelayRooms
from matcher.net.door.rooms import Rooms
from matcher.net.door.secured import Plain, Secured
from matcher.net.door.volume_rooms import VolumeRooms
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity, pem_to_der, server_tls
from matcher.trust.joining import ALPN

PORT = 7766
BACKLOG = 4096  # the kernel has its own limit, which is often that
HTTP = "http/1.1"
NO_FILES_S = 0.1  # where the kernel gives no more of them, until connections have ended

log = logging.getLogger("door")


@dataclass(frozen=True, slots=True)
class Opened:
    """What `serve` tells once it listens: the port, and the counters of what was turned away."""

    port: int
    counters: Counter[str]


async def serve(
    identity: Identity,
    host: Host | None = None,
    desk: Desk | None = None,
    *,
    board: Board | None = None,
    store: Store | None = None,
    relay: Relay | None = None,
    neighbours: Neighbours | None = None,
    port: int = PORT,
    limits: Limits = Limits(),  # noqa: B008  frozen
    task_status: trio.TaskStatus[Opened] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, on IPv4 and IPv6; started once the sockets listen. `port` 0: any that is free.

    The door has the routes of what stands behind it: VMs, the realm (a desk, or the board of a host that issues
    nothing), volumes, those of a relay, and of all hosts.
    Raises `OSError` where it can't listen, or the identity's files can't be read.
    """
    _allow_files()
    around = RelayRooms(relay).handlers() if relay is not None else {}
    if neighbours is not None:
        around |= HostsRooms(neighbours).handlers()
    door = _Door(identity, _handlers(identity, host, desk, board, store, around), _denied(desk, store), desk, limits)
    listening = _listening(port)
    async with trio.open_nursery() as nursery:
        for each in listening:
            nursery.start_soon(door.accept, trio.socket.from_stdlib_socket(each), nursery)
        nursery.start_soon(door.watch)
        task_status.started(Opened(listening[0].getsockname()[1], door.counters))


def _handlers(
    identity: Identity,
    host: Host | None,
    desk: Desk | None,
    board: Board | None,
    store: Store | None,
    around: Mapping[str, Handler],
) -> Mapping[str, Handler]:
    handlers: dict[str, Handler] = {**around}
    if board is not None:
        handlers |= BoardRooms(board).handlers()
    if host is not None:
        handlers |= Rooms(host, identity.verifier).handlers()
    if desk is not None:
        handlers |= RealmRooms(desk).handlers()
    if store is not None:
        handlers |= VolumeRooms(store).handlers()
    return handlers | described({*handlers, OPENAPI})


def _denied(desk: Desk | None, store: Store | None) -> Denial:
    behind = desk or store
    return behind.denied if behind is not None else lambda *_: None


@dataclass(eq=False, slots=True)
class _Guest:
    """A connection before anything is known of it."""

    address: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class _Door:
    def __init__(
        self, identity: Identity, handlers: Mapping[str, Handler], denied: Denial, desk: Desk | None, limits: Limits
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._identity, self._desk, self._limits = identity, desk, limits
        self._tls = _Contexts(identity)
        self._tls.get(joining=False)
        self._joins = Joins(desk, limits, self.counters) if desk is not None else None
        self._entrance = Entrance(identity, handlers, denied, limits, self.counters)
        self._silent = Share[_Guest](limits.silent_max, limits.per_address_max)
        self._shaking = Share[_Guest](limits.shaking_max, limits.per_address_max)
        self._joining = Share[_Guest](limits.joining_max, limits.joining_per_address_max)
        self._refused = Share[Line](limits.refused_max, limits.per_address_max)
        self._places = Places(limits.connections_max, limits.connections_per_member_max)
        self._lines: set[Line] = set()  # of members, for as long as they are that

    async def accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        with listener:
            while True:
                try:
                    plain, source = await listener.accept()
                except OSError as error:  # it is gone already; or there are no more files
                    self.counters[f"accept {error.errno}"] += 1
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        await trio.sleep(NO_FILES_S)
                    continue
                nursery.start_soon(self._receive, plain, source[0])

    async def watch(self) -> None:
        """End the sessions of those who were revoked, or whose leaf has expired, while they last."""
        while True:
            await trio.sleep(self._limits.watch_s)
            wall_s = time.time()
            for line in [line for line in self._lines if not line.lasting and not self._is_good(line.leaf, wall_s)]:
                self.counters["revoked sessions"] += 1
                line.scope.cancel()

    # ---- one connection

    async def _receive(self, plain: trio.socket.SocketType, address: str) -> None:
        """From the first moment to the last; nothing is raised."""
        try:
            with plain:
                await self._welcome(plain, _Guest(address))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):  # ssl.SSLError too
            self.counters["broken connections"] += 1
        except Exception:
            self.counters["faults"] += 1
            log.exception("a fault of ours, on a connection")

    async def _welcome(self, plain: trio.socket.SocketType, guest: _Guest) -> None:
        guest.scope.deadline = trio.current_time() + self._limits.handshake_s
        secured: Secured | None = None
        with guest.scope:
            await self._speaks(plain, guest)
            tls = self._tls.get(joining=self._desk is not None and self._desk.is_joining())
            secured = Secured(Plain(plain), tls.context)
            if not await self._shakes(secured, guest):
                return
        if guest.scope.cancelled_caught:
            self.counters["slow or pushed out"] += 1
            return
        assert secured is not None
        async with secured:
            if secured.alpn == ALPN:
                await self._join(secured, tls.leaf, guest.address)
            elif secured.leaf:
                await self._converse(secured, Line(guest.address, secured.leaf))
            else:
                self.counters["no certificate"] += 1

    async def _speaks(self, plain: trio.socket.SocketType, guest: _Guest) -> None:
        """Until anything comes at all, a connection costs no TLS."""
        self._enter(self._silent, guest)
        try:
            await trio.lowlevel.wait_readable(plain)
        finally:
            self._silent.leave(guest)

    async def _shakes(self, secured: Secured, guest: _Guest) -> bool:
        self._enter(self._shaking, guest)
        try:
            await secured.handshake()
        except ssl.SSLError as error:
            self.counters[f"tls {error.reason or 'error'}".lower()] += 1
            return False
        finally:
            self._shaking.leave(guest)
        return True

    def _enter(self, share: Share[_Guest], guest: _Guest) -> None:
        out = share.enter(guest, guest.address)
        if out is not None:
            self.counters["strangers pushed out"] += 1
            out.scope.cancel()

    async def _join(self, secured: Secured, server_leaf: bytes, address: str) -> None:
        assert self._joins is not None, "the ALPN is shown where there is a desk"
        guest = _Guest(address)
        self._enter(self._joining, guest)
        try:
            with guest.scope:
                await self._joins.serve(secured, server_leaf, address)
        finally:
            self._joining.leave(guest)

    async def _converse(self, secured: Secured, line: Line) -> None:
        """A member's requests; or the answer that they are none any more, from a share of its own."""
        answer = partial(self._entrance.answer, line)
        conversation = Conversation(secured, line.address, answer, lambda: line.uploads, self._limits, self.counters)
        if not self._is_good(line.leaf, time.time()):
            await self._refuse(conversation, line)
            return
        member_id = self._identity.verifier.certified(line.leaf).principal.id
        if self._places.enter(member_id) is not None:
            self.counters["too many connections"] += 1
            return
        self._lines.add(line)
        try:
            with line.scope:
                await conversation.run()
        finally:
            self._lines.discard(line)
            self._places.leave(member_id)

    async def _refuse(self, conversation: Conversation, line: Line) -> None:
        self.counters["revoked connections"] += 1
        out = self._refused.enter(line, line.address)
        if out is not None:
            out.scope.cancel()
        try:
            with line.scope:
                await conversation.run()
        finally:
            self._refused.leave(line)

    def _is_good(self, leaf: bytes, wall_s: float) -> bool:
        try:
            self._identity.verifier.principal(leaf, wall_s)
        except Untrusted:
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Tls:
    context: ssl.SSLContext
    leaf: bytes  # DER, as this context shows it
    version: int


class _Contexts:
    """The TLS context for each state of the door, made anew when the identity has changed."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._made: dict[bool, _Tls] = {}

    def get(self, *, joining: bool) -> _Tls:
        """Raises `OSError` where there is none yet; a new one that can't be made leaves the old one in place."""
        made = self._made.get(joining)
        if made is not None and made.version == self._identity.version:
            return made
        try:
            made = self._make(joining)
        except (OSError, Untrusted) as error:
            if made is None:
                raise
            log.warning("the renewed certificate can't be used yet: %s", error)
            made = _Tls(made.context, made.leaf, self._identity.version)
        self._made[joining] = made
        return made

    def _make(self, joining: bool) -> _Tls:
        version, path = self._identity.version, self._identity.folder / "leaf.pem"
        leaf = None
        while leaf != (leaf := pem_to_der(path.read_text())):  # another process may put a new one there meanwhile
            context = server_tls(self._identity, joining=joining)
        context.set_alpn_protocols([ALPN, HTTP] if joining else [HTTP])
        return _Tls(context, leaf, version)


def _listening(port: int) -> list[socket.socket]:
    """IPv4 and IPv6 each on a socket of its own, on one port; IPv6 may be missing on a machine."""
    first = _listen(socket.AF_INET, port)
    if not socket.has_dualstack_ipv6():
        return [first]
    try:
        return [first, _listen(socket.AF_INET6, first.getsockname()[1])]
    except OSError:
        first.close()
        raise


def _listen(family: socket.AddressFamily, port: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listening.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104  users come by any link
    except OSError:
        listening.close()
        raise
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening


def _allow_files() -> None:
    """As many open files as the machine gives: an idle flood must not be what uses them up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
