"""Which asks each host has, lacks or does not know, and the smallest changes with which some host would fit. Pure.

Each host counts its own free capacity and says, for each ask that it lacks, the one edit that would do (`Reason.edit`).
Reasons speak of one resource each, so that a host fits once all its edits are made. Joined here: what one host needs
may serve others too, as less RAM suits all who need less or as much. Cheapest first: fewest edits; then less of
something before something done without; then most hosts.

    needs of h1 {ram=48 GiB}, of h2 {ram=41 GiB}, of h3 {ram=48 GiB, no avx512f}
    -> ram=48 GiB: h1;  ram=41 GiB: h1, h2;  ram=48 GiB and no avx512f: h1, h3
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from matcher.scheduler.outcomes import HostReasons
from matcher.wire.messages import Arch, CoreClass, Firmware, PciAsk, Reason, VmAsk
from matcher.wire.naming import device_kind
from specs.ids import HostId, Vid

TRIED_MAX = 64  # sets of edits that are held against every host
EQUAL_MAX = 3  # of those which edit the same fields, in other amounts
RELAXATIONS_MAX = 8

EMULATE = "--allow-emulation"  # an option, in the place of an edit

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.,:+-]*=[A-Za-z0-9_.,:+-]*|--allow-emulation=")  # one word in any shell
_LESS = ("cpu.slots", "ram.ramsize", "cpu.min_frequency")
_MORE = ("cpu.overprovision", "cpu.allowSMT")
_UNJUDGED = ("clock", "vm", "more", "grant")  # reasons of hosts that said nothing, or not all, of the asks


class State(StrEnum):
    HAS = "has"
    LACKS = "lacks"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Cell:
    """One ask on one host; `reason` is there where it is not simply had."""

    state: State
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Row:
    host_id: HostId
    host: str
    fits: bool
    cells: tuple[Cell, ...]  # one for each ask


@dataclass(frozen=True, slots=True)
class Relaxation:
    """`edits` are `--set` arguments, and `EMULATE`; with them these hosts would fit, by their names."""

    edits: tuple[str, ...]
    hosts: tuple[tuple[HostId, str], ...]


def asked(ask: VmAsk, volumes: Sequence[Vid], unfits: Iterable[HostReasons]) -> tuple[str, ...]:
    """The names of all asks, as hosts' reasons have them; what only a host speaks of comes last ("grant ram")."""
    names = ["slots", "ram", "arch"]
    names += ["accelerator"] if not ask.allow_emulation else []
    names += ["flags"] if ask.flags else []
    names += ["class"] if ask.core_class not in (None, CoreClass.ANY) else []
    names += ["frequency"] if ask.min_frequency_mhz else []
    names += ["ecc"] if ask.ecc else []
    names += ["hugepages"] if ask.hugepages_kib else []
    names += ["firmware"] if ask.firmware is not Firmware.BIOS else []
    names += ["tpm"] if ask.tpm else []
    names += [f"pci {_kind(each)}" for each in _explained(ask)]
    names += [f"usb {each.vendor}:{each.model}" for each in ask.usb]
    names += [f"volume {vid}" for vid in volumes]
    names += [reason.resource for unfit in unfits for reason in unfit.reasons if reason.resource != "more"]
    return tuple(dict.fromkeys(names))


def words(name: str, ask: VmAsk) -> str:
    """What was asked for, for a person."""
    what, _, kind = name.partition(" ")
    if what == "pci":
        return str(sum(each.quantity for each in _explained(ask) if _kind(each) == kind))
    if what == "usb":
        return str(sum(each.quantity for each in ask.usb if f"{each.vendor}:{each.model}" == kind))
    noun = "thread" if ask.smt else "core"
    said = {
        "slots": f"{ask.slots} {noun}{'s' if ask.slots != 1 else ''}",
        "ram": f"{ask.ram_mib} MiB",
        "arch": " or ".join(ask.archs or (Arch.X86_64,)),
        "flags": ", ".join(ask.flags),
        "class": f"{ask.core_class} cores",
        "frequency": f"{ask.min_frequency_mhz} MHz",
        "ecc": "ECC memory",
        "hugepages": f"{ask.ram_mib} MiB in pages of {ask.hugepages_kib} KiB",
        "firmware": ask.firmware.value,
        "tpm": "TPM 2.0",
        "accelerator": "KVM",
    }
    return said.get(what, "")


def _explained(ask: VmAsk) -> tuple[PciAsk, ...]:
    """The devices that hosts give reasons about: of the last of the alternatives."""
    return ask.pci_else[-1] if ask.pci_else else ask.pci


def _kind(ask: PciAsk) -> str:
    return device_kind(ask.vendor, ask.model, ask.device_class, ask.mdev_type)


def matrix(names: Sequence[str], fits: Iterable[tuple[HostId, str]], unfits: Iterable[HostReasons]) -> tuple[Row, ...]:
    """A row of all asks for each host, those that fit first. A host that was silent about an ask because it
    judged none, or had no room to say all, is not said to have it."""
    rows = [Row(host_id, host, True, (Cell(State.HAS),) * len(names)) for host_id, host in fits]
    rows += [
        Row(unfit.host_id, unfit.host, False, tuple(_cell(name, unfit.reasons) for name in names)) for unfit in unfits
    ]
    return tuple(rows)


