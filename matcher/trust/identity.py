"""A member's own identity, as kept in a folder: who I am, what I sign with, whom I trust.

    key.pem (0600)  leaf.pem  root.pem  realm.bundle  realm.keys (0600)

Loading checks that the parts belong together, so that a mistake is a sentence at the start and not a silence later.
What the realm says changes while a daemon runs (revocations, new keys, its own renewed leaf): `learn`, `adopt_leaf` and
`save` bring it in, `refresh` takes up what another process of this member has written.
"""

import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from matcher.trust import files
from matcher.trust.bundle import Bundle, read_bundle
from matcher.trust.certificates import BACKDATE_S, Untrusted, is_signed_by, to_der, to_pem
from matcher.trust.documents import Signed
from matcher.trust.principal import Principal
from matcher.trust.tag_keys import TagKeys, read_tag_keys
from matcher.trust.verifier import REVOKED, Certified, Verifier
from matcher.wire import signature
from matcher.wire.envelope import RealmSecret
from matcher.wire.messages import Message
from matcher.wire.realm import TagKey

if TYPE_CHECKING:
    import ssl

RENEW_AT = 2 / 3  # of a leaf's life


class IdentityError(Exception):
    """Why this identity can't be used, as a sentence for a person, with the command that helps where there is one."""


class NoIdentity(IdentityError):
    """There is none in this folder, nor a part of one: the host is unclaimed, the person has not logged in."""


class Identity:
    """A member of a realm; it is a `Signer` for envelopes. `version` grows whenever TLS has to be set up anew."""

    def __init__(
        self, folder: Path, key: EllipticCurvePrivateKey, leaf: bytes, verifier: Verifier, tag_keys: TagKeys
    ) -> None:
        self.folder, self.key, self.verifier = folder, key, verifier
        self.version = 0
        self._tag_keys = tag_keys
        self._take_leaf(leaf, verifier.certified(leaf))
        self._seen = _states(folder)
        self.tick(time.time())

    @property
    def bundle(self) -> Bundle:
        return self.verifier.bundle

    @property
    def realm_name(self) -> str:
        return self.bundle.anchor.name

    @property
    def tag_keys(self) -> TagKeys:
        return self._tag_keys

    @property
    def tag_key(self) -> Signed[TagKey]:
        """Today's, as it was signed."""
        return self._tag_keys.documents[0]

    @property
    def key_number(self) -> int:
        """Of today's tag key."""
        return self.realm.number

    @property
    def short_digest(self) -> str:
        """16 hex digits of the bundle's digest and of today's tag key's number, which two hosts may have heard of one
        after the other: enough to see that another knows something else."""
        return sha256(self.bundle.digest + self.key_number.to_bytes(4, "big")).hexdigest()[:16]

    def is_key_due(self, wall_s: float) -> bool:
        """Whether an issuer should replace the tag key: a revoked member may know it, and the one before is over."""
        return not self.realm.older and self._tag_keys.are_outdated(self.bundle, wall_s)

    def sign(self, data: bytes) -> bytes:
        return signature.sign(self.key, data)

    def tick(self, wall_s: float) -> None:
        """Let go of tag keys whose time is over."""
        self.realm: RealmSecret = self._tag_keys.secret(self.verifier.realm_id, wall_s)

    @property
    def is_revoked(self) -> bool:
        """Whether this member has been revoked as a whole, and has to come anew, with another key."""
        return not self.verifier.is_member(self.principal.kind, self.principal.id)

    def is_due(self, wall_s: float) -> bool:
        """Whether the leaf should be renewed: its time is two thirds over, or it was superseded by another grant.

        One that reaches as far as the grant does is not due: there is nothing more to be had.
        """
        if self.verifier.is_known_revoked(self.certificate):
            return not self.is_revoked
        until_s = self.principal.grant.until_s
        if until_s is not None and self.expires_s >= until_s:
            return False
        made_s = self.starts_s + BACKDATE_S  # a leaf of minutes would be due at once, if counted from its start
        return wall_s > made_s + max(0.0, self.expires_s - made_s) * RENEW_AT

    def tag_key_documents(self) -> bytes:
        """Framed, for another member."""
        return self._tag_keys.to_bytes()

    def learn(self, documents: Iterable[Signed[Message]], wall_s: float) -> bool:
        """Take in what the realm's own have signed, and nothing else; whether something of it was new.

        It is known from now on, and on the disk once `save` was called.
        """
        documents = list(documents)
        bundle = self.bundle.merged(documents, wall_s)
        return self._know(bundle, self._tag_keys.merged(documents, bundle), wall_s)

    def adopt_leaf(self, leaf: bytes) -> None:
        """A renewed leaf for the same key: on the disk, then used. Raises `Untrusted` or `OSError`.

        An older one than today's is refused: whoever hands it over may want an older grant to come back.
        """
        certified = self.verifier.certified(leaf)
        if certified.key != self.key.public_key() or certified.principal.kind != self.principal.kind:
            raise Untrusted("its certificate is somebody else's")
        if self.verifier.is_known_revoked(leaf):
            raise Untrusted(REVOKED)
        if certified.issued_s < self.starts_s:
            raise Untrusted("its certificate is older than the one that is here")
        self.save()  # first, since an issuer that came with the newest anchor may have made it
        with files.locked(self.folder):
            files.write(self.folder / "leaf.pem", to_pem(x509.load_der_x509_certificate(leaf)))
        self._take_leaf(leaf, certified)
        self.version += 1

    def save(self) -> None:
        """Make durable what was learned; together with what is on the disk already. Raises `OSError`.

        Whatever write is the last one before a crash, what is there then can be loaded: keys are not judged again, and
        an older root leads to the newer anchor by way of the links.
        """
        with files.locked(self.folder):
            self.refresh()
            files.write(self.folder / "realm.keys", self._tag_keys.to_bytes())
            files.write(self.folder / "realm.bundle", self.bundle.to_bytes())
            roots = b"".join(to_pem(root) for root in self.bundle.roots)
            if _content(self.folder / "root.pem") != roots:  # last, as the newer root can't lead to the older bundle
                files.write(self.folder / "root.pem", roots)
            self._seen = _states(self.folder)

    def refresh(self) -> None:
        """Take up what another process has written here, if it has; what can't be read is passed over."""
        states = _states(self.folder)
        if states == self._seen:
            return
        self._seen = states
        try:
            bundle = _bundle(self.folder)
            tag_keys = _tag_keys(self.folder, bundle)
            leaf = to_der(_certificates(self.folder, "leaf.pem")[0])
        except (IdentityError, OSError):
            return
        if bundle.anchor.realm_id != self.verifier.realm_id:
            return
        bundle = self.bundle.united(bundle)
        self._know(bundle, self._tag_keys.united(tag_keys.documents, bundle), time.time())
        try:
            certified = self.verifier.certified(leaf)
        except Untrusted:  # its issuer was dropped: what the realm says counts all the more
            return
        if leaf != self.certificate and certified.key == self.key.public_key() and certified.issued_s >= self.starts_s:
            self._take_leaf(leaf, certified)
            self.version += 1

    def _know(self, bundle: Bundle, tag_keys: TagKeys, wall_s: float) -> bool:
        """Go by these from now on; whether they are others than before."""
        is_new = bundle is not self.bundle or tag_keys is not self._tag_keys
        if bundle.anchors[-1].data != self.bundle.anchors[-1].data:
            self.version += 1
        if bundle is not self.bundle:
            self.verifier.learn(bundle)
        self._tag_keys = tag_keys
        self.tick(wall_s)
        return is_new

    def _take_leaf(self, leaf: bytes, certified: Certified) -> None:
        self.certificate = leaf
        self.principal: Principal = certified.principal
        self.starts_s, self.expires_s = certified.issued_s, certified.ends_s


