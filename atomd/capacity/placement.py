"""Which exact threads, memory and devices a VM gets: `place` proposes, `admits` disposes. Pure.

The rules, for every host and at every moment. A *whole-core* VM asked with `smt` false, a *thread* VM with `smt` true.

  1. A thread carries at most as many VMs as the strictest thread VM on it allows (its `overprovision`). Whole-core VMs
     on that thread count.
  2. A core that carries a whole-core VM carries, over all its threads, at most as many VMs as the strictest whole-core
     VM on it allows. A thread VM on any of its threads counts once. So an exclusive core stays whole.
  3. Cores with sibling threads carry VMs of one user alone, unless the host shares them between users. A core with one
     thread has no siblings to leak to: there overprovision alone decides.
  4. A whole-core VM holds every online thread of its cores, and all of them have equally many: its topology is uniform.
  5. No VM spans core classes (hybrid machines), unless it was asked with "any".
  6. The MiB charged on a NUMA node never exceed what the host lends there, and the huge pages of no size do.
  7. A device has one owner; an IOMMU group moves whole, and not at all while a device in it stays with the host.
     Nobody has a USB device of a controller that somebody has.

Rules 1 to 3 speak about one core at a time and 6 and 7 don't speak about cores, so that *whether* a VM fits is a matter
of counting, and *where* is a matter of taste: one NUMA node for threads and RAM when that can be, near its devices,
within one last-level cache, breaking as few idle cores as possible, in the hole that it fills best (`pack`) or the
widest (`spread`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from atomd.capacity.devices import DeviceKind, chosen_kinds, wishes
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.layout import Level, PciGroup, Unit, blocks_group, group_key
from atomd.capacity.occupancy import Occupancy, plain_mib
from atomd.capacity.openings import Cell, Kind, Openings, fewest, fresh, largest_first
from atomd.capacity.plugged import NOTHING, usb_wishes, ways
from atomd.capacity.score import Before, fill, packed, score
from atomd.capacity.traits import suits
from atomd.inventory.facts import Core, Pages
from matcher.wire.messages import Policy, VmAsk
from specs.ids import UserId, VmId

PCI_CLAIM_MAX = 64  # as many addresses as an offer can name
SPANS = -1


@dataclass(frozen=True, slots=True)
class Placed:
    """An exact share, and how well it suits the policy: in [0, 1], higher is better."""

    claim: Claim
    score: float


def place(
    ask: VmAsk, hardware: Hardware, residents: Collection[Claim], *, vm_id: VmId, user_id: UserId, policy: Policy
) -> Placed | None:
    """The best share for this ask beside these residents; `None` only where no share exists."""
    return place_on(ask, Occupancy(hardware, residents), vm_id=vm_id, user_id=user_id, policy=policy)


def place_on(ask: VmAsk, now: Occupancy, *, vm_id: VmId, user_id: UserId, policy: Policy) -> Placed | None:
    """`place`, where the residents have been counted already."""
    key = (ask, policy, now.whose(user_id))
    placed = now.once(key, lambda: _place(ask, now, vm_id=vm_id, user_id=user_id, policy=policy))
    if placed is None or (placed.claim.vm_id, placed.claim.user_id) == (vm_id, user_id):
        return placed
    return Placed(placed.claim.of(vm_id, user_id), placed.score)


def _place(ask: VmAsk, now: Occupancy, *, vm_id: VmId, user_id: UserId, policy: Policy) -> Placed | None:
    hardware = now.hardware
    if not suits(ask, hardware):
        return None
    need = _Need(ask, now, policy)
    openings = now.openings(ask, user_id)
    kinds = [kind for kind, count in openings.count.items() if count >= ask.slots]
    if not kinds or now.free_total_mib < need.ram_mib or not need.has_devices() or not need.has_pages():
        return None
    kind, units, near = _seat(need, openings, kinds)
    taken = _in_order(units)
    nodes = Counter(hardware.cores[unit.core].numa for unit in taken)
    ram = _ram(need.ram_mib, nodes, now.free_mib)
    pages = need.pages(near)
    local = len(nodes) == 1 and nodes.keys() == {node for node, _ in ram}
    local = local and (pages is None or pages.node in nodes)
    pci = tuple(sorted(address for group in need.devices(near) for address in group.addresses))
    if len(pci) > PCI_CLAIM_MAX:
        return None
    claim = Claim(
        vm_id=vm_id,
        user_id=user_id,
        threads=tuple(thread for unit in taken for thread in unit.threads),
        threads_per_core=kind.threads_per_core,
        smt=ask.smt,
        overprovision=ask.overprovision,
        ram_mib=ram,
        numa=next(iter(nodes)) if local else SPANS,
        pci=pci,
        spans_classes=len({hardware.cores[unit.core].core_class for unit in taken}) > 1,
        usb=need.plugged.ports,
        pages=pages,
    )
    before = Before(
        open_units=openings.count[kind],
        fresh_units=sum(1 for unit in taken if not unit.core_vms),
        free_mib=now.free_total_mib,
        total_mib=now.layout.total_mib,
        device_shares=need.device_shares(),
    )
    return Placed(claim, score(ask, claim, now, before, policy))


class _Need:
    """One ask on one host: what it costs, and which devices it would take near each node."""

    def __init__(self, ask: VmAsk, now: Occupancy, policy: Policy) -> None:
        self.ask = ask
        self.now = now
        self.policy = policy
        self.ram_mib = plain_mib(ask)
        self._pages = now.pages_for(ask) if ask.hugepages_kib else []
        self._free_groups = now.free_groups()
        self.plugged = NOTHING
        self.wanted = self._chosen() if ask.pci or ask.usb else Counter()  # most want none
        self._near: dict[int, list[PciGroup]] = {}
        self._begrudged: Counter[int | None] | None = None

    def _chosen(self) -> Counter[DeviceKind] | None:
        """By the first way to have the USB devices that leaves the others to be had."""
        groups = self._free_groups
        lendable = {address for group in groups for address in group.addresses}
        for way in ways(self.ask, self.now.free_usb(), lendable):
            self.plugged = way
            self._free_groups = [group for group in groups if way.bound.isdisjoint(group.addresses)]
            if (wanted := self._chosen_kinds()) is not None:
                return wanted
        return None

    def _chosen_kinds(self) -> Counter[DeviceKind] | None:
        cost: dict[DeviceKind, int] = {}
        for group in self._free_groups:
            for kind in group.kinds:
                cost[kind] = min(cost.get(kind, len(group.kinds)), len(group.kinds))
        free = Counter(kind for group in self._free_groups for kind in group.kinds)
        return chosen_kinds(wishes(self.ask), free, cost)

    def has_pages(self) -> bool:
        return bool(self._pages) or not self.ask.hugepages_kib

    def pages(self, node: int) -> Pages | None:
        """On this node, if it has enough; `None` where none are asked for."""
        return min(self._pages, key=lambda pages: pages.node != node, default=None)

    def has_memory(self, node: int) -> bool:
        """Whether all that is asked for is on this node."""
        if self.ram_mib > self.now.free_mib.get(node, 0):
            return False
        return not self._pages or any(pages.node == node for pages in self._pages)

    def has_devices(self) -> bool:
        return self.wanted is not None

    def device_shares(self) -> tuple[float, ...]:
        shares: tuple[float, ...] = ()
        if self.wanted:
            free = self.now.free_kinds()
            shares += tuple(quantity / free[kind] for kind, quantity in self.wanted.items())
        if self.ask.usb:
            plugged = self.now.free_usb_kinds()
            shares += tuple(quantity / plugged[kind] for kind, quantity in usb_wishes(self.ask).items())
        return shares

    def devices(self, node: int) -> list[PciGroup]:
        if not self.wanted:
            return []
        if node not in self._near:
            self._near[node] = _devices(self.wanted, self._free_groups, node)
        return self._near[node]

    def far(self, node: int) -> int:
        """How many of the VM's devices would hang off another node."""
        if not self.wanted:
            return 0
        return sum(len(group.addresses) for group in self.devices(node) if group.numa not in (None, node))

    def worth(self, open_units: int, fresh_units: int) -> float:
        """As `score` sees it (`pack`), of one kind of cores beside another."""
        return packed(self.ask, fill(self.ask.slots, self.ram_mib, open_units, self.now.free_total_mib), fresh_units)

    def begrudged(self, node: int) -> int:
        """Free devices of a node that a VM without any would sit in front of."""
        if self._begrudged is None:
            near = [] if self.wanted else self._free_groups
            self._begrudged = Counter(group.numa for group in near for _ in group.addresses)
        return self._begrudged[node]


