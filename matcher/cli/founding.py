"""`electros realm create`: this machine becomes the first host of a new realm, and a person its first admin.

Safe to run twice: what is there already stays, and what a run that broke off has left undone is done.
"""

import os
import socket
import time
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cyclopts import Parameter

from matcher.cli import folders
from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.person import Person, person
from matcher.net import multicast
from matcher.trust.identity import Identity, IdentityError, is_identity, load_identity, write_identity
from matcher.trust.issuing import IssueError, Issuer, open_issuer
from matcher.trust.principal import fingerprint, name_problem
from matcher.trust.realm import EVERYTHING, RealmError, Root, create_root, found, member_key, open_root
from matcher.trust.requests import make_request

STATE = Path("/var/lib/atomos")


def create(
    name: str,
    *,
    host: str | None = None,
    user: str | None = None,
    folder: Annotated[
        Path | None, Parameter(help="where the realm's root is kept; $XDG_DATA_HOME/atomos/realm by default")
    ] = None,
    state: Annotated[Path, Parameter(help="where the daemons of this host keep their state")] = STATE,
    output: Output = "table",
) -> None:
    """Create a realm, with this machine as its first host and you as its first admin:  sudo electros realm create home

    Root key and identity go to the home of whoever called sudo, and are theirs. Whoever has the root key, is the realm:
    when all is set up, take it out of this machine with: electros realm export-root FILE
    Running it again changes nothing that is there.

    Parameters
    ----------
    name
        What people call the realm.
    host
        What people call this host; its host name by default.
    user
        What people call you; your login name by default.
    """
    me = person()
    host = host or socket.gethostname().partition(".")[0]
    user = user or me.name
    for each in (name, host, user):
        if problem := name_problem(each):
            raise Failure(Exit.USAGE, problem)
    _check_state(state)
    where = folder or me.data / "realm"
    try:
        root, is_new = _root(me, where, name, state)
        identity, is_founded = _host(root, host, state)
        mine = _admin(me, identity, user, state)
    except (RealmError, IssueError, IdentityError, OSError) as error:
        helps = error.helps if isinstance(error, IssueError) else ""
        raise Failure(Exit.FAILED, str(error), helps=helps) from None
    _tell(output, root, identity, mine, is_new=is_new or is_founded)


def _check_state(state: Path) -> None:
    nearest = next(folder for folder in (state, *state.parents) if folder.exists())
    if os.geteuid() != 0 and not os.access(nearest, os.W_OK):
        helps = "on the first host: sudo electros realm create NAME; on any other: sudo atomd join TOKEN"
        raise Failure(Exit.DENIED, f"{state} can't be written: creating a realm makes this machine a host", helps=helps)


def _root(me: Person, where: Path, name: str, state: Path) -> tuple[Root, bool]:
    """The root in `where`, made if there is none, and whether it was. Nothing is made on a host that has a realm."""
    with me.acting():
        there = (where / "realm.json").exists()
    if not there:
        if is_identity(state / "identity"):
            held = load_identity(state / "identity", allow_expired=True)
            raise RealmError(
                f"This host belongs to realm {held.realm_name} already, as {held.principal.name}, and its root is not "
                f"in {where}. To become a user of that realm: electros login TOKEN"
            )
        with me.acting():
            return create_root(where, name), True
    with me.acting():
        root = open_root(where)
    if root.name != name:
        raise RealmError(f"There is realm {root.name} in {where} already, and it stays. Choose another --folder.")
    return root, False


def _host(root: Root, host: str, state: Path) -> tuple[Identity, bool]:
    """This host's identity in the realm of `root`, made if there is none, and whether it was."""
    if not is_identity(state / "identity"):
        here = tuple(ip for link in multicast.links() for ip in (link.ipv4, link.ipv6) if ip)
        return found(root, host=host, identity=state / "identity", issuer=state / "issuer", addresses=here), True
    identity = load_identity(state / "identity", allow_expired=True)
    if identity.bundle.anchor.realm_id != root.realm_id:
        raise RealmError(f"This host belongs to another realm already: {identity.realm_name}.")
    return identity, False


def _admin(me: Person, host: Identity, user: str, state: Path) -> Identity:
    """The person's own identity: the one that is there, or a new one with every right."""
    out = me.config / folders.context()
    with me.acting():
        if is_identity(out):
            mine = load_identity(out, allow_expired=True)
            if mine.bundle.anchor.realm_id != host.bundle.anchor.realm_id:
                raise RealmError(
                    f"{out} holds your identity in realm {mine.realm_name}, and it stays. "
                    "Keep this realm beside it, such as: electros realm create NAME --context NAME"
                )
            return mine
    issuer = open_issuer(state / "issuer", host)
    if issuer is None:
        raise RealmError("This host does not issue for its realm. An admin can invite you: electros user add")
    key = _admins_key(me, out, issuer, user)
    issued = issuer.admit("user", user, make_request(key, user), EVERYTHING, wall_s=time.time())
    with me.acting():
        write_identity(out, key, issued.leaf, host.bundle, host.tag_key_documents())
        return load_identity(out)


def _admins_key(me: Person, out: Path, issuer: Issuer, user: str) -> EllipticCurvePrivateKey:
    """One that a run that broke off has left, since the issuer may have written it down as this user's already. If it
    did so for another name, or the user was revoked since, that key is of no use to anybody, and there is a new one."""
    with me.acting():
        key = member_key(out)
    known = issuer.find("user", fingerprint(key.public_key()), time.time())
    if known is None or (known.name == user and known.state != "revoked"):
        return key
    with me.acting():
        (out / "key.pem").unlink()
        return member_key(out)


def _tell(output: str, root: Root, host: Identity, mine: Identity, *, is_new: bool) -> None:
    document = {
        "realm": {
            "id": root.realm_id,
            "name": root.name,
            "folder": str(root.folder),
            "host": host.principal.name,
            "user": mine.principal.name,
            "identity": str(mine.folder),
            "created": is_new,
        }
    }
    rows = [(root.name, root.realm_id, host.principal.name, mine.principal.name, root.folder)]
    emit(output, document, Table(("REALM", "ID", "FIRST HOST", "ADMIN", "ROOT"), rows, [root.name]))
    if output == "table":
        note(f"electros: {'this is realm' if is_new else 'nothing was changed: this was realm'} {root.name}; next:")
        note("  here              electros hosts; the daemons take it up by themselves, in some seconds")
        note("  another host      electros realm invite HOST, and there: sudo atomd join TOKEN")
        note("  another person    electros user add USER, and there: electros login TOKEN")
        note("  when all is set   electros realm export-root FILE, and keep FILE far from here")