def relaxations(unfits: Iterable[HostReasons]) -> tuple[Relaxation, ...]:
    """The cheapest sets of edits, each with all the hosts that would fit; none for hosts that no edit helps."""
    needs = [(unfit, need) for unfit in unfits if (need := _need(unfit.reasons)) is not None]
    tried = sorted({tuple(sorted(need.items())): need for _, need in needs}.values(), key=_cost)[:TRIED_MAX]
    found = [
        Relaxation(
            _edits(trial),
            tuple((unfit.host_id, unfit.host) for unfit, need in needs if _serves(trial, need)),
        )
        for trial in tried
    ]
    return tuple(sorted(_useful(found), key=lambda each: (*_cost(_split(each.edits))[:2], -len(each.hosts))))[
        :RELAXATIONS_MAX
    ]


# --- one host ------------------------------------------------------------------------------------------------------

Need = dict[str, str]  # the left side of an edit -> its right side


def _cell(name: str, reasons: Sequence[Reason]) -> Cell:
    for reason in reasons:
        if reason.resource == name:
            return Cell(State.UNKNOWN if reason.unknown else State.LACKS, reason)
    silent = any(reason.resource in _UNJUDGED for reason in reasons)
    return Cell(State.UNKNOWN if silent else State.HAS)


def _need(reasons: Sequence[Reason]) -> Need | None:
    """All its edits as one; of two for one field the one that satisfies both."""
    need: Need = {}
    for reason in reasons:
        edit = reason.edit or (f"{EMULATE}=" if reason.resource == "accelerator" else "")
        path, equals, value = edit.partition("=")
        if not equals or not _PLAIN.fullmatch(edit):
            return None
        if path.endswith("-"):  # each entry is a matter of its own
            need |= dict.fromkeys((f"{path}={entry}" for entry in value.split(",")), "")
        elif path not in need or _is_at_least(path, value, need[path]):
            need[path] = value
        elif not _is_at_least(path, need[path], value):
            return None
    return need or None


# --- among hosts ---------------------------------------------------------------------------------------------------


def _serves(trial: Need, need: Need) -> bool:
    """Whether a host with this need fits with the trial's edits: they hold all of its own, or more of the same, and
    nothing else that it might lack."""
    if any(path not in need and not _is_harmless(path) for path in trial):
        return False
    return all(path in trial and _is_at_least(path, trial[path], value) for path, value in need.items())


def _is_harmless(path: str) -> bool:
    """What asks for less can shut out nobody; another firmware can."""
    less = ("cpu.flags-", "cpu.core_class", "pci", "usb", "ram.reqECC", "misc.tpm", EMULATE)
    return path.startswith(less) or path in (*_LESS, *_MORE)


def _is_at_least(path: str, value: str, needed: str) -> bool:
    """Whether this edit of the field does all that the needed one does."""
    if value == needed:
        return True
    if not (value.isdecimal() and needed.isdecimal()):
        return False
    if path in _LESS or path.endswith(".quantity"):
        return int(value) <= int(needed)
    return path in _MORE and int(value) >= int(needed)


def _cost(need: Need) -> tuple[int, int, list[float]]:
    """Fewest edits; less of something, then sharing, then doing without; of equals, the mildest amounts."""
    return len(need), sum(_weight(path) for path in need), [_amount(path, need[path]) for path in sorted(need)]


def _weight(path: str) -> int:
    if path in _LESS or path.endswith(".quantity"):
        return 1
    if path in _MORE or path.startswith(("misc.firmware", "cpu.flags-", "cpu.core_class", "ram.hugepages")):
        return 2
    return 4  # ECC, a device, a TPM, KVM


def _amount(path: str, value: str) -> float:
    number = int(value) if value.isdecimal() else 0
    return number if path in _MORE else -number


def _useful(found: Iterable[Relaxation]) -> list[Relaxation]:
    """For the same fields, a harder change only where it serves more hosts; of many the mildest, a middle one and the
    one that serves most."""
    by_fields: defaultdict[tuple[str, ...], list[Relaxation]] = defaultdict(list)
    for each in found:  # the mildest first
        alike = by_fields[tuple(_fields(each.edits))]
        if not alike or len(each.hosts) > len(alike[-1].hosts):
            alike.append(each)
    kept: list[Relaxation] = []
    for alike in by_fields.values():
        chosen = {0, len(alike) // 2, len(alike) - 1} if len(alike) > EQUAL_MAX else range(len(alike))
        kept += [alike[index] for index in sorted(chosen)]
    return kept


def _fields(edits: Sequence[str]) -> list[str]:
    return sorted(edit if "-=" in edit else edit.partition("=")[0] for edit in edits)


def _edits(need: Need) -> tuple[str, ...]:
    """As arguments: the entries that go from one list in one."""
    gone: defaultdict[str, list[str]] = defaultdict(list)
    plain = []
    for path, value in sorted(need.items()):
        name, minus, entry = path.partition("-=")
        if minus:
            gone[name].append(entry)
        else:
            plain.append(path if path == EMULATE else f"{path}={value}")
    return (*plain, *(f"{name}-={','.join(entries)}" for name, entries in gone.items()))


def _split(edits: Iterable[str]) -> Need:
    """The need that these edits serve; the other way round from `_edits`."""
    need: Need = {}
    for edit in edits:
        name, minus, entries = edit.partition("-=")
        path, _, value = edit.partition("=")
        need |= dict.fromkeys((f"{name}-={entry}" for entry in entries.split(",")), "") if minus else {path: value}
    return need
