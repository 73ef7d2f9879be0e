"""The datagram sockets of both sides: joining the group on every link, asking on every link, answering one address.

Groups are of link scope: nothing that is said here leaves the link by itself. IPv4 and IPv6 are used at once, since
either may be missing; a pledge that arrives by both is one pledge.
"""

import contextlib
import errno
import fcntl
import select
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from matcher.wire.messages import Address

GROUP_4 = "239.255.65.79"  # administratively scoped (RFC 2365), and not forwarded with a TTL of 1
GROUP_6 = "ff12::6174:6f6d"  # transient, link-local scope (RFC 4291)
PORT = 7765
RECEIVE_BUFFER_BYTES = 4 << 20  # a burst of pledges or offers waits here while the loop is busy
LINKS_MAX = 64
NUMERIC_MAX = 4096  # addresses that were read, and are remembered: the same hosts ask again
SIOCGIFADDR = 0x8915  # netdevice(7): the first IPv4 address of a link
SO_RCVBUFFORCE = 33  # socket(7); Python has no name for it
ADDRESSES_6 = Path("/proc/net/if_inet6")

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface with an address that others can answer to."""

    index: int
    name: str
    ipv4: str | None
    ipv6: str | None  # link-local first, since the groups are


def links() -> tuple[Link, ...]:
    """The links of this machine; loopback only where there is no other."""
    ipv6 = _addresses_6()
    found = (Link(index, name, _address_4(name), ipv6.get(index)) for index, name in socket.if_nameindex())
    usable = [link for link in found if link.ipv4 or link.ipv6]
    others = [link for link in usable if not _is_loopback(link)]
    return tuple((others or usable)[:LINKS_MAX])


def listeners(port: int = PORT) -> list[socket.socket]:
    """Sockets bound to the group's port, for `join`."""
    return _each_family(lambda family: _listener(family, port))


def asking_sockets() -> list[socket.socket]:
    """Sockets to ask from and to hear the answers on, each at a port of its own."""
    return _each_family(asking_socket)


def tell(datagram: bytes, port: int = PORT, *, on: Iterable[Link] | None = None) -> int:
    """Multicast once on each link, by each family that it has; how many copies left. `on`: all links of now.

    Hosts tell each other their news so; for who awaits answers there are `asking_sockets`. A link that is down costs
    its copy alone.
    """
    sockets = _each_family(_sending_socket)
    try:
        return sum(ask(each, datagram, link, port) for link in (links() if on is None else on) for each in sockets)
    finally:
        for each in sockets:
            each.close()


def _each_family(open_one: Callable[[socket.AddressFamily], socket.socket]) -> list[socket.socket]:
    """IPv6 may be missing on a machine, IPv4 as well, not both."""
    opened = []
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            opened.append(open_one(family))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    assert opened, "no IP on this machine"
    return opened


def join(listener: socket.socket, on: Iterable[Link], groups: tuple[str, str] = (GROUP_4, GROUP_6)) -> None:
    """Join the group on these links; one that is joined already, or went away meanwhile, is passed over."""
    for link in on:
        with contextlib.suppress(OSError):
            if listener.family == socket.AF_INET6 and link.ipv6:
                request = socket.inet_pton(socket.AF_INET6, groups[1]) + struct.pack("@I", link.index)
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            elif listener.family == socket.AF_INET and link.ipv4:
                request = socket.inet_aton(groups[0]) + socket.inet_aton(link.ipv4) + struct.pack("@i", link.index)
                listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def asking_socket(family: socket.AddressFamily) -> socket.socket:
    asking = _sending_socket(family)
    try:
        make_room(asking)
        asking.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))  # noqa: S104  answers come by any link
    except OSError:
        asking.close()
        raise
    return asking


def _sending_socket(family: socket.AddressFamily) -> socket.socket:
    sending = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sending.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sending.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        sending.setblocking(False)
    except OSError:
        sending.close()
        raise
    return sending


def ask(
    asking: socket.socket,
    datagram: bytes,
    link: Link,
    port: int = PORT,
    groups: tuple[str, str] = (GROUP_4, GROUP_6),
) -> bool:
    """Multicast on one link, from the link's own address, as hosts answer nobody who names another; false where the
    link cannot (it is down, or has no address of this family)."""
    try:
        if asking.family == socket.AF_INET6:
            # Of several addresses the kernel would choose one by itself (RFC 6724).
            source = struct.pack("@16sI", socket.inet_pton(socket.AF_INET6, link.ipv6 or ""), link.index)
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
            asking.sendmsg([datagram], ancillary, 0, (groups[1], port, 0, link.index))
        else:
            # ip(7): what goes to a group leaves by this link, and from this address where the socket has none.
            there = struct.pack("4s4si", socket.inet_aton("0.0.0.0"), socket.inet_aton(link.ipv4 or ""), link.index)  # noqa: S104
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, there)
            asking.sendto(datagram, (groups[0], port))
    except OSError:
        return False
    return True


