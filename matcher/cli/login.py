"""`electros login`: a token becomes an identity in the XDG folders. The key is made here, and never leaves."""

import os
import secrets
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from matcher.cli import folders
from matcher.cli.failures import Exit, Failure
from matcher.cli.moments import moment, moment_document
from matcher.cli.output import Output, Progress, Table, emit, note
from matcher.trust import files
from matcher.trust.identity import Identity, IdentityError, is_identity, load_identity
from matcher.trust.joining import JoinError
from matcher.trust.tokens import BadToken, Token, read_token

JOIN_S = 10.0


def login(
    token: str,
    *,
    replace: Annotated[
        bool, Parameter(help="put the identity aside that this context has already; it is kept", negative="")
    ] = False,
    output: Output = "table",
) -> None:
    """Become a user of a realm with the token that an admin has given you. Nothing has to be set up before or after.

    For a second realm say --context NAME here, and then: electros context use NAME

    Parameters
    ----------
    token
        What `electros user add` printed, all of it; "-" reads it from standard input.
    """
    invited = _read(_text(token))
    folder = folders.identity_folder()
    before = _occupied(folder, replace=replace)
    progress = Progress()
    progress.say("asking the host that made the token …")
    try:
        identity = _redeemed(invited, folder, before)
    finally:
        progress.clear()
    _tell(output, identity)


def _text(token: str) -> str:
    if token != "/dev/stdin":  # noqa: S105  what people write as "-"
        return token
    from matcher.cli.reading import read_text

    return read_text(token).decode(errors="replace").strip()


def _read(text: str) -> Token:
    try:
        token = read_token(text)
    except BadToken as error:
        raise Failure(Exit.USAGE, _sentence(error), helps="an admin makes one with: electros user add USER") from None
    if token.kind == "host":
        said = "this token is for a host, and makes nobody a user"
        raise Failure(Exit.USAGE, said, helps="on the new host: sudo atomd join TOKEN; for you: electros user add USER")
    return token


def _occupied(folder: Path, *, replace: bool) -> Path | None:
    """Where the identity goes that is in the way: one that is of no use any more, or if it was said. Raises `Failure`
    where it has to stay."""
    if not is_identity(folder):
        return None
    aside = folder.with_name(f".{folder.name}.{datetime.now(UTC):%Y%m%d-%H%M%S}.{secrets.token_hex(2)}")
    if replace:
        return aside
    try:
        held = load_identity(folder, allow_expired=True)
    except IdentityError as error:
        helps = "electros login TOKEN --replace puts it aside"
        raise Failure(Exit.FAILED, f"context {folder.name} is taken: {_sentence(error)}", helps=helps) from None
    me = held.principal
    if held.expires_s < time.time() or not held.verifier.is_member(me.kind, me.id):
        return aside
    said = f"context {folder.name} is taken: you are {me.name} in realm {held.realm_name}"
    helps = "beside it: electros login TOKEN --context NAME; instead of it: --replace"
    raise Failure(Exit.FAILED, said, helps=helps, code="context-taken")


def _redeemed(token: Token, folder: Path, aside: Path | None) -> Identity:
    """The new identity, made next to its place and then put there, whole or not at all. Raises `Failure`."""
    from matcher.cli.relaying import keep_door
    from matcher.net.https import Door
    from matcher.net.redeem import redeem

    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        by = redeem(token, _name(), draft, timeout_s=JOIN_S).by
        keep_door(draft, Door(by.name, by.host_id, by.address, by.port))
        if aside is not None:
            folder.rename(aside)
        elif folder.exists():  # part of one, left by a login that broke off
            shutil.rmtree(folder)
        draft.rename(folder)
        files.sync_folder(folder.parent)
        return load_identity(folder)
    except (JoinError, IdentityError) as error:
        raise Failure(Exit.DENIED, _sentence(error)) from None
    except OSError as error:
        raise Failure(Exit.FAILED, f"{folder} can't be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            shutil.rmtree(draft, ignore_errors=True)


def _name() -> str:
    """What the request says; the realm's own record of the token says who we are."""
    name = os.environ.get("USER", "")
    return name if name.isascii() and name.isalnum() and len(name) <= 64 else "user"


def _sentence(error: Exception) -> str:
    text = str(error).rstrip(".")
    return text[:1].lower() + text[1:]


def _tell(output: str, identity: Identity) -> None:
    context = folders.context()
    document = {
        "identity": {
            "name": identity.principal.name,
            "id": identity.principal.id,
            "realm": {"id": identity.bundle.anchor.realm_id, "name": identity.realm_name},
            "context": context,
            "folder": str(identity.folder),
            "certificate_until": moment_document(identity.expires_s),
        }
    }
    row = (identity.principal.name, identity.realm_name, context, moment(identity.expires_s))
    emit(output, document, Table(("USER", "REALM", "CONTEXT", "CERTIFICATE UNTIL"), [row], [identity.principal.name]))
    if output == "table":
        note("electros: it renews itself as long as you use it; what you may do: electros whoami")
        if context != folders.chosen():
            note(f"electros: to use this realm without saying --context {context}: electros context use {context}")
