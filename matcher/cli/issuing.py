"""`electros realm issuer`: who may invite, revoke and renew. The root says it, so that its key has to be here.

A host makes the key of its issuer itself, and only asks for its certificate: no key travels.
"""

import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey
from cyclopts import App

from matcher.cli.failures import Exit, Failure
from matcher.cli.issuers import Standing, ask_each
from matcher.cli.moments import DAY_S
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.root import Folder, adopt, hand_out, open_realm, ready
from matcher.cli.roster import Yes, confirm
from matcher.cli.session import Session, session
from matcher.trust.bundle import Bundle, IssuerEntry
from matcher.trust.certificates import ALL_SCOPES, Scope, Untrusted, issuer_id_in, load, public_key_of
from matcher.trust.documents import Signed, key_id
from matcher.trust.requests import read_request
from matcher.trust.root import RealmError, Root, next_anchor
from matcher.wire.realm import Anchor, Member, Members, Renew
from specs.ids import HostId

YOUNG_S = 30 * DAY_S  # a certificate of 5 years that is as young as that is not made anew
NAMED_MAX = 8
PATH = "/v1/realm/issuers"  # POST: this host's issuer key, made if there is none, as a request

app = App(name="issuer", help="Add or remove a host's issuer: it invites, revokes and renews. Needs the root key.")


@app.command
def add(host: str, *, folder: Folder = None, output: Output = "table") -> None:
    """Let a host issue as well, so that one dead host does not keep the realm from inviting, revoking and renewing.

    Two or three issuers are enough for any realm. Running it again renews the issuer's certificate, which is good for 5
    years, unless that was made in the last 30 days; whom it has let in notice nothing.

    Parameters
    ----------
    host
        Its name, as `electros realm status` shows it.
    """
    _change(host, folder, output, is_added=True)


@app.command
def remove(host: str, *, yes: Yes = False, folder: Folder = None, output: Output = "table") -> None:
    """Take the right to issue from a host. Whom it has let in, and nobody else has renewed since, are out at once, and
    have to join or log in again: you are told who, before it is done.

    A host that is in other hands does not answer, or lies: remove the host as well: electros realm remove HOST

    Parameters
    ----------
    host
        Its name, as `electros realm status` shows it.
    """
    _change(host, folder, output, is_added=False, yes=yes)


def _change(host: str, folder: Path | None, output: str, *, is_added: bool, yes: bool = True) -> None:
    root = open_realm(folder)
    with session() as mine:
        now = ready(mine, root)
        bundle = mine.client.identity.bundle
        known = {entry.key_id: entry for entry in bundle.issuers}
        key, key_name = _issuer_of(mine, now, host, set(known))
        entry = known.get(key_name)
        is_changed = not _is_young(entry) if is_added else entry is not None
        to = tuple(door for door, _ in now.hosts)
        if not is_changed:
            taken, missed = hand_out(mine, to)
        elif is_added:
            scopes = entry.scopes if entry is not None else ALL_SCOPES
            add = key or (public_key_of(entry.certificate) if entry is not None else None)
            adopt(mine, _next(root, bundle, add=add, scopes=scopes))
            taken, missed = hand_out(mine, to)
        else:
            _before_removal(mine, now, host, key_name, yes=yes)
            anchor = _next(root, mine.client.identity.bundle, drop=key_name)
            taken, missed = hand_out(mine, to, anchor)  # before we know it ourselves, and trust its hosts no more
            adopt(mine, anchor)
        epoch = mine.client.identity.bundle.anchor.epoch
    document = {"issuer": {"host": host, "issues": is_added, "epoch": epoch, "hosts": list(taken)}}
    emit(output, document, Table(("HOST", "ISSUES"), [(host, "yes" if is_added else "no")], [host]))
    if not is_changed:
        note(f"electros: {host} {'issued before' if is_added else 'did not issue'}; that was handed out again")
    elif is_added and entry is not None:
        note(f"electros: {host} issued before; its certificate was renewed, for 5 years")
    if missed:
        note(f"electros: {', '.join(missed)} could not be told; the others tell them when they come")
    if not taken:
        raise Failure(Exit.UNREACHABLE, "no host has taken it", helps="run the same again when a host is in reach")