def _seat(need: _Need, openings: Openings, kinds: Sequence[Kind]) -> tuple[Kind, list[Unit], int]:
    """The units to take, their kind, and the node that devices should be near to."""
    slots, levels = need.ask.slots, need.now.layout.levels
    enough = [cell for kind in kinds for cell in openings.cells[kind] if cell.count >= slots]
    if enough:
        cell = _best_cell(need, enough, openings.count, is_one_kind=len(kinds) == 1)
        return cell.kind, _take(need, [cell], slots, levels), cell.node
    kind = kinds[0] if len(kinds) == 1 else _best_kind(need, openings, kinds)
    units = _take(need, openings.cells[kind], slots, levels)
    shares = Counter(need.now.hardware.cores[unit.core].numa for unit in units)
    return kind, units, max(shares, key=lambda node: (shares[node], -node))  # devices near the one that gives most


def _best_kind(need: _Need, openings: Openings, kinds: Sequence[Kind]) -> Kind:
    """For a VM larger than any node: the one that scores best."""
    slots = need.ask.slots

    def key(kind: Kind) -> tuple[float, ...]:
        count = openings.count[kind]
        if need.policy is Policy.SPREAD:
            return _class_rank(kind), kind.threads_per_core, -count
        return _class_rank(kind), -need.worth(count, fresh(fewest(openings.cells[kind], slots), slots))

    return min(kinds, key=key)


