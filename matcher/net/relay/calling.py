"""A user's way to hosts that their own datagrams do not reach: a line at a relay, and tunnels through it.

Of the hosts that may be a relay all are tried at once, and the first that answers is it. Nothing is trusted that one
says: what it passes on is signed by whom it is from, and what goes through a tunnel is TLS with the host that is meant.
"""

import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from threading import Thread
from typing import TYPE_CHECKING

from matcher.net.https import CONNECT_S, Connection, Door, Unreachable
from matcher.trust.identity import Identity
from matcher.wire.codec import BadBytes, decode
from matcher.wire.messages import Refused
from matcher.wire.relay import Lent, Place, unpack_passed

if TYPE_CHECKING:
    import ssl

    from matcher.net.web import Web

TRIED_MAX = 8  # hosts that may be a relay, at the same time
OPEN_S = 2.0  # from a connection to the relay's first word
SEND_S = 2.0
SOON_S = 5.0  # a line that ends so soon is not opened again
PIECE_BYTES = 32 * 1024  # of what goes through a tunnel: a relay takes messages of twice that
LENT_MAX_BYTES = 16 * 1024


class NoRelay(Exception):
    """None of those that may be one answers: why, for a person."""


class Calling:
    """`candidates` are the doors that may be a relay's, the likeliest first; one without a host's id may be any host's
    of the realm. `look` finds others where none of them answers. `tell` is called with a sentence for whoever wants to
    know which way it went."""

    def __init__(
        self,
        identity: Identity,
        candidates: Callable[[], Iterable[Door]],
        *,
        look: Callable[[], Iterable[Door]] = tuple,
        is_first: bool = False,
        is_only: bool = False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.is_first = is_first  # it is no use to wait whether somebody answers on the user's own links,
        self.is_only = is_only  # and those are not to be asked
        self.relay: Door | None = None  # the last that had answered
        self.tell = tell
        self._identity, self._candidates, self._look = identity, candidates, look
        self._lost: set[tuple[str, int]] = set()
        self._line: CalledLine | None = None

    @property
    def line(self) -> "CalledLine | None":
        return self._line

    def open(self, tls: "ssl.SSLContext | None" = None) -> "CalledLine":
        """A line at the first that answers; one that was lost is not tried again. Raises `NoRelay`."""
        from matcher.net.web import Broken  # what most commands never need

        self.close()
        tried = [door for door in self._candidates() if (door.address, door.port) not in self._lost][:TRIED_MAX]
        said = "no other host is known here that could be a relay" if self._lost else "no host is known here"
        for door, plain in chain(_connected(tried), _connected(self._found())):
            try:
                self._line = CalledLine(self._identity, door, plain, tls)
            except (Unreachable, Broken) as error:
                said = str(error)
                continue
            self.relay = self._line.door
            self.tell(f"asking through {self.relay.host} ({self.relay.address}), a relay")
            return self._line
        raise NoRelay(f"none of {', '.join(d.host or d.address for d in tried)} answers" if tried else said)

    def _found(self) -> Iterator[Door]:
        """Not before somebody wants them: it takes a while to look."""
        yield from (door for door in self._look() if (door.address, door.port) not in self._lost)

    def lost(self, why: str) -> None:
        """The relay does not answer any more. One that has done so for a while is tried again: it ends lines that are
        silent, and may have been started anew."""
        if self.relay is not None:
            self.tell(f"the relay {self.relay.host} is lost: {why}")
            if self._line is None or time.monotonic() - self._line.opened_s < SOON_S:
                self._lost.add((self.relay.address, self.relay.port))
            self.relay = None
        self.close()

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def tunnel(self, door: Door, timeout_s: float, tls: "ssl.SSLContext | None" = None) -> socket.socket:
        """A socket whose other end is that door. Raises `OSError`; nothing has been said to the host then."""
        from matcher.net.web import Broken, Web

        for _ in range(2):
            if self.relay is None:
                try:
                    self.open(tls)
                except NoRelay as error:
                    raise OSError(f"and no relay does it: {error}") from error
            relay = self.relay
            assert relay is not None
            self.tell(f"{door.host or door.address}: through {relay.host}")
            connection = Connection(self._identity, relay, timeout_s=timeout_s, tls=tls)
            try:
                web = Web(connection, f"/v1/hosts/{door.host_id}/door?port={door.port}")
            except Unreachable as error:
                self.lost(str(error))
                continue
            except Broken as error:
                raise OSError(f"through {error}") from error
            near, far = socket.socketpair()
            Thread(target=_pump, args=(web, far), daemon=True).start()
            return near
        raise OSError("no relay answers any more")


class CalledLine:
    """Raises `Unreachable` or `Broken`."""

    def __init__(self, identity: Identity, door: Door, plain: socket.socket, tls: "ssl.SSLContext | None") -> None:
        from matcher.net.web import Broken, Web

        connection = Connection(identity, door, timeout_s=OPEN_S, tls=tls, dial=lambda *_: plain)
        self._web = Web(connection, "/v1/relay")
        self.door = connection.door  # with the id and the name of the host that it is
        try:
            self.places: tuple[Place, ...] = decode(Lent, self._web.first(OPEN_S), max_bytes=LENT_MAX_BYTES).places
        except BadBytes as error:
            self.close()
            raise Broken(f"{self.door.host}: {error}") from error
        except Broken:
            self.close()
            raise
        self.refused: Refused | None = None  # the last no
        self.opened_s = time.monotonic()

    def fileno(self) -> int:
        return self._web.fileno()

    def close(self) -> None:
        self._web.close()

    def ask(self, datagram: bytes) -> None:
        """Raises `Broken`."""
        self._web.send(datagram, SEND_S)

    def hear(self) -> Iterator[tuple[str, bytes]]:
        """What has come: addresses, which nobody has signed, and answers. Raises `Broken` at the end."""
        for message in self._web.receive():
            if isinstance(message, Refused):
                self.refused = message
                continue
            with suppress(BadBytes):
                yield unpack_passed(message)


def _connected(doors: Iterable[Door]) -> Iterator[tuple[Door, socket.socket]]:
    """Those that take a connection, as they do; all are asked at once. The others' are closed."""
    with selectors.DefaultSelector() as selector:
        for door in doors:
            with suppress(OSError):
                family, _, _, _, there = socket.getaddrinfo(door.address, door.port, type=socket.SOCK_STREAM)[0]
                plain = socket.socket(family, socket.SOCK_STREAM)
                plain.setblocking(False)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.connect_ex(there)
                selector.register(plain, selectors.EVENT_WRITE, door)
        end_s = time.monotonic() + CONNECT_S
        try:
            while selector.get_map() and (left_s := end_s - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    selector.unregister(ready)
                    if ready.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        ready.close()
                        continue
                    ready.settimeout(OPEN_S)
                    yield key.data, ready
        finally:
            for key in [*selector.get_map().values()]:
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()


def _pump(web: "Web", far: socket.socket) -> None:
    """Both ways, until either side ends it: in a thread of its own, as what speaks TLS at the other end may block."""
    from matcher.net.web import Broken

    with far, selectors.DefaultSelector() as selector, suppress(OSError, Broken):
        selector.register(far, selectors.EVENT_READ)
        selector.register(web.fileno(), selectors.EVENT_READ)
        try:
            while True:
                for message in web.receive():
                    if isinstance(message, bytes):
                        far.sendall(message)
                for key, _ in selector.select():
                    if key.fileobj is far:
                        data = far.recv(PIECE_BYTES)
                        if not data:
                            return
                        web.send(data)
        finally:
            web.close()
