"""Where a service is, by DNS SRV (RFC 2782): the one question that the C library does not ask for us.

One datagram to each of the machine's resolvers in turn; an answer that does not fit one is taken as far as it does.
"""

import contextlib
import secrets
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from matcher.net import dns

RESOLVERS = Path("/etc/resolv.conf")
TIMEOUT_S = 2.0
RESOLVERS_MAX = 3
TARGETS_MAX = 64
ANSWER_MAX_BYTES = 4096
PORT = 53
_RECURSE, _FAILED = 0x0100, 0x000F


def look_up(name: str) -> list[tuple[str, int]]:
    """Names and ports, best first; none where nobody answers. Blocking."""
    for resolver in _resolvers():
        number = secrets.randbelow(1 << 16)
        with contextlib.suppress(OSError, ValueError, struct.error, IndexError):
            return places(_asked(resolver, _question(name, number)), number)
    return []


def places(answer: bytes, number: int) -> list[tuple[str, int]]:
    """What an answer to question `number` says. Raises `ValueError`, `IndexError` or `struct.error` if it is none."""
    if dns.HEADER.unpack_from(answer)[1] & _FAILED:
        raise ValueError("no answer to this")
    found = sorted(_found(answer, dns.records(answer, number, TARGETS_MAX)))
    return [(target, port) for _, _, target, port in found]


def _found(answer: bytes, records: Iterable[dns.Record]) -> Iterator[tuple[int, int, str, int]]:
    """Priority, the less for more weight, target, port."""
    for record in records:
        if (record.kind, record.family) == (dns.SRV, dns.IN):
            priority, weight, port = dns.PLACE.unpack_from(answer, record.at)
            target = dns.read_name(answer, record.at + dns.PLACE.size)[0]
            if target and port:
                yield priority, -weight, target, port


def _question(name: str, number: int) -> bytes:
    asked = dns.name_bytes(name) + dns.QUESTION.pack(dns.SRV, dns.IN)
    return dns.HEADER.pack(number, _RECURSE, 1, 0, 0, 0) + asked


def _asked(resolver: str, question: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.settimeout(TIMEOUT_S)
        asking.connect((resolver, PORT))  # hears nobody else
        asking.send(question)
        return asking.recv(ANSWER_MAX_BYTES)


def _resolvers() -> list[str]:
    try:
        lines = RESOLVERS.read_text().splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    named = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    found = []
    for each in named[:RESOLVERS_MAX]:
        with contextlib.suppress(ValueError):
            found.append(str(ip_address(each)))
    return found