def _class_rank(kind: Kind) -> int:
    """Performance cores first: nobody who asks for a core expects less."""
    return 1 if kind.core_class == "efficiency" else 0


def _best_cell(need: _Need, cells: Sequence[Cell], count: Mapping[Kind, int], *, is_one_kind: bool) -> Cell:
    """Of those that have the units: RAM on the node; devices on the node; as few sockets and last-level caches as can
    be; of several kinds of cores the one that scores best; then idle cores left idle and devices left reachable, and
    the hole best filled as `score` means it (`pack`), or left widest (`spread`)."""

    slots, levels = need.ask.slots, need.now.layout.levels

    def near(cell: Cell) -> tuple[float, ...]:
        together = cell.spans(levels, slots)[:-1] if levels else ()
        return _class_rank(cell.kind), not need.has_memory(cell.node), need.far(cell.node), *together

    def spares(cell: Cell) -> tuple[float, ...]:
        idle = cell.spans(levels, slots)[-1]
        worth = 0.0 if is_one_kind else need.worth(count[cell.kind], idle)
        return -worth, idle, need.begrudged(cell.node)

    cells = _least(cells, near)
    if need.policy is Policy.SPREAD:
        return min(cells, key=lambda cell: (cell.kind.threads_per_core, _taken(need, cell), cell.node))
    return min(_least(cells, spares), key=lambda cell: (-_filled(need, cell), cell.node))


def _least(cells: Sequence[Cell], key: Callable[[Cell], tuple[float, ...]]) -> Sequence[Cell]:
    """All that are least: what comes after costs more to know."""
    if len(cells) == 1:
        return cells
    keys = [key(cell) for cell in cells]
    least = min(keys)
    return [cell for cell, each in zip(cells, keys, strict=True) if each == least]


def _taken(need: _Need, cell: Cell) -> float:
    """What share of the scarcer of threads and RAM it would take."""
    ram_share = need.ram_mib / need.now.free_mib[cell.node] if need.has_memory(cell.node) else 1.0
    return max(need.ask.slots / cell.count, ram_share)


def _filled(need: _Need, cell: Cell) -> float:
    if not need.has_memory(cell.node):
        return need.ask.slots / cell.count
    return fill(need.ask.slots, need.ram_mib, cell.count, need.now.free_mib[cell.node])


def _take(need: _Need, cells: Sequence[Cell], slots: int, levels: Sequence[Level]) -> list[Unit]:
    """Of one cell if one will do, and there from as few of the parts that `levels` divide it into. Else of as few as
    can be: the units on cores where somebody is already, then others."""
    enough = [cell for cell in cells if cell.count >= slots]
    if enough:
        hole = enough[0] if len(enough) == 1 else _best_hole(need, enough, slots, levels)
        if levels:
            return _take(need, hole.parts(levels[0]), slots, levels[1:])
        return _preferred(need, hole.units)[:slots]
    if need.policy is Policy.SPREAD:
        return _take_whole(need, cells, slots, levels)
    cells = fewest(cells, slots)
    begun, missing = [cell.those(used=True) for cell in cells], fresh(cells, slots)
    if not missing:
        return _take_whole(need, begun, slots, levels)
    taken = [unit for cell in begun for unit in cell.units]
    return taken + _take_whole(need, [cell.those(used=False) for cell in cells], missing, levels)


