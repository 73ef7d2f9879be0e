"""The realm's hosts, by one question to one of them; and who answers for itself, where that is not enough.

    a known front door --its list--> settled? --yes--> done
          |  silent: the next one        '--no, or it lacks hosts, or holds most for lost--> ask all, by multicast
          '--none answers--> ask all, by multicast --a door that was not known--> its list

What a host says of others is hearsay: whom our own bundle knows for no member is left out, and whoever answers for
itself is believed before what is said of it.
"""

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from matcher.cli.failures import Exit, Failure
from matcher.cli.hosts_seen import SETTLED_S, Host, Looked
from matcher.cli.session import Heard, Session, no_host_in_reach
from matcher.net.client import Said
from matcher.net.https import Connection, Door, Unanswered
from matcher.net.multicast import PORT
from matcher.wire.gossip import Digest, HostState
from matcher.wire.hosts import HostView, HostViews
from matcher.wire.messages import Address, Answer, Refused, Role

ANSWER_S = 3.0  # between two parts of a list
LIST_S = 15.0  # for all of it
DOORS_MAX = 3  # that are tried one after the other
HOSTS_MAX = 20_000  # somewhat more than a host can know
LATELY_S = 86_400.0  # so long a host that is lost stays in the lists
ALIKE_S = 60.0  # doors that were heard so soon one after the other are as good as each other


@dataclass(frozen=True, slots=True)
class _List:
    door: Door
    listens_s: int
    hosts: tuple[HostView, ...]
    realm: str


def look(mine: Session, *, as_seen_by: str | None = None) -> Looked:
    """Raises `Failure`: nobody answers, we may not ask, or the host `as_seen_by` does not give its list."""
    if as_seen_by is not None:
        return _looked(mine, _list(mine, _named(mine, as_seen_by)))
    notes = list[str]()
    doors = _nearest(mine)
    heard: Heard | None = None
    given = _first(mine, doors, notes)
    if given is None:
        heard = mine.query()
        new = [door for door in mine.doors.values() if door not in doors]
        given = _first(mine, new, notes)
    if given is None:
        if not heard or not heard.answers:
            raise no_host_in_reach(heard)
        notes.append("no host has given its list: these have answered for themselves")
        return Looked(_joined((), heard), "", -1, heard.silent, tuple(notes))
    hosts = _members(mine, given)
    if heard is None and not _is_enough(mine, given):
        heard = mine.query()
    silent = heard.silent if heard is not None else ()
    return Looked(_joined(hosts, heard), given.door.host, given.listens_s, silent, tuple(notes))


def look_again(mine: Session, before: Looked) -> Looked:
    """The list of the same host, where it still gives one; all are asked by multicast only where nobody does. Raises
    `Failure`."""
    same = [door for door in mine.doors.values() if door.host == before.asked]
    if same:
        given = _first(mine, same, [])
        if given is not None:
            return _looked(mine, given)
    return look(mine)


# ---- one host's list


def _first(mine: Session, doors: Sequence[Door], notes: list[str]) -> _List | None:
    """That of the first who gives it. Raises `Failure` where we may not ask, as others would say as well."""
    for door in doors[:DOORS_MAX]:
        try:
            return _list(mine, door)
        except Failure as failure:
            if failure.exit_code is Exit.DENIED:
                raise
            notes.append(failure.message)
            with suppress(OSError):  # as for all that is cached
                mine.known.doubt(door.host_id)
    return None


def _list(mine: Session, door: Door) -> _List:
    given = mine.ask(door, lambda connection: _read(connection, door), timeout_s=ANSWER_S)
    mine.doors[door.host_id] = door
    if given.realm not in ("", mine.client.identity.short_digest):
        mine.learn_from(door)
    return given


