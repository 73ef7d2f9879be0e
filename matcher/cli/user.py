"""`electros user`: who may use the realm, what they may do there and how much. For admins."""

from typing import Any

from cyclopts import App

from matcher.cli.failures import Exit, Failure
from matcher.cli.granting import (
    GrantOptions,
    grant_document,
    grant_rows,
    granted,
    summary,
    total,
    use_document,
    use_text,
)
from matcher.cli.issuers import UNKNOWN_HERE, Standing, ask_each, at_issuer, find, members, standing
from matcher.cli.moments import moment, moment_document
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.roster import All, Why, Yes, confirm, revoke, told_done
from matcher.cli.session import Session, session
from matcher.cli.tokens import emit_token
from matcher.net.https import Door
from matcher.trust.principal import name_problem
from matcher.wire.realm import ChangeGrant, Done, Grant, Invited, InviteUser, Member, Use, UserUses

app = App(name="user", help="Add, show, change and revoke users; for admins.")
_NOTHING = GrantOptions()


@app.command
def add(user: str, *, grant: GrantOptions = _NOTHING, output: Output = "table") -> None:
    """Print a token with which a person becomes a user:  electros login TOKEN

    It is good once, for 15 minutes, at the host that made it; asking again for the same user makes a new one, and the
    one before is good for nothing. What you do not limit is not limited, but for PCI
    devices, of which there are none unless given. Limits count on each host by itself.

        electros user add ada --slots 16 --ram 64GiB --vms 8 --pci '10de:*=1' --lease-max 12h --until 90d

    Parameters
    ----------
    user
        What to call them; one user of a name.
    """
    if problem := name_problem(user):
        raise Failure(Exit.USAGE, problem)
    asked = InviteUser(user, granted(grant))
    with session() as mine:
        _, invited = at_issuer(mine, "/v1/realm/users", asked, Invited)
        emit_token(mine, output, invited, "user", user)


@app.command
def ls(*, all_: All = False, output: Output = "table") -> None:
    """List users: what they may do, how much of each host, and until when."""
    with session() as mine:
        known, silent = members(mine, standing(mine).issuing)
    listed = [each for each in known if each.kind == "user" and (all_ or each.state == "member")]
    rows = [
        (each.name, each.state, ",".join(each.grant.verbs if each.grant else ()), summary(each.grant), _until(each))
        for each in listed
    ]
    table = Table(("USER", "STATE", "MAY", "LIMITS", "UNTIL"), rows, [each.name for each in listed])
    emit(output, {"users": [_document(each) for each in listed]}, table)
    if silent:
        note(f"electros: users of {', '.join(silent)} are missing: not to be asked now")


@app.command
def show(user: str, *, output: Output = "table") -> None:
    """Show one user: grant, since when, until when, and what they use of each host.

    A host that can't be asked is there with what the others have heard of it, if they have.

    Parameters
    ----------
    user
        Their name, or the start of their id.
    """
    with session() as mine:
        now = standing(mine)
        member = find(members(mine, now.issuing)[0], "user", user)
        path = f"/v1/realm/uses/{member.id}"
        said = ask_each(mine, (door for door, _ in now.hosts), lambda connection: connection.ask("GET", path, UserUses))
    told = {door: answer for door, answer in said if isinstance(answer, UserUses)}
    uses = {door.host: answer.here for door, answer in told.items()}
    heard = _heard(told)
    silent = [door.host for door, answer in said if not isinstance(answer, UserUses)]
    silent += [door.host for door, _ in now.failed]
    document = _document(member) | _uses_document(uses, heard) | {"silent": silent}
    rows = [("name", member.name), ("id", member.id), ("state", member.state), ("since", moment(member.since_s))]
    rows += grant_rows(member.grant or Grant())
    rows.append(("certificate until", moment(member.ends_s)))
    rows += [(f"uses on {host}", use_text(use)) for host, use in uses.items()]
    rows += [(f"uses on {host}", f"{use_text(use)}, as it told the others") for host, use in heard.items()]
    rows.append(("uses in all", use_text(total((*uses.values(), *heard.values()))) if uses else "not known"))
    emit(output, {"user": document}, Table(("FIELD", "VALUE"), rows, [member.name]))
    silent = [host for host in silent if host not in heard]
    if silent:
        note(f"electros: not told by {', '.join(silent)}: what {member.name} uses there")


