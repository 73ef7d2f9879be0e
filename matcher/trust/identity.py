"""A member's own identity, as kept in a folder: who I am, what I sign with, whom I trust.

    key.pem (0600)  leaf.pem  issuers.pem  root.pem  realm.json {realm_id, name, tag_key}

Loading checks that the parts belong together, so that a mistake is a sentence at the start and not a silence later.
"""

import base64
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from matcher.trust import files
from matcher.trust.certificates import Certified, Untrusted, Verifier, to_der
from matcher.trust.principal import Principal
from matcher.wire import signature
from matcher.wire.envelope import TAG_KEY_BYTES, RealmSecret
from specs.ids import RealmId

if TYPE_CHECKING:
    import ssl

_FILES = ("realm.json", "root.pem", "issuers.pem", "leaf.pem")


class IdentityError(Exception):
    """Why this identity can't be used, as a sentence for a person, with the command that helps where there is one."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A member of a realm; it is a `Signer` for envelopes."""

    folder: Path
    principal: Principal
    realm: RealmSecret
    realm_name: str
    verifier: Verifier = field(repr=False)
    certificate: bytes = field(repr=False)  # DER leaf
    expires_s: float
    key: EllipticCurvePrivateKey = field(repr=False)

    def sign(self, data: bytes) -> bytes:
        return signature.sign(self.key, data)


def load_identity(folder: Path, *, wall_s: float | None = None, allow_expired: bool = False) -> Identity:
    """The identity in `folder`, checked whole at `wall_s` (now). Raises `IdentityError`."""
    now_s = time.time() if wall_s is None else wall_s
    found = {name: _read(folder, name) for name in _FILES}
    key = load_key(folder)
    realm, realm_name = _realm(folder)
    leaf = to_der(_certificates(folder, "leaf.pem", found)[0])
    verifier = _verifier(folder, realm, found)
    try:
        certified = verifier.certified(leaf)
    except Untrusted as error:
        raise IdentityError(f"{folder / 'leaf.pem'} can't be used: {error.reason}. {_again(folder)}") from error
    if now_s < certified.starts_s:
        raise IdentityError(f"The certificate in {folder} is not valid yet. Does this machine's clock go right?")
    if now_s > certified.ends_s and not allow_expired:
        raise IdentityError(_expired(folder, certified))
    if certified.key != key.public_key():
        raise IdentityError(f"{folder / 'key.pem'} is not the key of leaf.pem beside it. {_again(folder)}")
    return Identity(folder, certified.principal, realm, realm_name, verifier, leaf, certified.ends_s, key)


def server_tls(identity: Identity) -> "ssl.SSLContext":
    """TLS 1.3 for the front door: a client must show a certificate of the realm."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # each connection shows its certificate anew, so that none outlives its leaf
    return _tls(context, identity)


def client_tls(identity: Identity) -> "ssl.SSLContext":
    """TLS 1.3 towards a host of the realm; who it is must then be asked of `peer_principal`, names are not checked."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _tls(context, identity)


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


def _tls(context: "ssl.SSLContext", identity: Identity) -> "ssl.SSLContext":
    import ssl

    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    folder = identity.folder
    context.load_cert_chain(folder / "leaf.pem", folder / "key.pem")
    for name in ("root.pem", "issuers.pem"):  # issuers among them: a peer need not send what every member has
        context.load_verify_locations(folder / name)
    return context


def _again(folder: Path, who: str = "host|user NAME") -> str:
    return f"Make it where the realm is kept: electros realm issue {who} --out {folder}"


def _expired(folder: Path, certified: Certified) -> str:
    when = datetime.fromtimestamp(certified.ends_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    who = f"{certified.principal.kind} {certified.principal.name}"
    return f"The certificate of {who} in {folder} expired on {when}. {_again(folder, who)}"


def _read(folder: Path, name: str) -> bytes:
    try:
        return files.read(folder / name)
    except FileNotFoundError:
        raise IdentityError(f"There is no identity in {folder}: {name} is missing. {_again(folder)}") from None
    except OSError as error:
        raise IdentityError(f"{folder / name} can't be read: {error.strerror}.") from error


def load_key(folder: Path) -> EllipticCurvePrivateKey:
    """The private key in `folder`, if nobody else can read it. Raises `IdentityError`."""
    path = folder / "key.pem"
    pem = _read(folder, path.name)
    if path.stat().st_mode & 0o077:
        raise IdentityError(f"Others than you can read the private key {path}. Run: chmod 600 {path}")
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"{path} holds no private key. {_again(folder)}") from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise IdentityError(f"{path} is not a P-256 key. {_again(folder)}")
    return key


def _realm(folder: Path) -> tuple[RealmSecret, str]:
    try:
        realm = files.read_json(folder / "realm.json")
        tag_key = base64.b64decode(realm["tag_key"], validate=True)
        if len(tag_key) != TAG_KEY_BYTES:
            raise ValueError("tag_key")
        return RealmSecret(RealmId(str(realm["realm_id"])), tag_key), str(realm["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise IdentityError(f"{folder / 'realm.json'} is damaged. {_again(folder)}") from error


def _certificates(folder: Path, name: str, found: dict[str, bytes]) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(found[name])
    except ValueError as error:
        raise IdentityError(f"{folder / name} holds no certificate. {_again(folder)}") from error


def _verifier(folder: Path, realm: RealmSecret, found: dict[str, bytes]) -> Verifier:
    root = to_der(_certificates(folder, "root.pem", found)[0])
    issuers = [to_der(issuer) for issuer in _certificates(folder, "issuers.pem", found)]
    try:
        verifier = Verifier(root, issuers)
    except Untrusted as error:
        raise IdentityError(
            f"The realm in {folder} does not hold together: {error.reason}. {_again(folder)}"
        ) from error
    if verifier.realm_id != realm.realm_id:
        raise IdentityError(f"root.pem in {folder} is not the root of the realm in realm.json. {_again(folder)}")
    return verifier
