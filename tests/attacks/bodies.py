"""What a member does at a front door with bodies that are none, one job for each run: see `tests.attacks.enemy`.

Every body is sealed and signed as `electros` would do it, by a member: only whoever decodes it can refuse it.
"""

import contextlib
import http.client
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any

import msgpack

from matcher.scheduler.pledging import Errand, make_pledge
from matcher.trust.identity import Identity, client_tls, load_identity, peer_principal
from matcher.trust.joining import ALPN
from matcher.wire.codec import BODY_MAX_BYTES, encode
from matcher.wire.envelope import REALM, Kind, host_audience, seal
from matcher.wire.messages import Abandon, Arch, Confirm, Firmware, Message, Role, VmAsk
from specs.ids import HostId, new_id
from tests.attacks.enemy import FRONT_DOOR, retagged

WAIT_S = 30.0
PATHS = {Kind.CONFIRM: "/v1/confirms", Kind.PLEDGE: "/v1/pledges", Kind.ABANDON: "/v1/abandons"}
ASK = VmAsk(1, False, 8, (Arch("X86_64"),), (), 64, False, (), Firmware("bios"), True)
LONG = 100_000  # bytes of what has no end
PACE_S = 0.02  # a member may ask 50 times a second

Fields = dict[str, Any]


def honest(kind: Kind, host_id: str) -> Message:
    """One that can be read, about an offer that was never made."""
    one, two, three = (new_id(SystemRandom()) for _ in range(3))
    match kind:
        case Kind.CONFIRM:
            return Confirm(one, 1, two, three, host_id, "web", ASK, (), "{}")
        case Kind.ABANDON:
            return Abandon(one, 1, two, host_id)
    wall_ms = time.time_ns() // 1_000_000
    pledge, _ = make_pledge(Errand(one, 1, ASK), random=SystemRandom(), wall_ms=wall_ms, dry=True)
    return pledge


def _with(**change: Any) -> Callable[[Fields], list[bytes]]:
    return lambda fields: [msgpack.packb(fields | change)]


def _sizes(fields: Fields) -> list[bytes]:
    numbers = (2**64 - 1, -(2**63), -1, 0, True, 1.0, "1", None)
    vm = fields.get("vm", {})
    spoiled = [fields | {"generation": number} for number in numbers]
    spoiled += [fields | {"vm": vm | {name: number}} for name in ("slots", "ram_mib") for number in numbers if vm]
    return [msgpack.packb(each) for each in spoiled]


def _text(*texts: bytes) -> Callable[[Fields], list[bytes]]:
    """In the place of an id, which is text in every message: `offer_id` or `pledge_id`."""

    def spoil(fields: Fields) -> list[bytes]:
        name = "offer_id" if "offer_id" in fields else "pledge_id"
        whole = msgpack.packb(fields)
        key = msgpack.packb(name)
        start = whole.index(key) + len(key)
        end = start + len(msgpack.packb(fields[name]))
        return [whole[:start] + text + whole[end:] for text in texts]

    return spoil


def _raw(*each: bytes) -> Callable[[Fields], list[bytes]]:
    return lambda _: list(each)


def _repeated(fields: Fields) -> list[bytes]:
    """Once more at the end, the same and another; and inside, where there is an inside."""
    whole, inner = msgpack.packb(fields), fields.get("vm")
    more = [msgpack.packb("generation") + msgpack.packb(number) for number in (1, 2)]
    spoiled = [_longer_map(whole) + each for each in more]
    if inner:
        twice = _longer_map(msgpack.packb(inner)) + msgpack.packb("slots") + msgpack.packb(4)
        spoiled.append(whole.replace(msgpack.packb(inner), twice))
    return spoiled


def _longer_map(packed: bytes) -> bytes:
    """With room for one item more."""
    assert 0x80 <= packed[0] < 0x8F, "a small map"
    return bytes([packed[0] + 1]) + packed[1:]


def _truncated(fields: Fields) -> list[bytes]:
    whole = msgpack.packb(fields)
    return [whole[:size] for size in range(0, len(whole), 7)]


