"""Making a realm, its first host and its first admin; and what the root alone may do later.

A root's folder (0700) holds `root.key.pem`, `root.pem` and `realm.json`, each 0600; it is made aside and renamed into
place, so that there is a whole one or none. The root signs anchors and nothing else, so that it is needed for `rotate`
and for issuers alone, and can leave: see `export_root`.
"""

import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import PrivateFormat, load_pem_private_key, pkcs12

from matcher.trust import files
from matcher.trust.bundle import Bundle, begin_bundle
from matcher.trust.certificates import (
    ALL_SCOPES,
    Scope,
    make_issuer,
    make_root,
    public_key_of,
    to_der,
    to_pem,
)
from matcher.trust.documents import Signed, write_document
from matcher.trust.identity import Identity, is_identity, load_identity, write_identity
from matcher.trust.issuing import Issuer, open_issuer
from matcher.trust.principal import PrincipalKind, name_problem, realm_id_of
from matcher.trust.requests import make_request
from matcher.trust.verifier import Verifier
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.framing import frame
from matcher.wire.realm import Anchor, Grant, PciLimit, TagKey, Verb
from specs.ids import RealmId

EXPORT_ROUNDS = 600_000  # PBKDF2-HMAC-SHA256, as OWASP asks for in 2023
PASSPHRASE_MIN = 12
EVERYTHING = Grant(verbs=tuple(Verb), pci=(PciLimit("*", "*", 4096),))


class RealmError(Exception):
    """What stands in the way, as a sentence for a person."""


@dataclass(frozen=True, slots=True)
class Root:
    """A realm's root, as its folder holds it."""

    folder: Path
    realm_id: RealmId
    name: str
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey


def create_root(folder: Path, name: str) -> Root:
    """A new realm's root in `folder`, which must not exist or be empty. Raises `RealmError`."""
    if problem := name_problem(name):
        raise RealmError(problem)
    folder = Path(os.path.abspath(folder))
    with _writing(folder):
        if (folder / "realm.json").exists():
            raise RealmError(f"There is a realm in {folder} already, and it stays. Choose another folder.")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RealmError(f"{folder} is not an empty folder. Choose one that does not exist yet.")
        key = generate_private_key(SECP256R1())
        certificate = make_root(key, name, wall_s=time.time())
        realm_id = realm_id_of(key.public_key())
        with _aside(folder) as aside:
            files.write(aside / "root.key.pem", files.key_pem(key))
            files.write(aside / "root.pem", to_pem(certificate))
            files.write_json(aside / "realm.json", {"realm_id": realm_id, "name": name})
        return Root(folder, realm_id, name, certificate, key)


