"""`electros realm invite, status, hosts, remove`: the realm's hosts, as its issuers and its hosts know them."""

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.issuers import UNKNOWN_HERE, Standing, at_issuer, find, members, standing
from matcher.cli.moments import DAY_S, age, moment, moment_document
from matcher.cli.output import Output, Table, emit, note, printable
from matcher.cli.session import Session, session, tell_silent
from matcher.cli.tokens import emit_token
from matcher.net.client import Said
from matcher.trust.issuing import ENDING_S
from matcher.trust.principal import name_problem
from matcher.trust.telling import realm_status
from matcher.wire.messages import Answer, Role
from matcher.wire.realm import Done, Invited, InviteHost, Member, RealmStatus, Revoke

STALE_S = DAY_S  # a host that has heard no issuer for so long warns
SOON_S = 10 * DAY_S  # a host renews its leaf of 30 days at two thirds: with less left, it has not

All = Annotated[bool, Parameter(name=["--all", "-a"], help="those revoked or expired as well", negative="")]
Yes = Annotated[bool, Parameter(name=["--yes", "-y"], help="do not ask", negative="")]
Why = Annotated[str, Parameter(help="a word for the records, 120 characters at most")]


def invite(host: str = "", *, output: Output = "table") -> None:
    """Print a token with which one new host joins; it is good once, for 15 minutes, at the host that made it.

    Asking again for the same host makes a new one, and the one before is good for nothing.
    The token alone goes to stdout:  ssh root@h2 atomd join $(electros realm invite h2)

    Parameters
    ----------
    host
        What people will call the new host; without it, the host says its own name.
    """
    if host and (problem := name_problem(host)):
        raise Failure(Exit.USAGE, problem)
    with session() as mine:
        _, invited = at_issuer(mine, "/v1/realm/hosts", InviteHost(host), Invited)
        emit_token(mine, output, invited, "host", host)


def status(*, output: Output = "table") -> None:
    """Show what each host knows of the realm, and what needs an admin's eye."""
    with session() as mine:
        now = standing(mine)
        proven = _proven(mine)
    document = _status_document(now, proven)
    rows = [
        (
            host["host"],
            "yes" if host["issues"] else "",
            host["epoch"],
            _age(host["fresh_s"]),
            host["revocations"],
            host["key_number"],
            host["tokens_pending"],
        )
        for host in document["hosts"]
    ]
    head = f"realm {document['name']} ({document['id']}), epoch {document['epoch']}"
    notes = [head, f"issuers: {_issuers(document)}"]
    notes += ["a new root takes over: electros realm rotate --finish ends that"] * document["rotating"]
    notes += [f"warning: {warning}" for warning in document["warnings"]]
    columns = ("HOST", "ISSUES", "EPOCH", "HEARD AN ISSUER", "REVOCATIONS", "TAG KEY", "TOKENS")
    emit(output, {"realm": document}, Table(columns, rows, [host["host"] for host in document["hosts"]], notes))
    tell_silent(now.heard)


def hosts(
    *,
    all_: All = False,
    output: Output = "table",
) -> None:
    """List the realm's hosts: who is a member, until when, how fresh their knowledge is, and where they answer."""
    with session() as mine:
        now = standing(mine)
        known, silent = members(mine, now.issuing)
    listed = [each for each in known if each.kind == "host" and (all_ or each.state == "member")]
    shown = [_host_document(member, now) for member in listed]
    shown += _strangers(known, now)
    rows = [
        (
            host["name"],
            host["id"][:16],
            host["state"],
            host["until_text"],
            _age(host["fresh_s"]) if host["address"] else "-",
            "yes" if host["issues"] else "",
            host["address"] or "does not answer",
        )
        for host in shown
    ]
    documents = [{key: value for key, value in host.items() if key != "until_text"} for host in shown]
    columns = ("HOST", "ID", "STATE", "UNTIL", "HEARD AN ISSUER", "ISSUES", "ADDRESS")
    emit(output, {"hosts": documents}, Table(columns, rows, [host["name"] for host in shown]))
    if silent:
        note(f"electros: hosts that {', '.join(silent)} may have let in are missing: not to be asked now")


