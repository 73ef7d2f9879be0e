"""Making a realm, and making its members.

A realm's folder (0700) holds `root.key.pem`, `root.pem`, `issuer.key.pem`, `issuer.pem` and `realm.json`, each 0600.
It is made aside and renamed into place, so that there is a whole realm or none. Issuing needs the issuer's key alone:
`root.key.pem` can be moved to a safe place.
"""

import base64
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from matcher.trust import files
from matcher.trust.certificates import LEAF_DAYS, make_issuer, make_leaf, make_root, to_pem
from matcher.trust.identity import IdentityError, load_identity
from matcher.trust.principal import PrincipalKind, name_problem, realm_id_of
from matcher.wire.envelope import TAG_KEY_BYTES
from specs.ids import RealmId

DAYS_MAX = 3650


class RealmError(Exception):
    """What stands in the way, as a sentence for a person."""


def create_realm(folder: Path, name: str) -> RealmId:
    """A new realm in `folder`, which must not exist or be empty. Raises `RealmError`."""
    if problem := name_problem(name):
        raise RealmError(problem)
    folder = Path(os.path.abspath(folder))
    with _writing(folder):
        if (folder / "realm.json").exists():
            raise RealmError(f"There is a realm in {folder} already, and it stays. Choose another folder.")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RealmError(f"{folder} is not an empty folder. Choose one that does not exist yet.")
        with _aside(folder) as aside:
            return _fill(aside, name)


def issue(realm_folder: Path, kind: PrincipalKind, name: str, out_folder: Path, days: int | None = None) -> None:
    """Make the key and leaf of a host or user, with all that `load_identity` needs, in `out_folder`.

    `days` is 30 for hosts and 90 for users. If `out_folder` holds this same member of this realm, its key (and so its
    id) stays and it gets a new leaf; anyone else's identity there is refused. Raises `RealmError`.
    """
    days = LEAF_DAYS[kind] if days is None else days
    if problem := name_problem(name):
        raise RealmError(problem)
    if not 1 <= days <= DAYS_MAX:
        raise RealmError(f"{days} days can't be: 1 to {DAYS_MAX} are.")
    out_folder = Path(os.path.abspath(out_folder))
    realm, root, issuer, issuer_key = _open(realm_folder)
    with _writing(out_folder):
        key = _key_in(out_folder, kind, name, realm["realm_id"])
        leaf = make_leaf(key.public_key(), kind, name, issuer, issuer_key, wall_s=time.time(), days=days)
        with nullcontext(out_folder) if out_folder.exists() else _aside(out_folder) as folder:
            files.write_json(folder / "realm.json", realm)
            files.write(folder / "root.pem", to_pem(root))
            files.write(folder / "issuers.pem", to_pem(issuer))
            files.write(folder / "key.pem", _key_pem(key))
            files.write(folder / "leaf.pem", to_pem(leaf))


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


def _fill(folder: Path, name: str) -> RealmId:
    now_s = time.time()
    root_key, issuer_key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    root = make_root(root_key, name, wall_s=now_s)
    issuer = make_issuer(issuer_key.public_key(), root, root_key, wall_s=now_s)
    realm_id = realm_id_of(root_key.public_key())
    tag_key = base64.b64encode(os.urandom(TAG_KEY_BYTES)).decode()
    files.write(folder / "root.key.pem", _key_pem(root_key))
    files.write(folder / "root.pem", to_pem(root))
    files.write(folder / "issuer.key.pem", _key_pem(issuer_key))
    files.write(folder / "issuer.pem", to_pem(issuer))
    files.write_json(folder / "realm.json", {"realm_id": realm_id, "name": name, "tag_key": tag_key})
    return realm_id


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _open(folder: Path) -> tuple[dict[str, str], x509.Certificate, x509.Certificate, EllipticCurvePrivateKey]:
    """What issuing needs of a realm's folder."""
    try:
        held = files.read_json(folder / "realm.json")
        realm = {part: str(held[part]) for part in ("realm_id", "name", "tag_key")}
        root = x509.load_pem_x509_certificate(files.read(folder / "root.pem"))
        issuer = x509.load_pem_x509_certificate(files.read(folder / "issuer.pem"))
        key = load_pem_private_key(files.read(folder / "issuer.key.pem"), password=None)
    except FileNotFoundError as error:
        where = Path(error.filename).name
        raise RealmError(
            f"There is no realm in {folder}: {where} is missing. Make one with: electros realm create"
        ) from error
    except OSError as error:
        raise RealmError(f"The realm in {folder} can't be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise RealmError(f"The realm in {folder} is damaged; restore it from a backup.") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != issuer.public_key():
        raise RealmError(f"The realm in {folder} is damaged: issuer.key.pem is not the key of issuer.pem.")
    return realm, root, issuer, key


def _key_in(folder: Path, kind: PrincipalKind, name: str, realm_id: str) -> EllipticCurvePrivateKey:
    """The key of this very member, if `folder` holds it; a new one, if it holds nobody."""
    if (folder / "issuer.key.pem").exists():
        raise RealmError(f"{folder} holds the realm itself. Choose another folder for its member.")
    if not any((folder / file).exists() for file in ("key.pem", "leaf.pem")):
        return generate_private_key(SECP256R1())
    if not (folder / "leaf.pem").exists():
        raise RealmError(
            f"{folder / 'key.pem'} is a private key without its certificate. Move it away, or choose another folder."
        )
    try:
        held = load_identity(folder, allow_expired=True)
    except IdentityError as error:
        raise RealmError(f"{folder} holds an identity that can't be used, and it stays. {error}") from error
    if (held.principal.kind, held.principal.name, held.realm.realm_id) != (kind, name, realm_id):
        who = f"{held.principal.kind} {held.principal.name}"
        raise RealmError(f"{folder} holds the identity of {who}, and it stays. Choose another folder.")
    return held.key
