"""Hosts as DNS-SD has them (RFC 6763): `_atomos._tcp` with the realm's id, the role and the port; nothing secret.

Where our own multicast does not get, mDNS may, by a reflector of the network. What it says is an address to try, and is
trusted for nothing else: who answers there proves with TLS, or with signed gossip, who they are.

A host answers what is asked, and says by itself that it is there once on each link. Who looks for hosts asks one
question from a port of its own and hears the answers there (RFC 6762, 5.1): nobody takes notice of what was not asked
for, and nothing is kept.
"""

import contextlib
import secrets
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

import matcher.net.gossip.srv as dns
from matcher.net import multicast
from matcher.wire.messages import Role

GROUP_4, GROUP_6, PORT = "224.0.0.251", "ff02::fb", 5353
SERVICE = "_atomos._tcp.local"
TTL_S = 120
LOOK_S = 0.5
FOUND_MAX = 32
MESSAGE_MAX_BYTES = 1500
ANSWERS_PER_S = 10
_PTR, _TXT, _SRV, _ANY, _IN = 12, 16, 33, 255, 1
_FLUSH = 0x8000  # of a record that only one host has; of a question: that it may be answered to one alone
_ANSWER = 0x8400  # authoritative
_HEADER, _QUESTION, _RECORD = Struct(">HHHHHH"), Struct(">HH"), Struct(">HHIH")


@dataclass(frozen=True, slots=True)
class Announced:
    """What a host tells of itself. `name` is its own, without a meaning for others."""

    name: str
    realm_id: str
    role: Role
    port: int


@dataclass(frozen=True, slots=True)
class Found:
    """Where somebody says that a host of this realm is."""

    address: str
    port: int


def is_asked(data: bytes) -> tuple[int, bytes] | None:
    """The number and the bytes of a question that is for us, if one is in there. Whatever comes, nothing is raised."""
    with contextlib.suppress(ValueError, struct.error, IndexError):
        number, flags, questions, *_ = _HEADER.unpack_from(data)
        at = _HEADER.size
        for _ in range(min(questions, 16) if not flags & 0x8000 else 0):
            begins = at
            name, at = dns.read_name(data, at)
            kind, family = _QUESTION.unpack_from(data, at)
            at += _QUESTION.size
            if name.lower() == SERVICE and kind in (_PTR, _ANY) and family & ~_FLUSH == _IN:
                return number, data[begins:at]
    return None


def answer(told: Announced, *, number: int = 0, question: bytes = b"") -> bytes:
    """To all; or, with the number and the bytes of a question, to one who has asked from a port of its own."""
    is_to_one = bool(question)
    own = f"{told.name}.{SERVICE}"
    family = _IN if is_to_one else _IN | _FLUSH
    place = struct.pack(">HHH", 0, 0, told.port) + _name(f"{told.name}.local")
    texts = (f"realm={told.realm_id}", f"role={told.role.value}")
    text = b"".join(bytes([len(each)]) + each.encode("ascii") for each in texts)
    records = [
        _record(SERVICE, _PTR, _IN, _name(own)),
        _record(own, _SRV, family, place),
        _record(own, _TXT, family, text),
    ]
    asked = question[: -_QUESTION.size] + _QUESTION.pack(_PTR, _IN) if is_to_one else b""
    return _HEADER.pack(number, _ANSWER, int(is_to_one), len(records), 0, 0) + asked + b"".join(records)


def read_answer(data: bytes, number: int) -> Iterator[tuple[str, int]]:
    """Realm and port of each host in it. Raises `ValueError`, `IndexError` or `struct.error` if it is none."""
    said, flags, questions, answers, *_ = _HEADER.unpack_from(data)
    if said != number or not flags & 0x8000:
        raise ValueError("no answer to this")
    at = _HEADER.size
    for _ in range(questions):
        at = dns.read_name(data, at)[1] + _QUESTION.size
    ports: dict[str, int] = {}
    realms: dict[str, str] = {}
    for _ in range(min(answers, 4 * FOUND_MAX)):
        name, at = dns.read_name(data, at)
        kind, _, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if kind == _SRV:
            (ports[name],) = struct.unpack_from(">H", data, at + 4)
        elif kind == _TXT:
            realms[name] = dict(_texts(data[at : at + length])).get("realm", "")
        at += length
    yield from ((realms[name], port) for name, port in ports.items() if name in realms and port)


def look(realm_id: str | None, *, seconds: float = LOOK_S) -> list[Found]:
    """Ask on every link who of this realm is there, or of any; blocking. Addresses are those that answers come from."""
    number = secrets.randbelow(1 << 16)
    question = _HEADER.pack(number, 0, 1, 0, 0, 0) + _name(SERVICE) + _QUESTION.pack(_PTR, _IN | _FLUSH)
    found: dict[Found, None] = {}
    asking = multicast.asking_sockets()
    try:
        for link in multicast.links():
            for each in asking:
                multicast.ask(each, question, link, PORT, groups=(GROUP_4, GROUP_6))
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0 and len(found) < FOUND_MAX:
            for data, source in multicast.waiting(asking, left_s, MESSAGE_MAX_BYTES):
                with contextlib.suppress(ValueError, struct.error, IndexError):
                    for realm, port in read_answer(data, number):
                        if realm_id in (None, realm):
                            found[Found(multicast.source_address(source), port)] = None
    finally:
        for each in asking:
            each.close()
    return list(found)[:FOUND_MAX]


def _texts(data: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(data):
        key, _, value = data[at + 1 : at + 1 + data[at]].decode("ascii").partition("=")
        yield key, value
        at += 1 + data[at]


def _record(name: str, kind: int, family: int, data: bytes) -> bytes:
    return _name(name) + _RECORD.pack(kind, family, TTL_S, len(data)) + data


def _name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split(".")) + b"\0"
