"""What the residents of a host take, and what that leaves open to one more VM. Pure.

Capacity is counted here once, for `placement` (which takes it) and for `fit` (which explains it). Units are independent
of each other: whether a core or thread is open to an ask depends on nothing else that the ask takes. That is what makes
counting exact: a host with enough open units of one kind always has a placement.

Residents come and go one by one, and so they are counted: what each of them changes is changed, and nothing else is
looked at again. The same residents give the same count, in whatever order they came, and whoever came and went between.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, count
from operator import is_not
from typing import Any, TypeVar

from atomd.capacity.devices import DeviceKind
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.layout import PciGroup, Unit, layout_of
from atomd.capacity.openings import Kind, Openings
from atomd.capacity.plugged import UsbKind, usb_kind
from atomd.capacity.seats import Seats
from atomd.inventory.facts import Pages, UsbDevice
from matcher.wire.messages import VmAsk
from specs.ids import UserId

QEMU_MIB = 128  # QEMU's own memory, measured: a base and a share that grows with the guest's page tables
QEMU_PERCENT = 2
KNOWN_MAX = 64  # answers kept by one `Occupancy`
RULES_MAX = 256  # sets of rules of which it keeps up the open units: where cores have siblings, each user has their own
CHANGES_MAX = 4096  # of cores, remembered for those who keep what they found
SIZES_MAX = 256  # VMs come in few sizes

_UNKNOWN: Any = object()

T = TypeVar("T")


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


class Occupancy:
    """The residents of a host, counted: for each thread, core, NUMA node and device."""

    def __init__(self, hardware: Hardware, residents: Collection[Claim]) -> None:
        self.hardware = hardware
        self.layout = layout_of(hardware)
        self.seats = Seats(hardware, self.layout)
        self.free_mib = dict(hardware.ram_mib)
        self.free_total_mib = self.layout.total_mib  # an overdrawn node (its memory was taken away) lends nothing
        self.taken_pci: Counter[str] = Counter()
        self.taken_usb: Counter[str] = Counter()
        self.free_pages: Counter[tuple[int, int]] = Counter()  # (size in KiB, node)
        for pages in hardware.pages:
            self.free_pages[pages.size_kib, pages.node] += pages.count
        self._lent = frozenset(self.free_mib)
        self._openings: dict[Hashable, Openings] = {}
        self._known: dict[Hashable, Any] = {}
        self._known_of_devices: dict[Hashable, Any] = {}
        for claim in residents:
            self.add(claim)

    def add(self, claim: Claim) -> None:
        """One resident more."""
        self.seats.add(claim)
        self._take(claim, 1)

    def remove(self, claim: Claim) -> None:
        """One resident less: one of those that are here."""
        self.seats.remove(claim)
        self._take(claim, -1)

    def _take(self, claim: Claim, times: int) -> None:
        for node, mib in claim.ram_mib:
            self._free(node, -mib * times)
        if claim.pages is not None:
            self.free_pages[claim.pages.size_kib, claim.pages.node] -= claim.pages.count * times
        if claim.pci or claim.usb:
            _put(self.taken_pci, claim.pci, times)
            _put(self.taken_usb, claim.usb, times)
            self._known_of_devices.clear()
        if self._known:
            self._known.clear()
        if len(self.seats.changed) > CHANGES_MAX:
            self._openings.clear()
            self.seats.forget_changes()

    def _free(self, node: int, mib: int) -> None:
        before = self.free_mib.get(node, 0)
        self.free_mib[node] = now = before + mib
        self.free_total_mib += max(0, now) - max(0, before)
        if not now and node not in self._lent:
            del self.free_mib[node]

    def openings(self, ask: VmAsk, user_id: UserId) -> Openings:
        """Every unit that may carry one more VM with this ask's rules; kept, for the next who asks by the same."""
        key = (ask.smt, ask.overprovision, ask.core_class, ask.min_frequency_mhz, self.whose(user_id))
        if (known := self._openings.get(key)) is not None:
            return known.now()
        if len(self._openings) >= RULES_MAX:
            del self._openings[next(iter(self._openings))]
        return self._openings.setdefault(key, Openings(ask, user_id, self.seats))

    def open_units(self, ask: VmAsk, user_id: UserId) -> dict[Kind, list[Unit]]:
        """The same, one by one."""
        return self.openings(ask, user_id).units()

    def whose(self, user_id: UserId) -> UserId | None:
        """Whose VMs may go where: `None` where that is the same for all users."""
        return None if self.seats.are_alike else user_id

    def once(self, key: Hashable, found: Callable[[], T]) -> T:
        """What `found` says, the first time that it is asked for by this key since somebody came or went: VMs come in
        few sizes, so that the next pledge often asks what the last one did."""
        return _once(self._known, key, found)

    def once_of_devices(self, key: Hashable, found: Callable[[], T]) -> T:
        """The same, for what hangs on devices alone; most VMs have none."""
        return _once(self._known_of_devices, key, found)

    def free_groups(self) -> list[PciGroup]:
        """Not to be changed."""
        return self.once_of_devices("groups", self._free_groups)

    def _free_groups(self) -> list[PciGroup]:
        taken = self.taken_pci.keys() | self._bound()
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

    def pages_for(self, ask: VmAsk) -> list[Pages]:
        """What its RAM takes, on each node that has so many huge pages left; the one with most of them first."""
        size_kib, count = ask.hugepages_kib, pages_of(ask)
        left = {node: free for (size, node), free in self.free_pages.items() if size == size_kib and free >= count}
        return [Pages(node, size_kib, count) for node in sorted(left, key=lambda node: (-left[node], node))]


