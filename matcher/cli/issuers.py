"""Asking the realm as an admin does: the hosts that can be asked, those of them that issue, and whom these have made.

Nothing of it is kept: which hosts issue is asked each time, as it is a question of milliseconds.
"""

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from matcher.cli.failures import Exit, Failure
from matcher.cli.known import door_of
from matcher.cli.session import Heard, Session, is_leaf_revoked, no_host_in_reach, refused
from matcher.net.https import Connection, Door, Unanswered, Unreachable
from matcher.wire.codec import to_json
from matcher.wire.messages import Message, Refused, Role
from matcher.wire.realm import Member, MemberKind, Members, RealmStatus

EACH_S = 3.0  # one of many hosts, asked together
AT_ONCE = 16
ELSEWHERE = frozenset({"not-an-issuer", "out-of-scope"})  # another issuer may do it
UNKNOWN_HERE = ELSEWHERE | {"not-found"}  # each issuer knows those whom it has made

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Standing:
    """What each host that could be asked says of the realm; `heard` is who answered on the links."""

    hosts: tuple[tuple[Door, RealmStatus], ...]
    failed: tuple[tuple[Door, str], ...]
    heard: Heard

    @property
    def issuing(self) -> tuple[Door, ...]:
        return tuple(door for door, status in self.hosts if status.issues_here)


def doors(mine: Session, *, boards: bool = False) -> tuple[tuple[Door, ...], Heard]:
    """Those of the hosts that answer here; without any, those that were heard of before. `boards`: also of hosts that
    have storage alone, which know of the realm and do nothing for it. Raises `Failure`."""
    heard = mine.query()
    found = tuple(((_boards(heard) if boards else {}) | mine.doors).values()) or mine.known.doors()
    if not found:
        raise no_host_in_reach(heard)
    return tuple(sorted(found, key=lambda door: door.host)), heard


def _boards(heard: Heard) -> dict[str, Door]:
    """By the hosts' ids."""
    found = (door_of(said, Role.STORAGE) for said in heard.answers)
    return {door.host_id: door for door in found if door is not None}


def ask_each(
    mine: Session, to: Iterable[Door], question: Callable[[Connection], T | Refused]
) -> list[tuple[Door, T | Refused | str]]:
    """All of them together: what each answers, or a sentence about why it does not. A leaf that was superseded is
    renewed on the way. Raises `Failure` where we are members no more."""

    def ask(door: Door) -> T | Refused | str:
        try:
            with mine.client.connect(door, timeout_s=EACH_S) as connection:
                return question(connection)
        except (Unreachable, Unanswered) as error:
            return str(error)

    def all_of(some: tuple[Door, ...]) -> dict[Door, T | Refused | str]:
        with mine.client.interrupts.waiting(), ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(some, pool.map(ask, some), strict=True))

    said = all_of(tuple(to))
    stale = tuple(door for door, answer in said.items() if is_leaf_revoked(answer))
    if stale:
        from matcher.cli import upkeep

        upkeep.renew_or_fail(mine, stale[0])
        said |= all_of(stale)
    return list(said.items())


def standing(mine: Session) -> Standing:
    """Raises `Failure` where nobody could be asked, or where we are not let in."""
    to, heard = doors(mine, boards=True)
    said = ask_each(mine, to, lambda connection: connection.ask("GET", "/v1/realm", RealmStatus))
    hosts = tuple((door, answer) for door, answer in said if isinstance(answer, RealmStatus))
    if not hosts:
        raise _nobody(said)
    failed = tuple((door, _why(answer)) for door, answer in said if not isinstance(answer, RealmStatus))
    return Standing(hosts, failed, heard)


def at_issuer(
    mine: Session,
    path: str,
    body: Message,
    answer: type[M],
    *,
    go_on: Collection[str] = ELSEWHERE,
    among: Iterable[Door] | None = None,
) -> tuple[Door, M]:
    """Post to the first host that issues and can do it. Raises `Failure`: the one that says most."""
    issuing = standing(mine).issuing if among is None else tuple(among)
    data = to_json(body).encode()
    last: Failure | None = None
    for door in issuing:
        try:
            return door, mine.ask(door, lambda connection: connection.ask("POST", path, answer, data))
        except Failure as failure:
            if failure.code not in go_on and failure.exit_code != Exit.UNREACHABLE:
                raise
            last = failure if last is None or last.exit_code == Exit.UNREACHABLE else last
    raise last or no_issuer()


def members(mine: Session, issuing: Iterable[Door]) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """Everybody whom the issuers in reach have made, and the issuers that could not be asked. Raises `Failure`."""
    said = ask_each(mine, issuing, lambda connection: connection.ask("GET", "/v1/realm/members", Members))
    lists = [answer.members for _, answer in said if isinstance(answer, Members)]
    if not lists:
        raise _nobody(said) if said else no_issuer()
    silent = tuple(door.host for door, answer in said if not isinstance(answer, Members))
    return merged(member for each in lists for member in each), silent


def merged(members: Iterable[Member]) -> tuple[Member, ...]:
    """One entry for each: revoked is revoked whoever says so, and the leaf that reaches furthest is today's."""
    found: dict[tuple[str, str], Member] = {}
    for member in members:
        before = found.get((member.kind, member.id))
        if before is not None:
            newest = max(before, member, key=lambda each: each.ends_s)
            is_revoked = "revoked" in (before.state, member.state)
            state = "revoked" if is_revoked else newest.state
            member = replace(newest, state=state, since_s=min(before.since_s, member.since_s))
        found[member.kind, member.id] = member
    order = {"member": 0, "expired": 1}
    return tuple(sorted(found.values(), key=lambda each: (order.get(each.state, 2), each.name, -each.since_s)))


def find(known: Iterable[Member], kind: MemberKind, name_or_id: str) -> Member:
    """By name, those that are members still before the others; or by the start of the id. Raises `Failure`."""
    mine = [member for member in known if member.kind == kind]
    named = [member for member in mine if member.name == name_or_id]
    if named:
        return named[0]
    is_id = len(name_or_id) >= 8
    by_id = [member for member in mine if is_id and member.id.startswith(name_or_id.lower())]
    if len(by_id) == 1:
        return by_id[0]
    helps = "electros realm hosts" if kind == "host" else "electros user ls"
    raise Failure(Exit.NOT_FOUND, f"there is no {kind} {name_or_id} in this realm", helps=helps)


def no_issuer(why: str = "") -> Failure:
    said = "no host in reach issues for this realm" + (f": {why}" if why else "")
    return Failure(Exit.UNREACHABLE, said, helps="electros realm status tells which do")


def _nobody(said: Iterable[tuple[Door, object]]) -> Failure:
    """The first refusal, since that is an answer; else why nobody could be asked."""
    said = tuple(said)
    for door, answer in said:
        if isinstance(answer, Refused):
            return refused(door.host, answer)
    why = "; ".join(f"{door.host}: {_why(answer)}" for door, answer in said[:3])
    return Failure(Exit.UNREACHABLE, f"no host of this realm can be asked: {why}", helps="electros hosts")


def _why(answer: object) -> str:
    return answer.code if isinstance(answer, Refused) else str(answer)
