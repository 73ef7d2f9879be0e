"""Keys and certificates of a realm, made once for all runs, as they are costly; and the root's own desk, one for a run.

Keys come from numbers, so that in every process the same members have the same ids. Hosts 1 to `ISSUERS` have an issuer
each; the first one's makes all leaves and is never dropped.
"""

from functools import cache
from hashlib import sha256
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, derive_private_key

from matcher.trust import files
from matcher.trust.bundle import Bundle, begin_bundle
from matcher.trust.certificates import make_issuer, make_leaf, make_root, to_der
from matcher.trust.documents import Signed, write_document
from matcher.trust.identity import write_identity
from matcher.trust.principal import fingerprint, realm_id_of
from matcher.trust.root import RootKey
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.framing import frame
from matcher.wire.realm import Anchor, Revocation, TagKey
from specs.ids import HostId, UserId

WALL_S = 1_700_000_000.0  # when virtual time begins, by a clock that goes right
MADE_S = WALL_S - 86_400.0
ISSUERS = 3
HOST_DAYS = 30.0

_NUMBERS: dict[HostId, int] = {}


def key_of(name: str) -> EllipticCurvePrivateKey:
    return derive_private_key(int.from_bytes(sha256(name.encode()).digest()[:31]) + 1, SECP256R1())


@cache
def host_key(number: int) -> EllipticCurvePrivateKey:
    return key_of(f"host {number}")


@cache
def host_id(number: int) -> HostId:
    found = HostId(fingerprint(host_key(number).public_key()))
    _NUMBERS[found] = number
    return found


def number_of(host_id: HostId) -> int:
    """Of a host that has been asked for."""
    return _NUMBERS[host_id]


@cache
def user_id(name: str) -> UserId:
    return UserId(fingerprint(key_of(name).public_key()))


def address_of(number: int) -> str:
    """Of host `number`, on the realm's link."""
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def number_at(address: str) -> int:
    """Whose address it is."""
    return int(IPv4Address(address)) & 0xFFFFFF


def former_host_id(number: int) -> str:
    """Of a host that was in the realm once; nobody simulates it."""
    return sha256(f"former host {number}".encode()).hexdigest()


@cache
def issuer_key(number: int) -> EllipticCurvePrivateKey:
    return key_of(f"issuer {number}")


@cache
def root(number: int) -> RootKey:
    key = key_of(f"root {number}")
    return RootKey(make_root(key, "sim", wall_s=MADE_S), key)


REALM_ID = realm_id_of(key_of("root 0").public_key())


@cache
def issuer_certificate(number: int, by: int) -> x509.Certificate:
    root_key = root(by)
    key = issuer_key(number).public_key()
    return make_issuer(key, root_key.certificate, root_key.key, realm_id=REALM_ID, wall_s=MADE_S)


@cache
def anchor(epoch: int, roots: tuple[int, ...], issuers: tuple[int, ...]) -> Signed[Anchor]:
    """Issuers are signed by the last of `roots`."""
    framed = frame(to_der(root(each).certificate) for each in roots)
    certificates = frame(to_der(issuer_certificate(each, roots[-1])) for each in issuers)
    return write_document(Anchor(REALM_ID, "sim", epoch, framed, certificates), *(root(each).key for each in roots))


@cache
def first_bundle(issuers: int) -> Bundle:
    return begin_bundle(anchor(1, (0,), tuple(range(1, issuers + 1))), root(0).certificate)


@cache
def first_tag_keys() -> bytes:
    says = TagKey(REALM_ID, 1, bytes(TAG_KEY_BYTES), int(MADE_S * 1000))
    return frame([write_document(says, issuer_key(1)).data])


@cache
def host_leaf(number: int) -> bytes:
    key = host_key(number).public_key()
    leaf = make_leaf(key, "host", f"h{number}", issuer_certificate(1, 0), issuer_key(1), wall_s=MADE_S, days=HOST_DAYS)
    return to_der(leaf)


def lay_out(folder: Path, number: int, hosts: int) -> None:
    """What lies on host `number` of `hosts` once it has joined: its identity, and its issuer's key if it has one."""
    issuers = min(hosts, ISSUERS)
    write_identity(folder, host_key(number), host_leaf(number), first_bundle(issuers), first_tag_keys())
    if number <= issuers:
        files.make_folder(folder / "issuer")
        files.write(folder / "issuer" / "key.pem", files.key_pem(issuer_key(number)))


def narrowing(user: UserId, before_s: int) -> Signed[Revocation]:
    """By the first issuer: the leaves that start earlier are superseded."""
    return write_document(Revocation(REALM_ID, "user", user, before_s, before_s * 1000, "another grant"), issuer_key(1))


class RootDesk:
    """Signs one anchor after the other: issuers come and go, a new root takes over."""

    def __init__(self, hosts: int) -> None:
        self.all_issuers = tuple(range(1, min(hosts, ISSUERS) + 1))
        self._roots: tuple[int, ...] = (0,)
        self._epoch, self._issuers = 1, self.all_issuers

    @property
    def issuers(self) -> list[str]:
        """Names of the hosts with an issuer of today."""
        return [f"h{number}" for number in self._issuers]

    def toggle_issuer(self, number: int) -> Signed[Anchor]:
        """Drop it, or name it again."""
        named = set(self._issuers) ^ {number}
        return self._sign(self._roots, tuple(sorted(named)))

    def rotate(self) -> Signed[Anchor]:
        """Begin, or finish, if it has begun."""
        roots = self._roots[1:] if len(self._roots) > 1 else (*self._roots, self._roots[-1] + 1)
        return self._sign(roots, self._issuers)

    def _sign(self, roots: tuple[int, ...], issuers: tuple[int, ...]) -> Signed[Anchor]:
        self._epoch, self._roots, self._issuers = self._epoch + 1, roots, issuers
        return anchor(self._epoch, roots, issuers)
