"""How many more VMs like this one fit beside each other, and what runs out first. Pure.

Exclusive VMs without devices are counted at once: their units are independent of each other, so that as many fit as the
free units of each kind and the free memory give. All others are placed again and again, as they would be one after the
other, on a count of the host's residents that is nobody else's. Where a VM may share its cores, the same share is taken
as often as it stays open, as `pack` does. The work has a limit, and the answer then says *at least*.
"""

from collections.abc import Collection
from dataclasses import dataclass

from atomd.capacity.fit import reasons_against
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.occupancy import Occupancy, pages_of, plain_mib
from atomd.capacity.placement import place_on
from matcher.wire.messages import Policy, VmAsk
from specs.ids import UserId, VmId

COPIES_MAX = 1024
LOOKS_MAX = 4096  # threads and devices looked at, in all: some milliseconds


@dataclass(frozen=True, slots=True)
class Copies:
    """`runs_out` are the resources of which there is too little for one more, as reasons name them; empty where the
    counting ended before (`at_least`)."""

    count: int
    at_least: bool
    runs_out: tuple[str, ...]


def copies(
    ask: VmAsk, hardware: Hardware, residents: Collection[Claim], *, vm_id: VmId, user_id: UserId, policy: Policy
) -> Copies:
    """Of an ask that fits at least once."""
    now = Occupancy(hardware, residents)
    if ask.overprovision == 1 and not (ask.pci or ask.usb):
        return _counted(ask, now, user_id)
    count, looks = 0, 0
    each = len(now.seats.thread_vms) + len(hardware.pci) + len(hardware.usb) + 1
    while True:
        placed = place_on(ask, now, vm_id=vm_id, user_id=user_id, policy=policy)
        if placed is None:
            return Copies(count, False, tuple(dict.fromkeys(r.resource for r in reasons_against(ask, now, user_id))))
        looks += each
        if count >= COPIES_MAX or (count and looks > LOOKS_MAX):
            return Copies(min(count, COPIES_MAX), True, ())
        count += _again(ask, placed.claim, now)


def _counted(ask: VmAsk, now: Occupancy, user_id: UserId) -> Copies:
    by_resource = {
        "slots": sum(len(units) // ask.slots for units in now.open_units(ask, user_id).values()),
        "ram": now.free_total_mib // plain_mib(ask),
    }
    if ask.hugepages_kib:
        free = (count for (size_kib, _), count in now.free_pages.items() if size_kib == ask.hugepages_kib)
        by_resource["hugepages"] = sum(max(0, count) // pages_of(ask) for count in free)
    count = min(by_resource.values())
    if count > COPIES_MAX:
        return Copies(COPIES_MAX, True, ())
    return Copies(count, False, tuple(name for name, most in by_resource.items() if most == count))


def _again(ask: VmAsk, claim: Claim, now: Occupancy) -> int:
    """Seat it, as often as these units and this memory allow; how often that was."""
    times = _open_times(ask, claim, now)
    for _ in range(times):
        now.add(claim)
    return times


def _open_times(ask: VmAsk, claim: Claim, now: Occupancy) -> int:
    if claim.pci or claim.usb:
        return 1
    seats, cores = now.seats, {now.layout.core_of[thread] for thread in claim.threads}
    threads = claim.threads
    most = [min(ask.overprovision, seats.thread_limit[thread]) - seats.thread_vms[thread] for thread in threads]
    for core in cores:
        limit = seats.core_limit[core] if ask.smt else min(ask.overprovision, seats.core_limit[core])
        most.append(limit - seats.core_vms[core])
    most += [now.free_mib[node] // mib for node, mib in claim.ram_mib]
    if (pages := claim.pages) is not None:
        most.append(now.free_pages[pages.size_kib, pages.node] // pages.count)
    return max(1, min(*most, COPIES_MAX))
