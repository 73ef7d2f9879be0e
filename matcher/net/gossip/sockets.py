"""The sockets that gossip goes by: one for each family, for one address and for all, at a port of its own.

Linux tells a socket that asks (`IP_RECVERR`, ip(7)) which datagram was refused by the machine that it went to, and
gives back its first bytes: these have to be what was sent, so that a forged refusal costs knowing it.
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from matcher.net import multicast
from matcher.wire.messages import Address

PORT = 7766
READ_BYTES = 2048
BATCH_MAX = 64
SCOPES_MAX = 1024
IP_PKTINFO = 8  # ip(7); Python has no names for these
IP_RECVERR = 11
IP_MULTICAST_ALL = 49
IPV6_RECVERR = 25
IPV6_MULTICAST_ALL = 29
_ANCILLARY_BYTES = 256
_ERROR = struct.Struct("@IBBBBII")  # sock_extended_err: errno, origin, type, code, pad, info, data
_ORIGINS_ICMP = (2, 3)


@dataclass(frozen=True, slots=True)
class Came:
    """`at` is what it came from; `by_multicast`, to where."""

    data: bytes
    at: Address
    by_multicast: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The machine that this was sent to says that nobody listens there."""

    data: bytes


class Sockets:
    """Raises `OSError` where the port is taken."""

    def __init__(self, port: int = PORT, *, multicast_port: int | None = None) -> None:
        self.port = port
        self.multicast_port = multicast_port or port
        self.all: list[socket.socket] = []
        self._scopes: dict[str, int] = {}  # the links of link-local addresses that were heard from
        self._links: tuple[multicast.Link, ...] = ()
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                self.all.append(_opened(family, port))
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    self.close()
                    raise
        if not self.all:
            raise OSError(errno.EAFNOSUPPORT, "no IP on this machine")
        if port == 0:
            self.port = self.all[0].getsockname()[1]

    def close(self) -> None:
        for each in self.all:
            each.close()

    def follow(self, links: tuple[multicast.Link, ...]) -> bool:
        """Join the group on these links; whether they are others than before."""
        for each in self.all:
            multicast.join(each, links)
        is_new, self._links = links != self._links, links
        return is_new

    def addresses(self) -> tuple[Address, ...]:
        """Where this host is reached, one of each family: what others try first comes first."""
        families = {each.family for each in self.all}
        ipv4 = [link.ipv4 for link in self._links if link.ipv4 and socket.AF_INET in families]
        ipv6 = [link.ipv6 for link in self._links if link.ipv6 and socket.AF_INET6 in families]
        ipv6.sort(key=lambda ip: ip_address(ip).is_link_local)
        return tuple(Address(ip, self.port) for ip in (*ipv4[:1], *ipv6[:1]))

    def shout(self, datagram: bytes) -> None:
        """Once on each link by each family."""
        for link in self._links:
            for each in self.all:
                multicast.ask(each, datagram, link, self.multicast_port)

    def send(self, datagram: bytes, to: Address) -> None:
        """Datagrams may get lost: one that can't leave is."""
        family = socket.AF_INET6 if ":" in to.ip else socket.AF_INET
        there = (to.ip, to.port, 0, self._scopes.get(to.ip, 0)) if family == socket.AF_INET6 else (to.ip, to.port)
        for each in self.all:
            if each.family == family:
                for _ in range(2):  # the first may be told of an earlier one's fate
                    with contextlib.suppress(OSError):
                        each.sendto(datagram, there)
                        return

    def read(self, readable: socket.socket) -> Iterator[Came | Refused]:
        """What waits, `BATCH_MAX` at most."""
        for _ in range(BATCH_MAX):
            try:
                data, ancillary, _, source = readable.recvmsg(READ_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                yield from self._errors(readable)  # else it would be readable for ever
                return
            except OSError:  # of an earlier datagram
                yield from self._errors(readable)
                continue
            ip = source[0].partition("%")[0]
            if len(source) > 2 and source[3]:
                self._remember(ip, source[3])
            yield Came(data, Address(ip, source[1]), _is_to_group(ancillary))

    def _errors(self, broken: socket.socket) -> Iterable[Refused]:
        for _ in range(BATCH_MAX):
            try:
                data, ancillary, _, _ = broken.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_ERRQUEUE)
            except OSError:
                return
            if any(_is_refusal(level, kind, content) for level, kind, content in ancillary):
                yield Refused(data)

    def _remember(self, ip: str, scope: int) -> None:
        self._scopes.pop(ip, None)
        self._scopes[ip] = scope
        if len(self._scopes) > SCOPES_MAX:
            del self._scopes[next(iter(self._scopes))]


def _opened(family: socket.AddressFamily, port: int) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        multicast.make_room(opened)
        opened.setblocking(False)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
            opened.bind(("::", port))
        else:
            opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            opened.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            opened.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            opened.bind(("0.0.0.0", port))  # noqa: S104  on every link, as the group is
    except OSError:
        opened.close()
        raise
    return opened


def _is_to_group(ancillary: list[tuple[int, int, bytes]]) -> bool:
    for level, kind, content in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return 224 <= content[8] <= 239  # struct in_pktinfo: index, local address, address in the header
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return content[0] == 0xFF
    return False


def _is_refusal(level: int, kind: int, content: bytes) -> bool:
    if (level, kind) not in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
        return False
    number, origin, *_ = _ERROR.unpack_from(content)
    return number == errno.ECONNREFUSED and origin in _ORIGINS_ICMP
