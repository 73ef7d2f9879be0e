"""What this host's daemon believes of the others, as rows for its sysadmins: since when, and on whose word. Pure."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from matcher.wire.gossip import HostState, Says
from matcher.wire.hosts import MemberRow

HEADS = ("HOST", "STATE", "SINCE", "TOLD", "VMS", "ADDRESS", "WHY")
SAID = {Says.SUSPECT: "silent for", Says.REFUSED: "refused by", Says.GONE: "given up by"}


def in_order(rows: Iterable[MemberRow]) -> list[MemberRow]:
    """Those in trouble first, as a sysadmin looks for them."""
    return sorted(rows, key=lambda row: (row.host.state is HostState.ALIVE, row.host.name, row.host.id))


def cells(row: MemberRow) -> tuple[object, ...]:
    host = row.host
    address = host.addresses[0].ip if host.addresses else "-"
    return (host.name, host.state.value, age(host.state_s), age(host.told_s), host.digest.vms, address, why(row))


def why(row: MemberRow) -> str:
    """On whose word it is held for what it is held for; claims that were not enough are told as well."""
    if row.is_me:
        return "this host"
    if row.host.state is HostState.LEFT:
        return "said so itself"
    found = [
        f"{words} {', '.join(sorted(each.by for each in row.accusations if each.says is says))}"
        for says, words in SAID.items()
        if any(each.says is says for each in row.accusations)
    ]
    return "; ".join(found + ([f"gone in {row.gone_in_s} s unless it objects"] if row.gone_in_s >= 0 else []))


def document(row: MemberRow) -> dict[str, Any]:
    host = asdict(row.host)
    known = {key: None if host[key] == -1 else host[key] for key in ("state_s", "told_s")}
    more = {
        "accusations": [{"by": each.by, "says": each.says.value} for each in row.accusations],
        "gone_in_s": row.gone_in_s if row.gone_in_s >= 0 else None,
        "incarnation": row.incarnation,
        "is_me": row.is_me,
    }
    return host | known | more


def age(seconds: int) -> str:
    if seconds < 0:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
