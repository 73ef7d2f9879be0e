"""What keeps an identity alive without its person: a new leaf in time, and what the realm has signed since.

Imported only where there is something to do: a few times in the life of a leaf, once a day, where no host answers.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from matcher.cli import folders
from matcher.cli.failures import Exit, Failure
from matcher.cli.session import Session, is_leaf_revoked, refused
from matcher.net.https import Connection, Door, NotAdmitted, Unanswered, Unreachable
from matcher.trust.certificates import Untrusted
from matcher.trust.documents import read_documents
from matcher.trust.identity import Identity
from matcher.trust.requests import make_request
from matcher.wire.codec import to_json
from matcher.wire.framing import unframe
from matcher.wire.messages import Refused
from matcher.wire.realm import Admitted, Renew

ASK_S = 1.5  # one host, where nobody waits for the answer
TEND_S = 3.0  # in all, after a command
DOORS_MAX = 3  # known hosts that are tried where nobody answers
TRY_AGAIN_S = 3600.0  # a renewal that came to nothing is not tried with each command
GONE = "your certificate was revoked: you are no member of this realm any more"
COME_BACK = "an admin can add you again; then: electros login TOKEN --replace"


class Gone(Exception):
    """This member is revoked, not only its leaf."""


def catch_up(mine: Session) -> bool:
    """Ask known hosts for what the realm has signed; whether anything changed. Raises `Failure` where we are out."""
    identity = mine.client.identity
    denied: Failure | None = None
    for door in mine.known.doors()[:DOORS_MAX]:
        try:
            with mine.client.interrupts.waiting():
                answer = ask_bundle(mine.client.connect(door, timeout_s=ASK_S))
            if is_leaf_revoked(answer):
                renew_or_fail(mine, door)
                return True
        except NotAdmitted as error:
            denied = Failure(Exit.DENIED, str(error), helps=COME_BACK)
            continue
        except (Unreachable, Unanswered):
            continue
        if isinstance(answer, bytes) and take(identity, answer):  # who knows nothing new may be out itself
            return True
        if isinstance(answer, Refused) and answer.code == "denied":
            denied = refused(door.host, answer)
    if denied is not None:
        raise denied
    return False


def renew_or_fail(mine: Session, door: Door) -> None:
    """A host says that our leaf was revoked: a new one, if we are members still. Raises `Failure`."""
    others = [other for other in (*mine.doors.values(), *mine.known.doors()) if other.host_id != door.host_id]
    try:
        with mine.client.interrupts.waiting():
            connect = partial(mine.client.connect, timeout_s=ASK_S)
            is_renewed = renew(mine.client.identity, (door, *others), connect=connect)
    except Gone:
        raise Failure(Exit.DENIED, GONE, helps=COME_BACK, code="revoked") from None
    if not is_renewed:
        said = "your certificate was replaced by another grant, and no host in reach can renew it"
        raise Failure(Exit.DENIED, said, helps="try again when a host that issues is up: electros realm status")


def tend(identity: Identity, doors: tuple[Door, ...]) -> None:
    """After a command, with the hosts that answered it: renew and learn, whichever is due. Says nothing."""
    end_s = time.monotonic() + TEND_S
    if identity.is_due(time.time()) and _may_try():
        with suppress(Gone):
            renew(identity, doors, end_s=end_s)
    for door in doors:
        if time.monotonic() > end_s:
            return
        with suppress(Unreachable, Unanswered):
            answer = ask_bundle(Connection(identity, door, timeout_s=ASK_S))
            if isinstance(answer, bytes):
                take(identity, answer)
                return


def renew(
    identity: Identity,
    doors: tuple[Door, ...],
    *,
    end_s: float | None = None,
    connect: Callable[[Door], Connection] | None = None,
) -> bool:
    """Ask one host after another until one that issues gives a new leaf. Raises `Gone`."""
    connect = connect or partial(Connection, identity, timeout_s=ASK_S)
    asked: set[str] = set()
    request = to_json(Renew(make_request(identity.key, identity.principal.name))).encode()
    for door in doors:
        if door.host_id in asked or (end_s is not None and time.monotonic() > end_s):
            continue
        asked.add(door.host_id)
        try:
            with connect(door) as connection:
                answer = connection.ask("POST", "/v1/realm/renewals", Admitted, request)
        except (Unreachable, Unanswered):
            continue
        if isinstance(answer, Refused):
            if answer.code == "revoked" or is_leaf_revoked(answer):
                raise Gone
            continue
        with suppress(Untrusted, OSError):
            _learn(identity, answer.keys)
            identity.adopt_leaf(answer.leaf)
            return True
    return False


def ask_bundle(at: Connection) -> bytes | Refused:
    with at as connection:
        return connection.ask_bytes("GET", "/v1/realm/bundle")


def take(identity: Identity, data: bytes) -> bool:
    """What a host answered to `ask_bundle`, known and saved; whether anything of it was new."""
    is_new = _learn(identity, *list(unframe(data))[:2])
    with suppress(OSError):  # a disk that is full costs the memory of it, not the command
        identity.save()
    return is_new


def _learn(identity: Identity, *framed: bytes) -> bool:
    documents = [document for each in framed for document in read_documents(each)]
    return identity.learn(documents, time.time())


def _may_try() -> bool:
    path = folders.cache_folder() / "renewal"
    with suppress(OSError):
        if time.time() - path.stat().st_mtime < TRY_AGAIN_S:
            return False
    with suppress(OSError):
        folders.write_text(path, "")
    return True
