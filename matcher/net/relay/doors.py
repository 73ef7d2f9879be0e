"""Tunnels: a user's TLS with another host, passed on as bytes. Where to, the relay knows, and never the user says.

A user names a host and a port. The port is one that this host itself has signed, in gossip or in an answer that has
come through here; the address is where that host was heard. So nobody can have the relay connect to anything but front
doors of the realm; and who is behind them, the user's TLS finds out.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

import trio

from matcher.gossip.membership import Seen
from matcher.net.door.admission import Places
from matcher.wire.gossip import HostState
from matcher.wire.messages import Address, Reason, Refused

DOORS_MAX = 4096
TUNNELS_MAX = 128
TUNNELS_PER_USER_MAX = 16
CONNECT_S = 3.0
IDLE_S = 3600.0  # a console may be silent for long
TUNNEL_MAX_BYTES = 1 << 42  # the largest volume, and more
READ_BYTES = 32 * 1024  # a message of a WebSocket

_LIVE = (HostState.ALIVE, HostState.SUSPECT)


class Doors:
    """`members`: those that gossip knows."""

    def __init__(self, members: Callable[[], Iterable[Seen]]) -> None:
        self._members = members
        self._heard: OrderedDict[tuple[str, int], str] = OrderedDict()
        self._places = Places(TUNNELS_MAX, TUNNELS_PER_USER_MAX)

    def note(self, host_id: str, port: int, address: str) -> None:
        """This host has signed that its door is there, and was heard at this address."""
        key = host_id, port
        self._heard[key] = address
        self._heard.move_to_end(key)
        while len(self._heard) > DOORS_MAX:
            self._heard.popitem(last=False)

    def find(self, host_id: str, port: int) -> tuple[str, ...]:
        """Addresses, the best first."""
        heard = self._heard.get((host_id, port))
        found = [heard] if heard is not None else []
        for seen in self._members():
            alive = seen.record.alive
            if seen.record.host_id == host_id and alive.front_door_port == port and seen.state in _LIVE:
                found += [address.ip for address in alive.addresses]
        return tuple(dict.fromkeys(found))

    async def open(self, user_id: str, host_id: str, port: int) -> "Tunnel | Refused":
        """To the first of them that answers."""
        addresses = self.find(host_id, port)
        if not addresses:
            hint = "ask who is there first: electros hosts"
            return _refused("not-found", "a host", "no such door is known here", hint)
        if (why := self._places.enter(user_id)) is not None:
            return _refused("too-many", "a tunnel more", why, "wait for another one to end")
        stream = None
        try:
            for address in addresses:
                if (stream := await _connected(address, port)) is not None:
                    return Tunnel(stream, lambda: self._places.leave(user_id))
        finally:
            if stream is None:
                self._places.leave(user_id)
        return _refused("unavailable", "a connection", "that host does not answer this one", "")


class Tunnel:
    """As a guest's console is for the door: bytes both ways; `receive` gives b"" at the end."""

    def __init__(self, stream: trio.SocketStream, ended: Callable[[], None]) -> None:
        self._stream, self._ended = stream, ended
        self._left_bytes = TUNNEL_MAX_BYTES

    async def send(self, data: bytes) -> None:
        """Raises `trio.BrokenResourceError` at its end, `trio.TooSlowError` where nobody takes it."""
        with trio.fail_after(IDLE_S):
            await self._stream.send_all(data)
        self._count(data)

    async def receive(self) -> bytes:
        """b"" also where it was silent, or has passed on, too much."""
        data = b""
        with trio.move_on_after(IDLE_S):
            try:
                data = bytes(await self._stream.receive_some(READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return b""
        self._count(data)
        return data if self._left_bytes > 0 else b""

    async def aclose(self) -> None:
        self._ended()
        await trio.aclose_forcefully(self._stream)

    def _count(self, data: bytes) -> None:
        self._left_bytes -= len(data)


async def _connected(address: str, port: int) -> trio.SocketStream | None:
    """To a numeric address; a link-local one comes with its link."""
    at = Address(address.partition("%")[0], port)
    family = trio.socket.AF_INET6 if ":" in at.ip else trio.socket.AF_INET
    plain = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    with trio.move_on_after(CONNECT_S):
        try:
            scope = address.partition("%")[2]
            there = (at.ip, port, 0, int(scope or 0)) if family == trio.socket.AF_INET6 else (at.ip, port)
            await plain.connect(there)
            return trio.SocketStream(plain)
        except OSError:
            pass
    plain.close()
    return None


def _refused(code: str, asked: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason("relay", asked, has, hint),))
