"""Signed documents of a realm: what the root and its issuers say, on paper that anybody may carry. Pure.

    framed: payload (msgpack) | then for each signature: 8 bytes of the signer's fingerprint | 64 bytes

A signature covers the kind of document, so that none can be taken for another, and the realm stands in each payload.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

from matcher.trust.principal import fingerprint
from matcher.wire import signature
from matcher.wire.codec import BadBytes, decode, encode
from matcher.wire.framing import frame, unframe
from matcher.wire.messages import Message
from matcher.wire.realm import Anchor, Heartbeat, Revocation, TagKey

DOCUMENT_MAX_BYTES = 96 * 1024
SIGNATURES_MAX = 4
KEY_ID_BYTES = 8

D = TypeVar("D", bound=Message)
D_co = TypeVar("D_co", bound=Message, covariant=True)


class Paper(IntEnum):
    """Kinds of documents; a number is never used again."""

    ANCHOR = 1
    REVOCATION = 2
    HEARTBEAT = 3
    TAG_KEY = 4


PAPER_OF: dict[type[Message], Paper] = {
    Anchor: Paper.ANCHOR,
    Revocation: Paper.REVOCATION,
    Heartbeat: Paper.HEARTBEAT,
    TagKey: Paper.TAG_KEY,
}
_MESSAGE_OF = {paper: message for message, paper in PAPER_OF.items()}


@dataclass(frozen=True, slots=True)
class Signed(Generic[D_co]):
    """A document as received: `data` is kept and passed on as it is; `says` is what it says, whoever signed it."""

    data: bytes = field(repr=False)  # a tag key's document is as secret as the key
    says: D_co
    payload: bytes = field(repr=False)
    signatures: tuple[tuple[bytes, bytes], ...] = field(repr=False)  # (key id, signature)

    def signed_by(self, key: EllipticCurvePublicKey) -> bool:
        wanted = key_id(key)
        to_sign = _to_sign(PAPER_OF[type(self.says)], self.payload)
        return any(known == wanted and signature.verify(key, signed, to_sign) for known, signed in self.signatures)


def key_id(key: EllipticCurvePublicKey) -> bytes:
    return bytes.fromhex(fingerprint(key))[:KEY_ID_BYTES]


def write_document(says: D, *keys: EllipticCurvePrivateKey) -> Signed[D]:
    """Sign with each of `keys`."""
    paper, payload = PAPER_OF[type(says)], encode(says)
    to_sign = _to_sign(paper, payload)
    signatures = tuple((key_id(key.public_key()), signature.sign(key, to_sign)) for key in keys)
    return Signed(_framed(paper, payload, signatures), says, payload, signatures)


def read_document(data: bytes) -> Signed[Message]:
    """The document that `data` is; whether its signatures hold is asked of `signed_by`. Raises `BadBytes`."""
    if len(data) > DOCUMENT_MAX_BYTES:
        raise BadBytes("length")
    parts = whole(data)
    if not 3 <= len(parts) <= 2 + SIGNATURES_MAX or len(parts[0]) != 1:
        raise BadBytes("document")
    cls = _MESSAGE_OF[_paper(parts[0][0])]
    signatures = tuple(_signature(part) for part in parts[2:])
    return Signed(data, decode(cls, parts[1], max_bytes=DOCUMENT_MAX_BYTES), parts[1], signatures)


def read_documents(framed: bytes) -> Iterator[Signed[Message]]:
    """Those of several framed documents that can be read; a bad one does not keep the others from being heard."""
    for data in unframe(framed):
        try:
            yield read_document(data)
        except BadBytes:
            continue


def whole(framed: bytes) -> list[bytes]:
    """All framed parts; what is signed or kept must not lose its end unseen. Raises `BadBytes` if it is cut short."""
    parts = list(unframe(framed))
    if sum(4 + len(part) for part in parts) != len(framed):
        raise BadBytes("truncated")
    return parts


def _framed(paper: Paper, payload: bytes, signatures: Sequence[tuple[bytes, bytes]]) -> bytes:
    return frame([bytes([paper]), payload, *(known + signed for known, signed in signatures)])


def _to_sign(paper: Paper, payload: bytes) -> bytes:
    return b"atomos/document/1\0" + bytes([paper]) + payload


def _paper(number: int) -> Paper:
    try:
        return Paper(number)
    except ValueError:
        raise BadBytes("document") from None


def _signature(part: bytes) -> tuple[bytes, bytes]:
    if len(part) != KEY_ID_BYTES + signature.SIGNATURE_BYTES:
        raise BadBytes("document")
    return part[:KEY_ID_BYTES], part[KEY_ID_BYTES:]
