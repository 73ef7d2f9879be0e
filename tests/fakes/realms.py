"""Whole realms in a folder, made in milliseconds as `electros realm create` and tokens would make them."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.x509 import Certificate

from matcher.trust import files
from matcher.trust.bundle import begin_bundle
from matcher.trust.certificates import ALL_SCOPES, Scope, make_issuer, make_leaf, make_root, to_der
from matcher.trust.documents import Signed, key_id, write_document
from matcher.trust.identity import Identity, load_identity
from matcher.trust.issuing import Issuer, open_issuer
from matcher.trust.principal import PrincipalKind, realm_id_of
from matcher.trust.realm import EVERYTHING, Root, create_root, found, make_member
from matcher.trust.root import RootKey
from matcher.wire.framing import frame
from matcher.wire.realm import Anchor, Grant, Heartbeat, Revocation, TagKey
from specs.ids import RealmId

FOUNDER = "h0"  # holds the issuer


@dataclass(frozen=True)
class Realm:
    """`members` by name: those that start with "h" are hosts, all others are users who may do everything."""

    folder: Path
    root: Root
    issuer: Issuer
    members: dict[str, Identity]

    def __getitem__(self, name: str) -> Identity:
        return self.members[name]

    def add(self, name: str, grant: Grant = EVERYTHING) -> Identity:
        kind: PrincipalKind = "host" if name.startswith("h") else "user"
        folder = self.folder / name
        make_member(self.members[FOUNDER], self.issuer, kind, name, folder, grant=grant if kind == "user" else None)
        self.members[name] = load_identity(folder)
        return self.members[name]


def make_realm(folder: Path, *names: str, realm: str = "home") -> Realm:
    """A realm with its founder, and `names`."""
    root = create_root(folder / "root", realm)
    founder = found(root, host=FOUNDER, identity=folder / FOUNDER, issuer=folder / "issuer")
    issuer = open_issuer(folder / "issuer", founder)
    assert issuer is not None
    made = Realm(folder, root, issuer, {FOUNDER: founder})
    for name in names:
        made.add(name)
    return made


NOW_S = 1_800_000_000.0


def new_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


class Papers:
    """A realm without a disk: keys in hand, to sign what its root and issuers would, and what they never should."""

    def __init__(self, *issuers: str, name: str = "home", realm_id: str | None = None) -> None:
        self.name = name
        self.roots = [self.new_root()]
        self.realm_id = RealmId(realm_id or realm_id_of(self.roots[0].key.public_key()))
        self.issuers: dict[str, EllipticCurvePrivateKey] = {}
        self.scopes: dict[str, Collection[Scope]] = {}
        for issuer in issuers or ("i0",):
            self.issuers[issuer] = new_key()
        self.first = self.anchor(1)
        self.bundle = begin_bundle(self.first, self.roots[0].certificate)

    def new_root(self) -> RootKey:
        key = new_key()
        return RootKey(make_root(key, self.name, wall_s=NOW_S), key)

    def anchor(
        self,
        epoch: int,
        roots: Sequence[RootKey] = (),
        issuers: Sequence[str] | None = None,
        by: Sequence[RootKey] | None = None,
    ) -> Signed[Anchor]:
        """Signed by all of `roots` (the newest alone, by default), or by `by`; issuers by the last root."""
        roots = roots or [self.roots[-1]]
        certificates = [self.certificate(each, roots[-1]) for each in (self.issuers if issuers is None else issuers)]
        framed = frame(to_der(each.certificate) for each in roots)
        says = Anchor(self.realm_id, self.name, epoch, framed, frame(to_der(each) for each in certificates))
        return write_document(says, *(each.key for each in (roots if by is None else by)))

    def certificate(self, issuer: str, root: RootKey | None = None) -> Certificate:
        root = root or self.roots[-1]
        scopes = self.scopes.get(issuer, ALL_SCOPES)
        key = self.issuers[issuer].public_key()
        return make_issuer(key, root.certificate, root.key, realm_id=self.realm_id, scopes=scopes, wall_s=NOW_S)

    def key_id(self, issuer: str) -> bytes:
        return key_id(self.issuers[issuer].public_key())

    def revocation(
        self,
        member_id: str,
        *,
        by: str = "i0",
        kind: PrincipalKind = "user",
        before_s: int = 0,
        why: str = "",
        at_s: float = NOW_S,
    ) -> Signed[Revocation]:
        says = Revocation(self.realm_id, kind, member_id, before_s, int(at_s * 1000), why)
        return write_document(says, self.issuers[by])

    def heartbeat(self, at_s: float, count: int = 0, *, by: str = "i0") -> Signed[Heartbeat]:
        return write_document(Heartbeat(self.realm_id, int(at_s * 1000), count), self.issuers[by])

    def tag_key(self, number: int, key: bytes, *, by: str = "i0", at_s: float = NOW_S) -> Signed[TagKey]:
        return write_document(TagKey(self.realm_id, number, key, int(at_s * 1000)), self.issuers[by])

    def leaf(
        self,
        kind: PrincipalKind = "user",
        name: str = "ann",
        *,
        by: str = "i0",
        key: EllipticCurvePrivateKey | None = None,
        grant: Grant = EVERYTHING,
        days: float = 30,
        wall_s: float = NOW_S,
    ) -> bytes:
        """DER."""
        public_key = (key or new_key()).public_key()
        granted = grant if kind == "user" else None
        issuer = self.certificate(by)
        return to_der(
            make_leaf(public_key, kind, name, issuer, self.issuers[by], wall_s=wall_s, days=days, grant=granted)
        )


class Crash(OSError):
    """The disk, or the power, goes at a chosen write."""


@contextmanager
def crash_at(number: int) -> Iterator[list[str]]:
    """The `number`th `files.write` from here on does not happen, nor does any after it; counts from 0. Gives the names
    of the files that were written."""
    written: list[str] = []
    real = files.write

    def write(path: Path, content: bytes) -> None:
        if len(written) >= number:
            raise Crash(5, "Input/output error")
        real(path, content)
        written.append(path.name)

    files.write = write
    try:
        yield written
    finally:
        files.write = real
