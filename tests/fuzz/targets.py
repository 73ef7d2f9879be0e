"""What reads bytes that others wrote, each as a function that raises nothing but a bug of ours."""

import json
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from random import Random
from typing import Any

from matcher.net import local
from matcher.net.intake import Arrival, Intake
from matcher.trust.bundle import read_bundle
from matcher.trust.certificates import Untrusted, check_issuer, check_root, is_signed_by, load, read_leaf, to_der
from matcher.trust.documents import PAPER_OF, Paper, Signed, _framed, _to_sign, key_id, read_document
from matcher.trust.grants import grant_bytes, parse_pci_limit, read_grant
from matcher.trust.requests import make_request, read_request
from matcher.trust.tag_keys import read_tag_keys
from matcher.trust.tokens import BadToken, Token, read_token
from matcher.trust.verifier import Verifier
from matcher.wire import signature
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, decode, encode, from_json, to_json
from matcher.wire.envelope import HOSTS, REALM, Kind, seal, unseal
from matcher.wire.framing import frame
from matcher.wire.messages import Message
from matcher.wire.realm import Grant
from specs.problems import SpecError
from specs.specfile import parse_specfile
from specs.template import parse_template
from specs.volumespec import parse_volumespec
from tests.fakes.realms import NOW_S, Papers, Realm, new_key
from tests.fuzz.mutating import mutated
from tests.fuzz.samples import message_classes, some_of
from tests.unit.test_net_intake import NEWS_OF_H2, PLEDGE, QUERY, Daemon

EXAMPLES = Path(__file__).resolve().parents[2] / "packaging" / "examples"
EXPECTED = (BadBytes, Untrusted, BadToken, SpecError)  # refusals; whatever else is raised is a find
WALL_MS = time.time_ns() // 1_000_000

Run = Callable[[bytes, Random], None]


@dataclass(frozen=True)
class Target:
    """`share`: of a thousand inputs, how many are this target's; as readers differ in what they cost."""

    name: str
    share: int
    samples: Sequence[bytes]
    run: Run

    def once(self, data: bytes, random: Random) -> None:
        """Raises what should not be raised."""
        with suppress(*EXPECTED):
            self.run(data, random)


def targets(realm: Realm, seed: int) -> list[Target]:
    """Shares add up to 1,000."""
    papers = Papers()
    return [*_wire(seed), *_envelopes(realm), *_trust(papers), *_specs(), _local(seed)]


# ---- messages


def _wire(seed: int) -> list[Target]:
    classes = message_classes()
    each = {cls: some_of(cls, seed) for cls in classes}
    packed = [encode(message) for cls in classes for message in each[cls]]
    written = [to_json(message).encode() for cls in classes for message in each[cls]]
    of_packed = {data: cls for cls in classes for data in map(encode, each[cls])}
    of_written = {to_json(message).encode(): cls for cls in classes for message in each[cls]}

    def unpack(data: bytes, random: Random) -> None:
        for cls in {of_packed.get(data, random.choice(classes)), random.choice(classes)}:
            _again(decode(cls, data, max_bytes=BODY_MAX_BYTES))

    def read(data: bytes, random: Random) -> None:
        _again(from_json(of_written.get(data, random.choice(classes)), data))

    return [
        Target("msgpack, any class", 120, packed, unpack),
        Target("json, any class", 80, written, read),
        Target("msgpack, its class", 200, packed[:1], _own(each, encode, lambda cls, data: decode(cls, data))),
        Target("json, its class", 120, written[:1], _own(each, lambda said: to_json(said).encode(), from_json)),
    ]


def _own(
    each: dict[type[Message], list[Any]],
    write: Callable[[Any], bytes],
    read: Callable[[type[Message], bytes], Message],
) -> Run:
    """Bytes that began as a message of the very class that they are read as; made here, whatever comes in."""
    samples = {cls: [write(message) for message in some] for cls, some in each.items()}
    classes = list(samples)

    def run(_: bytes, random: Random) -> None:
        cls = random.choice(classes)
        _again(read(cls, mutated(samples[cls], random)))

    return run


def _again(message: Message) -> None:
    """What is taken for a message can be written, and is the same when it is read."""
    assert decode(type(message), encode(message), max_bytes=4 * BODY_MAX_BYTES) == message


# ---- envelopes


def _retagged(data: bytes, realm: Realm) -> bytes:
    key = realm["h1"].realm.tag_key
    return data[:14] + blake2s(data[:14] + data[22:], digest_size=8, key=key).digest() + data[22:]


def _envelopes(realm: Realm) -> list[Target]:
    ann, host = realm["ann"], realm["h1"]
    says: list[tuple[Kind, Message, Any, bytes]] = [
        (Kind.PLEDGE, PLEDGE, ann, REALM),
        (Kind.QUERY, QUERY, ann, REALM),
        (Kind.NEWS, NEWS_OF_H2, realm["h2"], HOSTS),
    ]
    sealed = [seal(kind, encode(said), realm=ann.realm, signer=by, audience=to) for kind, said, by, to in says]
    payloads = [encode(said) for _, said, _, _ in says]
    intake = Intake(host, Daemon(), hears_news=lambda *_: None)
    clock = iter(range(10**9))

    def open_it(data: bytes, random: Random) -> None:
        unseal(_retagged(data, realm), realm=host.realm)

    def hear(data: bytes) -> None:
        moment = next(clock)
        arrival = Arrival(socket.AF_INET, 0, f"10.0.{moment % 7}.9")
        intake.receive(data, arrival, now_s=moment / 20, wall_ms=WALL_MS)

    def receive(data: bytes, _: Random) -> None:
        hear(_retagged(data, realm))

    def receive_signed(payload: bytes, random: Random) -> None:
        kind, _, by, to = random.choice(says)
        if len(payload) <= 600:
            hear(seal(kind, payload, realm=ann.realm, signer=by, audience=to, pad_bytes=random.choice((0, 1200))))

    return [
        Target("unseal, tag remade", 150, sealed, open_it),
        Target("intake, tag remade", 60, sealed, receive),
        Target("intake, signed by a member", 40, payloads, receive_signed),
    ]


