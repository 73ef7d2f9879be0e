"""A realm's root: made, kept, replaced, and what it alone may do.

A root's folder (0700) holds, each 0600:

    root.key.pem  root.pem  realm.json      made aside and renamed into place: a whole root or none
    anchor                                  the newest that this root has signed: given out again until it is known
    next.key.pem  next.pem                  while a new root takes over

The root signs anchors and nothing else, so that it is needed for `rotate` and for issuers alone, and can leave: see
`export_root`. Everything here can be interrupted at any write, and done again: what is there already is used. A new
root waits beside the old one until the realm knows it, and the old one goes last.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

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
from matcher.trust.bundle import ISSUERS_MAX, Bundle, read_link
from matcher.trust.certificates import (
    ALL_SCOPES,
    Scope,
    Untrusted,
    make_issuer,
    make_root,
    public_key_of,
    to_der,
    to_pem,
)
from matcher.trust.documents import Signed, key_id, read_document, write_document
from matcher.trust.identity import IdentityError
from matcher.trust.principal import name_problem, realm_id_of
from matcher.wire.codec import BadBytes
from matcher.wire.framing import frame
from matcher.wire.realm import Anchor
from specs.ids import RealmId

EXPORT_ROUNDS = 600_000  # PBKDF2-HMAC-SHA256, as OWASP asks for in 2023
PASSPHRASE_MIN = 12


class RealmError(Exception):
    """What stands in the way, as a sentence for a person."""


@dataclass(frozen=True, slots=True)
class RootKey:
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Root:
    """A realm's root, as its folder holds it. `coming`: the one that takes over, while it does."""

    folder: Path
    realm_id: RealmId
    name: str
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)
    coming: RootKey | None = None


