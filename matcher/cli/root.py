"""`electros realm export-root, import-root, rotate`: the root key, needed for a new root and for issuers alone."""

import getpass
import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.issuers import Standing, ask_each, standing
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.person import person
from matcher.cli.session import Session, session
from matcher.net.https import Door
from matcher.trust import root as roots
from matcher.trust.certificates import public_key_of
from matcher.trust.documents import Signed
from matcher.trust.root import (
    PASSPHRASE_MIN,
    RealmError,
    Root,
    finish_rotation,
    open_root,
    rotate_root,
)
from matcher.wire.framing import frame
from matcher.wire.realm import Anchor, Done

PASSPHRASE_FILE_MAX = 4096

Folder = Annotated[Path | None, Parameter(help="where the root is kept; $XDG_DATA_HOME/atomos/realm by default")]
PassphraseFile = Annotated[
    Path | None, Parameter(help="a file whose first line is the passphrase; asked for at the terminal by default")
]


def export_root(
    file: Path, *, passphrase_file: PassphraseFile = None, folder: Folder = None, output: Output = "table"
) -> None:
    """Take the root key out of this machine: into FILE, encrypted under a passphrase, and then it is gone from here.

    Everyday work needs no root: hosts join, users are added and revoked without it. Keep FILE and passphrase apart, and
    each twice. FILE is PKCS#12 (AES-256, PBKDF2); `openssl pkcs12` reads it as well.

    Parameters
    ----------
    file
        A file that does not exist yet, such as one on a stick.
    """
    root = open_realm(folder)
    passphrase = _passphrase(passphrase_file, twice=True)
    try:
        roots.export_root(root, file, passphrase)
    except RealmError as error:
        raise Failure(Exit.FAILED, str(error)) from None
    emit(output, _document(root.name, file=str(file)), Table(("REALM", "ROOT KEY"), [(root.name, file)], [str(file)]))
    if output == "table":
        note("electros: the root key is in that file alone now; to bring it back: electros realm import-root FILE")


def import_root(
    file: Path, *, passphrase_file: PassphraseFile = None, folder: Folder = None, output: Output = "table"
) -> None:
    """Bring an exported root key back to this machine, to rotate it or to name issuers. FILE stays as it is.

    Parameters
    ----------
    file
        As `electros realm export-root` wrote it.
    """
    where = folder or person().data / "realm"
    try:
        roots.import_root(where, file, _passphrase(passphrase_file, twice=False))
        root = open_root(where)
    except RealmError as error:
        raise Failure(Exit.FAILED, str(error)) from None
    emit(output, _document(root.name, folder=str(where)), Table(("REALM", "ROOT"), [(root.name, where)], [root.name]))


def rotate(
    *,
    finish: Annotated[bool, Parameter(help="end the overlap: the old root counts no more", negative="")] = False,
    folder: Folder = None,
    output: Output = "table",
) -> None:
    """Put a new root beside the old one. Both count until you say --finish, when all hosts have heard of the new one.

    Nobody has to join again: hosts and users follow, as the old root signs the new one, and so do those who were away
    from its start to its end. Running it again hands the same rotation to hosts that have missed it.
    Export the new root afterwards; a file exported before is of no use once the rotation is finished.
    """
    root = open_realm(folder)
    with session() as mine:
        now = ready(mine, root)
        epoch, said = _finish(mine, root, now) if finish else _begin(mine, root)
        taken, missed = hand_out(mine, tuple(door for door, _ in now.hosts))
        missed += tuple(door.host for door, _ in now.failed)
    document = {"epoch": epoch, "rotating": not finish, "hosts": list(taken), "missed": list(missed)}
    table = Table(("HOST", "EPOCH"), [(host, epoch) for host in taken], taken)
    emit(output, {"rotation": document}, table)
    note(f"electros: {said}")
    if missed:
        note(f"electros: {', '.join(missed)} could not be told; the others tell them when they come")
    if not taken:
        helps = "it is kept with your identity; run the same again when a host is in reach"
        raise Failure(Exit.UNREACHABLE, "no host has taken it", helps=helps)