def _once(known: dict[Hashable, Any], key: Hashable, found: Callable[[], T]) -> T:
    it: T = known.get(key, _UNKNOWN)
    if it is _UNKNOWN:
        if len(known) >= KNOWN_MAX:
            known.clear()
        it = known[key] = found()
    return it


def _put(taken: Counter[str], names: Collection[str], times: int) -> None:
    for name in names:
        taken[name] += times
        if not taken[name]:
            del taken[name]


class LastOccupancy:
    """One host's, kept up: those who have gone since the last pledge are taken out, those who have come are put in."""

    def __init__(self, hardware: Hardware) -> None:
        self._residents: tuple[Claim, ...] = ()
        self._now = Occupancy(hardware, ())

    def of(self, residents: Collection[Claim], hardware: Hardware | None = None) -> Occupancy:
        """Good until it is asked for again."""
        residents, now = tuple(residents), hardware or self._now.hardware
        if now is not self._now.hardware:
            self._now = Occupancy(now, residents)
        else:
            gone, come = _unlike(self._residents, residents)
            for claim in gone:
                self._now.remove(claim)
            for claim in come:
                self._now.add(claim)
        self._residents = residents
        return self._now


def _unlike(before: Sequence[Claim], now: Sequence[Claim]) -> tuple[Sequence[Claim], Sequence[Claim]]:
    """What of each stands between what they begin and what they end with alike. A ledger keeps its order, so that most
    often this is who has gone, or who has come. The same claims are the same objects there: nothing is compared."""
    start = _alike(before, now)
    end = _alike(before[start:][::-1], now[start:][::-1])
    return before[start : len(before) - end], now[start : len(now) - end]


def _alike(some: Sequence[Claim], others: Sequence[Claim]) -> int:
    """How many they begin with."""
    return next(compress(count(), map(is_not, some, others)), min(len(some), len(others)))


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
        threads_total=len(now.seats.thread_vms),
        threads_free=sum(1 for vms in now.seats.thread_vms.values() if not vms),
        ram_total_mib=sum(mib for _, mib in hardware.ram_mib),
        ram_free_mib=now.free_total_mib,
    )