def _best_hole(need: _Need, cells: Sequence[Cell], slots: int, levels: Sequence[Level]) -> Cell:
    if need.policy is Policy.SPREAD:
        return min(cells, key=lambda cell: (cell.spans(levels, slots)[:-1], -cell.count))
    return min(cells, key=lambda cell: (cell.spans(levels, slots), cell.count))


def _take_whole(need: _Need, cells: Sequence[Cell], slots: int, levels: Sequence[Level]) -> list[Unit]:
    """Whole cells, largest first, and then of the one best hole."""
    taken, rest = list[Unit](), largest_first(cells)
    while rest[0].count < slots - len(taken):
        taken += rest.pop(0).units
    return taken + _take(need, rest, slots - len(taken), levels)


def _preferred(need: _Need, units: Sequence[Unit]) -> list[Unit]:
    """Best first. `pack`: the fullest units, of like-minded VMs; then broken cores; then whole cores one by one, so
    that siblings are filled before the next core is opened. `spread`: the emptiest."""
    sign = 1 if need.policy is Policy.SPREAD else -1

    def key(unit: Unit) -> tuple[int, ...]:
        unlike = abs(unit.limit - need.ask.overprovision) if unit.vms else 0
        return (sign * unit.vms, unlike, sign * unit.core_vms, unit.core, unit.threads[0])

    used, idle = sorted((unit for unit in units if unit.core_vms), key=key), [u for u in units if not u.core_vms]
    return idle + used if need.policy is Policy.SPREAD else used + idle


def _in_order(units: list[Unit]) -> list[Unit]:
    """As the guest numbers its vCPUs: core by core, siblings side by side."""
    return sorted(units, key=lambda unit: (unit.core, unit.threads))


