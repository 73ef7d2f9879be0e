"""Can this host serve the ask, and if not, every reason why: what was asked, what is there, what would help. Pure.

`fit` and `place` never disagree: a `Fit` carries the placement, and a `Misfit` has at least one reason. Each reason
looks at one resource alone, so that a person sees all that is in the way at once. `edit` is the one `--set` argument
that would make that reason go away on this host, now; it is tried out by the same counting before it is offered.

    fit(ask) --a trait is missing--> Misfit(arch, flags, ecc, class, …)
        '----too little is free----> Misfit(slots, ram, pci)
        '----place(ask)------------> Fit(placed)
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from atomd.capacity.devices import Wish, chosen_kinds, kind_of, overlap, serves, wish_of, wishes
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.layout import Unit
from atomd.capacity.occupancy import Occupancy, charged_mib, pages_of, plain_mib, uncharged_mib
from atomd.capacity.openings import Kind
from atomd.capacity.placement import PCI_CLAIM_MAX, Placed, place_on
from atomd.capacity.plugged import UsbKind, usb_kind, usb_wishes
from atomd.capacity.traits import (
    UEFI_ARCHS,
    firmwares_there,
    is_fast,
    is_of_class,
    may_run_so,
    may_use,
    missing_flags,
    wanted_archs,
)
from atomd.inventory.facts import Core, PciDevice
from matcher.wire.messages import (
    RAM_MIB_MAX,
    REASONS_MAX,
    Accelerator,
    CoreClass,
    Firmware,
    PciAsk,
    Policy,
    Reason,
    VmAsk,
)
from matcher.wire.naming import device_kind
from specs.forms import PCI_CLASSES
from specs.ids import UserId, VmId

OVERPROVISION_MAX = 64
RESOURCE_CHARS = 80
SAID_CHARS = 120
HINT_CHARS = 160
EDIT_CHARS = 80
_WAIT = "wait until a VM here stops, or take another host"


@dataclass(frozen=True, slots=True)
class Fit:
    placed: Placed


@dataclass(frozen=True, slots=True)
class Misfit:
    reasons: tuple[Reason, ...]


def fit(
    ask: VmAsk, hardware: Hardware, residents: Collection[Claim], *, vm_id: VmId, user_id: UserId, policy: Policy
) -> Fit | Misfit:
    """The placement of one more VM beside these residents, or all the reasons against it."""
    return fit_on(ask, Occupancy(hardware, residents), vm_id=vm_id, user_id=user_id, policy=policy)


def fit_on(ask: VmAsk, now: Occupancy, *, vm_id: VmId, user_id: UserId, policy: Policy) -> Fit | Misfit:
    """`fit`, where the residents have been counted already."""
    placed = place_on(ask, now, vm_id=vm_id, user_id=user_id, policy=policy)
    return Misfit(reasons_against(ask, now, user_id)) if placed is None else Fit(placed)


def reasons_against(ask: VmAsk, now: Occupancy, user_id: UserId) -> tuple[Reason, ...]:
    """Of an ask that `place_on` finds no share for."""
    hardware = now.hardware
    reasons = [*_trait_reasons(ask, hardware), *_core_reasons(ask, now, user_id)]
    reasons += [*_ram_reasons(ask, now), *_pages_reasons(ask, now)]
    reasons += [*_pci_reasons(ask, now), *_usb_reasons(ask, now)]
    return _at_most(reasons) or (_not_together(ask),)


# --- what the host is ----------------------------------------------------------------------------------------------


def _trait_reasons(ask: VmAsk, hardware: Hardware) -> Iterator[Reason]:
    if not may_run_so(ask, hardware):
        yield _reason("accelerator", "KVM", "emulation only (TCG)", "electros run … --allow-emulation")
    if not any(arch in hardware.archs for arch in wanted_archs(ask)):
        asked = " or ".join(wanted_archs(ask))
        has = _listed(sorted(hardware.archs)) or "no guest architecture that AtomOS knows"
        yield _reason("arch", asked, has, "cpu.archs names the alternatives; the image must be made for one of them")
    if missing := missing_flags(ask, hardware):
        yield _flags_reason(missing, hardware)
    if ask.ecc and hardware.ecc is not True:
        has = "no ECC" if hardware.ecc is False else "unknown: this machine does not say"
        reason = _reason("ecc", "ECC memory", has, "only memory that is known to be ECC counts", "ram.reqECC=false")
        yield replace(reason, unknown=hardware.ecc is None)
    if ask.firmware not in (firmwares := firmwares_there(ask, hardware)):
        yield _firmware_reason(ask, firmwares)
    if ask.tpm and not hardware.tpm:
        hint = "a host gets them by its packages swtpm and swtpm-tools"
        yield _reason("tpm", "TPM 2.0", "no TPM for guests", hint, "misc.tpm=false")


def _firmware_reason(ask: VmAsk, there: Collection[Firmware]) -> Reason:
    """What is nearest to what was asked for is told as the edit."""
    nearest = [firmware for firmware in (Firmware.UEFI, Firmware.BIOS) if firmware in there]
    edit = f"misc.firmware={nearest[0]}" if nearest else ""
    hint = "the image must boot with it"
    if UEFI_ARCHS.isdisjoint(wanted_archs(ask)):
        hint = f"guests of {' and '.join(sorted(UEFI_ARCHS))} alone can have UEFI; {hint}"
    elif ask.firmware is not Firmware.BIOS:
        hint = f"a host gets it by its package ovmf; with another one, {hint}"
    return _reason("firmware", ask.firmware, _listed(sorted(there)) or "none", hint, edit)


def _flags_reason(missing: Sequence[str], hardware: Hardware) -> Reason:
    model = hardware.cpu_model or "unknown model"
    has = f"not on this CPU ({model})"
    if hardware.accelerator is Accelerator.TCG:
        has = f"not under emulation (TCG, on {model})"
    hint, edit = "cpu.flags names what a guest must see; leave out what the task can do without", _dropping(missing)
    spelled = {flag.replace("-", "_").replace(".", "_"): flag for flag in missing}
    if alike := [f"{spelled[name]} is spelled {name}" for name in sorted(spelled.keys() & hardware.guest_flags)]:
        hint, edit = f"as Linux names it: {_listed(alike, HINT_CHARS - 30)}", ""
    return _reason("flags", _listed(missing), has, hint, edit)


def _dropping(flags: Sequence[str]) -> str:
    edit = f"cpu.flags-={','.join(flags)}"
    return edit if len(edit) <= EDIT_CHARS else ""


# --- threads and cores ---------------------------------------------------------------------------------------------


def _core_reasons(ask: VmAsk, now: Occupancy, user_id: UserId) -> Iterator[Reason]:
    """What no core here is, and then whether there are enough: of those that would do but for that."""
    cores = now.hardware.cores
    if cores and not any(is_of_class(core, ask) for core in cores):
        yield _class_reason(ask, cores)
        ask = replace(ask, core_class=CoreClass.ANY)
    slow = [core for core in cores if is_of_class(core, ask)]
    if slow and not any(is_fast(core, ask) for core in slow):
        unhurried = replace(ask, min_frequency_mhz=0)
        yield _frequency_reason(ask, slow, _mhz_that_fits(unhurried, now, user_id, slow))
        ask = unhurried
    yield from _slot_reasons(ask, now, user_id)


def _class_reason(ask: VmAsk, cores: Sequence[Core]) -> Reason:
    assert ask.core_class is not None
    classes = sorted({core.core_class for core in cores if core.core_class})
    has = f"{_listed(classes)} cores alone" if classes else "its cores are all of one kind, or it does not say"
    hint = "a class is what a machine with two kinds of cores has"
    return _reason("class", f"{ask.core_class} cores", has, hint, "cpu.core_class=any")


def _frequency_reason(ask: VmAsk, cores: Sequence[Core], fits_mhz: int) -> Reason:
    known = [core.max_mhz for core in cores if core.max_mhz is not None]
    has = f"{max(known)} MHz at most" if known else "unknown: this machine does not say"
    hint = f"{fits_mhz} MHz would fit" if fits_mhz else "only what cpufreq says counts"
    reason = _reason("frequency", f"{ask.min_frequency_mhz} MHz", has, hint, f"cpu.min_frequency={fits_mhz}")
    return replace(reason, unknown=not known)


def _mhz_that_fits(ask: VmAsk, now: Occupancy, user_id: UserId, cores: Sequence[Core]) -> int:
    """The most that as many free cores reach as are asked for; where too few are free in any case, that any reaches."""
    speeds = [
        sorted((now.hardware.cores[unit.core].max_mhz or 0 for unit in units), reverse=True)
        for units in now.open_units(ask, user_id).values()
        if len(units) >= ask.slots
    ]
    return max((each[ask.slots - 1] for each in speeds), default=max(core.max_mhz or 0 for core in cores))


def _slot_reasons(ask: VmAsk, now: Occupancy, user_id: UserId) -> Iterator[Reason]:
    units = now.open_units(ask, user_id)
    if _most(units) >= ask.slots:
        return
    noun = "thread" if ask.smt else "whole core"
    shared = f", shared by at most {ask.overprovision} VMs" if ask.overprovision > 1 else ""
    edit, hint = _way_out(ask, now, user_id, units)
    yield _reason("slots", _count(ask.slots, noun) + shared, _slots_there(ask, now, user_id, units), hint, edit)


def _slots_there(ask: VmAsk, now: Occupancy, user_id: UserId, units: dict[Kind, list[Unit]]) -> str:
    """ "8 in all, 2 free, 6 in use by other VMs": each unit counted once."""
    cores = now.hardware.cores
    weight = {index: len(core.threads) if ask.smt else 1 for index, core in enumerate(cores) if may_use(core, ask)}
    total = sum(weight.values())
    free = sum(len(of_kind) for of_kind in units.values())
    shut = sum(number for index, number in weight.items() if now.seats.is_shut(index, user_id))
    parts = [f"{total} in all", f"{free} free"]
    if len(units) > 1:
        kinds = sorted(units, key=lambda kind: (kind.core_class or "", kind.threads_per_core))
        parts[-1] += " of unlike kinds (" + " + ".join(_kind_there(kind, units[kind]) for kind in kinds) + ")"
    if total > free + shut:
        parts.append(f"{total - free - shut} in use by other VMs")
    if shut:
        parts.append(f"{shut} on cores of another user")
    return ", ".join(parts)


def _kind_there(kind: Kind, units: list[Unit]) -> str:
    name = kind.core_class or "cores"
    return f"{len(units)} {name} of {_count(kind.threads_per_core, 'thread')}"


def _way_out(ask: VmAsk, now: Occupancy, user_id: UserId, units: dict[Kind, list[Unit]]) -> tuple[str, str]:
    """The edit that helps, and a sentence: fewer slots, else sharing cores, else threads in place of cores."""

    def helps(changed: VmAsk) -> bool:
        return _most(now.open_units(changed, user_id)) >= ask.slots

    noun = "thread" if ask.smt else "whole core"
    sharing = _sharing_that(lambda n: helps(replace(ask, overprovision=n)), ask.overprovision, now)
    threads = not ask.smt and helps(replace(ask, smt=True))
    if most := _most(units):
        also = f"; or with cpu.overprovision={sharing}" if sharing else "; or with cpu.allowSMT=true" if threads else ""
        alike = f", as the {noun}s of a VM are alike" if len(units) > 1 else ""
        return f"cpu.slots={most}", f"at most {_count(most, noun)} now{alike}{also}"
    if sharing:
        return f"cpu.overprovision={sharing}", f"its cores can be had if {sharing} VMs may share each"
    if threads:
        return "cpu.allowSMT=true", "single threads are free, whole cores are not"
    return "", _WAIT if now.hardware.cores else "this host lends no cores"


def _sharing_that(helps: Callable[[int], bool], above: int, now: Occupancy) -> int | None:
    """The smallest overprovision that helps: only as many VMs as sit on one core already can be in the way."""
    fullest = max(now.seats.core_vms, default=0) + 1
    return next((n for n in range(above + 1, min(fullest, OVERPROVISION_MAX) + 1) if helps(n)), None)


def _most(units: dict[Kind, list[Unit]]) -> int:
    return max((len(of_kind) for of_kind in units.values()), default=0)


# --- memory --------------------------------------------------------------------------------------------------------


def _ram_reasons(ask: VmAsk, now: Occupancy) -> Iterator[Reason]:
    need = plain_mib(ask)
    free = now.free_total_mib
    if need <= free:
        return
    if ask.hugepages_kib:
        asked = f"{need} MiB, QEMU's own beside huge pages"
        yield _reason("ram", asked, f"{_mib(free)} free", _WAIT)
        return
    total = sum(mib for _, mib in now.hardware.ram_mib)
    has = f"{_mib(total)} in all, {_mib(free)} free"
    if total > free:
        has += f", {_mib(total - free)} in use by other VMs"
    fits = min(uncharged_mib(free), RAM_MIB_MAX)
    edit = f"ram.ramsize={fits}" if fits else ""
    hint = f"{_mib(fits)} would fit" if fits else _WAIT if total > free else "this host lends less than one VM needs"
    yield _reason("ram", f"{_mib(ask.ram_mib)} ({need} MiB with QEMU's own)", has, hint, edit)


def _pages_reasons(ask: VmAsk, now: Occupancy) -> Iterator[Reason]:
    """They are of one node, so that the node with most of them free decides."""
    size = ask.hugepages_kib
    if not size or now.pages_for(ask):
        return
    kept = sum(pages.count for pages in now.hardware.pages if pages.size_kib == size)
    most = max((free for (each, _), free in now.free_pages.items() if each == size), default=0)
    asked = f"{_count(pages_of(ask), 'page')} of {_page(size)} on one NUMA node"
    has, hint = f"{kept} in all, at most {max(0, most)} free on one node", _WAIT
    if not kept:
        sizes = sorted({pages.size_kib for pages in now.hardware.pages})
        has = f"none of that size: {_listed([_page(each) for each in sizes])} alone" if sizes else "none are kept here"
        hint = "its sysadmin can have some kept (vm.nr_hugepages), and a hugetlbfs of that size mounted"
    edit = "ram.hugepages=none" if charged_mib(ask.ram_mib) <= now.free_total_mib else ""
    yield _reason("hugepages", asked, has, hint, edit)


def _page(kib: int) -> str:
    return f"{kib} KiB" if kib < 1024 else _mib(kib // 1024)


def _mib(mib: int) -> str:
    """Exact where it is short; never rounded up, as that would promise what is not there."""
    if mib < 10 * 1024:
        return f"{mib} MiB"
    tenths = mib * 10 // 1024
    return f"{tenths // 10} GiB" if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10} GiB"


# --- devices -------------------------------------------------------------------------------------------------------


def _pci_reasons(ask: VmAsk, now: Occupancy) -> Iterator[Reason]:
    free, wanted, lacks = now.free_kinds(), wishes(ask), False
    for wish, quantity in wanted.items():
        able = sum(number for kind, number in free.items() if serves(kind, wish))
        if able < quantity:
            lacks = True
            has, hint = _devices_there(now, wish, able)
            edit = "" if overlap(now.hardware.pci, wanted) else _fewer(ask, wish, able)
            yield _reason(f"pci {device_kind(*wish)}", str(quantity), has, hint, edit)
    if not lacks and chosen_kinds(wanted, free, dict.fromkeys(free, 0)) is None:
        has = "enough for each entry alone, and too few for all: some devices would serve several entries"
        yield _reason("pci", _count(wanted.total(), "device"), has, "lower a quantity, or leave an entry out")


def _devices_there(now: Occupancy, wish: Wish, free: int) -> tuple[str, str]:
    here = [device for device in now.hardware.pci if serves(kind_of(device), wish)]
    refused = [device for device in now.hardware.pci_refused if serves(kind_of(device), wish)]
    stuck = [device for device in here if device.address in now.layout.blocked]
    if not here and not refused:
        return "none here", "no such device is in this machine"
    parts = [f"{len(here) + len(refused)} in all", f"{free} free"]
    if used := len(here) - len(stuck) - free:
        parts.append(f"{used} in use by other VMs")
    if kept := len(refused) + len(stuck):
        parts.append(f"{kept} not assignable")
    return ", ".join(parts), _why_kept(now, refused, stuck)


def _why_kept(now: Occupancy, refused: list[PciDevice], stuck: list[PciDevice]) -> str:
    if refused:
        return f"{refused[0].address}: {refused[0].why_not or 'the host keeps it'}"
    if stuck:
        keeper = now.layout.blocked[stuck[0].address]
        return f"{stuck[0].address} shares IOMMU {_group_name(keeper)} with {keeper.address}, which the host keeps"
    return "an IOMMU group moves whole: a free device may move with one that is in use"


def _group_name(device: PciDevice) -> str:
    return f"group {device.iommu_group}"


def _fewer(ask: VmAsk, wish: Wish, free: int) -> str:
    """One quantity, lowered so that all asks of this kind together are met; where no single one can do it, no device of
    this kind at all, if it is one kind and no other entry names it."""
    asks = [(index, each) for index, each in enumerate(ask.pci) if wish_of(each) == wish]
    total = sum(each.quantity for _, each in asks)
    for index, each in asks:
        if (left := each.quantity - (total - free)) > 0:
            return f"pci.{index}.quantity={left}"
    named = _named(asks[0][1])
    of_others = any(_named(each) == named for each in ask.pci if wish_of(each) != wish)
    return f"pci-={named}" if named and not of_others else ""


def _named(ask: PciAsk) -> str:
    """As edits of a specfile name the entry; empty where they have no name for it."""
    if ask.mdev_type or ask.model:
        return ask.mdev_type or f"{ask.vendor}:{ask.model}"
    words = {code: word for word, code in PCI_CLASSES.items()}
    return "" if ask.vendor else words.get(ask.device_class, ask.device_class)


def _usb_reasons(ask: VmAsk, now: Occupancy) -> Iterator[Reason]:
    free = now.free_usb_kinds()
    for kind, quantity in usb_wishes(ask).items():
        if free[kind] < quantity:
            has, hint = _plugged_there(now, kind, free[kind])
            yield _reason(f"usb {':'.join(kind)}", str(quantity), has, hint, _fewer_usb(ask, kind, free[kind]))


def _plugged_there(now: Occupancy, kind: UsbKind, free: int) -> tuple[str, str]:
    here = sum(usb_kind(device) == kind for device in now.hardware.usb)
    refused = [device for device in now.hardware.usb_refused if usb_kind(device) == kind]
    if not here and not refused:
        return "none here", "no such device is plugged into this machine"
    parts = [f"{here + len(refused)} in all", f"{free} free"]
    if here > free:
        parts.append(f"{here - free} in use by other VMs")
    if refused:
        parts.append(f"{len(refused)} not assignable")
    return ", ".join(parts), f"{refused[0].address}: {refused[0].why_not}" if refused else _WAIT


def _fewer_usb(ask: VmAsk, kind: UsbKind, free: int) -> str:
    """One quantity, lowered, or no such device at all; empty where no single edit can do it."""
    asks = [(index, each.quantity) for index, each in enumerate(ask.usb) if (each.vendor, each.model) == kind]
    total = sum(quantity for _, quantity in asks)
    fewer = ((index, quantity - (total - free)) for index, quantity in asks)
    return next((f"usb.{index}.quantity={left}" for index, left in fewer if left > 0), f"usb-={':'.join(kind)}")


def _not_together(ask: VmAsk) -> Reason:
    """All is there, each by itself."""
    if not (ask.usb and ask.pci):
        return _too_many_functions(ask)
    asked = _count(sum(each.quantity for each in ask.usb), "device")
    has = "not beside the PCI devices: a USB controller goes whole, with what is plugged into it"
    return _reason("usb", asked, has, "leave out the USB devices, or the controller")


def _too_many_functions(ask: VmAsk) -> Reason:
    """Whole IOMMU groups are more than one offer can name."""
    asked = _count(sum(each.quantity for each in ask.pci), "device")
    has = f"their IOMMU groups move whole: over {PCI_CLAIM_MAX} functions"
    return _reason("pci", asked, has, f"a VM takes at most {PCI_CLAIM_MAX} PCI functions; ask for fewer devices")


# --- words ---------------------------------------------------------------------------------------------------------


def _reason(resource: str, asked: str, has: str, hint: str, edit: str = "") -> Reason:
    """Within the limits of the message, whatever a machine calls itself."""
    return Reason(
        resource=_cut(resource, RESOURCE_CHARS),
        asked=_cut(asked, SAID_CHARS),
        has=_cut(has, SAID_CHARS),
        hint=_cut(hint, HINT_CHARS),
        edit=edit,
    )


def _at_most(reasons: list[Reason]) -> tuple[Reason, ...]:
    """All reasons; where the message has no room for them, the last says how many more there are."""
    if len(reasons) <= REASONS_MAX:
        return tuple(reasons)
    rest = Counter(reason.resource.split()[0] for reason in reasons[REASONS_MAX - 1 :])
    named = _listed([f"{count} of {resource}" for resource, count in rest.items()])
    more = _reason("more", named, "not enough either", "mend the reasons above first")
    return (*reasons[: REASONS_MAX - 1], more)


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def _listed(words: Sequence[str], chars: int = SAID_CHARS) -> str:
    """As many words as fit, then "and N more"."""
    for shown in range(len(words), 0, -1):
        rest = len(words) - shown
        text = ", ".join(words[:shown]) + (f" and {rest} more" if rest else "")
        if len(text) <= chars:
            return text
    return f"{len(words)} of them" if words else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
