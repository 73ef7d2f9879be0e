"""Making a realm: its root, its first host with the issuer, its first admin. See `matcher.trust.root` for the root.

Whoever is interrupted does the same again: what is there already is used, and nothing of another realm is touched.
"""

import os
import time
from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)

from matcher.trust import files
from matcher.trust.bundle import Bundle, begin_bundle, read_link
from matcher.trust.certificates import ALL_SCOPES
from matcher.trust.documents import Signed, key_id, write_document
from matcher.trust.identity import Identity, is_identity, load_identity, load_key, write_identity
from matcher.trust.issuing import IssueError, Issuer, has_issuer, open_issuer
from matcher.trust.principal import PrincipalKind, name_problem
from matcher.trust.requests import make_request
from matcher.trust.root import (
    RealmError,
    Root,
    RootKey,
    create_root,
    export_root,
    finish_rotation,
    import_root,
    issuer_by,
    keep_anchor,
    last_anchor,
    next_anchor,
    open_root,
    rotate_root,
    sign_anchor,
    writing,
)
from matcher.trust.verifier import Verifier
from matcher.wire.envelope import TAG_KEY_BYTES
from matcher.wire.framing import frame
from matcher.wire.realm import Anchor, Grant, PciLimit, TagKey, Verb

__all__ = [
    "EVERYTHING",
    "RealmError",
    "Root",
    "create_root",
    "export_root",
    "finish_rotation",
    "found",
    "import_root",
    "last_anchor",
    "make_member",
    "member_key",
    "next_anchor",
    "open_root",
    "rotate_root",
]

_ANY = (PciLimit("*", "*", 4096),)
EVERYTHING = Grant(verbs=tuple(Verb), pci=_ANY, usb=_ANY)


def found(root: Root, *, host: str, identity: Path, issuer: Path, addresses: Collection[str] = ()) -> Identity:
    """Make this machine the realm's first host: an issuer in the folder `issuer`, its own identity in `identity`.

    Where it was interrupted, it goes on. Raises `RealmError` where either folder is another realm's, or another host
    is the first one already.
    """
    if problem := name_problem(host):
        raise RealmError(problem)
    wall_s = time.time()
    with writing(identity):
        if is_identity(identity):
            mine = _founded_before(root, host, identity, issuer)
        else:
            anchor = last_anchor(root)
            issuer_key = _first_issuer_key(root, issuer, anchor)
            if anchor is None:
                anchor = keep_anchor(root, _first_anchor(root, issuer_key.public_key(), wall_s))
            bundle = begin_bundle(anchor, root.certificate)
            tag_key = TagKey(root.realm_id, 1, os.urandom(TAG_KEY_BYTES), int(wall_s * 1000))
            keys = frame([write_document(tag_key, issuer_key).data])
            key = member_key(identity)
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
    """A member made on the issuer's own machine, key and all: the first admin, and the hosts of a lab. Nothing is done
    where it was made before. Raises `IssueError` or `RealmError`."""
    if problem := name_problem(name):
        raise RealmError(problem)
    with writing(out):
        if is_identity(out):
            there = load_identity(out)
            if (there.verifier.realm_id, there.principal.kind, there.principal.name) == (
                by.verifier.realm_id,
                kind,
                name,
            ):
                return
            raise RealmError(f"{out} holds an identity already, and it stays. Choose another folder.")
        key = member_key(out)
        issued = issuer.admit(kind, name, make_request(key, name), grant, wall_s=time.time(), addresses=addresses)
        write_identity(out, key, issued.leaf, by.bundle, by.tag_key_documents())


def member_key(folder: Path) -> EllipticCurvePrivateKey:
    """A new member's, on the disk before anybody certifies it: who was interrupted has the same one again. Raises
    `IdentityError` or `OSError`."""
    if (folder / "key.pem").exists():
        return load_key(folder)
    key = generate_private_key(SECP256R1())
    files.make_folder(folder)
    files.write(folder / "key.pem", files.key_pem(key))
    return key


# ---- inside


def _founded_before(root: Root, host: str, identity: Path, issuer: Path) -> Identity:
    mine = load_identity(identity)
    if mine.verifier.realm_id != root.realm_id or mine.principal.name != host or not has_issuer(issuer):
        raise RealmError(
            f"This host belongs to a realm already, as {mine.principal.kind} {mine.principal.name} of "
            f"{mine.realm_name}: {identity} is not empty. To leave that realm for ever: "
            f"rm -rf {identity} {issuer}/key.pem {issuer}/members.json"
        )
    return mine


def _first_issuer_key(root: Root, issuer: Path, anchor: Signed[Anchor] | None) -> EllipticCurvePrivateKey:
    """A new one, or the one that was made before an interruption; never one of another realm."""
    if has_issuer(issuer):
        key = load_key(issuer)
        mine = key_id(key.public_key())
        is_first = anchor is not None and [entry.key_id for entry in read_link(anchor).issuers] == [mine]
        if is_first or (anchor is None and not (issuer / "members.json").exists()):
            return key
        gone = f"rm -f {issuer}/key.pem {issuer}/members.json"  # the folder stays: it is hidden from storaged
        raise RealmError(f"{issuer} holds another realm's issuer. If nobody needs it any more: {gone}")
    if anchor is not None:
        raise RealmError(
            f"The realm {root.name} has its first host already, and it is not this one. Here: atomd join TOKEN. "
            f"If that host is gone for ever, so is the realm; then: rm -r {root.folder}"
        )
    key = generate_private_key(SECP256R1())
    files.make_folder(issuer)
    files.write(issuer / "key.pem", files.key_pem(key))
    return key


def _first_anchor(root: Root, issuer: EllipticCurvePublicKey, wall_s: float) -> Signed[Anchor]:
    mine = RootKey(root.certificate, root.key)
    return sign_anchor(root, 1, [mine], [issuer_by(root, mine, issuer, ALL_SCOPES, wall_s)])


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
    try:
        return desk.admit("host", host, make_request(key, host), None, wall_s=wall_s, addresses=addresses).leaf
    except IssueError as error:
        raise RealmError(f"{error.said[:1].upper()}{error.said[1:]}; {error.helps}.") from error