def _read(connection: Connection, door: Door) -> _List | Refused:
    """All parts. Raises `Unanswered` where it is not whole, or goes on for ever."""
    end_s = time.monotonic() + LIST_S
    part = connection.first("GET", "/v1/hosts", HostViews)
    if isinstance(part, Refused):
        return part
    found = {host.id: host for host in part.hosts}
    total, listens_s, realm = part.total, part.listens_s, part.realm
    for later in connection.rest(HostViews, ANSWER_S):
        found |= {host.id: host for host in later.hosts}
        if len(found) > HOSTS_MAX or time.monotonic() > end_s:
            raise Unanswered(f"{door.host}: a list without end")
    if len(found) < total:
        raise Unanswered(f"{door.host}: its list breaks off after {len(found)} of {total} hosts")
    return _List(door, listens_s, tuple(found.values()), realm)


# ---- whom to ask


def _nearest(mine: Session) -> list[Door]:
    """The doors that are known, those heard last first; many users of a realm do not all ask the same one."""
    seen = mine.known.seen()
    newest_s = max(seen.values(), default=0.0)
    doors = list(mine.known.doors())
    random.shuffle(doors)
    return sorted(doors, key=lambda door: max(0.0, newest_s - ALIKE_S - seen.get(door.host_id, 0.0)))


def _named(mine: Session, name: str) -> Door:
    for door in mine.known.doors():
        if name in (door.host, door.host_id):
            return door
    mine.query()
    for door in mine.doors.values():
        if name in (door.host, door.host_id):
            return door
    raise Failure(Exit.NOT_FOUND, f'no host in reach is named "{name}"', helps="electros hosts")


def _is_enough(mine: Session, given: _List) -> bool:
    """Whether it has listened for long enough, lacks no host that was heard of lately, and does not hold most of them
    for lost: else it may itself be cut off."""
    living = sum(host.state is HostState.ALIVE for host in given.hosts)
    if given.listens_s < SETTLED_S or living * 2 < len(given.hosts):
        return False
    since_s = time.time() - LATELY_S
    lately = {host_id for host_id, seen_s in mine.known.seen().items() if seen_s > since_s}
    return lately <= {host.id for host in given.hosts}


# ---- together


def _looked(mine: Session, given: _List) -> Looked:
    return Looked(_members(mine, given), given.door.host, given.listens_s)


def _members(mine: Session, given: _List) -> tuple[Host, ...]:
    is_member = mine.client.identity.verifier.is_member
    return tuple(Host(view) for view in given.hosts if is_member("host", view.id))


def _joined(hosts: tuple[Host, ...], heard: Heard | None) -> tuple[Host, ...]:
    """With those that have answered: a host that speaks for itself lives, whatever is said of it."""
    found = {host.view.id: host for host in hosts}
    for said in heard.answers if heard is not None else ():
        known = found.get(said.host_id)
        if known is None or known.by_answer:
            found[said.host_id] = _answered(said, known)
        elif _role(said) is Role.COMPUTE and known.view.state is not HostState.ALIVE:
            found[said.host_id] = Host(replace(known.view, state=HostState.ALIVE, state_s=-1))
    return tuple(found.values())


def _answered(said: Said, other: Host | None) -> Host:
    """By what one of its daemons has said, and the other one before it."""
    answer = said.message
    assert isinstance(answer, Answer)
    if answer.role is Role.STORAGE and other is not None:
        roles = tuple(role for role in Role if role in (Role.STORAGE, *other.view.digest.roles))
        return Host(replace(other.view, digest=replace(other.view.digest, roles=roles)), by_answer=True)
    before = other.view.digest.roles if other is not None else ()
    digest = Digest(
        roles=tuple(role for role in Role if role in (answer.role, *before)),
        arch=answer.arch,
        slots=answer.threads_total,
        slots_free=answer.threads_free,
        ram_mib=answer.ram_total_mib,
        ram_free_mib=answer.ram_free_mib,
        vms=answer.vms,
        drained=answer.drained,
        accelerator=answer.accelerator,
    )
    port = answer.front_door_port
    addresses = (Address(said.address, port or PORT),)
    view = HostView(said.host_id, answer.host, HostState.ALIVE, -1, 0, addresses, port, digest)
    return Host(view, by_answer=True)


def _role(said: Said) -> Role:
    assert isinstance(said.message, Answer)
    return said.message.role