def _ram(need_mib: int, nodes: Mapping[int, int], free_mib: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    """Divided as the units are, where each of the VM's nodes has that much: so each vCPU has its memory near. Else the
    VM's own nodes first, then the emptiest: few nodes, and the far ones last. The total must suffice."""
    shares = {node: need_mib * units // sum(nodes.values()) for node, units in nodes.items()}
    shares[max(shares, key=lambda node: (shares[node], -node))] += need_mib - sum(shares.values())
    if all(0 < mib <= free_mib.get(node, 0) for node, mib in shares.items()):
        return tuple(sorted(shares.items()))
    shares = {}
    for node in sorted(free_mib, key=lambda node: (node not in nodes, -free_mib[node], node)):
        share = min(need_mib, max(0, free_mib[node]))
        if share:
            shares[node] = share
            need_mib -= share
    assert not need_mib, "counted before"
    return tuple(sorted(shares.items()))


def _devices(wanted: Counter[DeviceKind], groups: Iterable[PciGroup], node: int) -> list[PciGroup]:
    """Whole groups that cover the quantities: least left over first, then near `node`, then those that serve most."""
    missing = Counter(wanted)
    left = list(groups)
    chosen: list[PciGroup] = []
    while missing:
        useful = [group for group in left if missing.keys() & set(group.kinds)]
        best = min((_group_key(group, missing, node), group) for group in useful)[1]
        left.remove(best)
        chosen.append(best)
        missing = missing - Counter(best.kinds)
    return _without_spare(wanted, chosen)


def _group_key(group: PciGroup, missing: Counter[DeviceKind], node: int) -> tuple[int, bool, int, tuple[str, ...]]:
    serves = (Counter(group.kinds) & missing).total()
    return (len(group.kinds) - serves, group.numa not in (None, node), -serves, group.addresses)


def _without_spare(wanted: Counter[DeviceKind], chosen: list[PciGroup]) -> list[PciGroup]:
    """A later, larger group may have made an earlier one superfluous."""
    for group in sorted(chosen, key=lambda group: len(group.kinds)):
        rest = [other for other in chosen if other is not group]
        if wanted <= Counter(kind for other in rest for kind in other.kinds):
            chosen = rest
    return chosen


# --- the judge -----------------------------------------------------------------------------------------------------


def admits(hardware: Hardware, residents: Collection[Claim], claim: Claim) -> bool:
    """Whether `claim` may be added to `residents` by the rules above (I1, I2): plain counting, sharing no code with
    `place` but the meaning of an IOMMU group. Residents are taken to obey the rules among themselves."""
    return (
        _is_well_formed(hardware, claim)
        and _shares_threads(residents, claim)
        and _shares_cores(hardware, residents, claim)
        and _has_ram(hardware, residents, claim)
        and _has_devices(hardware, residents, claim)
    )


def _cores_under(hardware: Hardware, claim: Claim) -> list[Core]:
    threads = set(claim.threads)
    return [core for core in hardware.cores if not threads.isdisjoint(core.threads)]


def _is_well_formed(hardware: Hardware, claim: Claim) -> bool:
    """Rules 4 and 5: threads that exist, once each; cores of one class, or as was asked; whole ones, and
    alike, where whole cores are asked."""
    cores = _cores_under(hardware, claim)
    there = [thread for core in cores for thread in core.threads]
    threads = set(claim.threads)
    if not threads or len(threads) != len(claim.threads) or not threads <= set(there) or claim.overprovision < 1:
        return False
    if len({core.core_class for core in cores}) != 1 and not claim.spans_classes:
        return False
    if claim.smt:
        return claim.threads_per_core == 1
    return len(there) == len(threads) and {len(core.threads) for core in cores} == {claim.threads_per_core}


def _shares_threads(residents: Collection[Claim], claim: Claim) -> bool:
    """Rule 1."""
    for thread in claim.threads:
        on_it = [claim, *(other for other in residents if thread in other.threads)]
        if any(len(on_it) > other.overprovision for other in on_it if other.smt):
            return False
    return True


def _shares_cores(hardware: Hardware, residents: Collection[Claim], claim: Claim) -> bool:
    """Rules 2 and 3."""
    for core in _cores_under(hardware, claim):
        on_it = [claim, *(other for other in residents if not set(core.threads).isdisjoint(other.threads))]
        if any(len(on_it) > other.overprovision for other in on_it if not other.smt):
            return False
        alone = len({other.user_id for other in on_it}) == 1
        if len(core.threads) > 1 and not alone and not hardware.share_cores_between_users:
            return False
    return True


def _has_ram(hardware: Hardware, residents: Collection[Claim], claim: Claim) -> bool:
    """Rule 6."""
    lent = dict(hardware.ram_mib)
    used: Counter[int] = Counter()
    for other in (*residents, claim):
        for node, mib in other.ram_mib:
            used[node] += mib
    return all(mib > 0 and used[node] <= lent.get(node, 0) for node, mib in claim.ram_mib) and _has_pages(
        hardware, residents, claim
    )


def _has_pages(hardware: Hardware, residents: Collection[Claim], claim: Claim) -> bool:
    """Rule 6, of huge pages."""
    if claim.pages is None:
        return True
    where = claim.pages.size_kib, claim.pages.node
    lent = sum(pages.count for pages in hardware.pages if (pages.size_kib, pages.node) == where)
    all_pages = [other.pages for other in (*residents, claim) if other.pages is not None]
    used = sum(pages.count for pages in all_pages if (pages.size_kib, pages.node) == where)
    return claim.pages.count > 0 and used <= lent


def _has_devices(hardware: Hardware, residents: Collection[Claim], claim: Claim) -> bool:
    """Rule 7."""
    asked = set(claim.pci)
    if len(asked) != len(claim.pci) or any(not asked.isdisjoint(other.pci) for other in residents):
        return False
    group_of = {device.address: group_key(device) for device in hardware.pci}
    if not asked <= group_of.keys():
        return False
    moving = {group_of[address] for address in asked}
    kept = {group_key(device) for device in hardware.pci_refused if blocks_group(device)}
    return (
        moving.isdisjoint(kept)
        and _keeps_usb(hardware, residents, claim)
        and asked == {address for address, key in group_of.items() if key in moving}
    )


def _keeps_usb(hardware: Hardware, residents: Collection[Claim], claim: Claim) -> bool:
    """Rule 7, of what is plugged in."""
    controller_of = {device.address: device.controller for device in hardware.usb}
    ports = [port for other in (*residents, claim) for port in other.usb]
    if len(set(claim.usb)) != len(claim.usb) or any(ports.count(port) > 1 for port in claim.usb):
        return False
    lent = {address for other in (*residents, claim) for address in other.pci}
    return all(port in controller_of and controller_of[port] not in lent for port in claim.usb) and not any(
        controller_of.get(port) in claim.pci for port in ports
    )
