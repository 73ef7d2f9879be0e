"""`electros whoami`: who I am to the realm, what I may do there, and what I have, on each host and in all."""

from typing import Any

from matcher.cli import folders
from matcher.cli.failures import Failure
from matcher.cli.granting import grant_document, grant_rows, total, use_document, use_text
from matcher.cli.issuers import ask_each, doors
from matcher.cli.moments import moment, moment_document
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.session import Session, session
from matcher.net.https import Door
from matcher.wire.realm import Grant, WhoAmI


def whoami(*, output: Output = "table") -> None:
    """Show who I am, in which realm, what my grant allows on each host, and what I use of it.

    What stands in the certificate is shown even if no host answers.
    """
    with session() as mine:
        said, silent = _asked(mine)
        identity = mine.client.identity
        grant = identity.principal.grant
        document = {
            "name": identity.principal.name,
            "id": identity.principal.id,
            "kind": identity.principal.kind,
            "realm": {"id": identity.bundle.anchor.realm_id, "name": identity.realm_name},
            "context": folders.context(),
            "certificate_until": moment_document(identity.expires_s),
            "grant": grant_document(grant),
            "use": use_document(total(each.use for _, each in said)) if said else None,
            "hosts": [_document(door, each) for door, each in said],
            "silent": silent,
        }
    rows = [
        ("name", identity.principal.name),
        ("realm", f"{identity.realm_name} ({identity.bundle.anchor.realm_id})"),
        ("context", folders.context()),
        ("certificate until", moment(identity.expires_s)),
        *grant_rows(grant),
    ]
    for door, each in said:
        rows.append((f"uses on {door.host}", use_text(each.use)))
        rows += [(f"less on {door.host}", line) for line in _narrowed(each)]
    rows.append(("uses in all", use_text(total(each.use for _, each in said)) if said else "not known"))
    emit(output, document, Table(("FIELD", "VALUE"), rows, [identity.principal.name]))
    if silent:
        note(f"electros: not told by {', '.join(silent)}")


def _asked(mine: Session) -> tuple[list[tuple[Door, WhoAmI]], list[str]]:
    try:
        to, heard = doors(mine)
    except Failure as failure:
        if failure.code == "revoked":
            raise
        note(f"electros: {failure.message}")
        return [], []
    said = ask_each(mine, to, lambda connection: connection.ask("GET", "/v1/whoami", WhoAmI))
    silent = {door.host for door, answer in said if not isinstance(answer, WhoAmI)} | {*heard.silent}
    return [(door, answer) for door, answer in said if isinstance(answer, WhoAmI)], sorted(silent)


def _document(door: Door, each: WhoAmI) -> dict[str, Any]:
    return {
        "host": door.host,
        "grant": grant_document(each.here),
        "use": use_document(each.use),
        "narrowed": list(each.narrowed),
    }


def _narrowed(each: WhoAmI) -> list[str]:
    """The host's own words; without any, the limits that differ."""
    if each.narrowed or each.here == each.grant:
        return list(each.narrowed)
    ours: dict[str, str] = dict(grant_rows(each.grant or Grant()))
    return [f"{field}: {value}" for field, value in grant_rows(each.here) if ours[field] != value]
