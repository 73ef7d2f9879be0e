"""The envelope around every payload that leaves a machine: who sealed it, for whom, in which realm.

    magic 4 | version 1 | kind 1 | realm id 8 | tag 8 | certificate, signature, payload lengths 2+2+4
    certificate (DER leaf) | signature 64 | payload | zeros up to the wanted size

The *tag* is a BLAKE2s under the realm's key over all other bytes: it only keeps outsiders' floods cheap. The
*signature* says who spoke; it covers kind, realm, audience and certificate besides the payload, so that no byte string
means two things in two places. Issuers' certificates are not carried: every member has them. Unsigned go only a
`Reveal`, and of gossip what decides nothing.

`unseal` makes the cheap checks, cheapest first. Who the signer is (`trust`), `verify`, freshness and the replay window
are the caller's. Pure: `now_s` comes in as an argument. docs/protocol.md has every byte.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from enum import IntEnum
from hashlib import blake2s, sha256
from hmac import compare_digest
from struct import Struct
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from matcher.wire import gossip, messages, signature
from matcher.wire import realm as realm_messages
from matcher.wire.codec import BadBytes
from matcher.wire.messages import DATAGRAM_MAX_BYTES, Message, Role
from specs.ids import HostId, RealmId, UserId

MAGIC = b"aTmO"
VERSION = 1
HEADER = Struct(">4sBB8s8sHHI")
TAG_BYTES = 8
TAG_KEY_BYTES = 32
CERTIFICATE_MAX_BYTES = 2048
REPLAY_KEEP_S = 90.0  # freshness is ± 30 s, so a message can be fresh for 60 s; and a margin
REPLAY_KEYS_MAX = 65_536
REALM = b"realm"  # the audience of what every member may read
HOSTS = b"hosts"  # of what hosts tell each other

_BEFORE_TAG = slice(0, 14)
_AFTER_TAG = slice(22, None)


class Kind(IntEnum):
    """What the payload is: one number for each message that travels in an envelope. Numbers are never used again."""

    PLEDGE = 1
    VM_OFFER = 2
    VOLUME_OFFER = 3
    UNFIT = 4
    REVEAL = 5
    QUERY = 6
    ANSWER = 7
    CLOCK = 8
    CONFIRM = 9
    ABANDON = 10
    NEWS = 11
    CONFIRM_VOLUME = 12
    ALIVE = 20
    CLAIM = 21
    PING = 22
    ACK = 23
    ASK = 24
    NACK = 25
    SUMMARY = 26
    LISTING = 27
    WANT = 28
    TIDINGS = 29


ANSWERS = frozenset({Kind.VM_OFFER, Kind.VOLUME_OFFER, Kind.UNFIT, Kind.ANSWER, Kind.CLOCK})  # to pledges and queries

MESSAGE_OF: dict[Kind, type[Message]] = {
    Kind.PLEDGE: messages.Pledge,
    Kind.VM_OFFER: messages.VmOffer,
    Kind.VOLUME_OFFER: messages.VolumeOffer,
    Kind.UNFIT: messages.Unfit,
    Kind.REVEAL: messages.Reveal,
    Kind.QUERY: messages.Query,
    Kind.ANSWER: messages.Answer,
    Kind.CLOCK: messages.Clock,
    Kind.CONFIRM: messages.Confirm,
    Kind.ABANDON: messages.Abandon,
    Kind.NEWS: realm_messages.News,
    Kind.CONFIRM_VOLUME: messages.ConfirmVolume,
    Kind.ALIVE: gossip.Alive,
    Kind.CLAIM: gossip.Claim,
    Kind.PING: gossip.Ping,
    Kind.ACK: gossip.Ack,
    Kind.ASK: gossip.Ask,
    Kind.NACK: gossip.Nack,
    Kind.SUMMARY: gossip.Summary,
    Kind.LISTING: gossip.Listing,
    Kind.WANT: gossip.Want,
    Kind.TIDINGS: gossip.Tidings,
}
KIND_OF: dict[type[Message], Kind] = {message: kind for kind, message in MESSAGE_OF.items()}
GOSSIP = frozenset({Kind.PING, Kind.ACK, Kind.ASK, Kind.NACK, Kind.SUMMARY, Kind.LISTING, Kind.WANT, Kind.TIDINGS})
UNSIGNED = GOSSIP | {Kind.REVEAL}
_KINDS = {int(kind): kind for kind in Kind}


class TooLong(Exception):
    """The envelope would be over its limit: send it another way, or send less."""

    def __init__(self, kind: Kind, size: int, max_bytes: int, payload: int) -> None:
        super().__init__(f"{kind.name.lower()} is {size} bytes (its payload {payload}), at most {max_bytes} are sent")
        self.kind, self.size, self.max_bytes, self.payload = kind, size, max_bytes, payload


@dataclass(frozen=True, slots=True)
class RealmSecret:
    """What makes a tag: known to every member of the realm, and shown to nobody. `older` keys are accepted still, as
    members learn of a new one at different times."""

    realm_id: RealmId
    tag_key: bytes = field(repr=False)
    number: int = 1
    older: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def spoken(self) -> "RealmSecret":
        """With the key that hosts make the tags of what they tell with: an older one while it is good, so that who has
        not heard of the new one can read it."""
        return replace(self, tag_key=self.older[-1], older=()) if self.older else self

    def understands(self, other: "RealmSecret") -> bool:
        """Whether a host with these keys reads what one with the other's tells."""
        return other.spoken.tag_key in (self.tag_key, *self.older)