@app.command
def change(user: str, *, grant: GrantOptions = _NOTHING, output: Output = "table") -> None:
    """Change a user's grant; what you do not name stays as it is. Their certificate is replaced by itself.

        electros user change ada --slots 32 --vms unlimited --pci none --no-admin

    VMs that run go on, also where they are more than the new grant allows.

    Parameters
    ----------
    user
        Their name, or the start of their id.
    """
    if grant.is_empty():
        raise Failure(Exit.USAGE, "change what? Say at least one option", helps="electros user change --help")
    with session() as mine:
        now = standing(mine)
        member = _living(find(members(mine, now.issuing)[0], "user", user))
        new = granted(grant, member.grant or Grant())
        asked = ChangeGrant(member.name, new)
        _, done = at_issuer(mine, "/v1/realm/grants", asked, Done, go_on=UNKNOWN_HERE, among=now.issuing)
    told_done(output, {"user": {"name": member.name, "id": member.id, "grant": grant_document(new)}}, member.name, done)


@app.command(name="revoke")
def revoke_user(user: str, *, why: Why = "", yes: Yes = False, output: Output = "table") -> None:
    """Revoke a user for good, at once and everywhere; their sessions end. Their VMs go on until a host ends them.

    Parameters
    ----------
    user
        Their name, or the start of their id.
    """
    with session() as mine:
        now = standing(mine)
        member = _living(find(members(mine, now.issuing)[0], "user", user))
        is_me = member.id == mine.client.identity.principal.id
        whom = "YOURSELF" if is_me else f"user {member.name}"
        confirm(f"Revoke {whom} ({member.id[:16]}) for good?", yes=yes)
        left = _left(mine, now, member)  # before, as who revokes themselves can ask nothing afterwards
        done = revoke(mine, member, why, now.issuing)
    told_done(output, {"revoked": {"kind": "user", "name": member.name, "id": member.id}}, member.name, done)
    if left:
        note(f"electros: VMs of {member.name} go on: {', '.join(left)}; to end them, there: atomctl ps; atomctl rm VM")


def _left(mine: Session, now: Standing, member: Member) -> list[str]:
    """Hosts with VMs of theirs, and how many there are."""
    path = f"/v1/realm/uses/{member.id}"
    to = (door for door, _ in now.hosts)
    said = ask_each(mine, to, lambda connection: connection.ask("GET", path, UserUses))
    uses = [(door.host, answer.here.vms) for door, answer in said if isinstance(answer, UserUses)]
    return [f"{vms} on {host}" for host, vms in uses if vms]


def _living(member: Member) -> Member:
    if member.state == "revoked":
        helps = f"to let them in anew: electros user add {member.name}"
        raise Failure(Exit.FAILED, f"{member.name} was revoked already", helps=helps)
    return member


def _until(member: Member) -> str:
    ends_s = member.grant.until_s if member.grant else None
    return moment(ends_s) if ends_s is not None else "no end"


def _document(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "id": member.id,
        "state": member.state,
        "since": moment_document(member.since_s),
        "certificate_until": moment_document(member.ends_s),
        "grant": grant_document(member.grant or Grant()),
    }


def _heard(told: dict[Door, UserUses]) -> dict[str, Use]:
    """Of hosts that did not tell us themselves, what they told the others a minute or two ago at most."""
    asked = {door.host_id for door in told}
    others = (each for answer in told.values() for each in answer.elsewhere if each.host_id not in asked)
    return {each.host: Use(each.slots, each.ram_mib, each.vms, None) for each in others}


def _uses_document(uses: dict[str, Use], heard: dict[str, Use]) -> dict[str, Any]:
    """`null`: not known. `heard`: hosts that did not tell us themselves."""
    return {
        "use": use_document(total((*uses.values(), *heard.values()))) if uses else None,
        "hosts": [{"host": host, "use": use_document(use)} for host, use in uses.items()],
        "heard": [{"host": host, "use": use_document(use)} for host, use in heard.items()],
    }