def create_root(folder: Path, name: str) -> Root:
    """A new realm's root in `folder`, which must not exist or be empty; or the one of that name that is there already,
    since whoever was interrupted tries again. Raises `RealmError`."""
    if problem := name_problem(name):
        raise RealmError(problem)
    folder = Path(os.path.abspath(folder))
    with writing(folder):
        if (folder / "realm.json").exists():
            return _created_before(folder, name)
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
        key = _load_root_key(folder / "root.key.pem")
        coming = _open_coming(folder)
        name, realm_id = str(held["name"]), RealmId(str(held["realm_id"]))
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise RealmError(
            f"There is no realm's root in {folder}: {missing} is missing. Make a realm with: electros realm create"
        ) from error
    except files.TooOpen as error:
        raise RealmError(str(error)) from None
    except OSError as error:
        raise RealmError(f"The root in {folder} can't be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError):
        raise RealmError(f"The root in {folder} is damaged; restore it from a backup.") from None
    if name_problem(name) or not re.fullmatch(r"[0-9a-f]{16}", realm_id):
        raise RealmError(f"The root in {folder} is damaged: realm.json names no realm. Restore it from a backup.")
    if coming is not None and coming.key.public_key() == key.public_key():
        return Root(folder, realm_id, name, coming.certificate, key)  # it has taken over, all but the last step
    if key.public_key() != certificate.public_key():
        raise RealmError(f"The root in {folder} is damaged: root.key.pem is not the key of root.pem.")
    return Root(folder, realm_id, name, certificate, key, coming)


def last_anchor(root: Root) -> Signed[Anchor] | None:
    """The newest anchor that this root has signed, as its folder holds it. Raises `RealmError`."""
    path = root.folder / "anchor"
    try:
        signed = read_document(files.read(path))
        if not isinstance(signed.says, Anchor):
            raise Untrusted("it is none")
        anchor = cast(Signed[Anchor], signed)
        _ = read_link(anchor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RealmError(f"{path} can't be read: {error.strerror}.") from error
    except (BadBytes, Untrusted) as error:
        raise RealmError(f"{path} is damaged: {error}. Restore it from a backup.") from None
    return anchor


def next_anchor(
    root: Root,
    bundle: Bundle,
    *,
    wall_s: float,
    add: EllipticCurvePublicKey | None = None,
    scopes: Collection[Scope] = ALL_SCOPES,
    drop: bytes | None = None,
) -> Signed[Anchor]:
    """The next epoch's anchor: with the issuer of the key `add`, or without the one with the key id `drop`. It is in
    the root's folder when this returns. Raises `RealmError`."""
    now = _known_to(root, bundle)
    if drop is not None and all(entry.key_id != drop for entry in now.issuers):
        if any(entry.key_id == drop for entry in bundle.issuers):
            return now.anchors[-1]  # signed before, and heard of by nobody
        raise RealmError(f"No issuer of this realm has the key {drop.hex()}. See: electros realm status")
    gone = {drop, key_id(add) if add is not None else None}
    issuers = [entry.certificate for entry in now.issuers if entry.key_id not in gone]
    if add is not None:
        issuers.append(issuer_by(root, root.coming or RootKey(root.certificate, root.key), add, scopes, wall_s))
    if len(issuers) > ISSUERS_MAX:
        raise RealmError(f"A realm has {ISSUERS_MAX} issuers at most. Drop one first.")
    return keep_anchor(root, sign_anchor(root, now.anchor.epoch + 1, _keys_of(root, now.roots), issuers))


def rotate_root(root: Root, bundle: Bundle) -> tuple[Root, Signed[Anchor]]:
    """A new root beside the old one, and the anchor by which members follow: signed by both, with every issuer signed
    anew. The old root stays until `finish_rotation`. Both are in the folder when this returns; where the realm has not
    heard of it, doing it again gives the same anchor.

    Raises `RealmError`.
    """
    if len(bundle.roots) > 1:
        raise RealmError("A rotation is under way already. End it first: electros realm rotate --finish")
    now = _known_to(root, bundle)
    if len(now.roots) > 1 and root.coming is not None:
        return root, now.anchors[-1]
    wall_s = time.time()
    with writing(root.folder):
        coming = _prepare_coming(root, wall_s)
    root = replace(root, coming=coming)
    issuers = [issuer_by(root, coming, public_key_of(entry.certificate), entry.scopes, wall_s) for entry in now.issuers]
    keys = [RootKey(root.certificate, root.key), coming]
    return root, keep_anchor(root, sign_anchor(root, now.anchor.epoch + 1, keys, issuers))


def finish_rotation(root: Root, bundle: Bundle) -> Signed[Anchor]:
    """The anchor that ends the overlap: the new root alone, which is the folder's from now on. `bundle` tells that the
    realm has heard of it. Doing it again gives the same anchor. Raises `RealmError`."""
    new = root.coming or RootKey(root.certificate, root.key)
    now = _known_to(root, bundle)
    if new.certificate not in bundle.roots:
        if new.certificate in now.roots:
            raise RealmError("The realm has not heard of the new root yet. First, again: electros realm rotate")
        raise RealmError("No rotation is under way.")
    if len(bundle.roots) == 1 and root.coming is None:
        raise RealmError("No rotation is under way.")
    anchor = now.anchors[-1]
    if len(now.roots) > 1:
        issuers = [entry.certificate for entry in now.issuers]
        anchor = keep_anchor(root, sign_anchor(root, now.anchor.epoch + 1, [new], issuers))
    with writing(root.folder):
        files.write(root.folder / "root.key.pem", files.key_pem(new.key))
        files.write(root.folder / "root.pem", to_pem(new.certificate))
        (root.folder / "next.key.pem").unlink(missing_ok=True)
        (root.folder / "next.pem").unlink(missing_ok=True)
        files.sync_folder(root.folder)
    return anchor


def export_root(root: Root, out: Path, passphrase: str) -> None:
    """The root key to a file of its own, encrypted (PKCS#12, AES-256); then it is gone from here.

    Raises `RealmError`.
    """
    if root.coming is not None:
        raise RealmError("A rotation is under way. End it first: electros realm rotate --finish")
    if len(passphrase) < PASSPHRASE_MIN:
        raise RealmError(f"That passphrase is too short: {PASSPHRASE_MIN} characters at least.")
    if out.exists():
        raise RealmError(f"{out} exists, and stays. Choose another file.")
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(EXPORT_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(SHA256())
        .build(_bytes(passphrase))
    )
    data = pkcs12.serialize_key_and_certificates(root.name.encode(), root.key, root.certificate, None, encryption)
    with writing(out):
        files.write(out, data)
        key, _ = _decrypt(out, passphrase)
        if key.public_key() != root.key.public_key():  # before the only other copy goes
            raise RealmError(f"{out} can't be read back; the root key stays in {root.folder}.")
        (root.folder / "root.key.pem").unlink()
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
    with writing(folder):
        files.write(folder / "root.key.pem", files.key_pem(key))


# ---- inside


def _created_before(folder: Path, name: str) -> Root:
    there = f"There is a realm in {folder} already, and it stays. Choose another folder."
    try:
        root = open_root(folder)
    except RealmError as error:
        raise RealmError(f"{there} ({error})") from None
    if root.name != name:
        raise RealmError(there)
    return root


def issuer_by(
    root: Root, by: RootKey, key: EllipticCurvePublicKey, scopes: Collection[Scope], wall_s: float
) -> x509.Certificate:
    return make_issuer(key, by.certificate, by.key, realm_id=root.realm_id, scopes=scopes, wall_s=wall_s)


def sign_anchor(root: Root, epoch: int, by: Collection[RootKey], issuers: Iterable[x509.Certificate]) -> Signed[Anchor]:
    """Signed by all the roots that it names."""
    roots = frame(to_der(each.certificate) for each in by)
    says = Anchor(root.realm_id, root.name, epoch, roots, frame(to_der(each) for each in issuers))
    return write_document(says, *(each.key for each in by))


def keep_anchor(root: Root, anchor: Signed[Anchor]) -> Signed[Anchor]:
    """In the root's folder, before anybody hears of it."""
    with writing(root.folder):
        files.write(root.folder / "anchor", anchor.data)
        owner = root.folder.stat()
        if owner.st_uid != os.geteuid():  # with sudo, in the folder of the person who will need it later
            os.chown(root.folder / "anchor", owner.st_uid, owner.st_gid)
    return anchor


def _known_to(root: Root, bundle: Bundle) -> Bundle:
    """What the realm knows, and what this root has signed since: no epoch is ever used twice. Raises `RealmError`."""
    if bundle.anchor.realm_id != root.realm_id:
        raise RealmError(f"The root in {root.folder} is another realm's.")
    anchor = last_anchor(root)
    now = bundle.merged([anchor] if anchor is not None else [])
    if not {root.certificate, root.coming.certificate if root.coming else None} & {*now.roots}:
        raise RealmError(f"The realm has another root than the one in {root.folder}. Restore that from a newer backup.")
    return now


def _keys_of(root: Root, roots: Iterable[x509.Certificate]) -> list[RootKey]:
    mine = [RootKey(root.certificate, root.key), *([root.coming] if root.coming else [])]
    held = {each.certificate: each for each in mine}
    try:
        return [held[certificate] for certificate in roots]
    except KeyError:
        raise RealmError("A rotation is under way. End it first: electros realm rotate --finish") from None


def _prepare_coming(root: Root, wall_s: float) -> RootKey:
    """The new root's key and certificate, beside the old one's; those that are there already are used."""
    if root.coming is not None:
        return root.coming
    path = root.folder / "next.key.pem"
    if path.exists():
        try:
            key = _load_root_key(path)
        except (ValueError, TypeError, files.TooOpen):
            raise RealmError(f"{path} is damaged. It was never used: remove it, and do this again.") from None
    else:
        key = generate_private_key(SECP256R1())
        files.write(path, files.key_pem(key))
    certificate = make_root(key, root.name, wall_s=wall_s)
    files.write(root.folder / "next.pem", to_pem(certificate))
    return RootKey(certificate, key)


def _open_coming(folder: Path) -> RootKey | None:
    """Where only a part of it is there, it was never used. Raises what `open_root` knows."""
    if not (folder / "next.key.pem").exists() or not (folder / "next.pem").exists():
        return None
    certificate = x509.load_pem_x509_certificate(files.read(folder / "next.pem"))
    key = _load_root_key(folder / "next.key.pem")
    return RootKey(certificate, key) if key.public_key() == certificate.public_key() else None


def _load_root_key(path: Path) -> EllipticCurvePrivateKey:
    """Raises `OSError`, `ValueError`, `TypeError` and `TooOpen`."""
    key = load_pem_private_key(files.read_private(path), password=None)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("not on P-256")
    return key


def _decrypt(path: Path, passphrase: str) -> tuple[EllipticCurvePrivateKey, x509.Certificate | None]:
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(files.read(path), _bytes(passphrase))
    except OSError as error:
        raise RealmError(f"{path} can't be read: {error.strerror}.") from error
    except (ValueError, TypeError):
        raise RealmError(f"{path} does not open with that passphrase.") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise RealmError(f"{path} holds no root key.")
    return key, certificate


def _bytes(passphrase: str) -> bytes:
    return passphrase.encode("utf-8", "surrogateescape")  # such as a terminal in another encoding gives


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
def writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except IdentityError as error:
        raise RealmError(str(error)) from None
    except OSError as error:
        raise RealmError(f"{error.filename or folder} can't be written: {error.strerror}.") from error