def is_named(reply: Iterable[Address], source: str) -> bool:
    """Whether the numeric address `source` is one of those."""
    there = _numeric(source.partition("%")[0])
    return there is not None and any(_numeric(address.ip) == there for address in reply)


def answer_address(reply: Iterable[Address], source: str, scope: int) -> SocketAddress | None:
    """Where an answer goes: the address in the signed question that is also the one that it came from; `None` if there
    is none, as then it was sent by somebody else, or names a third.

    `source` is numeric; link-local IPv6 addresses need the link that the question came by, `scope`.
    """
    asker = _asker(source)
    if asker is None:
        return None
    for address in reply:
        if address.ip == source or _numeric(address.ip) == asker.ip:
            if asker.ip.version == 4:
                return (asker.text, address.port)
            return (asker.text, address.port, 0, scope if asker.is_link_local else 0)
    return None


@dataclass(frozen=True, slots=True)
class _Asker:
    """A numeric address that can be answered, looked at once."""

    ip: IPv4Address | IPv6Address
    text: str
    is_link_local: bool


@lru_cache(maxsize=NUMERIC_MAX)
def _asker(source: str) -> _Asker | None:
    ip = _numeric(source)
    if ip is None or ip.is_multicast or ip.is_unspecified:
        return None
    return _Asker(ip, str(ip), ip.is_link_local)


def source_address(source: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Of a datagram, numeric, with the link where an IPv6 address needs one."""
    ip = source[0].partition("%")[0]
    return f"{ip}%{source[3]}" if len(source) == 4 and ip_address(ip).is_link_local else ip


@lru_cache(maxsize=NUMERIC_MAX)
def _numeric(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _listener(family: socket.AddressFamily, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_DGRAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # both daemons of a host listen
        make_room(listener)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setblocking(False)
        # IPv4 is bound to the group, so that unicast to this port is not heard; a link-scoped IPv6 group cannot be.
        listener.bind(("::" if family == socket.AF_INET6 else GROUP_4, port))
    except OSError:
        listener.close()
        raise
    return listener


def shared_listener(family: socket.AddressFamily, port: int) -> socket.socket:
    """For a port of which this machine's other programs have a share as well, such as that of mDNS. Nothing that it
    sends leaves the link: who asks from elsewhere, or in the name of somebody there, gets no answer (RFC 6762, 11)."""
    listener = _sending_socket(family)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104  see `_listener`
    except OSError:
        listener.close()
        raise
    return listener


def waiting(
    sockets: Iterable[socket.socket], timeout_s: float, max_bytes: int
) -> list[tuple[bytes, tuple[str, int] | tuple[str, int, int, int]]]:
    """One datagram of each, once there is any; blocking."""
    ready, _, _ = select.select(list(sockets), [], [], timeout_s)
    heard = []
    for each in ready:
        with contextlib.suppress(OSError):
            heard.append(each.recvfrom(max_bytes))
    return heard


def make_room(receiving: socket.socket) -> None:
    """Above what the system allows to everybody (`net.core.rmem_max`), where this process may."""
    try:
        receiving.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def _address_4(name: str) -> str | None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            found = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("16s24x", name.encode()))
    except OSError:  # it has none, or the machine knows no IPv4
        return None
    return socket.inet_ntoa(found[20:24])  # past the name, the family and the port


def _addresses_6() -> dict[int, str]:
    """One address for each link, by its index; link-local if it has one."""
    try:
        lines = ADDRESSES_6.read_text().splitlines()
    except OSError:  # a machine without IPv6
        return {}
    found = [(IPv6Address(bytes.fromhex(digits)), int(index, 16)) for digits, index, *_ in map(str.split, lines)]
    return {index: str(ip) for ip, index in sorted(found, key=lambda each: each[0].is_link_local)}


def _is_loopback(link: Link) -> bool:
    return all(ip_address(ip).is_loopback for ip in (link.ipv4, link.ipv6) if ip)