def _next(
    root: Root,
    bundle: Bundle,
    *,
    add: PublicKey | None = None,
    scopes: Collection[Scope] = ALL_SCOPES,
    drop: bytes | None = None,
) -> Signed[Anchor]:
    try:
        return next_anchor(root, bundle, wall_s=time.time(), add=add, scopes=scopes, drop=drop)
    except RealmError as error:
        raise Failure(Exit.FAILED, str(error), helps="electros realm status") from None


def _is_young(entry: IssuerEntry | None) -> bool:
    return entry is not None and time.time() - entry.starts_s < YOUNG_S


def _before_removal(mine: Session, now: Standing, host: str, key_name: bytes, *, yes: bool) -> None:
    """Who has a certificate of this issuer is out with it; nobody should learn that afterwards. Raises `Failure`."""
    if len(mine.client.identity.bundle.issuers) == 1:
        raise Failure(Exit.FAILED, f"{host} is the only issuer, and stays", helps="electros realm issuer add")
    _leave(mine, now, key_name)
    out = _out_with(mine, now, key_name)
    if out is None:
        note(f"electros: {host} can't be asked whom it has let in: they are out at once, and have to join again")
        confirm(f"Take the right to issue from {host}?", yes=yes)
        return
    names = [f"{each.kind} {each.name}" for each in out]
    listed = ", ".join(names[:NAMED_MAX]) + (f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else "")
    members = f"{len(names)} member{'s' * (len(names) != 1)}"
    if out:
        note(f"electros: out at once, until they join or log in again: {listed}")
    confirm(f"Take the right to issue from {host}, and so {members} out of the realm?", yes=yes)


def _leave(mine: Session, now: Standing, key_name: bytes) -> None:
    """Our own certificate should be another issuer's by then: we would be out ourselves. Raises `Failure`."""
    identity = mine.client.identity
    if issuer_id_in(load(identity.certificate)) != key_name:
        return
    from matcher.cli import upkeep

    others = tuple(door for door, status in now.hosts if status.issues_here and status.issuer_here != key_name.hex())
    with suppress(upkeep.Gone):
        if upkeep.renew(identity, others):
            return
    said = "your own certificate is this issuer's, and no other issuer in reach renews it: you would be out yourself"
    raise Failure(Exit.FAILED, said, helps="electros realm status; electros realm issuer add HOST")


def _out_with(mine: Session, now: Standing, key_name: bytes) -> list[Member] | None:
    """The members whose newest certificate is this issuer's, hosts first; `None` where it can't be asked."""
    issuing = {door: status.issuer_here == key_name.hex() for door, status in now.hosts if status.issues_here}
    said = ask_each(mine, issuing, lambda connection: connection.ask("GET", "/v1/realm/members", Members))
    lists = {door: answer.members for door, answer in said if isinstance(answer, Members)}
    own = next((lists[door] for door, is_it in issuing.items() if is_it and door in lists), None)
    if own is None:
        return None
    elsewhere: dict[tuple[str, str], int] = {}
    for each in (each for door, known in lists.items() if not issuing[door] for each in known):
        elsewhere[each.kind, each.id] = max(each.ends_s, elsewhere.get((each.kind, each.id), 0))
    stay = {door.host_id for door, is_it in issuing.items() if not is_it}  # they make themselves new certificates
    stay.add(HostId(mine.client.identity.principal.id))
    living = (each for each in own if each.state == "member" and each.id not in stay)
    out = [each for each in living if elsewhere.get((each.kind, each.id), 0) <= each.ends_s]
    return sorted(out, key=lambda member: (member.kind, member.name))


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