# ---- papers


def _trust(papers: Papers) -> list[Target]:
    root, issuer = papers.roots[0].certificate, papers.certificate("i0")
    bundle, key = papers.bundle, papers.issuers["i0"]
    signed: list[Signed[Any]] = [
        papers.first,
        papers.anchor(2),
        papers.revocation("a" * 64, why="lost"),
        papers.revocation("b" * 64, before_s=7),
        papers.heartbeat(NOW_S, 1),
        papers.tag_key(1, bytes(32)),
    ]
    whole = bundle.merged(signed, NOW_S)
    verifier = Verifier(whole)
    leaves = [papers.leaf(), papers.leaf("host", "h1"), papers.leaf(grant=Grant(slots=3, groups=("lab",)))]
    grants = [Grant(), Grant(slots=1, ram_mib=64, vms=2, volumes_gb=9, groups=("a", "b"), until_s=1, lease_max_s=99)]
    grants.append(Grant(pci=(parse_pci_limit("10de:24b0=2"), parse_pci_limit("10de:*=1")), overprovision_min=4))
    kinds = sorted(set(PAPER_OF.values()))

    def document(data: bytes, _: Random) -> None:
        whole.add(read_document(data), NOW_S)

    def resigned(payload: bytes, random: Random) -> None:
        """What the issuer or the root itself might sign, if it meant harm."""
        paper: Paper = random.choice(kinds)
        by = random.choice((key, papers.roots[0].key))
        made = _framed(paper, payload, [(key_id(by.public_key()), signature.sign(by, _to_sign(paper, payload)))])
        read = read_document(made)
        bundle.add(read, NOW_S)

    def keys(data: bytes, _: Random) -> None:
        read_tag_keys(data, whole)

    def leaf(data: bytes, _: Random) -> None:
        certificate = load(data)
        is_signed_by(certificate, issuer)
        for judge in (read_leaf, check_root):
            with suppress(Untrusted):
                judge(certificate)
        check_issuer(certificate, root)

    token = Token("user", "a" * 64, ("10.0.0.1", "fe80::1"), 7766, "b" * 16, b"c" * 16)
    return [
        Target("documents", 40, [each.data for each in signed], document),
        Target("documents, signed", 20, [each.payload for each in signed], resigned),
        Target("bundle", 10, [whole.to_bytes(), bundle.to_bytes()], lambda data, _: _ignore(read_bundle(data, root))),
        Target("tag keys", 10, [frame([papers.tag_key(n, bytes(32)).data for n in (1, 2)])], keys),
        Target("grants", 40, [grant_bytes(grant) for grant in grants], lambda data, _: _ignore(read_grant(data))),
        Target("tokens", 30, [token.text().encode()], lambda data, _: _ignore(read_token(data.decode("latin-1")))),
        Target("requests", 10, [make_request(new_key(), "ann")], lambda data, _: _ignore(read_request(data))),
        Target("certificates", 15, [*leaves, to_der(root), to_der(issuer)], leaf),
        Target("leaves", 5, leaves, lambda data, _: _ignore(verifier.principal(data, NOW_S))),
    ]


def _ignore(_: object) -> None:
    """What it reads is of no interest, only that it does."""


# ---- documents of people


def _specs() -> list[Target]:
    files = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.json*")) if path.name != "volumes.json"]
    plain = [json.dumps({"slots": 1, "ramsize": 64, "flags": ["avx2"], "pci": [{"vendor": "10de", "model": "24b0"}]})]
    volumes = [
        (EXAMPLES / "volumes.json").read_bytes(),
        b'[{"vid": "' + b"a" * 32 + b'"}]',
        b"[{vid: '" + b"b" * 32 + b"'}]",
    ]
    short = [b"{slots: 1, /* c */ ramsize: 0x40, 'archs': ['ARM_8'],}", *(text.encode() for text in plain)]

    def text_or_bytes(parse: Callable[[str | bytes], object]) -> Run:
        return lambda data, random: _ignore(parse(data if random.random() < 0.5 else data.decode(errors="replace")))

    return [
        Target("specfiles", 4, files, text_or_bytes(parse_specfile)),
        Target("specfiles, short", 10, short, text_or_bytes(parse_specfile)),
        Target("volumespecs", 8, volumes, text_or_bytes(parse_volumespec)),
        Target("templates", 3, [*files[:2], *short], text_or_bytes(parse_template)),
    ]


# ---- between the daemons of a host


class _Wire:
    """A stream that has these bytes and then ends; nothing waits."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    async def receive_some(self, most: int) -> bytes:
        chunk = self._data[self._at : self._at + most]
        self._at += len(chunk)
        return chunk


def _local(seed: int) -> Target:
    frames = [local._frame(message) for cls in local.KINDS for message in some_of(cls, seed)]

    def read(data: bytes, _: Random) -> None:
        reading = local._read(_Wire(data))  # type: ignore[arg-type]
        try:
            reading.send(None)
        except StopIteration:
            return
        raise AssertionError("it waits for more than there is")

    return Target("local socket frames", 25, frames, read)
