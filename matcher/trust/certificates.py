"""X.509 certificates on P-256, made and read: root -> issuer -> leaf. Who is trusted is `matcher.trust.verifier`'s.

A leaf's subject says what it is (OU: host or user) and its name (CN); its extended key usage must agree, so that a
user's certificate passes as a host's neither here nor in any TLS library. A user's leaf carries the grant, an issuer's
certificate its scope, each in an extension of ours. These are not critical, as OpenSSL refuses critical ones that it
does not know; our own verifier refuses a user without a grant and an issuer without a scope.
Leaves are kept small, since each datagram carries one: key identifiers are 8 bytes, and an issuer is named by its
realm's id, however long the realm's name is. Times come in as arguments, in seconds of wall time.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from typing import get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, SignatureAlgorithmOID

from matcher.trust.grants import NOTHING, grant_bytes, read_grant
from matcher.trust.principal import Principal, PrincipalKind, fingerprint, name_problem
from matcher.wire.codec import BadBytes
from matcher.wire.realm import Grant
from specs.ids import RealmId

ROOT_DAYS = 20 * 365
ISSUER_DAYS = 5 * 365
LEAF_DAYS: dict[PrincipalKind, int] = {"host": 30, "user": 90}
BACKDATE_S = 300  # a new leaf works at once on a host whose clock is a little behind
LEAF_MAX_BYTES = 1088  # the largest grant, for the longest name

# Object identifiers from UUIDs need no registration (ITU-T X.667). These are uuid5 of https://atomos/grant and /scope.
GRANT = x509.ObjectIdentifier("2.25.25054883393916253499240577349416176617")
SCOPE = x509.ObjectIdentifier("2.25.34436997950152294651799857555384220085")

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
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        GRANT,
        SCOPE,
    }
)


class Untrusted(Exception):
    """A certificate that this realm does not stand behind. `reason` is a short phrase for logs and people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Scope(StrEnum):
    """What an issuer may do, a letter each."""

    HOSTS = "h"  # make and revoke hosts, and the keys of tags
    USERS = "u"  # make and revoke users
    ADMINS = "a"  # users who may themselves invite and revoke


ALL_SCOPES = frozenset(Scope)


def make_root(key: EllipticCurvePrivateKey, realm_name: str, *, wall_s: float) -> x509.Certificate:
    subject = _name("root", realm_name)
    builder = _builder(subject, subject, key.public_key(), wall_s, ROOT_DAYS)
    return _authority(builder, key.public_key(), key.public_key(), path_length=1).sign(key, SHA256())


def make_issuer(
    public_key: PublicKey,
    root: x509.Certificate,
    root_key: EllipticCurvePrivateKey,
    *,
    realm_id: RealmId,
    scopes: Collection[Scope] = ALL_SCOPES,
    wall_s: float,
) -> x509.Certificate:
    builder = _builder(root.subject, _name("issuer", realm_id), public_key, wall_s, ISSUER_DAYS)
    letters = "".join(scope.value for scope in Scope if scope in scopes).encode()
    builder = builder.add_extension(x509.UnrecognizedExtension(SCOPE, letters), critical=False)
    return _authority(builder, public_key, root_key.public_key(), path_length=0).sign(root_key, SHA256())


def make_leaf(
    public_key: PublicKey,
    kind: PrincipalKind,
    name: str,
    issuer: x509.Certificate,
    issuer_key: EllipticCurvePrivateKey,
    *,
    wall_s: float,
    days: float,
    grant: Grant | None = None,
    addresses: Collection[str] = (),
    not_before_s: float = 0.0,
) -> x509.Certificate:
    """A leaf for `days` from now, and never beyond its issuer or the grant's own end, one of which may not be over yet.
    A user's needs a `grant`; a host's name and `addresses` stand in it as TLS libraries look for them (SAN). It starts
    a little before now, but not before `not_before_s`."""
    assert name_problem(name) is None
    assert (kind == "user") == (grant is not None), "users have grants, hosts have none"
    latest_s = issuer.not_valid_after_utc.timestamp()
    if grant is not None and grant.until_s is not None:
        latest_s = min(latest_s, grant.until_s)
    builder = _builder(issuer.subject, _name(kind, name), public_key, wall_s, days, latest_s, not_before_s)
    if grant is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(GRANT, grant_bytes(grant)), critical=False)
    else:
        builder = builder.add_extension(_alternative_names(name, addresses), critical=False)
    usages = sorted(_USAGES[kind], key=lambda usage: usage.dotted_string)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(_signed_by(issuer_key.public_key()), critical=False)
    return builder.sign(issuer_key, SHA256())


