"""Which way this host's packets to an address would go, by its own routes: to itself, or to its own VMs.

The addresses of those are such as any network may have, so that the numbers alone (`addresses`) do not tell: a guest
behind the host's address translation is reached by its host and by nobody else, and may be another user's. A bridge
that has VMs on it and nothing else leads to them; one with a network card as well is how the host reaches its link.
The kernel is asked for the route, and nothing is sent. Source: rtnetlink(7); linux/rtnetlink.h.
"""

import os
import socket
import struct
from contextlib import suppress

from storaged.images.addresses import Address

_MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, lengths, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_GETROUTE, _NEWROUTE, _REQUEST = 26, 24, 1
_DESTINATION, _OUT = 1, 4
_LOCAL = 2
_TAP = 2  # linux/if_tun.h
_ANSWER_MAX_BYTES = 8192
_LINKS = "/sys/class/net"


def leads_home(address: Address) -> str | None:
    """Why nothing is fetched from there; `None` where it lies elsewhere, or nowhere."""
    kind, link = _route(address.ipv4_mapped or address if address.version == 6 else address)
    if kind == _LOCAL:
        return "it is the host itself"
    return "it is a VM of this host's" if link and _is_for_vms(link) else None


def _route(address: Address) -> tuple[int, str]:
    """The kind of the kernel's route, and the link by which it leaves; zero and empty where there is none."""
    packed = address.packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(_MESSAGE.pack(_MESSAGE.size + len(body), _GETROUTE, _REQUEST, 1, 0) + body)
        answer = kernel.recv(_ANSWER_MAX_BYTES)
    length, kind, *_ = _MESSAGE.unpack_from(answer)
    if kind != _NEWROUTE:
        return 0, ""
    at, link = _MESSAGE.size + _ROUTE.size, ""
    while at + _ATTRIBUTE.size <= length:
        size, attribute = _ATTRIBUTE.unpack_from(answer, at)
        if attribute == _OUT:
            with suppress(OSError):
                link = socket.if_indextoname(int.from_bytes(answer[at + 4 : at + size], "little"))
        at += -(-max(size, _ATTRIBUTE.size) // 4) * 4
    return _ROUTE.unpack_from(answer, _MESSAGE.size)[7], link


def _is_for_vms(link: str) -> bool:
    """A bridge with taps alone, which VMs' cards are at their host's end; a tap by itself is some tunnel's."""
    if not os.path.isdir(f"{_LINKS}/{link}/bridge"):
        return False
    return all(_is_tap(member) for member in os.listdir(f"{_LINKS}/{link}/brif"))


def _is_tap(link: str) -> bool:
    try:
        with open(f"{_LINKS}/{link}/tun_flags") as flags:
            return bool(int(flags.read(), 16) & _TAP)
    except FileNotFoundError:
        return False