def load_identity(folder: Path, *, wall_s: float | None = None, allow_expired: bool = False) -> Identity:
    """The identity in `folder`, checked whole at `wall_s` (now). Raises `IdentityError`."""
    now_s = time.time() if wall_s is None else wall_s
    if not is_identity(folder):
        raise NoIdentity(f"There is no identity in {folder}. {JOIN}")
    key = load_key(folder)
    leaf = to_der(_certificates(folder, "leaf.pem")[0])
    verifier = Verifier(_bundle(folder))
    try:
        certified = verifier.certified(leaf)
    except Untrusted as error:
        raise IdentityError(f"{folder / 'leaf.pem'} can't be used: {error.reason}. {JOIN}") from error
    if now_s < certified.starts_s:
        raise IdentityError(f"The certificate in {folder} is not valid yet. Does this machine's clock go right?")
    if now_s > certified.ends_s and not allow_expired:
        raise IdentityError(_expired(folder, certified))
    if certified.key != key.public_key():
        raise IdentityError(f"{folder / 'key.pem'} is not the key of leaf.pem beside it. {JOIN}")
    return Identity(folder, key, leaf, verifier, _tag_keys(folder, verifier.bundle))


def write_identity(folder: Path, key: EllipticCurvePrivateKey, leaf: bytes, bundle: Bundle, tag_keys: bytes) -> None:
    """Make `folder` (which must not hold an identity) the home of a new member. `leaf` is DER, `tag_keys` are framed.

    The leaf goes last: a folder without one is no identity, and may be filled again. Raises `OSError`.
    """
    files.make_folder(folder)
    files.write(folder / "root.pem", b"".join(to_pem(root) for root in bundle.roots))
    files.write(folder / "realm.bundle", bundle.to_bytes())
    files.write(folder / "realm.keys", tag_keys)
    files.write(folder / "key.pem", files.key_pem(key))
    files.write(folder / "leaf.pem", to_pem(x509.load_der_x509_certificate(leaf)))


def is_identity(folder: Path) -> bool:
    return (folder / "leaf.pem").exists()


