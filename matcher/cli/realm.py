"""`electros realm`: who belongs together. First form: a realm on this machine, and identities issued from it."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from matcher.cli import folders
from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Output, Table, emit, note
from matcher.trust.realm import RealmError, create_realm
from matcher.trust.realm import issue as issue_identity

app = App(name="realm", help="Create a realm, and issue identities to its hosts and users.")

Folder = Annotated[Path | None, Parameter(help="where the realm is kept; $XDG_DATA_HOME/atomos/realm by default")]


@app.command
def create(name: str, *, folder: Folder = None, output: Output = "table") -> None:
    """Create a realm: its root key, its issuer, its datagram key. Keep the folder safe: whoever has it, is the realm.

    Parameters
    ----------
    name
        What people call it.
    """
    where = folder or folders.data_folder() / "realm"
    try:
        realm_id = create_realm(where, name)
    except RealmError as error:
        raise Failure(Exit.FAILED, str(error)) from None
    document = {"realm": {"id": realm_id, "name": name, "folder": str(where)}}
    emit(output, document, Table(("REALM", "ID", "FOLDER"), [(name, realm_id, where)], [name]))


@app.command
def issue(
    kind: Literal["host", "user"],
    name: str,
    *,
    folder: Folder = None,
    out: Annotated[Path | None, Parameter(help="where the identity goes; for a user, this client's own folder")] = None,
    days: Annotated[int | None, Parameter(help="how long it is valid; 30 for hosts, 90 for users")] = None,
    output: Output = "table",
) -> None:
    """Issue an identity: a folder with a key and certificates, to be copied to its host or user.

    Parameters
    ----------
    kind
        host: for /etc/atomos/identity on that host. user: for ~/.config/atomos/default of that user.
    name
        What people call the host or user.
    """
    if out is None and kind == "host":
        raise Failure(Exit.USAGE, "where should the host's identity go?", helps="--out DIR, then copy it to the host")
    where = out or folders.identity_folder()
    try:
        issue_identity(folder or folders.data_folder() / "realm", kind, name, where, days)
    except RealmError as error:
        raise Failure(Exit.FAILED, str(error)) from None
    document = {"identity": {"kind": kind, "name": name, "folder": str(where)}}
    emit(output, document, Table(("KIND", "NAME", "FOLDER"), [(kind, name, where)], [name]))
    if output == "table" and kind == "host":
        note(f"electros: copy {where} to /etc/atomos/identity on {name}, readable by root alone")
