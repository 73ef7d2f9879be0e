"""`electros realm`: who belongs together."""

import os
import socket
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from matcher.cli import folders
from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Output, Table, emit, note
from matcher.trust.issuing import IssueError, open_issuer
from matcher.trust.realm import EVERYTHING, RealmError, create_root, found, make_member

app = App(name="realm", help="Create a realm; invite, list and remove its hosts.")

STATE = Path("/var/lib/atomos")
Folder = Annotated[
    Path | None, Parameter(help="where the realm's root is kept; $XDG_DATA_HOME/atomos/realm by default")
]


@app.command
def create(
    name: str,
    *,
    host: str | None = None,
    user: str | None = None,
    folder: Folder = None,
    state: Annotated[Path, Parameter(help="where the daemons of this host keep their state")] = STATE,
    output: Output = "table",
) -> None:
    """Create a realm, with this machine as its first host and you as its first admin. Needs root.

    Keep the folder with the root key safe: whoever has it, is the realm. See: electros realm export-root

    Parameters
    ----------
    name
        What people call the realm.
    host
        What people call this host; its host name by default.
    user
        What people call you; your login name by default.
    """
    where = folder or folders.data_folder() / "realm"
    host = host or socket.gethostname().partition(".")[0]
    user = user or os.environ.get("SUDO_USER") or os.environ.get("USER") or "admin"
    if os.geteuid() != 0 and not os.access(state if state.exists() else state.parent, os.W_OK):
        helps = "run it on the first host, with sudo; on others: atomd join TOKEN"
        raise Failure(Exit.DENIED, f"{state} can't be written: creating a realm makes this machine a host", helps=helps)
    try:
        root = create_root(where, name)
        identity = found(root, host=host, identity=state / "identity", issuer=state / "issuer")
        issuer = open_issuer(state / "issuer", identity)
        assert issuer is not None, "it was made a moment ago"
        make_member(identity, issuer, "user", user, folders.identity_folder(), grant=EVERYTHING)
    except (RealmError, IssueError) as error:
        raise Failure(Exit.FAILED, str(error)) from None
    document = {"realm": {"id": root.realm_id, "name": name, "folder": str(where), "host": host, "user": user}}
    emit(output, document, Table(("REALM", "ID", "FOLDER"), [(name, root.realm_id, where)], [name]))
    if output == "table":
        note(f"electros: {host} is its first host and {user} its first admin; others come by: electros realm invite")