def server_tls(identity: Identity, *, joining: bool = False) -> "ssl.SSLContext":
    """TLS 1.3 for the front door: a client must show a certificate of the realm; `joining`: may, as who joins has
    none yet."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # each connection shows its certificate anew, so that none outlives its leaf
    return _tls(context, identity, ssl.CERT_OPTIONAL if joining else ssl.CERT_REQUIRED)


def client_tls(identity: Identity) -> "ssl.SSLContext":
    """TLS 1.3 towards a host of the realm; who it is must then be asked of `peer_principal`, names are not checked."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _tls(context, identity, ssl.CERT_REQUIRED)


def peer_principal(
    peer: "ssl.SSLObject | ssl.SSLSocket | bytes", verifier: Verifier, wall_s: float
) -> tuple[Principal, EllipticCurvePublicKey]:
    """Who is at the other end of a finished handshake (or of a DER leaf). Raises `Untrusted`."""
    der = peer if isinstance(peer, bytes) else peer.getpeercert(binary_form=True)
    if not der:
        raise Untrusted("it showed no certificate")
    return verifier.principal(der, wall_s)


def pem_to_der(pem: str) -> bytes:
    """The first certificate of a PEM text, such as ASGI servers hand over. Raises `Untrusted`."""
    try:
        return to_der(x509.load_pem_x509_certificate(pem.encode()))
    except ValueError as error:
        raise Untrusted("its certificate can't be read") from error


def load_key(folder: Path) -> EllipticCurvePrivateKey:
    """The private key in `folder`, if nobody else can read it. Raises `IdentityError`."""
    path = folder / "key.pem"
    try:
        pem = _read(folder, path.name, files.read_private)
    except files.TooOpen as error:
        raise IdentityError(str(error)) from None
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"{path} holds no private key. {JOIN}") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise IdentityError(f"{path} is not a P-256 key. {JOIN}")
    return key


JOIN = (
    "A host gets one by: electros realm create NAME, on the realm's first host; atomd join TOKEN, on any other. "
    "A person by: electros login TOKEN."
)


def _tls(context: "ssl.SSLContext", identity: Identity, verify: "ssl.VerifyMode") -> "ssl.SSLContext":
    import ssl

    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = verify
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the bundle has judged its issuers; once is enough
    _show(context, identity)
    bundle = identity.bundle  # issuers among them: a peer need not send what every member has
    trusted = (*bundle.roots, *(issuer.certificate for issuer in bundle.issuers))
    context.load_verify_locations(cadata="".join(to_pem(each).decode() for each in trusted))
    return context


def _show(context: "ssl.SSLContext", identity: Identity) -> None:
    """The leaf with its issuer. OpenSSL would find and check the chain anew for each handshake, root and all, which
    makes one a third longer; and it takes chains from files alone."""
    leaf = files.read(identity.folder / "leaf.pem")
    issued = x509.load_pem_x509_certificate(leaf)
    issuers = [entry.certificate for entry in identity.bundle.issuers if is_signed_by(issued, entry.certificate)]
    chain = os.memfd_create("chain", os.MFD_CLOEXEC)
    try:
        os.write(chain, leaf + b"".join(to_pem(issuer) for issuer in issuers[:1]))
        context.load_cert_chain(f"/proc/self/fd/{chain}", identity.folder / "key.pem")
    finally:
        os.close(chain)


def _expired(folder: Path, certified: Certified) -> str:
    when = datetime.fromtimestamp(certified.ends_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    who = f"{certified.principal.kind} {certified.principal.name}"
    again = "atomd join TOKEN" if certified.principal.kind == "host" else "electros login TOKEN"
    return f"The certificate of {who} in {folder} expired on {when}. An admin can invite it again; then: {again}"


def _content(path: Path) -> bytes:
    try:
        return files.read(path)
    except OSError:
        return b""


def _read(folder: Path, name: str, read: Callable[[Path], bytes] = files.read) -> bytes:
    try:
        return read(folder / name)
    except FileNotFoundError:
        raise IdentityError(f"The identity in {folder} is not whole: {name} is missing. {JOIN}") from None
    except OSError as error:
        raise IdentityError(f"{folder / name} can't be read: {error.strerror}.") from error


def _certificates(folder: Path, name: str) -> list[x509.Certificate]:
    pem = _read(folder, name)
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception as error:  # ValueError, UnsupportedAlgorithm, ...: the library names no common base
        raise IdentityError(f"{folder / name} holds no certificate. {JOIN}") from error


def _bundle(folder: Path) -> Bundle:
    data = _read(folder, "realm.bundle")
    reason = "root.pem is empty"
    for root in _certificates(folder, "root.pem"):
        try:
            return read_bundle(data, root, own=True)
        except Untrusted as error:
            reason = error.reason
    raise IdentityError(f"The realm in {folder} does not hold together: {reason}. {JOIN}")


def _tag_keys(folder: Path, bundle: Bundle) -> TagKeys:
    tag_keys = read_tag_keys(_read(folder, "realm.keys"), bundle, own=True)
    if tag_keys is None:
        raise IdentityError(f"{folder / 'realm.keys'} is damaged. {JOIN}")
    return tag_keys


def _states(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """What tells that a file was replaced."""
    return tuple(_state(folder / name) for name in ("leaf.pem", "realm.bundle", "realm.keys"))


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