def open_root(folder: Path) -> Root:
    """Raises `RealmError`; also where the key has left."""
    try:
        held = files.read_json(folder / "realm.json")
        certificate = x509.load_pem_x509_certificate(files.read(folder / "root.pem"))
        if not (folder / "root.key.pem").exists():
            raise RealmError(f"The root key is not in {folder}: it was exported. Bring it: electros realm import-root")
        key = load_pem_private_key(files.read(folder / "root.key.pem"), password=None)
        name, realm_id = str(held["name"]), RealmId(str(held["realm_id"]))
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise RealmError(
            f"There is no realm's root in {folder}: {missing} is missing. Make a realm with: electros realm create"
        ) from error
    except OSError as error:
        raise RealmError(f"The root in {folder} can't be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise RealmError(f"The root in {folder} is damaged; restore it from a backup.") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != public_key_of(certificate):
        raise RealmError(f"The root in {folder} is damaged: root.key.pem is not the key of root.pem.")
    return Root(folder, realm_id, name, certificate, key)


def found(root: Root, *, host: str, identity: Path, issuer: Path, addresses: Collection[str] = ()) -> Identity:
    """Make this machine the realm's first host: an issuer in the folder `issuer`, its own identity in `identity`.

    Raises `RealmError` where either folder holds one already.
    """
    if problem := name_problem(host):
        raise RealmError(problem)
    for folder, is_there in ((identity, is_identity(identity)), (issuer, (issuer / "key.pem").exists())):
        if is_there:
            raise RealmError(f"This host belongs to a realm already: {folder} is not empty.")
    wall_s = time.time()
    with _writing(identity):
        issuer_key, key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
        bundle = begin_bundle(_first_anchor(root, issuer_key.public_key(), wall_s), root.certificate)
        tag_key = TagKey(root.realm_id, 1, os.urandom(TAG_KEY_BYTES), int(wall_s * 1000))
        keys = frame([write_document(tag_key, issuer_key).data])
        files.make_folder(issuer)
        files.write(issuer / "key.pem", files.key_pem(issuer_key))
        leaf = _first_leaf(issuer_key, issuer, bundle, host, key, addresses, wall_s)
        write_identity(identity, key, leaf, bundle, keys)
        mine = load_identity(identity)
        desk = open_issuer(issuer, mine)
        beat = desk.heartbeat(wall_s) if desk else None
        mine.learn([beat] if beat else [], wall_s)
        mine.save()
        return mine


def make_member(
    by: Identity,
    issuer: Issuer,
    kind: PrincipalKind,
    name: str,
    out: Path,
    *,
    grant: Grant | None = None,
    addresses: Collection[str] = (),
) -> None:
    """A member made on the issuer's own machine, key and all: the first admin, and the hosts of a lab. Raises
    `IssueError` or `RealmError`."""
    if is_identity(out):
        raise RealmError(f"{out} holds an identity already, and it stays. Choose another folder.")
    key = generate_private_key(SECP256R1())
    issued = issuer.admit(kind, name, make_request(key, name), grant, wall_s=time.time(), addresses=addresses)
    with _writing(out):
        write_identity(out, key, issued.leaf, by.bundle, by.tag_key_documents())


def next_anchor(
    root: Root,
    bundle: Bundle,
    *,
    wall_s: float,
    add: EllipticCurvePublicKey | None = None,
    scopes: Collection[Scope] = ALL_SCOPES,
    drop: bytes | None = None,
) -> Signed[Anchor]:
    """The next epoch's anchor: with the issuer of the key `add`, or without the one with the key id `drop`."""
    issuers = [entry.certificate for entry in bundle.issuers if entry.key_id != drop]
    if add is not None:
        issuers.append(
            make_issuer(add, root.certificate, root.key, realm_id=root.realm_id, scopes=scopes, wall_s=wall_s)
        )
    return _anchor(root, bundle.anchor.epoch + 1, list(bundle.roots), issuers, root.key)


def rotate_root(root: Root, bundle: Bundle) -> tuple[Root, Signed[Anchor]]:
    """A new root beside the old one, and the anchor by which members follow: signed by both, with every issuer signed
    anew. The old root stays good until `finish_rotation`. The new one lies in the folder when this returns.

    Raises `RealmError`.
    """
    if len(bundle.roots) > 1:
        raise RealmError("A rotation is under way already. End it first: electros realm rotate --finish")
    wall_s = time.time()
    key = generate_private_key(SECP256R1())
    certificate = make_root(key, root.name, wall_s=wall_s)
    new = Root(root.folder, root.realm_id, root.name, certificate, key)
    issuers = [
        make_issuer(
            public_key_of(entry.certificate),
            certificate,
            key,
            realm_id=root.realm_id,
            scopes=entry.scopes,
            wall_s=wall_s,
        )
        for entry in bundle.issuers
    ]
    anchor = _anchor(root, bundle.anchor.epoch + 1, [root.certificate, certificate], issuers, root.key, key)
    with _writing(root.folder):
        files.write(root.folder / "root.key.old.pem", files.key_pem(root.key))
        files.write(root.folder / "root.key.new.pem", files.key_pem(key))
        files.write(root.folder / "root.pem", to_pem(certificate))
        (root.folder / "root.key.new.pem").replace(root.folder / "root.key.pem")
        files.sync_folder(root.folder)
    return new, anchor


def finish_rotation(root: Root, bundle: Bundle) -> Signed[Anchor]:
    """The anchor that ends the overlap: today's root alone. Raises `RealmError`."""
    if len(bundle.roots) == 1:
        raise RealmError("No rotation is under way.")
    issuers = [entry.certificate for entry in bundle.issuers]
    anchor = _anchor(root, bundle.anchor.epoch + 1, [root.certificate], issuers, root.key)
    with _writing(root.folder):
        (root.folder / "root.key.old.pem").unlink(missing_ok=True)
    return anchor


def export_root(root: Root, out: Path, passphrase: str) -> None:
    """The root key to a file of its own, encrypted (PKCS#12, AES-256); then it is gone from here.

    Raises `RealmError`.
    """
    if len(passphrase) < PASSPHRASE_MIN:
        raise RealmError(f"That passphrase is too short: {PASSPHRASE_MIN} characters at least.")
    if out.exists():
        raise RealmError(f"{out} exists, and stays. Choose another file.")
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(EXPORT_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(SHA256())
        .build(passphrase.encode())
    )
    data = pkcs12.serialize_key_and_certificates(root.name.encode(), root.key, root.certificate, None, encryption)
    with _writing(out):
        files.write(out, data)
        _decrypt(out, passphrase)  # before the only other copy goes
        (root.folder / "root.key.pem").unlink()
        (root.folder / "root.key.old.pem").unlink(missing_ok=True)
        files.sync_folder(root.folder)


def import_root(folder: Path, exported: Path, passphrase: str) -> None:
    """Bring an exported root key back to its folder. Raises `RealmError`."""
    key, certificate = _decrypt(exported, passphrase)
    try:
        held = x509.load_pem_x509_certificate(files.read(folder / "root.pem"))
    except (OSError, ValueError) as error:
        raise RealmError(f"There is no realm's root in {folder} that the key could belong to.") from error
    if public_key_of(held) != key.public_key() or certificate is None:
        raise RealmError(f"The key in {exported} is not that of {folder / 'root.pem'}.")
    with _writing(folder):
        files.write(folder / "root.key.pem", files.key_pem(key))


# ---- inside


def _first_anchor(root: Root, issuer: EllipticCurvePublicKey, wall_s: float) -> Signed[Anchor]:
    certificate = make_issuer(issuer, root.certificate, root.key, realm_id=root.realm_id, wall_s=wall_s)
    return _anchor(root, 1, [root.certificate], [certificate], root.key)


def _anchor(
    root: Root,
    epoch: int,
    roots: list[x509.Certificate],
    issuers: list[x509.Certificate],
    *keys: EllipticCurvePrivateKey,
) -> Signed[Anchor]:
    says = Anchor(
        root.realm_id, root.name, epoch, frame(to_der(each) for each in roots), frame(to_der(each) for each in issuers)
    )
    return write_document(says, *keys)


def _first_leaf(
    issuer_key: EllipticCurvePrivateKey,
    issuer: Path,
    bundle: Bundle,
    host: str,
    key: EllipticCurvePrivateKey,
    addresses: Collection[str],
    wall_s: float,
) -> bytes:
    """The first host is not there yet when its own issuer makes it."""
    desk = Issuer(issuer, issuer_key, Verifier(bundle))
    return desk.admit("host", host, make_request(key, host), None, wall_s=wall_s, addresses=addresses).leaf


def _decrypt(path: Path, passphrase: str) -> tuple[EllipticCurvePrivateKey, x509.Certificate | None]:
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(files.read(path), passphrase.encode())
    except OSError as error:
        raise RealmError(f"{path} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise RealmError(f"{path} does not open with that passphrase.") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise RealmError(f"{path} holds no root key.")
    return key, certificate


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` at the end, if all went well: whole or not at all."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        files.make_folder(aside)
        yield aside
        aside.rename(folder)
        files.sync_folder(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RealmError(f"{folder} can't be written: {error.strerror}.") from error