def remove(host: str, *, why: Why = "", yes: Yes = False, output: Output = "table") -> None:
    """Revoke a host for good: no host and no user trusts it any more, at once and everywhere.

    What runs there goes on running, out of reach of electros: stop or move VMs first. A host that comes again joins
    with a new token and a new key.

    Parameters
    ----------
    host
        Its name, or the start of its id.
    """
    with session() as mine:
        now = standing(mine)
        member = find(members(mine, now.issuing)[0], "host", host)
        if member.state == "revoked":
            raise Failure(Exit.FAILED, f"{member.name} was revoked already", helps="electros realm hosts --all")
        for warning in _before_removal(member, now):
            note(f"electros: {warning}")
        confirm(f"Remove host {member.name} ({member.id[:16]}) from the realm for good?", yes=yes)
        others = [door for door in now.issuing if door.host_id != member.id]
        done = revoke(mine, member, why, [*others, *(door for door in now.issuing if door.host_id == member.id)])
    told_done(output, {"removed": {"kind": "host", "name": member.name, "id": member.id}}, member.name, done)


# ---- what users are revoked with as well


def revoke(mine: Session, member: Member, why: str, among: Any) -> Done:
    """By its id, since another may bear its name by now. Raises `Failure`."""
    if len(why) > 120:
        raise Failure(Exit.USAGE, "--why takes 120 characters at most")
    asked = Revoke(member.kind, member.id, why)
    return at_issuer(mine, "/v1/realm/revocations", asked, Done, go_on=UNKNOWN_HERE, among=among)[1]


def confirm(question: str, *, yes: bool) -> None:
    """A person at a terminal is asked; a script knows what it does. Raises `Failure`."""
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure(Exit.FAILED, "nothing was done", code="not-confirmed")


def told_done(output: str, document: dict[str, Any], name: str, done: Done) -> None:
    """For people the host's own sentence, on stderr; for programs the document."""
    if output == "table":
        note(f"electros: {done.said}")
    else:
        emit(output, document, Table(("NAME",), [(name,)], [name]))


# ---- inside


def _proven(mine: Session) -> RealmStatus:
    """What the root has signed, as far as anybody could show it: of those who answer, whoever knew something else was
    asked for the proof. No host is believed."""
    identity = mine.client.identity
    return realm_status(identity.bundle, host="", key_number=identity.key_number, wall_s=time.time())


def _status_document(now: Standing, proven: RealmStatus) -> dict[str, Any]:
    return {
        "id": proven.realm_id,
        "name": proven.name,
        "epoch": proven.epoch,
        "issuers": list(proven.issuers),
        "issuers_until": [moment_document(ends_s) for ends_s in proven.issuers_end_s],
        "rotating": len(proven.roots) > 1,
        "roots": list(proven.roots),
        "key_number": proven.key_number,
        "hosts": [_status_of(status) for _, status in now.hosts],
        "unanswered": [{"host": door.host, "why": why} for door, why in now.failed],
        "warnings": list(_warnings(now, proven)),
    }


def _issuers(document: dict[str, Any]) -> str:
    """By the names of their hosts, as far as these answer: a status names keys."""
    names = [host["host"] for host in document["hosts"] if host["issues"]]
    away = len(document["issuers"]) - len(names)
    return ", ".join([*names, *[f"{away} on hosts that do not answer"] * (away > 0)]) or "none"


def _status_of(status: RealmStatus) -> dict[str, Any]:
    return {
        "host": status.host,
        "issues": status.issues_here,
        "epoch": status.epoch,
        "fresh_s": status.fresh_s if status.fresh_s >= 0 else None,
        "revocations": status.revocations,
        "key_number": status.key_number,
        "tokens_pending": status.tokens_pending,
    }


def _warnings(now: Standing, proven: RealmStatus) -> list[str]:
    said = [f"{door.host} could not be asked: {why}" for door, why in now.failed]
    for _, status in now.hosts:
        if not 0 <= status.fresh_s <= STALE_S:
            heard = "never heard" if status.fresh_s < 0 else f"has not heard for {age(status.fresh_s)}"
            said.append(f"{status.host} {heard} an issuer; after 7 days it takes no new VMs")
        said += _unlike(status, proven)
    said += _different("revocations", {status.host: status.revocations for _, status in now.hosts})
    said += _different("tag keys", {status.host: status.key_number for _, status in now.hosts})
    said += _ending(now, proven)
    if len(proven.issuers) == 1:
        named = next((status.host for _, status in now.hosts if status.issues_here), proven.issuers[0])
        other = next((status.host for _, status in now.hosts if not status.issues_here), "HOST")
        said.append(f"if {named} dies, nobody can be invited, revoked or renewed: electros realm issuer add {other}")
    elif not proven.issuers:
        said.append("there is no issuer: nobody can be invited, revoked or renewed")
    elif not now.issuing:
        said.append("no issuer is among the hosts that answer")
    return said


