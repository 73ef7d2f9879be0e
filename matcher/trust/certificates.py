"""X.509 certificates on P-256, made and checked: root -> issuer -> leaf.

A leaf's subject says what it is (OU: host or user) and its name (CN); its extended key usage must agree, so that a
user's certificate passes as a host's neither here nor in any TLS library. Leaves are kept small, since each datagram
carries one: key identifiers are 8 bytes, and an issuer is named by its realm's id, however long the realm's name is.
Times come in as arguments, in seconds of wall time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, SignatureAlgorithmOID

from matcher.trust.principal import Principal, PrincipalKind, fingerprint, name_problem, realm_id_of

ROOT_DAYS = 20 * 365
ISSUER_DAYS = 5 * 365
LEAF_DAYS: dict[PrincipalKind, int] = {"host": 30, "user": 90}
BACKDATE_S = 300  # a new leaf works at once on a host whose clock is a little behind
LEAF_MAX_BYTES = 1024
CACHE_MAX = 4096

_USAGES: dict[PrincipalKind, frozenset[x509.ObjectIdentifier]] = {
    "host": frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}),
    "user": frozenset({ExtendedKeyUsageOID.CLIENT_AUTH}),
}
_KNOWN = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)


class Untrusted(Exception):
    """A certificate that this realm does not stand behind. `reason` is a short phrase for logs and people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Certified:
    """A leaf whose signature and form are good for ever; what time changes is asked each time."""

    principal: Principal
    key: PublicKey
    starts_s: float  # when leaf, issuer and root all are valid
    ends_s: float


def make_root(key: EllipticCurvePrivateKey, realm_name: str, *, wall_s: float) -> x509.Certificate:
    subject = _name("root", realm_name)
    builder = _builder(subject, subject, key.public_key(), wall_s, ROOT_DAYS)
    return _authority(builder, key.public_key(), key.public_key(), path_length=1).sign(key, SHA256())


def make_issuer(
    public_key: PublicKey, root: x509.Certificate, root_key: EllipticCurvePrivateKey, *, wall_s: float
) -> x509.Certificate:
    subject = _name("issuer", realm_id_of(root_key.public_key()))
    builder = _builder(root.subject, subject, public_key, wall_s, ISSUER_DAYS)
    return _authority(builder, public_key, root_key.public_key(), path_length=0).sign(root_key, SHA256())


def make_leaf(
    public_key: PublicKey,
    kind: PrincipalKind,
    name: str,
    issuer: x509.Certificate,
    issuer_key: EllipticCurvePrivateKey,
    *,
    wall_s: float,
    days: int,
) -> x509.Certificate:
    """A leaf for `days` from now, and never beyond its issuer."""
    assert name_problem(name) is None
    builder = _builder(issuer.subject, _name(kind, name), public_key, wall_s, days, issuer.not_valid_after_utc)
    usages = sorted(_USAGES[kind], key=lambda usage: usage.dotted_string)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(_signed_by(issuer_key.public_key()), critical=False)
    return builder.sign(issuer_key, SHA256())


class Verifier:
    """Judges leaves against one realm's root and its issuers. Raises `Untrusted` if these themselves don't hold."""

    def __init__(self, root_der: bytes, issuers_der: Sequence[bytes]) -> None:
        self._root = _load(root_der)
        _check_authority(self._root, self._root, path_length=1)
        self.realm_id = realm_id_of(_public_key(self._root))
        self._issuers = [_load(der) for der in issuers_der]
        for issuer in self._issuers:
            _check_authority(issuer, self._root, path_length=0)
        self._certified: dict[bytes, Certified] = {}

    def principal(self, leaf_der: bytes, wall_s: float) -> tuple[Principal, PublicKey]:
        """Who holds this certificate, and the key that their signatures verify with. Raises `Untrusted`."""
        certified = self.certified(leaf_der)
        if wall_s < certified.starts_s:
            raise Untrusted("its certificate is not valid yet")
        if wall_s > certified.ends_s:
            raise Untrusted("its certificate has expired")
        return certified.principal, certified.key

    def certified(self, leaf_der: bytes) -> Certified:
        """What this leaf certifies, whatever the time; the costly part of the check, remembered. Raises `Untrusted`."""
        certified = self._certified.get(leaf_der)
        if certified is None:
            certified = self._check(leaf_der)
            if len(self._certified) >= CACHE_MAX:
                self._certified.pop(next(iter(self._certified)))  # the oldest; it is checked anew when next seen
            self._certified[leaf_der] = certified
        return certified

    def _check(self, leaf_der: bytes) -> Certified:
        if len(leaf_der) > LEAF_MAX_BYTES:
            raise Untrusted("its certificate is too long")
        leaf = _load(leaf_der)
        issuer = self._issuer_of(leaf)
        key = _public_key(leaf)
        kind, name = _who(leaf)
        _check_leaf_extensions(leaf, kind)
        chain = leaf, issuer, self._root
        starts_s = max(certificate.not_valid_before_utc.timestamp() for certificate in chain)
        ends_s = min(certificate.not_valid_after_utc.timestamp() for certificate in chain)
        return Certified(Principal(kind, fingerprint(key), name), key, starts_s, ends_s)

    def _issuer_of(self, leaf: x509.Certificate) -> x509.Certificate:
        for issuer in self._issuers:
            if issuer.subject == leaf.issuer and _is_signed_by(leaf, issuer):
                return issuer
        raise Untrusted("its certificate is from no issuer of this realm")


