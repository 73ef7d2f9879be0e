"""Who sits where on a host, and what that leaves open to one more VM. Pure.

Capacity is counted here once, for `placement` (which takes it) and for `fit` (which explains it). Units are independent
of each other: whether a core or thread is open to an ask depends on nothing else that the ask takes. That is what makes
counting exact: a host with enough open units of one kind always has a placement.

A `Layout` is what never changes while a `Hardware` lasts; it is built once for each and kept.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from atomd.capacity.devices import DeviceKind, kind_of
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.plugged import UsbKind, usb_kind
from atomd.capacity.traits import may_use
from atomd.inventory.facts import Core, Pages, PciDevice, UsbDevice
from matcher.wire.messages import CoreClass, VmAsk
from specs.ids import UserId

QEMU_MIB = 128  # QEMU's own memory, measured: a base and a share that grows with the guest's page tables
QEMU_PERCENT = 2
LAYOUTS_MAX = 256
KNOWN_MAX = 64  # answers kept by one `Occupancy`
SIZES_MAX = 256  # VMs come in few sizes
NO_LIMIT = 1 << 30

T = TypeVar("T")

_BRIDGES = ("0600", "0604")  # VFIO lets host and PCI-to-PCI bridges stay with the host (kernel, vfio.rst)


def charged_mib(ram_mib: int) -> int:
    """What a VM with this much RAM costs the host: the guest's and QEMU's own, rounded up."""
    return ram_mib + QEMU_MIB + (ram_mib * QEMU_PERCENT + 99) // 100


@lru_cache(maxsize=SIZES_MAX)
def uncharged_mib(free_mib: int) -> int:
    """The largest guest RAM whose charge is at most `free_mib`; 0 where not even QEMU itself fits."""
    guess = max(0, (free_mib - QEMU_MIB) * 100 // (100 + QEMU_PERCENT))
    return max((mib for mib in (guess - 1, guess, guess + 1) if mib > 0 and charged_mib(mib) <= free_mib), default=0)


def pages_of(ask: VmAsk) -> int:
    """How many huge pages its RAM takes."""
    return -(-ask.ram_mib * 1024 // ask.hugepages_kib)


def plain_mib(ask: VmAsk) -> int:
    """What it takes of ordinary memory: QEMU's own alone, where the guest's is in huge pages."""
    return charged_mib(ask.ram_mib) - (ask.ram_mib if ask.hugepages_kib else 0)


def group_key(device: PciDevice) -> str:
    """The IOMMU group of a device; one without a group is alone in its own."""
    return device.address if device.iommu_group is None else f"group {device.iommu_group}"


def blocks_group(device: PciDevice) -> bool:
    """Whether a device that stays with the host keeps its whole IOMMU group there."""
    return device.iommu_group is not None and not device.device_class.startswith(_BRIDGES)


@dataclass(frozen=True, slots=True)
class PciGroup:
    """Devices that move together: every assignable function of one IOMMU group."""

    addresses: tuple[str, ...]
    kinds: tuple[DeviceKind, ...]  # of each address
    numa: int | None


@dataclass(frozen=True, slots=True)
class Kind:
    """Cores that one VM may combine: of one class on hybrid machines, unless it takes any (`None`); with equally many
    threads, where it asks for whole cores."""

    core_class: str | None
    threads_per_core: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What one slot takes: a core with all its threads, or one thread. `vms` sit on it, `core_vms` on its core."""

    threads: tuple[int, ...]
    core: int  # index in `Hardware.cores`
    vms: int
    core_vms: int
    limit: int  # the strictest overprovision on it so far


@dataclass(frozen=True, slots=True)
class Layout:
    """A `Hardware`, indexed."""

    core_of: dict[int, int]  # thread -> index in `Hardware.cores`
    groups: tuple[PciGroup, ...]  # usable ones alone
    blocked: dict[str, PciDevice]  # assignable address -> the device of the host that keeps its group


@lru_cache(maxsize=LAYOUTS_MAX)
def layout_of(hardware: Hardware) -> Layout:
    core_of = {thread: index for index, core in enumerate(hardware.cores) for thread in core.threads}
    blockers = {group_key(device): device for device in hardware.pci_refused if blocks_group(device)}
    members: defaultdict[str, list[PciDevice]] = defaultdict(list)
    for device in hardware.pci:
        members[group_key(device)].append(device)
    return Layout(
        core_of=core_of,
        groups=tuple(_group(devices) for key, devices in members.items() if key not in blockers),
        blocked={device.address: blockers[key] for key in members.keys() & blockers.keys() for device in members[key]},
    )


