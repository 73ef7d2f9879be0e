"""Where a service is, by DNS SRV (RFC 2782): the one question that the C library does not ask for us.

One datagram to each of the machine's resolvers in turn; an answer that does not fit one is taken as far as it does.
"""

import contextlib
import secrets
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from struct import Struct

RESOLVERS = Path("/etc/resolv.conf")
TIMEOUT_S = 2.0
RESOLVERS_MAX = 3
TARGETS_MAX = 64
ANSWER_MAX_BYTES = 4096
PORT = 53
_HEADER = Struct(">HHHHHH")  # id, flags, and how many questions, answers, authorities, others
_QUESTION = Struct(">HH")
_RECORD = Struct(">HHIH")  # type, class, time to live, length
_PLACE = Struct(">HHH")  # priority, weight, port
_SRV, _IN = 33, 1
_RECURSE, _ANSWER, _FAILED = 0x0100, 0x8000, 0x000F
_JUMPS_MAX = 16


def look_up(name: str) -> list[tuple[str, int]]:
    """Names and ports, best first; none where nobody answers. Blocking."""
    for resolver in _resolvers():
        number = secrets.randbelow(1 << 16)
        with contextlib.suppress(OSError, ValueError, struct.error, IndexError):
            return places(_asked(resolver, _question(name, number)), number)
    return []


def places(answer: bytes, number: int) -> list[tuple[str, int]]:
    """What an answer to question `number` says. Raises `ValueError`, `IndexError` or `struct.error` if it is none."""
    said, flags, questions, answers, _, _ = _HEADER.unpack_from(answer)
    if said != number or not flags & _ANSWER or flags & _FAILED:
        raise ValueError("no answer to this")
    at = _HEADER.size
    for _ in range(questions):
        at = read_name(answer, at)[1] + _QUESTION.size
    found = sorted(_records(answer, at, min(answers, TARGETS_MAX)))
    return [(target, port) for _, _, target, port in found]


def _records(answer: bytes, at: int, count: int) -> Iterator[tuple[int, int, str, int]]:
    """Priority, the less for more weight, target, port."""
    for _ in range(count):
        at = read_name(answer, at)[1]
        kind, family, _, length = _RECORD.unpack_from(answer, at)
        at += _RECORD.size
        if (kind, family) == (_SRV, _IN):
            priority, weight, port = _PLACE.unpack_from(answer, at)
            target = read_name(answer, at + _PLACE.size)[0]
            if target and port:
                yield priority, -weight, target, port
        at += length


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """A name, and where it ends; it may go on elsewhere (RFC 1035, 4.1.4)."""
    labels: list[str] = []
    end, jumps = -1, 0
    while length := data[at]:
        if length >= 0xC0:
            end = at + 2 if end < 0 else end
            at = (length & 0x3F) << 8 | data[at + 1]
            jumps += 1
            if jumps > _JUMPS_MAX:
                raise ValueError("a name without end")
            continue
        labels.append(data[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), (at + 1 if end < 0 else end)


def _question(name: str, number: int) -> bytes:
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError("no name")
    asked = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return _HEADER.pack(number, _RECURSE, 1, 0, 0, 0) + asked + _QUESTION.pack(_SRV, _IN)


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