_EXT = [msgpack.packb(ext) for ext in (msgpack.ExtType(5, b"x" * 32), msgpack.ExtType(5, b""), msgpack.Timestamp(1, 0))]
_TIMESTAMPS = [b"\xd6\xff" + b"\xff" * 4, b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12]

WAYS: dict[str, Callable[[Fields], list[bytes]]] = {
    "honest": lambda fields: [msgpack.packb(fields)],
    "repeated key": _repeated,
    "not finite": lambda fields: [
        msgpack.packb(fields | {"generation": number}) for number in (float("nan"), float("inf"), float("-inf"))
    ],
    "extension": _text(*_EXT),
    "timestamp": _text(*_TIMESTAMPS),
    "tail": lambda fields: [msgpack.packb(fields) + tail for tail in (b"\0", b"\xc0", msgpack.packb(fields))],
    "bad utf-8": _text(*(bytes([0xA0 + len(bad)]) + bad for bad in (b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80"))),
    "nul": _text(b"\xa3a\0b", b"\xd9\x03a\0b"),
    "size": _sizes,
    "unknown field": _with(xml="<devices/>"),
    "bytes for text": _text(b"\xc4\x20" + b"a" * 32),
    "too deep": _text(*(b"\x91" * depth + b"\xc0" for depth in (17, 1000, LONG))),
    "array of 2^32": _text(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xde\xff\xff"),
    "text of 2^32": _text(b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"),
    "nested headers": _raw(
        *(header * (LONG // len(header)) for header in (b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdf\0\0\xff\xff"))
    ),
    "long": _raw(*[bytes([0xDA, 0xFF, 0xFF]) + b" " * LONG, b" " * LONG] * 4),
    "truncated": _truncated,
    "no message": _raw(b"", b"\xc0", b"\xc1", b"\x80", b"\x90", b"{}", msgpack.packb([1])),
}


def packed(data: bytes) -> str:
    """As a part of a job, which has to be short."""
    return zlib.compress(data).hex()


def unpacked(data: str) -> bytes:
    return zlib.decompress(bytes.fromhex(data))


class Visit:
    """One TLS connection of a member to a front door, and whose door it is."""

    def __init__(self, identity: Identity, host: str) -> None:
        self.identity = identity
        plain = socket.create_connection((host, FRONT_DOOR), timeout=WAIT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = client_tls(identity).wrap_socket(plain)
        self.asking = http.client.HTTPConnection("host")
        self.asking.sock = self.tls
        self.host_id = HostId(peer_principal(self.tls, identity.verifier, time.time())[0].id)

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.tls.close()

    def sealed(self, kind: Kind, payload: bytes) -> bytes:
        audience = REALM if kind is Kind.PLEDGE else host_audience(self.host_id, Role.COMPUTE)
        realm, signer = self.identity.realm, self.identity
        return seal(kind, payload, realm=realm, signer=signer, audience=audience, max_bytes=BODY_MAX_BYTES)

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        self.asking.request("POST", path, body=body)
        answer = self.asking.getresponse()
        return {"status": answer.status, "body": answer.read().decode("latin-1")}


def post(job: dict[str, Any]) -> Any:
    """Each body of each way, signed; what was answered to each, by way."""
    identity, kind = load_identity(Path(job["identity"])), Kind[job["kind"]]
    with Visit(identity, job["host"]) as visit:
        payloads = {way: _payloads(kind, way, visit.host_id) for way in job["ways"]}
        sealed = {way: [visit.sealed(kind, payload) for payload in each] for way, each in payloads.items()}
    return _posted(job, identity, PATHS[kind], sealed)


def _payloads(kind: Kind, way: str, host_id: str) -> list[bytes]:
    return WAYS[way](msgpack.unpackb(encode(honest(kind, host_id))))


def envelopes(job: dict[str, Any]) -> Any:
    """An honest confirm in envelopes that are none: signed first, and spoiled after that."""
    identity = load_identity(Path(job["identity"]))
    with Visit(identity, job["host"]) as visit:
        whole = visit.sealed(Kind.CONFIRM, encode(honest(Kind.CONFIRM, visit.host_id)))
    spoiled = {
        "truncated": [whole[:size] for size in range(0, len(whole), 40)],
        "tail": [retagged(whole + b"x", identity.realm)],
        "version": [retagged(whole[:4] + bytes([version]) + whole[5:], identity.realm) for version in (0, 2, 255)],
        "kind": [retagged(whole[:5] + bytes([kind]) + whole[6:], identity.realm) for kind in (0, 77, Kind.NEWS)],
        "length": [whole[:26] + bytes([255] * 4) + whole[30:], whole + bytes(BODY_MAX_BYTES - len(whole))],
    }
    return _posted(job, identity, PATHS[Kind.CONFIRM], spoiled)


def documents(job: dict[str, Any]) -> Any:
    """JSON as it is given, for a route of the realm; answers by the names that its ways have."""
    identity = load_identity(Path(job["identity"]))
    ways = {way: [unpacked(body) for body in bodies] for way, bodies in job["ways"].items()}
    return _posted(job, identity, job["path"], ways)


def _posted(job: dict[str, Any], identity: Identity, path: str, ways: dict[str, list[bytes]]) -> Any:
    """One after the other on one connection, which a refusal does not end."""
    answers: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with Visit(identity, job["host"]) as visit:
        for way, bodies in ways.items():
            for body in bodies:
                answers[way].append(visit.post(path, body))
                time.sleep(PACE_S)
    return answers


def speak(job: dict[str, Any]) -> Any:
    """Bytes as they are given, each list of pieces on a connection of its own, some time apart; what was answered to
    each, and whether the host ended it."""
    identity, ends = load_identity(Path(job["identity"])), []
    for pieces in job["visits"]:
        with Visit(identity, job["host"]) as visit:
            ends.append(_said(visit.tls, [unpacked(piece) for piece in pieces], job.get("apart_s", 0.0)))
    return ends


def dawdle(job: dict[str, Any]) -> Any:
    """A handshake of one byte now and then, for as long as it is suffered."""
    outgoing = ssl.MemoryBIO()
    shaking = client_tls(load_identity(Path(job["identity"]))).wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    with socket.create_connection((job["host"], FRONT_DOOR), timeout=WAIT_S) as plain:
        return _said(plain, [bytes([byte]) for byte in outgoing.read()], job["apart_s"])


def join(job: dict[str, Any]) -> Any:
    """As a stranger who comes to join, once a token is pending: what is said before, and after these bytes."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    ends = []
    for piece in job["pieces"]:
        plain = socket.create_connection((job["host"], FRONT_DOOR), timeout=WAIT_S)
        with context.wrap_socket(plain) as tls:
            assert tls.selected_alpn_protocol() == ALPN, "no token is pending"
            welcome = _exactly(tls, int.from_bytes(_exactly(tls, 4), "big"))
            ends.append(_said(tls, [unpacked(piece)], 0.0) | {"welcome": len(welcome)})
    return ends


def _exactly(tls: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := tls.recv(size - len(data))):
        data += more
    return data


def _said(speaking: socket.socket, pieces: Sequence[bytes], apart_s: float) -> dict[str, Any]:
    """What came back, and whether the other side ended it before we had waited too long."""
    said, is_ended = b"", False
    try:
        for piece in pieces:
            speaking.settimeout(WAIT_S)
            speaking.sendall(piece)
            speaking.settimeout(max(apart_s, 0.001))
            with contextlib.suppress(TimeoutError):
                if not (data := speaking.recv(65_536)):
                    break
                said += data
        speaking.settimeout(WAIT_S)
        while data := speaking.recv(65_536):
            said += data
        is_ended = True
    except TimeoutError:
        is_ended = False
    except (ConnectionError, ssl.SSLError):
        is_ended = True
    return {"said": said.decode("latin-1"), "ended": is_ended}


JOBS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "post": post,
    "envelopes": envelopes,
    "documents": documents,
    "speak": speak,
    "dawdle": dawdle,
    "join": join,
}
