"""Hosts as documents, rows and sums: the one shape that `hosts` and `top` show. Pure."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from matcher.cli.hosts_seen import Host
from matcher.wire.gossip import HostState
from matcher.wire.messages import Role

Sort = Literal["name", "state", "slots", "ram", "devices", "disk", "vms", "told"]
HEADS = ("HOST", "STATE", "SLOTS FREE", "RAM FREE", "DEVICES FREE", "DISK FREE", "VMS", "ACCEL", "TOLD", "ADDRESS")
STATES = tuple(HostState)
COUNTS = frozenset({HostState.ALIVE, HostState.SUSPECT})  # what the others have is of no use now


@dataclass(frozen=True, slots=True)
class Amount:
    """How much there is of one thing, and how much of it is free. `None` in its place: not known, or not its role."""

    total: int
    free: int

    @property
    def used(self) -> int:
        return max(0, self.total - self.free)

    @property
    def share(self) -> float:
        """That is in use, from 0 to 1; a thing that is not there is not in use."""
        return min(1.0, self.used / self.total) if self.total else 0.0


def slots(host: Host) -> Amount | None:
    digest = host.view.digest
    return Amount(digest.slots, digest.slots_free) if Role.COMPUTE in digest.roles else None


def ram_mib(host: Host) -> Amount | None:
    digest = host.view.digest
    return Amount(digest.ram_mib, digest.ram_free_mib) if Role.COMPUTE in digest.roles else None


def devices(host: Host) -> Amount | None:
    digest = host.view.digest
    if host.by_answer or Role.COMPUTE not in digest.roles:
        return None
    return Amount(digest.devices, digest.devices_free)


def disk_gb(host: Host) -> Amount | None:
    digest = host.view.digest
    if host.by_answer or Role.STORAGE not in digest.roles:
        return None
    return Amount(digest.disk_gb, digest.disk_free_gb)


AMOUNTS: dict[str, Callable[[Host], Amount | None]] = {
    "slots": slots,
    "ram": ram_mib,
    "devices": devices,
    "disk": disk_gb,
}


# ---- which, and in which order


def chosen(hosts: Iterable[Host], names: Sequence[str], states: Sequence[HostState]) -> list[Host]:
    """Those of these names (`*` and `?` stand for any letters) and states; all where none are said."""
    return [
        host
        for host in hosts
        if (not states or host.view.state in states)
        and (not names or any(fnmatchcase(host.view.name, name) or host.view.id == name for name in names))
    ]


def by_room(hosts: Iterable[Host], sort: Sort) -> list[Host]:
    """By name, or the one with the most room first."""
    return sorted(hosts, key=lambda host: (*_rank(host, sort, lambda amount: -amount.free), natural(host.view.name)))


def by_use(hosts: Iterable[Host], sort: Sort) -> list[Host]:
    """By name, or the fullest first."""
    return sorted(hosts, key=lambda host: (*_rank(host, sort, lambda amount: -amount.share), natural(host.view.name)))


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """h2 before h10."""
    return tuple((int(digits or -1), text) for text, digits in re.findall(r"(\D*)(\d{0,18})", name))


def _rank(host: Host, sort: Sort, of: Callable[[Amount], float]) -> tuple[float, ...]:
    match sort:
        case "name":
            return ()
        case "state":
            return (-STATES.index(host.view.state),)
        case "vms":
            return (-host.view.digest.vms,)
        case "told":
            return (-host.view.told_s,)
        case "slots" | "ram" | "devices" | "disk":
            amount = AMOUNTS[sort](host)
            if amount is None or host.view.state not in COUNTS:
                return (1, 0.0)
            return (0, of(amount))


# ---- sums


@dataclass(frozen=True, slots=True)
class Sums:
    """Of the hosts that are thought to live."""

    states: Counter[HostState]
    amounts: dict[str, Amount]
    vms: int
    drained: int


def sums(hosts: Sequence[Host]) -> Sums:
    living = [host for host in hosts if host.view.state in COUNTS]
    found = {}
    for name, of in AMOUNTS.items():
        known = [amount for host in living if (amount := of(host)) is not None]
        found[name] = Amount(sum(each.total for each in known), sum(each.free for each in known))
    return Sums(
        states=Counter(host.view.state for host in hosts),
        amounts=found,
        vms=sum(host.view.digest.vms for host in living),
        drained=sum(host.view.digest.drained for host in living),
    )


def counted(states: Counter[HostState]) -> str:
    """As "2 alive, 1 gone"."""
    return ", ".join(f"{states[state]:,} {state.value}" for state in STATES if states[state]) or "none"


# ---- shown


def document(host: Host) -> dict[str, Any]:
    view, digest = host.view, host.view.digest
    return {
        "name": view.name,
        "id": view.id,
        "state": view.state.value,
        "state_s": view.state_s if view.state_s >= 0 else None,
        "told_s": view.told_s if view.told_s >= 0 else None,
        "told_by": "itself" if host.by_answer else "gossip",
        "roles": sorted(role.value for role in digest.roles),
        "address": view.addresses[0].ip if view.addresses else None,
        "front_door_port": view.front_door_port,
        "archs": digest.arch.split("+") if digest.arch else [],
        "level": digest.level or None,
        "accelerator": digest.accelerator or None,
        "slots": _amount(slots(host)),
        "ram_mib": _amount(ram_mib(host)),
        "devices": _amount(devices(host)),
        "disk_gb": _amount(disk_gb(host)),
        "vms": digest.vms,
        "drained": digest.drained,
    }


def cells(host: Host) -> tuple[object, ...]:
    view = host.view
    is_there = view.state not in (HostState.GONE, HostState.LEFT)  # else nothing is free there, whatever it said last
    return (
        view.name,
        state(host),
        of_total(slots(host)) if is_there else "-",
        of_total(ram_mib(host), mib) if is_there else "-",
        of_total(devices(host)) if is_there else "-",
        of_total(disk_gb(host), gb) if is_there else "-",
        view.digest.vms,
        view.digest.accelerator or "-",
        age(view.told_s),
        view.addresses[0].ip if view.addresses else "-",
    )


def state(host: Host) -> str:
    view = host.view
    since = f" {age(view.state_s)}" if view.state is not HostState.ALIVE and view.state_s >= 0 else ""
    return f"{view.state.value}{since}" + (", drained" if view.digest.drained else "")


def of_total(amount: Amount | None, shown: Callable[[int, int], str] = lambda count, _: str(count)) -> str:
    if amount is None:
        return "-"
    return f"{shown(amount.free, amount.total)}/{shown(amount.total, amount.total)}" + _unit(amount.total, shown)


def mib(count: int, of: int) -> str:
    """MiB or GiB, whichever fits `of`; the unit is told once, behind the total."""
    return str(count) if of < 1024 else f"{count / 1024:.1f}" if of < 100 * 1024 else str(round(count / 1024))


def gb(count: int, of: int) -> str:
    return str(count) if of < 10_000 else f"{count / 1000:.1f}"


def age(seconds: int) -> str:
    """Of two digits at most, and a unit."""
    if seconds < 0:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _unit(total: int, shown: Callable[[int, int], str]) -> str:
    if shown is mib:
        return " MiB" if total < 1024 else " GiB"
    if shown is gb:
        return " GB" if total < 10_000 else " TB"
    return ""


def _amount(amount: Amount | None) -> dict[str, int] | None:
    return None if amount is None else {"total": amount.total, "free": amount.free}