def _group(devices: list[PciDevice]) -> PciGroup:
    ordered = sorted(devices, key=lambda device: device.address)
    nodes = {device.numa for device in devices}
    return PciGroup(
        addresses=tuple(device.address for device in ordered),
        kinds=tuple(kind_of(device) for device in ordered),
        numa=nodes.pop() if len(nodes) == 1 else None,
    )


class Occupancy:
    """The residents of a host, counted: for each thread, core, NUMA node and device."""

    def __init__(self, hardware: Hardware, residents: Collection[Claim]) -> None:
        self.hardware = hardware
        self.layout = layout_of(hardware)
        self.thread_vms: dict[int, int] = dict.fromkeys(self.layout.core_of, 0)
        self.thread_limit: dict[int, int] = dict.fromkeys(self.layout.core_of, NO_LIMIT)  # of VMs that ask for threads
        self.core_vms = [0] * len(hardware.cores)
        self.core_limit = [NO_LIMIT] * len(hardware.cores)  # of VMs that ask for whole cores
        self.core_users: list[set[UserId]] = [set() for _ in hardware.cores]
        self.free_mib = dict(hardware.ram_mib)
        self.taken_pci: set[str] = set()
        self.taken_usb: set[str] = set()
        self.free_pages: Counter[tuple[int, int]] = Counter()  # (size in KiB, node)
        for pages in hardware.pages:
            self.free_pages[pages.size_kib, pages.node] += pages.count
        self._are_alike = hardware.share_cores_between_users or all(len(core.threads) == 1 for core in hardware.cores)
        self._known: dict[Hashable, Any] = {}
        for claim in residents:
            self._seat(claim)

    def add(self, claim: Claim) -> None:
        """One resident more. For whoever counts for themselves: what was found before is found anew."""
        self._known.clear()
        self._seat(claim)

    def _seat(self, claim: Claim) -> None:
        here = [thread for thread in claim.threads if thread in self.layout.core_of]  # one may have gone offline
        for thread in here:
            self.thread_vms[thread] += 1
            if claim.smt:
                self.thread_limit[thread] = min(self.thread_limit[thread], claim.overprovision)
        for core in {self.layout.core_of[thread] for thread in here}:
            self.core_vms[core] += 1
            self.core_users[core].add(claim.user_id)
            if not claim.smt:
                self.core_limit[core] = min(self.core_limit[core], claim.overprovision)
        for node, mib in claim.ram_mib:
            self.free_mib[node] = self.free_mib.get(node, 0) - mib
        self.taken_pci.update(claim.pci)
        self.taken_usb.update(claim.usb)
        if claim.pages is not None:
            self.free_pages[claim.pages.size_kib, claim.pages.node] -= claim.pages.count

    def open_units(self, ask: VmAsk, user_id: UserId) -> dict[Kind, list[Unit]]:
        """Every unit that may carry one more VM with this ask's rules, by kind, in the order of the cores; not to be
        changed, since it is kept for the next one who asks by the same rules."""
        key = (ask.smt, ask.overprovision, ask.core_class, ask.min_frequency_mhz, self.whose(user_id))
        return self.once(key, lambda: self._open_units(ask, user_id))

    def whose(self, user_id: UserId) -> UserId | None:
        """Whose VMs may go where: `None` where that is the same for all users."""
        return None if self._are_alike else user_id

    def once(self, key: Hashable, found: Callable[[], T]) -> T:
        """What `found` says, the first time that it is asked for by this key: nothing here changes any more, and VMs
        come in few sizes, so that the next pledge often asks what the last one did."""
        if key not in self._known:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[key] = found()
        known: T = self._known[key]
        return known

    def _open_units(self, ask: VmAsk, user_id: UserId) -> dict[Kind, list[Unit]]:
        found: defaultdict[Kind, list[Unit]] = defaultdict(list)
        for index, core in enumerate(self.hardware.cores):
            if self.shut_for_user(index, user_id) or not may_use(core, ask):
                continue
            core_class = None if ask.core_class is CoreClass.ANY else core.core_class
            kind = Kind(core_class, 1 if ask.smt else len(core.threads))
            found[kind] += self._open_on(index, core, ask)
        return {kind: units for kind, units in found.items() if units}

    def _open_on(self, index: int, core: Core, ask: VmAsk) -> list[Unit]:
        vms = self.core_vms[index]
        limit = self.core_limit[index]
        if not vms:
            whole = Unit(core.threads, index, 0, 0, NO_LIMIT)
            return [Unit((thread,), index, 0, 0, NO_LIMIT) for thread in core.threads] if ask.smt else [whole]
        if vms + 1 > limit:
            return []
        if ask.smt:
            return [
                Unit((thread,), index, self.thread_vms[thread], vms, min(limit, self.thread_limit[thread]))
                for thread in core.threads
                if self.thread_vms[thread] + 1 <= min(ask.overprovision, self.thread_limit[thread])
            ]
        if vms + 1 > ask.overprovision or any(self.thread_vms[t] + 1 > self.thread_limit[t] for t in core.threads):
            return []
        return [Unit(core.threads, index, vms, vms, min(limit, *(self.thread_limit[t] for t in core.threads)))]

    def shut_for_user(self, core: int, user_id: UserId) -> bool:
        """Whether a core with sibling threads already serves another user."""
        return (
            not self.hardware.share_cores_between_users
            and len(self.hardware.cores[core].threads) > 1
            and not self.core_users[core] <= {user_id}
        )

    def free_groups(self) -> list[PciGroup]:
        taken = self.taken_pci | self._bound() if self.taken_usb else self.taken_pci
        return [group for group in self.layout.groups if taken.isdisjoint(group.addresses)]

    def _bound(self) -> set[str]:
        """Controllers of which VMs have devices."""
        return {d.controller for d in self.hardware.usb if d.address in self.taken_usb and d.controller is not None}

    def free_usb(self) -> list[UsbDevice]:
        """What is plugged into a controller that a VM has is gone with it."""
        taken = self.taken_usb
        return [d for d in self.hardware.usb if d.address not in taken and d.controller not in self.taken_pci]

    def free_usb_kinds(self) -> Counter[UsbKind]:
        return Counter(usb_kind(device) for device in self.free_usb())

    def free_kinds(self) -> Counter[DeviceKind]:
        """How many devices of each kind a VM could have now."""
        return Counter(kind for group in self.free_groups() for kind in group.kinds)

    def free_total_mib(self) -> int:
        """What is left for VMs; a node that is overdrawn (its memory was taken away) lends nothing."""
        return sum(max(0, mib) for mib in self.free_mib.values())

    def pages_for(self, ask: VmAsk) -> list[Pages]:
        """What its RAM takes, on each node that has so many huge pages left; the one with most of them first."""
        size_kib, count = ask.hugepages_kib, pages_of(ask)
        left = {node: free for (size, node), free in self.free_pages.items() if size == size_kib and free >= count}
        return [Pages(node, size_kib, count) for node in sorted(left, key=lambda node: (-left[node], node))]

    def fullness(self, core: int) -> float:
        """Mean load of a core's threads: the VMs on each as a share of what its strictest VM allows."""
        threads = self.hardware.cores[core].threads
        whole = self.core_vms[core] / self.core_limit[core]
        return sum(max(whole, self.thread_vms[t] / self.thread_limit[t]) for t in threads) / len(threads)


class LastOccupancy:
    """One host's, counted anew only when its residents or its hardware have changed: most pledges find what the last
    one found."""

    def __init__(self, hardware: Hardware) -> None:
        self._residents: tuple[Claim, ...] = ()
        self._now = Occupancy(hardware, ())

    def of(self, residents: Collection[Claim], hardware: Hardware | None = None) -> Occupancy:
        now = hardware or self._now.hardware
        if now is not self._now.hardware or tuple(residents) != self._residents:
            self._residents = tuple(residents)
            self._now = Occupancy(now, residents)
        return self._now


@dataclass(frozen=True, slots=True)
class Capacity:
    """A host in four numbers, for lists of hosts. A thread is free when no VM sits on it."""

    threads_total: int
    threads_free: int
    ram_total_mib: int
    ram_free_mib: int


def capacity(hardware: Hardware, residents: Collection[Claim]) -> Capacity:
    now = Occupancy(hardware, residents)
    return Capacity(
        threads_total=len(now.thread_vms),
        threads_free=sum(1 for vms in now.thread_vms.values() if not vms),
        ram_total_mib=sum(mib for _, mib in hardware.ram_mib),
        ram_free_mib=now.free_total_mib(),
    )