def hand_out(mine: Session, to: tuple[Door, ...], *more: Signed[Anchor]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All that we know that the realm has signed, and `more`, to each of these hosts: who has taken it, and who has
    not."""
    body = frame(signed.data for signed in (*mine.client.identity.bundle.anchors, *more))
    said = ask_each(mine, to, lambda connection: connection.ask("POST", "/v1/realm/documents", Done, body))
    taken = tuple(door.host for door, answer in said if isinstance(answer, Done))
    return taken, tuple(door.host for door, answer in said if not isinstance(answer, Done))


def ready(mine: Session, root: Root) -> Standing:
    """Knowing all that the realm has signed, so that the next word of the root is the next one. Raises `Failure`."""
    from matcher.cli import upkeep

    now = standing(mine)
    identity = mine.client.identity
    for door, _ in now.hosts:
        if not identity.verifier.is_member("host", door.host_id):  # as one of the others has just told
            continue
        answer = mine.ask(door, lambda connection: connection.ask_bytes("GET", "/v1/realm/bundle"))
        upkeep.take(identity, answer)
    if root.realm_id != identity.bundle.anchor.realm_id:
        helps = "electros context ls"
        raise Failure(Exit.USAGE, f"you are in realm {identity.realm_name}, and the root is {root.name}'s", helps=helps)
    if root.key.public_key() not in [public_key_of(each) for each in identity.bundle.roots]:
        raise Failure(Exit.FAILED, f"the root in {root.folder} is not one that counts today: a newer one is elsewhere")
    return now


def adopt(mine: Session, anchor: Signed[Anchor]) -> None:
    """The root's new word, known and on our own disk before anybody hears of it: it could not be made again."""
    identity = mine.client.identity
    identity.learn([anchor], time.time())
    assert identity.bundle.anchors[-1].data == anchor.data, "it was made for this very bundle"
    try:
        identity.save()
    except OSError as error:
        note(f"electros: the new anchor could not be kept in {identity.folder}: {error.strerror or error}")


def open_realm(folder: Path | None) -> Root:
    try:
        return open_root(folder or person().data / "realm")
    except RealmError as error:
        raise Failure(Exit.FAILED, str(error)) from None


# ---- inside


def _begin(mine: Session, root: Root) -> tuple[int, str]:
    bundle = mine.client.identity.bundle
    if len(bundle.roots) > 1:  # under way: whoever has missed it is told again
        return bundle.anchor.epoch, "a rotation is under way; it was handed out again. To end it: --finish"
    try:
        _, anchor = rotate_root(root, bundle)
    except RealmError as error:
        raise Failure(Exit.FAILED, str(error)) from None
    adopt(mine, anchor)
    return anchor.says.epoch, "old root and new root count; when all hosts have it: electros realm rotate --finish"


def _finish(mine: Session, root: Root, now: Standing) -> tuple[int, str]:
    bundle = mine.client.identity.bundle
    if len(bundle.roots) == 1 and any(status.epoch < bundle.anchor.epoch for _, status in now.hosts):
        return bundle.anchor.epoch, "the rotation was finished before; that was handed out again"
    try:
        anchor = finish_rotation(root, bundle)
    except RealmError as error:
        raise Failure(Exit.FAILED, str(error), helps="electros realm status") from None
    adopt(mine, anchor)
    return anchor.says.epoch, "the new root alone counts; now export it: electros realm export-root FILE"


def _passphrase(file: Path | None, *, twice: bool) -> str:
    """From a file or a terminal, never from the arguments, which all users of a machine can see. Raises `Failure`."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                found = opened.read(PASSPHRASE_FILE_MAX).decode().partition("\n")[0].removesuffix("\r")
        except (OSError, ValueError) as error:
            raise Failure(Exit.USAGE, f"{file} can't be read: {getattr(error, 'strerror', error)}") from None
    elif not sys.stdin.isatty():
        raise Failure(Exit.USAGE, "there is no terminal to ask for the passphrase at", helps="--passphrase-file FILE")
    else:
        found = getpass.getpass("Passphrase: ", sys.stderr)
    if twice and len(found) < PASSPHRASE_MIN:
        raise Failure(Exit.USAGE, f"that passphrase is too short: {PASSPHRASE_MIN} characters at least")
    if twice and file is None and getpass.getpass("The same again: ", sys.stderr) != found:
        raise Failure(Exit.USAGE, "these were two different passphrases; nothing was done")
    return found


def _document(name: str, **where: str) -> dict[str, object]:
    return {"realm": {"name": name, **where}}