def load(der: bytes) -> x509.Certificate:
    """A certificate without anything in it that is not known here. Raises `Untrusted`."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.subject, certificate.issuer  # parsed late by the library
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except Exception as error:  # ValueError, UnsupportedGeneralNameType, ...: the library names no common base
        raise Untrusted("its certificate can't be read") from error
    if not der.endswith(b"\0" + certificate.signature):
        raise Untrusted("its certificate can't be read")  # unused bits after the signature, which the library lets pass
    if certificate.serial_number < 1:  # RFC 5280, 4.1.2.2; neither OpenSSL nor the library refuses it yet
        raise Untrusted("its certificate's serial number is none")
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN:
            raise Untrusted("its certificate has a critical extension that is not known here")
    return certificate


def public_key_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> PublicKey:
    try:
        key = certificate.public_key()
    except Exception as error:  # ValueError, UnsupportedAlgorithm: the library names no common base
        raise Untrusted("its key can't be read") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, SECP256R1):
        raise Untrusted("its key is not on P-256")
    return key


def is_signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        return False
    try:
        public_key_of(signer).verify(certificate.signature, certificate.tbs_certificate_bytes, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def check_root(root: x509.Certificate) -> None:
    """Raises `Untrusted` where this can't be a realm's root."""
    _check_authority(root, root, path_length=1)


def check_issuer(issuer: x509.Certificate, root: x509.Certificate) -> frozenset[Scope]:
    """What `issuer` may do by the word of `root`. Raises `Untrusted`."""
    _check_authority(issuer, root, path_length=0)
    letters = _extension(issuer, SCOPE)
    if letters is None or not {*letters.decode("latin-1")} <= {scope.value for scope in Scope}:
        raise Untrusted("the realm's issuer has no scope that is known here")
    return frozenset(scope for scope in Scope if scope.value in letters.decode("latin-1"))


def issuer_id_in(leaf: x509.Certificate) -> bytes | None:
    """The key id of the issuer that a leaf names, by nobody's word; `None` if it names none."""
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.AuthorityKeyIdentifier):
            return extension.value.key_identifier
    return None


def read_leaf(leaf: x509.Certificate) -> Principal:
    """Whom a leaf names, with their grant, if its form is that of a leaf of ours. Raises `Untrusted`."""
    key = public_key_of(leaf)
    kind, name = _who(leaf)
    _check_leaf_extensions(leaf, kind)
    return Principal(kind, fingerprint(key), name, _grant(leaf, kind))


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
    days: float,
    latest_s: float = float("inf"),
    not_before_s: float = 0.0,
) -> x509.CertificateBuilder:
    start_s = max(int(wall_s) - BACKDATE_S, int(not_before_s))
    end_s = min(int(wall_s) + timedelta(days=days).total_seconds(), latest_s)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number() >> 64)  # 95 random bits; RFC 5280 wants 64 at least
        .not_valid_before(datetime.fromtimestamp(start_s, UTC))
        .not_valid_after(datetime.fromtimestamp(int(end_s), UTC))
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


def _check_authority(certificate: x509.Certificate, signer: x509.Certificate, *, path_length: int) -> None:
    found = {extension.oid: extension.value for extension in certificate.extensions}
    constraints = found.get(ExtensionOID.BASIC_CONSTRAINTS)
    usage = found.get(ExtensionOID.KEY_USAGE)
    if not isinstance(constraints, x509.BasicConstraints) or not constraints.ca:
        raise Untrusted("the realm's certificate is not one that may issue others")
    if constraints.path_length != path_length or not isinstance(usage, x509.KeyUsage) or not usage.key_cert_sign:
        raise Untrusted("the realm's certificate may issue more or less than it should")
    if certificate.issuer != signer.subject or not is_signed_by(certificate, signer):
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


def _grant(leaf: x509.Certificate, kind: PrincipalKind) -> Grant:
    data = _extension(leaf, GRANT)
    if (data is not None) != (kind == "user"):
        raise Untrusted("its certificate grants nothing" if kind == "user" else "a host's certificate grants nothing")
    try:
        return read_grant(data) if data is not None else NOTHING
    except BadBytes as error:
        raise Untrusted("its certificate's grant can't be read") from error


def _extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes | None:
    """The content of an extension of ours."""
    for extension in certificate.extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return None


def _alternative_names(name: str, addresses: Collection[str]) -> x509.SubjectAlternativeName:
    ips = [x509.IPAddress(ip_address(address.partition("%")[0])) for address in sorted(addresses)]
    return x509.SubjectAlternativeName([x509.DNSName(name), *ips])


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
