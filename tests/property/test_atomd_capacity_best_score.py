"""What `place` finds, held against every share that there is: first comes what no score weighs up (few nodes,
performance cores, one socket, and there one cache), and among those its score is as good as the best, or nearly."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.layout import Unit
from atomd.capacity.occupancy import Occupancy, plain_mib
from atomd.capacity.placement import admits, place
from atomd.capacity.score import Before, score
from atomd.inventory.facts import Core
from matcher.wire.messages import CoreClass, PciAsk, Policy, VmAsk
from specs.ids import UserId
from tests.property.test_atomd_capacity_placement_rules import (
    KINDS,
    USERS,
    asks,
    machines,
    machines_of_caches,
    machines_of_devices,
    plain,
    policies,
    serve,
    settled,
    users,
    vm,
)

Far = Callable[[int], int]  # how many of its devices are not at a node

SHARE_OF_BEST = 0.95


def every_share(
    ask: VmAsk, now: Occupancy, like: Claim, user_id: UserId
) -> Iterator[tuple[Claim, Sequence[Unit], int]]:
    """Each set of units that would do, with how many are open of its kind. Where the RAM lies makes no difference to
    the score: it is where `like` has it."""
    for units in now.open_units(ask, user_id).values():
        for some in sets_of(alike(units), ask.slots):
            threads = tuple(thread for unit in some for thread in unit.threads)
            per_core = 1 if ask.smt else len(some[0].threads)
            mixed = ask.core_class is CoreClass.ANY
            yield replace(like, threads=threads, threads_per_core=per_core, spans_classes=mixed), some, len(units)


def alike(units: Sequence[Unit]) -> list[list[Unit]]:
    """Siblings of one core that carry as much make no difference to each other."""
    kinds: dict[tuple[int, int, int], list[Unit]] = {}
    for unit in units:
        kinds.setdefault((unit.core, unit.vms, unit.limit), []).append(unit)
    return list(kinds.values())


def sets_of(kinds: Sequence[Sequence[Unit]], count: int) -> Iterator[list[Unit]]:
    if not count:
        yield []
    elif kinds:
        for some in range(min(count, len(kinds[0])) + 1):
            yield from ([*kinds[0][:some], *others] for others in sets_of(kinds[1:], count - some))


def rank(ask: VmAsk, units: Sequence[Unit], now: Occupancy, far: Far) -> tuple[int, ...]:
    """What comes before the score; lower is better."""
    cores = [now.hardware.cores[unit.core] for unit in units]
    nodes = {core.numa for core in cores}
    pages = {pages.node for pages in now.pages_for(ask)} if ask.hugepages_kib else nodes
    is_near = len(nodes) == 1 and nodes <= pages and now.free_mib.get(*nodes, 0) >= plain_mib(ask)
    is_slow = ask.core_class is not CoreClass.ANY and any(core.core_class == "efficiency" for core in cores)
    sockets = len({core.socket for core in cores}) if len(nodes) == 1 else 0
    caches = len({cache_of(core, now.hardware) for core in cores}) if sockets == 1 else 0
    return len(nodes), is_slow, not is_near, far(*nodes) if len(nodes) == 1 else 0, sockets, caches


def cache_of(core: Core, hardware: Hardware) -> int:
    """Cores of which nobody knows are as if they shared one."""
    return next((number for number, each in enumerate(hardware.caches) if core.threads[0] in each), -1)


def scored(ask: VmAsk, claim: Claim, units: Sequence[Unit], open_units: int, now: Occupancy, policy: Policy) -> float:
    free = now.free_kinds()
    wanted = {each: sum(n for kind, n in free.items() if kind[:2] == (each.vendor, each.model)) for each in ask.pci}
    before = Before(
        open_units=open_units,
        fresh_units=sum(not unit.core_vms for unit in units),
        free_mib=now.free_total_mib,
        total_mib=sum(mib for _, mib in now.hardware.ram_mib),
        device_shares=tuple(each.quantity / free for each, free in wanted.items()),
    )
    return score(ask, claim, now, before, policy)


@settings(max_examples=300, deadline=None)
@given(
    hardware=machines(cores_max=6),
    before=st.lists(st.tuples(asks(slots_max=2), users), max_size=6),
    ask=asks(slots_max=3).map(lambda ask: replace(ask, pci=(), usb=())),
    user_id=users,
    policy=policies,
)
def test_the_score_is_within_five_percent_of_the_best(
    hardware: Hardware, before: list[tuple[VmAsk, UserId]], ask: VmAsk, user_id: UserId, policy: Policy
) -> None:
    is_among_the_best(ask, hardware, settled(before, hardware, policy), user_id, policy)


def is_among_the_best(
    ask: VmAsk,
    hardware: Hardware,
    residents: list[Claim],
    user_id: UserId,
    policy: Policy,
    far: Far = lambda node: 0,
) -> None:
    found = place(ask, hardware, residents, vm_id=vm(99), user_id=user_id, policy=policy)
    if found is None:
        return
    assert admits(hardware, residents, found.claim)
    now = Occupancy(hardware, residents)
    shares = [each for each in every_share(ask, now, found.claim, user_id) if admits(hardware, residents, each[0])]
    first = min(rank(ask, units, now, far) for _, units, _ in shares)
    threads = set(found.claim.threads)
    open_units = itertools.chain.from_iterable(now.open_units(ask, user_id).values())
    own = [unit for unit in open_units if threads.issuperset(unit.threads)]
    assert sum(len(unit.threads) for unit in own) == len(threads)
    assert rank(ask, own, now, far) == first
    firsts = [each for each in shares if rank(ask, each[1], now, far) == first]
    best = max(scored(ask, claim, units, count, now, policy) for claim, units, count in firsts)
    assert found.score >= SHARE_OF_BEST * best
    is_laid_out(found.claim, own, now)


def is_laid_out(claim: Claim, units: Sequence[Unit], now: Occupancy) -> None:
    """RAM lies where the units do, in their shares where there is so much on each of their nodes, and elsewhere no more
    than must be; huge pages are with units, if any of these have so many at their node."""
    nodes = Counter(now.hardware.cores[unit.core].numa for unit in units)
    mib, free = dict(claim.ram_mib), now.free_mib
    need = sum(mib.values())
    share = {node: need * count / len(units) for node, count in nodes.items()}
    elsewhere = sum(each for node, each in mib.items() if node not in nodes)
    assert elsewhere == max(0, need - sum(max(0, free.get(node, 0)) for node in nodes))
    if all(share[node] >= 1 and share[node] + len(nodes) <= free.get(node, 0) for node in nodes):
        assert mib.keys() == nodes.keys()
        assert all(abs(mib[node] - share[node]) <= len(nodes) for node in nodes)
        event(f"RAM in shares on nodes: {len(nodes)}")
    if claim.numa >= 0 and claim.pages is not None:
        assert claim.pages.node == claim.numa


without_devices = plain.map(lambda ask: replace(ask, pci=()))


@settings(max_examples=800, deadline=None)
@given(
    hardware=machines_of_caches(),
    before=st.lists(st.tuples(without_devices, users), min_size=1, max_size=5),
    gone=st.sets(st.integers(0, 4), max_size=2),
    ask=without_devices,
    policy=policies,
)
def test_so_it_is_where_only_the_caches_tell_cores_apart(
    hardware: Hardware, before: list[tuple[VmAsk, UserId]], gone: set[int], ask: VmAsk, policy: Policy
) -> None:
    residents = [claim for at, claim in enumerate(settled(before, hardware, policy)) if at not in gone]
    is_among_the_best(ask, hardware, residents, USERS[0], policy)


@settings(max_examples=400, deadline=None)
@given(
    hardware=machines_of_devices(),
    before=st.lists(st.tuples(plain, users), max_size=2),
    ask=plain,
    policy=policies,
    data=st.data(),
)
def test_so_it_is_near_devices_of_which_no_more_are_taken_than_must_be(
    hardware: Hardware, before: list[tuple[VmAsk, UserId]], ask: VmAsk, policy: Policy, data: st.DataObject
) -> None:
    hardware = of_one_class(hardware)
    residents = settled(before, hardware, policy)
    kinds = sorted({(device.vendor, device.model) for device in hardware.pci}) or KINDS
    wanted = data.draw(st.dictionaries(st.sampled_from(kinds), st.integers(1, 2), min_size=1, max_size=2))
    ask = replace(ask, pci=tuple(PciAsk(*kind, quantity) for kind, quantity in wanted.items()))
    found = place(ask, hardware, residents, vm_id=vm(99), user_id=USERS[0], policy=policy)
    if found is None:
        return
    sets = [
        some
        for some in every_device_set(hardware)
        if serve(ask, [device for device in hardware.pci if device.address in some])
        and admits(hardware, residents, replace(found.claim, pci=some))
    ]
    fewest = min(len(some) for some in sets)
    assert len(found.claim.pci) == fewest

    def far(node: int) -> int:
        return min(far_off(some, node, hardware) for some in sets if len(some) == fewest)

    if found.claim.numa >= 0:
        event(f"devices that are far: {far(found.claim.numa)}")
        assert far_off(found.claim.pci, found.claim.numa, hardware) == far(found.claim.numa)
    is_among_the_best(ask, hardware, residents, USERS[0], policy, far)


def of_one_class(hardware: Hardware) -> Hardware:
    """A vendor and a model say all that there is to choose by."""
    return replace(hardware, pci=tuple(replace(device, device_class="030000") for device in hardware.pci))


def every_device_set(hardware: Hardware) -> Iterator[tuple[str, ...]]:
    addresses = [device.address for device in hardware.pci]
    for count in range(len(addresses) + 1):
        yield from itertools.combinations(addresses, count)


def far_off(addresses: Sequence[str], node: int, hardware: Hardware) -> int:
    """Devices of groups that are known to be elsewhere."""
    groups: dict[int | str, set[int | None]] = {}
    for device in hardware.pci:
        key = device.iommu_group if device.iommu_group is not None else device.address
        groups.setdefault(key, set()).add(device.numa)
    numa_of = {d.address: groups[d.iommu_group if d.iommu_group is not None else d.address] for d in hardware.pci}
    elsewhere = [at for at in addresses if len(numa_of[at]) == 1 and not numa_of[at] <= {None, node}]
    return len(elsewhere)