def _unlike(status: RealmStatus, proven: RealmStatus) -> list[str]:
    """Where one host does not say what the root has signed."""
    host, epoch = status.host, status.epoch
    if status.realm_id != proven.realm_id:
        return [f"{host} speaks of another realm, {status.realm_id}"]
    if epoch < proven.epoch:
        return [f"{host} is at epoch {epoch}, others are at {proven.epoch}"]
    if epoch > proven.epoch:
        return [f"{host} speaks of epoch {epoch}, and {proven.epoch} is the newest that was proven: ask again"]
    said = []
    for what, its, signed in (
        ("a name", (status.name,), (proven.name,)),
        ("roots", status.roots, proven.roots),
        ("issuers", status.issuers, proven.issuers),
    ):
        if set(its) != set(signed):
            said.append(f"{host} tells of {what} that the root has not signed so: {', '.join(its) or 'none'}")
    if status.issues_here and status.issuer_here not in proven.issuers:
        said.append(f"{host} says that it issues, and the root has not named its key")
    return said


def _different(what: str, of: Mapping[str, int]) -> list[str]:
    """Which hosts differ, where they do."""
    if len({*of.values()}) < 2:
        return []
    each = ", ".join(f"{host} {count}" for host, count in of.items())
    helps = "if that lasts for more than a minute, look at their links"
    return [f"hosts know of different {what} ({each}); {helps}"]


def _ending(now: Standing, newest: RealmStatus) -> list[str]:
    """Issuers that the root has to certify anew. Those on hosts that do not answer are named by their keys."""
    hosts = {status.issuer_here: status.host for _, status in now.hosts if status.issuer_here}
    said = []
    for key, ends_s in zip(newest.issuers, newest.issuers_end_s, strict=False):
        left_s = ends_s - time.time()
        if left_s < ENDING_S:
            name = hosts.get(key, key)
            when = f"{'ends' if left_s > 0 else 'ended'} on {moment(ends_s)}"
            said.append(f"the issuer on {name} {when}; where the root key is: electros realm issuer add {name}")
    return said


def _host_document(member: Member, now: Standing) -> dict[str, Any]:
    door, status = next(((d, s) for d, s in now.hosts if d.host_id == member.id), (None, None))
    said = [each.address for each in now.heard.answers if each.host_id == member.id]
    return {
        "name": member.name,
        "id": member.id,
        "state": member.state,
        "since": moment_document(member.since_s),
        "until": moment_document(member.ends_s),
        "until_text": moment(member.ends_s),
        "address": door.address if door else next(iter(said), None),
        "fresh_s": status.fresh_s if status and status.fresh_s >= 0 else None,
        "issues": bool(status and status.issues_here),
    }


def _strangers(known: tuple[Member, ...], now: Standing) -> list[dict[str, Any]]:
    """Hosts that answer, and that no issuer in reach has made: those of an issuer that is away."""
    made = {member.id for member in known if member.kind == "host"}
    return [
        {
            "name": status.host,
            "id": door.host_id,
            "state": "member",
            "since": None,
            "until": None,
            "until_text": "-",
            "address": door.address,
            "fresh_s": status.fresh_s if status.fresh_s >= 0 else None,
            "issues": status.issues_here,
        }
        for door, status in now.hosts
        if door.host_id not in made
    ]


def _before_removal(member: Member, now: Standing) -> list[str]:
    said = []
    vms = sum(_vms(each) for each in now.heard.answers if each.host_id == member.id)
    if vms:
        count = "a VM" if vms == 1 else f"{vms} VMs"
        said.append(f"{member.name} has {count}: what runs there goes on, and electros can't reach it any more")
    issuing = [status.host for door, status in now.hosts if status.issues_here]
    if any(door.host_id == member.id for door in now.issuing):
        left = [name for name in issuing if name != member.name]
        said.append(
            f"{member.name} issues, and its issuer's key stays good: electros realm issuer remove {member.name}"
            + ("" if left else "; nobody else in reach could invite, revoke or renew then")
        )
    return said


def _vms(said: Said) -> int:
    answer = said.message
    return answer.vms if isinstance(answer, Answer) and answer.role is Role.COMPUTE else 0


def _age(seconds: int | None) -> str:
    return "never" if seconds is None or seconds < 0 else f"{age(seconds)} ago"
