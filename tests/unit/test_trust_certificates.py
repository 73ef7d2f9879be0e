"""The realm stands behind its own leaves, in their time, as what they are, and behind nothing else."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from matcher.trust import certificates
from matcher.trust.certificates import (
    BACKDATE_S,
    LEAF_MAX_BYTES,
    Untrusted,
    Verifier,
    make_issuer,
    make_leaf,
    make_root,
    to_der,
)
from matcher.trust.principal import Principal, PrincipalKind, fingerprint, name_problem, realm_id_of

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class Realm:
    """A root and an issuer, made now."""

    def __init__(self, name: str = "home") -> None:
        self.root_key, self.issuer_key = key(), key()
        self.root = make_root(self.root_key, name, wall_s=NOW_S)
        self.issuer = make_issuer(self.issuer_key.public_key(), self.root, self.root_key, wall_s=NOW_S)
        self.verifier = Verifier(to_der(self.root), [to_der(self.issuer)])

    def leaf(self, kind: PrincipalKind, name: str, days: int = 30) -> bytes:
        public_key = key().public_key()
        return to_der(make_leaf(public_key, kind, name, self.issuer, self.issuer_key, wall_s=NOW_S, days=days))


HOME = Realm()
BOTH = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
CLIENT = [ExtendedKeyUsageOID.CLIENT_AUTH]
ODD = x509.ObjectIdentifier("1.2.3.4")


def forged(  # what someone who holds an issuer's key could make
    *,
    subject: Sequence[tuple[x509.ObjectIdentifier, str]] = ((NameOID.ORGANIZATIONAL_UNIT_NAME, "user"),),
    name: str | None = "ann",
    usages: Sequence[x509.ObjectIdentifier] = CLIENT,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None,
    signer: ec.EllipticCurvePrivateKey = HOME.issuer_key,
    issuer: x509.Name = HOME.issuer.subject,
    digest: SHA256 | SHA384 | None = None,
) -> bytes:
    said = [x509.NameAttribute(oid, value) for oid, value in subject]
    said += [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name is not None else []
    start = datetime.fromtimestamp(NOW_S, UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(x509.Name(said))
        .public_key(public_key or key().public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return to_der(builder.sign(signer, digest or SHA256()))


def refused(der: bytes, wall_s: float = NOW_S + 1, verifier: Verifier = HOME.verifier) -> str:
    with pytest.raises(Untrusted) as caught:
        verifier.principal(der, wall_s)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["host", "user"])
def test_a_leaf_gives_its_principal_and_the_key_that_it_certifies(kind: PrincipalKind) -> None:
    leaf_key = key().public_key()
    leaf = to_der(make_leaf(leaf_key, kind, "h1", HOME.issuer, HOME.issuer_key, wall_s=NOW_S, days=30))
    principal, public_key = HOME.verifier.principal(leaf, NOW_S)
    assert principal == Principal(kind, fingerprint(leaf_key), "h1")
    assert public_key == leaf_key
    assert len(principal.id) == 64
    assert HOME.verifier.realm_id == fingerprint(HOME.root_key.public_key())[:16] == realm_id_of(public_key_of_root())


def public_key_of_root() -> ec.EllipticCurvePublicKey:
    return HOME.root_key.public_key()


def test_a_leaf_is_small_whatever_the_realms_name() -> None:
    assert len(Realm("r" * 64).leaf("host", "h1")) <= 384
    assert len(HOME.leaf("host", "h" * 64)) <= 480


def test_a_forger_with_the_issuers_key_is_the_baseline_of_what_follows() -> None:
    assert HOME.verifier.principal(forged(), NOW_S + 1)[0].name == "ann"
    known = (x509.KeyUsage(True, *[False] * 8), True)
    assert HOME.verifier.principal(forged(extensions=[known]), NOW_S + 1)[0].name == "ann"
    odd = (x509.UnrecognizedExtension(ODD, b"\x05\x00"), False)
    assert HOME.verifier.principal(forged(extensions=[odd]), NOW_S + 1)[0].name == "ann"


@pytest.mark.parametrize(
    ("der", "reason"),
    [
        (forged(extensions=[(x509.UnrecognizedExtension(ODD, b"\x05\x00"), True)]), "critical extension"),
        (forged(extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)]), "an issuer's"),
        (forged(extensions=[(x509.KeyUsage(*[False] * 9), True)]), "may not sign"),
        (forged(usages=BOTH), "usages are not a user's"),
        (forged(usages=[]), "usages are not a user's"),
        (forged(usages=[*CLIENT, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), "usages are not a user's"),
        (forged(subject=[(NameOID.ORGANIZATIONAL_UNIT_NAME, "host")]), "usages are not a host's"),
        (forged(subject=[(NameOID.ORGANIZATIONAL_UNIT_NAME, "root")], usages=BOTH), "neither"),
        (forged(subject=[(NameOID.ORGANIZATIONAL_UNIT_NAME, "User")]), "neither"),
        (forged(subject=[]), "names nobody"),
        (forged(subject=[(NameOID.ORGANIZATIONAL_UNIT_NAME, kind) for kind in ("user", "host")]), "names nobody"),
        (forged(name=None), "names nobody"),
        (forged(name="a\nb"), "names nobody"),
        (forged(name="a b"), "names nobody"),
        (forged(name=".."), "names nobody"),
        (forged(public_key=ec.generate_private_key(ec.SECP384R1()).public_key()), "not on P-256"),
        (forged(public_key=rsa.generate_private_key(65537, 2048).public_key()), "not on P-256"),
        (forged(digest=SHA384()), "no issuer of this realm"),
        (forged(signer=key()), "no issuer of this realm"),
        (forged(signer=HOME.root_key), "no issuer of this realm"),
        (forged(issuer=HOME.root.subject), "no issuer of this realm"),
        (forged(signer=HOME.root_key, issuer=HOME.root.subject), "no issuer of this realm"),
        (to_der(HOME.issuer), "no issuer of this realm"),
        (to_der(HOME.root), "no issuer of this realm"),
        (b"", "can't be read"),
        (b"\x30\x00", "can't be read"),
        (forged()[:-1], "can't be read"),
        (forged() + b"\0", "can't be read"),
        (bytes(LEAF_MAX_BYTES + 1), "too long"),
    ],
)
def test_anything_else_is_untrusted_and_says_why(der: bytes, reason: str) -> None:
    assert reason in refused(der)


def test_a_leaf_cannot_issue() -> None:
    leaf_key = key()
    leaf = make_leaf(leaf_key.public_key(), "host", "h1", HOME.issuer, HOME.issuer_key, wall_s=NOW_S, days=30)
    assert "no issuer" in refused(forged(signer=leaf_key, issuer=leaf.subject))
    with pytest.raises(Untrusted):
        Verifier(to_der(HOME.root), [to_der(leaf)])


def test_a_foreign_realms_leaf_is_untrusted() -> None:
    assert "no issuer" in refused(Realm().leaf("host", "h1"))


def test_any_flipped_bit_of_a_leaf_is_noticed() -> None:
    leaf = HOME.leaf("host", "h1")
    for at in range(len(leaf)):
        assert refused(leaf[:at] + bytes([leaf[at] ^ 1]) + leaf[at + 1 :])


def test_time_is_judged_each_time_and_not_remembered() -> None:
    leaf = HOME.leaf("user", "ann", days=90)
    assert "not valid yet" in refused(leaf, NOW_S - BACKDATE_S - 1)
    HOME.verifier.principal(leaf, NOW_S - BACKDATE_S)
    HOME.verifier.principal(leaf, NOW_S + 90 * DAY_S)
    assert "expired" in refused(leaf, NOW_S + 90 * DAY_S + 1)
    HOME.verifier.principal(leaf, NOW_S)
    assert HOME.verifier.certified(leaf).ends_s == NOW_S + 90 * DAY_S


def test_an_issuer_that_may_not_sign_certificates_is_none() -> None:
    usage = x509.KeyUsage(True, *[False] * 8)
    for extensions in (
        [(x509.BasicConstraints(ca=True, path_length=0), True), (usage, True)],
        [(x509.BasicConstraints(ca=True, path_length=0), True)],
        [(x509.BasicConstraints(ca=True, path_length=None), True)],
        [(x509.BasicConstraints(ca=False, path_length=None), True)],
        [],
    ):
        issuer = forged(signer=HOME.root_key, issuer=HOME.root.subject, usages=[], extensions=extensions)
        with pytest.raises(Untrusted, match="realm's certificate"):
            Verifier(to_der(HOME.root), [issuer])


def test_a_leaf_never_outlives_its_issuer() -> None:
    long = x509.load_der_x509_certificate(HOME.leaf("user", "ann", days=3650))
    assert long.not_valid_after_utc == HOME.issuer.not_valid_after_utc
    assert (
        HOME.verifier.certified(HOME.leaf("user", "ann", days=3650)).ends_s
        == HOME.issuer.not_valid_after_utc.timestamp()
    )


def test_what_is_remembered_is_bounded_and_never_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "CACHE_MAX", 3)
    realm = Realm()
    for number in range(5):
        realm.verifier.principal(realm.leaf("user", f"u{number}"), NOW_S)
        refused(HOME.leaf("user", "ann"), verifier=realm.verifier)
    assert len(realm.verifier._certified) == 3


def test_the_root_and_its_issuers_must_hold_together() -> None:
    other = Realm()
    for root, issuers in (
        (to_der(HOME.root), [to_der(other.issuer)]),
        (to_der(HOME.issuer), [to_der(HOME.issuer)]),
        (to_der(HOME.root), [to_der(HOME.root)]),
        (HOME.leaf("host", "h1"), []),
        (b"", []),
        (to_der(HOME.root), [b""]),
    ):
        with pytest.raises(Untrusted):
            Verifier(root, issuers)


def test_names_are_short_and_plain() -> None:
    assert all(name_problem(name) is None for name in ("h1", "a", "A.b_c-9", "x" * 64))
    for name in ("", "x" * 65, "a b", "ä", "a/b", "a\n", "\0", ".", "..", "h1\u202e"):
        problem = name_problem(name)
        assert problem is not None
        assert problem.endswith("are.")