class Signer(Protocol):
    """Whoever may sign: `certificate` is the DER leaf, `sign` gives the 64 bytes of `matcher.wire.signature`."""

    @property
    def certificate(self) -> bytes: ...

    def sign(self, data: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope from a member of the realm, its bytes as received; who signed it is not checked yet.

    `tag_key` is the one that its tag was made with: an answer made with it can be read by who asked.
    """

    kind: Kind
    certificate: bytes
    signature: bytes
    payload: bytes
    tag_key: bytes = field(default=b"", repr=False)


def user_audience(user_id: UserId) -> bytes:
    return b"user:" + user_id.encode("ascii")


def host_audience(host_id: HostId, role: Role) -> bytes:
    return f"host:{host_id}:{role.value}".encode("ascii")


def overhead_bytes(signer: Signer | None) -> int:
    """What an envelope adds to its payload, so that a message can be cut to fit before it is sealed."""
    return HEADER.size + (len(signer.certificate) + signature.SIGNATURE_BYTES if signer else 0)


def seal(
    kind: Kind,
    payload: bytes,
    *,
    realm: RealmSecret,
    signer: Signer | None,
    audience: bytes,
    pad_bytes: int = 0,
    max_bytes: int = DATAGRAM_MAX_BYTES,
) -> bytes:
    """Sign, wrap, pad with zeros up to `pad_bytes`, and tag. Raises `TooLong` over `max_bytes`."""
    assert (signer is None) == (kind in UNSIGNED), f"{kind.name} must {'not ' if signer else ''}be signed"
    size = overhead_bytes(signer) + len(payload)
    if size > max_bytes:
        raise TooLong(kind, size, max_bytes, len(payload))
    sealed = signed(kind, payload, realm_id=realm.realm_id, signer=signer, audience=audience) if signer else None
    return wrap(sealed or Sealed(kind, b"", b"", payload), realm=realm, pad_bytes=min(pad_bytes, max_bytes))


def signed(kind: Kind, payload: bytes, *, realm_id: RealmId, signer: Signer, audience: bytes) -> Sealed:
    """What `wrap` makes an envelope of, now or again."""
    certificate = signer.certificate
    assert len(certificate) <= CERTIFICATE_MAX_BYTES
    return Sealed(kind, certificate, signer.sign(_to_sign(kind, realm_id, audience, certificate, payload)), payload)


def wrap(sealed: Sealed, *, realm: RealmSecret, pad_bytes: int = 0) -> bytes:
    """The envelope around what is signed already, by whomever: only the tag is new."""
    sizes = len(sealed.certificate), len(sealed.signature), len(sealed.payload)
    header = HEADER.pack(MAGIC, VERSION, sealed.kind, bytes.fromhex(realm.realm_id), bytes(TAG_BYTES), *sizes)
    padding = bytes(max(0, pad_bytes - HEADER.size - sum(sizes)))
    rest = header[_AFTER_TAG] + sealed.certificate + sealed.signature + sealed.payload + padding
    return header[_BEFORE_TAG] + _tag(realm.tag_key, header[_BEFORE_TAG], rest) + rest


def unseal(data: bytes, *, realm: RealmSecret, max_bytes: int = DATAGRAM_MAX_BYTES, is_kept: bool = False) -> Sealed:
    """What a member of this realm sealed. Raises `BadBytes`, the cheapest checks first; the signature is not judged.

    `is_kept`: it was unsealed once before and kept, so that its tag may be of a key that is forgotten by now.
    """
    if not HEADER.size <= len(data) <= max_bytes:
        raise BadBytes("length")
    magic, version, number, realm_id, tag, *sizes = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise BadBytes("magic", "no envelope")
    if version != VERSION:
        raise BadBytes("version", f"{version}, and {VERSION} is known here")
    if realm_id.hex() != realm.realm_id:
        raise BadBytes("realm", "another one")
    tag_key = b"" if is_kept else _key_of(tag, realm, data)
    if number not in _KINDS:
        raise BadBytes("kind")
    return _cut(_KINDS[number], data, tag_key, *sizes)


def verify(sealed: Sealed, public_key: EllipticCurvePublicKey, *, realm_id: RealmId, audience: bytes) -> bool:
    """Did the holder of `public_key` sign these bytes, as this kind, in this realm, for this audience?

    `public_key` must come from checking `sealed.certificate` against the realm's root.
    """
    data = _to_sign(sealed.kind, realm_id, audience, sealed.certificate, sealed.payload)
    return signature.verify(public_key, sealed.signature, data)


def _to_sign(kind: Kind, realm_id: RealmId, audience: bytes, certificate: bytes, payload: bytes) -> bytes:
    """Only the audience and the payload vary in length: one has its length before it, the other ends the whole."""
    assert len(audience) < 256
    scope = bytes([kind]) + bytes.fromhex(realm_id) + bytes([len(audience)]) + audience
    return b"atomos/1\0" + scope + sha256(certificate).digest() + payload


def _key_of(tag: bytes, realm: RealmSecret, data: bytes) -> bytes:
    """The realm's key that made this tag. Raises `BadBytes`."""
    before, after = data[_BEFORE_TAG], data[_AFTER_TAG]
    for key in (realm.tag_key, *realm.older):
        if compare_digest(tag, _tag(key, before, after)):
            return key
    raise BadBytes("tag")


def _tag(tag_key: bytes, before: bytes, after: bytes) -> bytes:
    assert len(tag_key) == TAG_KEY_BYTES
    tag = blake2s(before, digest_size=TAG_BYTES, key=tag_key)
    tag.update(after)
    return tag.digest()


def _cut(
    kind: Kind, data: bytes, tag_key: bytes, certificate_bytes: int, signature_bytes: int, payload_bytes: int
) -> Sealed:
    """Take the parts out, now that the tag says that a member wrote their lengths."""
    signed = kind not in UNSIGNED
    if signature_bytes != (signature.SIGNATURE_BYTES if signed else 0):
        raise BadBytes("signature length")
    if not (1 <= certificate_bytes <= CERTIFICATE_MAX_BYTES if signed else certificate_bytes == 0):
        raise BadBytes("certificate length")
    certificate_end = HEADER.size + certificate_bytes
    signature_end = certificate_end + signature_bytes
    payload_end = signature_end + payload_bytes
    if payload_end > len(data):
        raise BadBytes("payload length")
    if data.count(0, payload_end) != len(data) - payload_end:
        raise BadBytes("padding")  # nothing rides along that no signature covers
    return Sealed(
        kind,
        data[HEADER.size : certificate_end],
        data[certificate_end:signature_end],
        data[signature_end:payload_end],
        tag_key,
    )


class ReplayWindow:
    """Which messages were heard of late, so that a second copy does nothing. Bounded, and by `now_s` alone.

    Keys are to be made from what only the signer can write (the signature, which has one spelling alone; the signer and
    the message's own id), and given to `fresh` after `verify` only, else anyone could use up another's; `seen` asks
    without remembering.
    When the window is full, a new key is *not* fresh: forgetting a live one would let a replay through, while a refused
    message is one lost datagram, which its sender repeats. So that no member can fill it, what each may say in the time
    of the window has to stay far below `keys_max` (`matcher.net.budget`).
    """

    def __init__(self, *, keep_s: float = REPLAY_KEEP_S, keys_max: int = REPLAY_KEYS_MAX) -> None:
        self._keep_s = keep_s
        self._keys_max = keys_max
        # In the order of hearing, which is that of forgetting; a plain dict would search for its first key from where
        # its very first was, past all that were forgotten.
        self._heard_s: OrderedDict[bytes, float] = OrderedDict()
        self._oldest_s = float("inf")

    def __len__(self) -> int:
        return len(self._heard_s)

    def seen(self, key: bytes, now_s: float) -> bool:
        """Was `key` heard within the window?"""
        if now_s - self._oldest_s > self._keep_s:
            self._forget(now_s)
        return key in self._heard_s

    def fresh(self, key: bytes, now_s: float) -> bool:
        """Remember `key`; false if it was heard within the window, or if the window is full."""
        if self.seen(key, now_s) or len(self._heard_s) >= self._keys_max:
            return False
        if not self._heard_s:
            self._oldest_s = now_s
        self._heard_s[key] = now_s
        return True

    def _forget(self, now_s: float) -> None:
        heard_s = self._heard_s
        while heard_s and now_s - heard_s[next(iter(heard_s))] > self._keep_s:
            heard_s.popitem(last=False)
        self._oldest_s = heard_s[next(iter(heard_s))] if heard_s else float("inf")
