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

from matcher.net import dns, multicast
from matcher.wire.messages import Role

GROUP_4, GROUP_6, PORT = "224.0.0.251", "ff02::fb", 5353
SERVICE = "_atomos._tcp.local"
TTL_S = 120
LOOK_S = 0.5
FOUND_MAX = 32
MESSAGE_MAX_BYTES = 1500
ANSWERS_PER_S = 10
_FLUSH = 0x8000  # of a record that only one host has; of a question: that it may be answered to one alone
_ANSWER = 0x8400  # authoritative


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
        number, flags, questions, *_ = dns.HEADER.unpack_from(data)
        at = dns.HEADER.size
        for _ in range(min(questions, 16) if not flags & dns.RESPONSE else 0):
            begins = at
            name, at = dns.read_name(data, at)
            kind, family = dns.QUESTION.unpack_from(data, at)
            at += dns.QUESTION.size
            if name.lower() == SERVICE and kind in (dns.PTR, dns.ANY) and family & ~_FLUSH == dns.IN:
                return number, data[begins:at]
    return None


def answer(told: Announced, *, number: int = 0, question: bytes = b"") -> bytes:
    """To all; or, with the number and the bytes of a question, to one who has asked from a port of its own."""
    is_to_one = bool(question)
    own = f"{told.name}.{SERVICE}"
    family = dns.IN if is_to_one else dns.IN | _FLUSH
    place = dns.PLACE.pack(0, 0, told.port) + dns.name_bytes(f"{told.name}.local")
    texts = (f"realm={told.realm_id}", f"role={told.role.value}")
    text = b"".join(bytes([len(each)]) + each.encode("ascii") for each in texts)
    records = [
        _record(SERVICE, dns.PTR, dns.IN, dns.name_bytes(own)),
        _record(own, dns.SRV, family, place),
        _record(own, dns.TXT, family, text),
    ]
    asked = question[: -dns.QUESTION.size] + dns.QUESTION.pack(dns.PTR, dns.IN) if is_to_one else b""
    return dns.HEADER.pack(number, _ANSWER, int(is_to_one), len(records), 0, 0) + asked + b"".join(records)


def read_answer(data: bytes, number: int) -> Iterator[tuple[str, int]]:
    """Realm and port of each host in it. Raises `ValueError`, `IndexError` or `struct.error` if it is none."""
    ports: dict[str, int] = {}
    realms: dict[str, str] = {}
    for record in dns.records(data, number, 4 * FOUND_MAX):
        if record.kind == dns.SRV:
            ports[record.name] = dns.PLACE.unpack_from(data, record.at)[2]
        elif record.kind == dns.TXT:
            realms[record.name] = dict(_texts(data[record.at : record.at + record.length])).get("realm", "")
    yield from ((realms[name], port) for name, port in ports.items() if name in realms and port)


def look(realm_id: str | None, *, seconds: float = LOOK_S) -> list[Found]:
    """Ask on every link who of this realm is there, or of any; blocking. Addresses are those that answers come from."""
    number = secrets.randbelow(1 << 16)
    question = (
        dns.HEADER.pack(number, 0, 1, 0, 0, 0) + dns.name_bytes(SERVICE) + dns.QUESTION.pack(dns.PTR, dns.IN | _FLUSH)
    )
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
    return dns.name_bytes(name) + dns.RECORD.pack(kind, family, TTL_S, len(data)) + data
