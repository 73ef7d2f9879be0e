"""The realm stands behind its own leaves, in their time, as what they are, and behind nothing else."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from matcher.trust.certificates import (
    BACKDATE_S,
    GRANT,
    LEAF_MAX_BYTES,
    SCOPE,
    Scope,
    Untrusted,
    check_issuer,
    check_root,
    make_leaf,
    to_der,
)
from matcher.trust.grants import grant_bytes
from matcher.trust.principal import Principal, PrincipalKind, fingerprint, name_problem, realm_id_of
from matcher.trust.realm import EVERYTHING
from matcher.trust.verifier import Verifier
from matcher.wire.realm import Grant, Verb
from tests.fakes.forging import with_serial
from tests.fakes.realms import NOW_S, Papers, new_key
from tests.unit.test_trust_grants import FULL

DAY_S = 86_400.0
HOME = Papers()
VERIFIER = Verifier(HOME.bundle)
ISSUER = HOME.bundle.issuers[0].certificate
ROOT = HOME.roots[0]
BOTH = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
CLIENT = [ExtendedKeyUsageOID.CLIENT_AUTH]
ODD = x509.ObjectIdentifier("1.2.3.4")
USER, HOST = (NameOID.ORGANIZATIONAL_UNIT_NAME, "user"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "host")
GRANTED = x509.UnrecognizedExtension(GRANT, grant_bytes(Grant((Verb.RUN,))))


def named(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier(bytes.fromhex(fingerprint(key)[:16]), None, None)


def forged(  # what someone who holds an issuer's key could make
    *,
    subject: Sequence[tuple[x509.ObjectIdentifier, str]] = (USER,),
    name: str | None = "ann",
    usages: Sequence[x509.ObjectIdentifier] = CLIENT,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    grant: x509.UnrecognizedExtension | None = GRANTED,
    identifier: x509.AuthorityKeyIdentifier | None = None,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None,
    signer: ec.EllipticCurvePrivateKey = HOME.issuers["i0"],
    issuer: x509.Name = ISSUER.subject,
    digest: SHA256 | SHA384 | None = None,
) -> bytes:
    said = [x509.NameAttribute(oid, value) for oid, value in subject]
    said += [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name is not None else []
    start = datetime.fromtimestamp(NOW_S, UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(x509.Name(said))
        .public_key(public_key or new_key().public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(identifier or named(HOME.issuers["i0"].public_key()), critical=False)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    for extension, critical in (*([(grant, False)] if grant else []), *extensions):
        builder = builder.add_extension(extension, critical)
    return to_der(builder.sign(signer, digest or SHA256()))


def refused(der: bytes, wall_s: float = NOW_S + 1, verifier: Verifier = VERIFIER) -> str:
    with pytest.raises(Untrusted) as caught:
        verifier.principal(der, wall_s)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["host", "user"])
def test_a_leaf_gives_its_principal_and_the_key_that_it_certifies(kind: PrincipalKind) -> None:
    key = new_key()
    principal, public_key = VERIFIER.principal(HOME.leaf(kind, "h1", key=key), NOW_S)
    grant = EVERYTHING if kind == "user" else Grant()
    assert principal == Principal(kind, fingerprint(key.public_key()), "h1", grant)
    assert public_key == key.public_key()
    assert principal.may(Verb.ADMIN) == (kind == "user")
    assert VERIFIER.realm_id == realm_id_of(ROOT.key.public_key())


def test_a_leaf_is_small_whatever_the_realms_name() -> None:
    far = Papers(name="r" * 64)
    assert len(far.leaf("host", "h1")) <= 400
    assert len(HOME.leaf("user", "u" * 64)) <= 490
    assert len(HOME.leaf("user", "u" * 64, grant=FULL)) <= LEAF_MAX_BYTES


def test_a_forger_with_the_issuers_key_is_the_baseline_of_what_follows() -> None:
    assert VERIFIER.principal(forged(), NOW_S + 1)[0].name == "ann"
    assert VERIFIER.principal(forged(subject=[HOST], usages=BOTH, grant=None), NOW_S + 1)[0].kind == "host"
    known = (x509.KeyUsage(True, *[False] * 8), True)
    assert VERIFIER.principal(forged(extensions=[known]), NOW_S + 1)[0].name == "ann"
    odd = (x509.UnrecognizedExtension(ODD, b"\x05\x00"), False)
    assert VERIFIER.principal(forged(extensions=[odd]), NOW_S + 1)[0].name == "ann"


def bad_name() -> bytes:
    """An alternative name of a kind that the library has no class for (x400Address), and says so its own way."""
    octets = bytes.fromhex("3004a3023000")
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), octets)
    return forged(extensions=[(extension, False)])


@pytest.mark.parametrize(
    ("der", "reason"),
    [
        (forged(extensions=[(x509.UnrecognizedExtension(ODD, b"\x05\x00"), True)]), "critical extension"),
        (forged(extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)]), "an issuer's"),
        (forged(extensions=[(x509.KeyUsage(*[False] * 9), True)]), "may not sign"),
        (forged(usages=BOTH), "usages are not a user's"),
        (forged(usages=[]), "usages are not a user's"),
        (forged(usages=[*CLIENT, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), "usages are not a user's"),
        (forged(subject=[HOST], grant=None), "usages are not a host's"),
        (forged(subject=[HOST], usages=BOTH), "a host's certificate grants nothing"),
        (forged(grant=None), "its certificate grants nothing"),
        (forged(grant=x509.UnrecognizedExtension(GRANT, b"\x81\xa1x\x01")), "grant can't be read"),
        (forged(grant=x509.UnrecognizedExtension(GRANT, b"")), "grant can't be read"),
        (forged(subject=[(NameOID.ORGANIZATIONAL_UNIT_NAME, "root")], usages=BOTH), "neither"),
        (forged(subject=[(NameOID.ORGANIZATIONAL_UNIT_NAME, "User")]), "neither"),
        (forged(subject=[]), "names nobody"),
        (forged(subject=[USER, HOST]), "names nobody"),
        (forged(name=None), "names nobody"),
        (forged(name="a\nb"), "names nobody"),
        (forged(name="a b"), "names nobody"),
        (forged(name=".."), "names nobody"),
        (forged(public_key=ec.generate_private_key(ec.SECP384R1()).public_key()), "not on P-256"),
        (forged(public_key=rsa.generate_private_key(65537, 2048).public_key()), "not on P-256"),
        (forged(digest=SHA384()), "no issuer of this realm"),
        (forged(signer=new_key()), "no issuer of this realm"),
        (forged(signer=ROOT.key), "no issuer of this realm"),
        (forged(issuer=ROOT.certificate.subject), "no issuer of this realm"),
        (forged(identifier=named(ROOT.key.public_key())), "no issuer of this realm"),
        (
            forged(signer=ROOT.key, issuer=ROOT.certificate.subject, identifier=named(ROOT.key.public_key())),
            "no issuer of this realm",
        ),
        (to_der(ISSUER), "no issuer of this realm"),
        (to_der(ROOT.certificate), "no issuer of this realm"),
        (bad_name(), "can't be read"),
        (b"", "can't be read"),
        (b"\x30\x00", "can't be read"),
        (forged()[:-1], "can't be read"),
        (forged() + b"\0", "can't be read"),
        (bytes(LEAF_MAX_BYTES + 1), "too long"),
    ],
)
def test_anything_else_is_untrusted_and_says_why(der: bytes, reason: str) -> None:
    assert reason in refused(der)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # of the library, which may well refuse it one day
@pytest.mark.parametrize("serial", [0, -1, -(2**90)])
def test_a_serial_number_is_positive(serial: int) -> None:
    leaf = x509.load_der_x509_certificate(HOME.leaf())
    signer = HOME.issuers["i0"]
    assert VERIFIER.principal(with_serial(leaf, signer, 2**95), NOW_S)[0].name == "ann"
    assert "serial number" in refused(with_serial(leaf, signer, serial))


def test_a_leaf_cannot_issue() -> None:
    key = new_key()
    leaf = x509.load_der_x509_certificate(HOME.leaf("host", "h1", key=key))
    assert "no issuer" in refused(
        forged(signer=key, issuer=leaf.subject, identifier=named(key.public_key())),
    )
    with pytest.raises(Untrusted):
        check_issuer(leaf, ROOT.certificate)


def test_a_foreign_realms_leaf_is_untrusted() -> None:
    assert "no issuer" in refused(Papers().leaf("host", "h1"))


def test_any_flipped_bit_of_a_leaf_is_noticed() -> None:
    leaf = HOME.leaf("host", "h1")
    for at in range(len(leaf)):
        for bit in (1, 128):
            assert refused(leaf[:at] + bytes([leaf[at] ^ bit]) + leaf[at + 1 :])


def test_unused_bits_behind_a_signature_are_told() -> None:
    leaf = x509.load_der_x509_certificate(HOME.leaf("host", "h1"))
    der, signature = to_der(leaf), leaf.signature
    at = len(der) - len(signature) - 1
    assert der[at] == 0
    assert "can't be read" in refused(der[:at] + b"\1" + der[at + 1 :])


def test_time_is_judged_each_time_and_not_remembered() -> None:
    leaf = HOME.leaf(days=90)
    assert "not valid yet" in refused(leaf, NOW_S - BACKDATE_S - 1)
    VERIFIER.principal(leaf, NOW_S - BACKDATE_S)
    VERIFIER.principal(leaf, NOW_S + 90 * DAY_S)
    assert "expired" in refused(leaf, NOW_S + 90 * DAY_S + 1)
    VERIFIER.principal(leaf, NOW_S)
    assert VERIFIER.certified(leaf).ends_s == NOW_S + 90 * DAY_S


def test_an_issuer_that_may_not_sign_certificates_is_none() -> None:
    usage = x509.KeyUsage(True, *[False] * 8)
    for extensions in (
        [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)],
        [(x509.BasicConstraints(ca=True, path_length=0), True)],
        [(x509.BasicConstraints(ca=True, path_length=None), True)],
        [(x509.BasicConstraints(ca=False, path_length=None), True)],
        [],
    ):
        der = forged(signer=ROOT.key, issuer=ROOT.certificate.subject, usages=[], extensions=extensions)
        with pytest.raises(Untrusted, match="realm's certificate"):
            check_issuer(x509.load_der_x509_certificate(der), ROOT.certificate)


def test_an_issuer_needs_a_scope_that_is_known_here() -> None:
    assert check_issuer(ISSUER, ROOT.certificate) == frozenset(Scope)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    base = [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)]
    for scope, fine in ((b"h", True), (b"", True), (b"hx", False), (b"H", False), (None, False)):
        extensions = base + ([(x509.UnrecognizedExtension(SCOPE, scope), False)] if scope is not None else [])
        der = forged(signer=ROOT.key, issuer=ROOT.certificate.subject, usages=[], grant=None, extensions=extensions)
        made = x509.load_der_x509_certificate(der)
        if fine:
            assert {letter.value for letter in check_issuer(made, ROOT.certificate)} == {*scope.decode()}
        else:
            with pytest.raises(Untrusted, match="scope"):
                check_issuer(made, ROOT.certificate)


def test_a_root_is_neither_a_leaf_nor_an_issuer_nor_anothers() -> None:
    check_root(ROOT.certificate)
    for certificate in (ISSUER, x509.load_der_x509_certificate(HOME.leaf("host", "h1"))):
        with pytest.raises(Untrusted):
            check_root(certificate)
    with pytest.raises(Untrusted, match="not signed by its root"):
        check_issuer(ISSUER, Papers().roots[0].certificate)


def test_a_leaf_never_outlives_its_issuer_nor_its_grant() -> None:
    long = HOME.leaf(days=3650)
    assert VERIFIER.certified(long).ends_s == ISSUER.not_valid_after_utc.timestamp()
    until_s = int(NOW_S) + 1000
    short = HOME.leaf(grant=Grant(until_s=until_s))
    assert x509.load_der_x509_certificate(short).not_valid_after_utc.timestamp() == until_s
    ever = HOME.leaf(grant=Grant(until_s=2**40))  # a year that no calendar here has
    assert VERIFIER.certified(ever).ends_s == NOW_S + 30 * DAY_S


def test_a_leaf_that_reaches_further_than_its_own_grant_ends_with_it() -> None:
    sly = x509.UnrecognizedExtension(GRANT, grant_bytes(Grant(until_s=int(NOW_S) + 10)))
    leaf = forged(grant=sly)
    VERIFIER.principal(leaf, NOW_S + 10)
    assert "expired" in refused(leaf, NOW_S + 11)


def test_a_leaf_starts_a_little_early_but_not_before_it_may() -> None:
    for not_before_s, start_s in ((0, NOW_S - BACKDATE_S), (NOW_S - 7, NOW_S - 7)):
        leaf = make_leaf(
            *(new_key().public_key(), "host", "h1", ISSUER, HOME.issuers["i0"]),
            wall_s=NOW_S,
            days=1,
            not_before_s=not_before_s,
        )
        assert leaf.not_valid_before_utc.timestamp() == start_s
        assert leaf.not_valid_after_utc.timestamp() == NOW_S + DAY_S


def test_a_hosts_name_and_addresses_stand_where_tls_looks_for_them() -> None:
    leaf = make_leaf(
        *(new_key().public_key(), "host", "h1", ISSUER, HOME.issuers["i0"]),
        wall_s=NOW_S,
        days=1,
        addresses=("10.0.0.1", "fe80::1%eth0"),
    )
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["h1"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "fe80::1"]


def test_names_are_short_and_plain() -> None:
    assert all(name_problem(name) is None for name in ("h1", "a", "A.b_c-9", "x" * 64))
    for name in ("", "x" * 65, "a b", "ä", "a/b", "a\n", "\0", ".", "..", "h1\u202e"):
        problem = name_problem(name)
        assert problem is not None
        assert problem.endswith("are.")
