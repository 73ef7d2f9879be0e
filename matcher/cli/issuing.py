"""`electros realm issuer`: who may invite, revoke and renew. The root says it, so that its key has to be here.

A host makes the key of its issuer itself, and only asks for its certificate: no key travels.
"""

import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey
from cyclopts import App

from matcher.cli.failures import Exit, Failure
from matcher.cli.issuers import Standing
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.root import Folder, adopt, hand_out, open_realm, ready
from matcher.cli.roster import Yes, confirm
from matcher.cli.session import Session, session
from matcher.trust.certificates import Untrusted
from matcher.trust.documents import key_id
from matcher.trust.requests import read_request
from matcher.trust.root import RealmError, next_anchor
from matcher.wire.realm import Renew

PATH = "/v1/realm/issuers"  # POST: this host's issuer key, made if there is none, as a request

app = App(name="issuer", help="Add or remove a host's issuer: it invites, revokes and renews. Needs the root key.")


@app.command
def add(host: str, *, folder: Folder = None, output: Output = "table") -> None:
    """Let a host issue as well, so that one dead host does not keep the realm from inviting, revoking and renewing.

    Two or three issuers are enough for any realm. Running it again changes nothing.

    Parameters
    ----------
    host
        Its name, as `electros realm status` shows it.
    """
    _change(host, folder, output, is_added=True)


@app.command
def remove(host: str, *, yes: Yes = False, folder: Folder = None, output: Output = "table") -> None:
    """Take the right to issue from a host. Whom it has let in stay only until another issuer has renewed them.

    A host that is in other hands does not answer, or lies: remove the host as well: electros realm remove HOST

    Parameters
    ----------
    host
        Its name, as `electros realm status` shows it.
    """
    confirm(f"Take the right to issue from {host}? Members with its certificates have to join again.", yes=yes)
    _change(host, folder, output, is_added=False)


def _change(host: str, folder: Path | None, output: str, *, is_added: bool) -> None:
    root = open_realm(folder)
    with session() as mine:
        now = ready(mine, root)
        bundle = mine.client.identity.bundle
        known = {entry.key_id for entry in bundle.issuers}
        key, key_name = _issuer_of(mine, now, host, known)
        is_there = key_name in known
        if is_there != is_added:
            if not is_added and len(known) == 1:
                raise Failure(Exit.FAILED, f"{host} is the only issuer, and stays", helps="electros realm issuer add")
            try:
                anchor = next_anchor(
                    root,
                    bundle,
                    wall_s=time.time(),
                    add=key if is_added else None,
                    drop=None if is_added else key_name,
                )
            except RealmError as error:
                raise Failure(Exit.FAILED, str(error), helps="electros realm status") from None
            adopt(mine, anchor)
        taken, missed = hand_out(mine, tuple(door for door, _ in now.hosts))
        epoch = mine.client.identity.bundle.anchor.epoch
    document = {"issuer": {"host": host, "issues": is_added, "epoch": epoch, "hosts": list(taken)}}
    emit(output, document, Table(("HOST", "ISSUES"), [(host, "yes" if is_added else "no")], [host]))
    if is_there == is_added:
        note(f"electros: {host} {'issued before' if is_added else 'did not issue'}; that was handed out again")
    if missed:
        note(f"electros: {', '.join(missed)} could not be told; the others tell them when they come")
    if not taken:
        raise Failure(Exit.UNREACHABLE, "no host has taken it", helps="run the same again when a host is in reach")


def _issuer_of(mine: Session, now: Standing, host: str, known: set[bytes]) -> tuple[PublicKey | None, bytes]:
    """The key of that host's issuer, and its id. A host that is gone is named by the id itself."""
    by_id = [each for each in known if len(host) == 2 * len(each) and each.hex() == host.lower()]
    if by_id:
        return None, by_id[0]
    door = next((door for door, status in now.hosts if host in (status.host, door.host_id)), None)
    if door is None:
        ids = ", ".join(sorted(each.hex() for each in known))
        helps = f"one that is gone is named by the id of its issuer's key; there are: {ids}"
        raise Failure(Exit.NOT_FOUND, f"no host {host} answers here", helps=helps)
    try:
        request = mine.ask(door, lambda connection: connection.ask("POST", PATH, Renew, b""))
    except Failure as failure:
        if failure.code != "not-found":
            raise
        raise Failure(Exit.FAILED, f"{door.host} can't be made an issuer: its version knows no way to") from None
    try:
        key, _ = read_request(request.request)
    except Untrusted as error:
        raise Failure(Exit.FAILED, f"{door.host} gave no request for an issuer: {error.reason}") from None
    return key, key_id(key)
