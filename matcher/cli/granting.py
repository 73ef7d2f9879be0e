"""Grants at the command line: options become a grant, and a grant becomes a document and rows.

What no option limits is not limited, but for PCI and USB devices, of which there are none, and administration.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.moments import moment, moment_document, until_s
from matcher.trust.grants import parse_pci_limit, show_pci_limit
from matcher.wire.messages import RAM_MIB_MAX, SLOTS_MAX
from matcher.wire.realm import GROUPS_MAX, PCI_LIMITS_MAX, Grant, PciLimit, Use, Verb
from specs.units import GB_MIB, duration_s, guess_mib, show_duration, show_mib

UNLIMITED = "unlimited"
NONE = "none"
COUNT_MAX = 4096
VOLUMES_GB_MAX = 2**31 - 1
SECONDS_MAX = 2**31 - 1
LEASE_MIN_S = 60
DEFAULT = Grant(verbs=(Verb.PLEDGE, Verb.RUN, Verb.CONSOLE))
_GROUP = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)

T = TypeVar("T")


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class GrantOptions:
    """As they were typed; `None`: not at all."""

    slots: Annotated[str | None, Parameter(help="cores or threads on each host, such as 16; or unlimited")] = None
    ram: Annotated[str | None, Parameter(help="RAM on each host, such as 64GiB; or unlimited")] = None
    vms: Annotated[str | None, Parameter(help="VMs on each host, stopped ones too; or unlimited")] = None
    volumes: Annotated[
        str | None, Parameter(help="size of the volumes attached on each host, such as 500GB; or unlimited")
    ] = None
    pci: Annotated[
        tuple[str, ...] | None,
        Parameter(
            help="devices on each host: '10de:24b0=2', '10de:*=1', '*:*' for any, none; may be repeated", negative=""
        ),
    ] = None
    usb: Annotated[
        tuple[str, ...] | None,
        Parameter(help="USB devices on each host: '1050:0407=2', '1050:*=1', '*:*' for any, none", negative=""),
    ] = None
    overprovision_min: Annotated[
        str | None, Parameter(help="nothing more exclusive than this many VMs on a core; 1: whole cores of one's own")
    ] = None
    lease_max: Annotated[str | None, Parameter(help="a VM ends this long after its start: 12h, 7d; or unlimited")] = (
        None
    )
    groups: Annotated[str | None, Parameter(help="names with commas between, for the hosts' own settings; or none")] = (
        None
    )
    verbs: Annotated[
        str | None, Parameter(help="of pledge,run,console; all three where nothing is said", show_default=False)
    ] = None
    admin: Annotated[
        bool | None, Parameter(help="may invite and remove hosts, add and revoke users", show_default=False)
    ] = None
    until: Annotated[
        str | None, Parameter(help="when it all ends: 90d from now, or 2027-01-31 (to its end, UTC); or unlimited")
    ] = None

    def is_empty(self) -> bool:
        return self == GrantOptions()


def granted(options: GrantOptions, before: Grant = DEFAULT) -> Grant:
    """`before` with what the options change. Raises `Failure` for the first that makes no sense."""
    return replace(
        before,
        verbs=_verbs(options, before),
        slots=_limit("--slots", options.slots, before.slots, _number(0, SLOTS_MAX), "16"),
        ram_mib=_limit("--ram", options.ram, before.ram_mib, _mib, "64GiB"),
        vms=_limit("--vms", options.vms, before.vms, _number(0, COUNT_MAX), "8"),
        volumes_gb=_limit("--volumes", options.volumes, before.volumes_gb, _gb, "500GB"),
        pci=before.pci if options.pci is None else _devices("--pci", options.pci),
        usb=before.usb if options.usb is None else _devices("--usb", options.usb),
        overprovision_min=_overprovision(options.overprovision_min, before.overprovision_min),
        lease_max_s=_limit("--lease-max", options.lease_max, before.lease_max_s, _lease, "12h"),
        groups=before.groups if options.groups is None else _groups(options.groups),
        until_s=_limit("--until", options.until, before.until_s, _until, "90d, or 2027-01-31"),
    )


def grant_document(grant: Grant) -> dict[str, Any]:
    """`null`: not limited."""
    return {
        "verbs": [verb.value for verb in grant.verbs],
        "slots": grant.slots,
        "ram_mib": grant.ram_mib,
        "vms": grant.vms,
        "volumes_gb": grant.volumes_gb,
        "pci": [show_pci_limit(limit) for limit in grant.pci],
        "usb": [show_pci_limit(limit) for limit in grant.usb],
        "overprovision_min": grant.overprovision_min,
        "lease_max_s": grant.lease_max_s,
        "groups": list(grant.groups),
        "until": moment_document(grant.until_s),
    }


def use_document(use: Use) -> dict[str, Any]:
    return {
        "slots": use.slots,
        "ram_mib": use.ram_mib,
        "vms": use.vms,
        "volumes_gb": None if use.volumes_mib is None else gb_of(use.volumes_mib),
        "pci": [show_pci_limit(limit) for limit in use.pci],
        "usb": [show_pci_limit(limit) for limit in use.usb],
    }


def grant_rows(grant: Grant) -> list[tuple[str, str]]:
    """One limit a line; those that take nothing away say so."""
    return [
        ("may", ", ".join(grant.verbs) or "nothing"),
        ("slots", _shown(grant.slots)),
        ("RAM", _shown(grant.ram_mib, show_mib)),
        ("VMs", _shown(grant.vms)),
        ("volumes", _shown(grant.volumes_gb, lambda gb: f"{gb} GB")),
        ("PCI devices", ", ".join(map(_shown_pci, grant.pci)) or "none"),
        ("USB devices", ", ".join(map(_shown_pci, grant.usb)) or "none"),
        ("shares a core", "as asked" if grant.overprovision_min == 1 else f"with {grant.overprovision_min} or more"),
        ("a VM lives", _shown(grant.lease_max_s, show_duration, "as long as it likes")),
        ("groups", ", ".join(grant.groups) or "-"),
        ("until", _shown(grant.until_s, moment, "no end")),
    ]


def summary(grant: Grant | None) -> str:
    """The limits that there are, in one line."""
    if grant is None:
        return "-"
    said: list[tuple[int | None, Callable[[int], str]]] = [
        (grant.slots, lambda n: f"{n} slots"),
        (grant.ram_mib, show_mib),
        (grant.vms, lambda n: f"{n} VMs"),
        (grant.volumes_gb, lambda n: f"{n} GB"),
        (grant.lease_max_s, lambda s: f"{show_duration(s)} each"),
    ]
    limits = [show(value) for value, show in said if value is not None]
    limits += [*map(show_pci_limit, grant.pci), *(f"usb {show_pci_limit(each)}" for each in grant.usb)]
    return ", ".join(["admin"] * (Verb.ADMIN in grant.verbs) + limits)


def use_text(use: Use) -> str:
    said = [f"{use.vms} VM{'s' if use.vms != 1 else ''}", f"{use.slots} slots", show_mib(use.ram_mib)]
    if use.volumes_mib is None:
        said.append("volumes not known")
    elif use.volumes_mib:
        said.append(f"{gb_of(use.volumes_mib)} GB")
    devices = [*map(show_pci_limit, use.pci), *(f"usb {show_pci_limit(limit)}" for limit in use.usb)]
    return ", ".join([*said, *devices])


def gb_of(mib: int) -> float:
    """Exact, as volumes come in eighths of a GB; whole ones without a point."""
    return mib // GB_MIB if mib % GB_MIB == 0 else mib / GB_MIB


def total(uses: Iterable[Use]) -> Use:
    """Of several hosts together; what is not known of one of them is not known of all."""
    uses = tuple(uses)
    return Use(
        sum(use.slots for use in uses),
        sum(use.ram_mib for use in uses),
        sum(use.vms for use in uses),
        None if any(use.volumes_mib is None for use in uses) else sum(use.volumes_mib or 0 for use in uses),
        _summed(limit for use in uses for limit in use.pci),
        _summed(limit for use in uses for limit in use.usb),
    )


# ---- inside


def _summed(limits: Iterable[PciLimit]) -> tuple[PciLimit, ...]:
    devices: dict[tuple[str, str], int] = {}
    for limit in limits:
        devices[limit.vendor, limit.model] = devices.get((limit.vendor, limit.model), 0) + limit.quantity
    return tuple(PciLimit(vendor, model, count) for (vendor, model), count in sorted(devices.items()))


def _shown(value: T | None, show: Callable[[T], str] = str, otherwise: str = UNLIMITED) -> str:
    return otherwise if value is None else show(value)


def _shown_pci(limit: PciLimit) -> str:
    return "any" if (limit.vendor, limit.model, limit.quantity) == ("*", "*", COUNT_MAX) else show_pci_limit(limit)


def _limit(
    option: str, text: str | None, before: int | None, parse: Callable[[str], int | None], such_as: str
) -> int | None:
    if text is None:
        return before
    if text.strip().lower() == UNLIMITED:
        return None
    found = parse(text)
    if found is None:
        raise _wrong(option, text, f"such as {such_as}; or {UNLIMITED}")
    return found


def _number(least: int, most: int) -> Callable[[str], int | None]:
    def parse(text: str) -> int | None:
        is_number = text.isascii() and text.isdigit() and len(text) < 12
        return int(text) if is_number and least <= int(text) <= most else None

    return parse


def _mib(text: str) -> int | None:
    mib = guess_mib(text)
    return mib if mib is not None and mib <= RAM_MIB_MAX else None


def _gb(text: str) -> int | None:
    """A number alone is in GB, as volumes are."""
    mib = guess_mib(f"{text}GB" if text.isascii() and text.isdigit() else text)
    if mib is None or mib % GB_MIB or mib // GB_MIB > VOLUMES_GB_MAX:
        return None
    return mib // GB_MIB


def _lease(text: str) -> int | None:
    seconds = duration_s(text)
    return seconds if seconds is not None and LEASE_MIN_S <= seconds <= SECONDS_MAX else None


def _until(text: str) -> int | None:
    found = until_s(text)
    if found is not None and found <= time.time():
        raise _wrong("--until", text, "that is over already")
    return found


def _overprovision(text: str | None, before: int) -> int:
    if text is None:
        return before
    found = _number(1, 64)(text)
    if found is None:
        raise _wrong("--overprovision-min", text, "a number from 1 to 64")
    return found


def _devices(option: str, texts: tuple[str, ...]) -> tuple[PciLimit, ...]:
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    if [word.lower() for word in words] == [NONE]:
        return ()
    try:
        limits = tuple(PciLimit("*", "*", COUNT_MAX) if word == "*:*" else parse_pci_limit(word) for word in words)
    except ValueError as error:
        raise Failure(Exit.USAGE, f"{option}: {error}") from None
    named = {(limit.vendor, limit.model) for limit in limits}
    if not limits or len(named) != len(limits) or len(limits) > PCI_LIMITS_MAX:
        raise _wrong(option, ",".join(texts), f"each device once, {PCI_LIMITS_MAX} at most; or {NONE}")
    return limits


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if names == (NONE,) or not text.strip():
        return ()
    if not names or len(names) > GROUPS_MAX or not all(_GROUP.fullmatch(name) for name in names):
        helps = (
            f"at most {GROUPS_MAX} names of letters, digits, dots, dashes and underscores, commas between; or {NONE}"
        )
        raise _wrong("--groups", text, helps)
    return names


def _verbs(options: GrantOptions, before: Grant) -> tuple[Verb, ...]:
    """In the order of `Verb`; `admin` by its own option alone, so that nobody gives it by mistake."""
    chosen = set(before.verbs) - {Verb.ADMIN}
    if options.verbs is not None:
        words = {word.strip().lower() for word in options.verbs.split(",") if word.strip()} - {NONE}
        if Verb.ADMIN.value in words:
            raise _wrong("--verbs", options.verbs, "administration is given by --admin")
        if words - {verb.value for verb in DEFAULT.verbs}:
            raise _wrong("--verbs", options.verbs, f"of {','.join(DEFAULT.verbs)}; or {NONE}")
        chosen = {Verb(word) for word in words}
    is_admin = Verb.ADMIN in before.verbs if options.admin is None else options.admin
    return tuple(verb for verb in Verb if verb in chosen or (verb is Verb.ADMIN and is_admin))


def _wrong(option: str, text: str, helps: str) -> Failure:
    return Failure(Exit.USAGE, f"{option}: {text[:48]!r} can't be used", helps=helps)