def _name(unit: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _builder(
    issuer: x509.Name,
    subject: x509.Name,
    public_key: PublicKey,
    wall_s: float,
    days: int,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(int(wall_s), UTC)
    end = start + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number() >> 64)  # 95 random bits; RFC 5280 wants 64 at least
        .not_valid_before(start - timedelta(seconds=BACKDATE_S))
        .not_valid_after(min(end, latest) if latest else end)
    )


def _authority(
    builder: x509.CertificateBuilder, public_key: PublicKey, signer: PublicKey, *, path_length: int
) -> x509.CertificateBuilder:
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(_key_identifier(public_key)), critical=False)
        .add_extension(_signed_by(signer), critical=False)
    )


def _key_identifier(public_key: PublicKey) -> bytes:
    """8 bytes are enough to tell a realm's issuers apart (RFC 5280, 4.2.1.2, leaves the method open)."""
    return bytes.fromhex(fingerprint(public_key)[:16])


def _signed_by(signer: PublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(_key_identifier(signer), None, None)


def _load(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.subject, certificate.issuer  # parsed late by the library
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension) as error:
        raise Untrusted("its certificate can't be read") from error
    if not der.endswith(b"\0" + certificate.signature):
        raise Untrusted("its certificate can't be read")  # unused bits after the signature, which the library lets pass
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN:
            raise Untrusted("its certificate has a critical extension that is not known here")
    return certificate


def _public_key(certificate: x509.Certificate) -> PublicKey:
    try:
        key = certificate.public_key()
    except Exception as error:  # ValueError, UnsupportedAlgorithm: the library names no common base
        raise Untrusted("its key can't be read") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, SECP256R1):
        raise Untrusted("its key is not on P-256")
    return key


def _is_signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        return False
    try:
        _public_key(signer).verify(certificate.signature, certificate.tbs_certificate_bytes, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _check_authority(certificate: x509.Certificate, signer: x509.Certificate, *, path_length: int) -> None:
    found = {extension.oid: extension.value for extension in certificate.extensions}
    constraints = found.get(ExtensionOID.BASIC_CONSTRAINTS)
    usage = found.get(ExtensionOID.KEY_USAGE)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        raise Untrusted("the realm's certificate is not one that may issue others")
    if constraints.path_length != path_length or not isinstance(usage, x509.KeyUsage) or not usage.key_cert_sign:
        raise Untrusted("the realm's certificate may issue more or less than it should")
    if certificate.issuer != signer.subject or not _is_signed_by(certificate, signer):
        raise Untrusted("the realm's issuer is not signed by its root")


def _who(leaf: x509.Certificate) -> tuple[PrincipalKind, str]:
    """Kind and name, if the subject is exactly one OU and one CN."""
    said = {attribute.oid: attribute.value for attribute in leaf.subject}
    unit, name = said.get(NameOID.ORGANIZATIONAL_UNIT_NAME), said.get(NameOID.COMMON_NAME)
    if len(list(leaf.subject)) != 2 or not isinstance(name, str) or name_problem(name):
        raise Untrusted("its certificate names nobody")
    for kind in get_args(PrincipalKind):
        if unit == kind:
            return kind, name
    raise Untrusted("its certificate is neither a host's nor a user's")


def _check_leaf_extensions(leaf: x509.Certificate, kind: PrincipalKind) -> None:
    usages: frozenset[x509.ObjectIdentifier] = frozenset()
    for extension in leaf.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise Untrusted("its certificate is an issuer's, not a leaf")
            case x509.KeyUsage() as usage if not usage.digital_signature or usage.key_cert_sign:
                raise Untrusted("its certificate may not sign messages")
            case x509.ExtendedKeyUsage() as extended:
                usages = frozenset(extended)
    if usages != _USAGES[kind]:
        raise Untrusted(f"its certificate's usages are not a {kind}'s")


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def to_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
