"""What `place` finds, held against every share that there is: first comes what no score weighs up (performance cores,
and all on one node, there in one socket, and there in one cache), and among those its score is as good as the best, or
nearly."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.layout import Unit
from atomd.capacity.occupancy import Occupancy, plain_mib
from atomd.capacity.placement import admits, place
from atomd.capacity.score import Before, score
from atomd.inventory.facts import Core
from matcher.wire.messages import CoreClass, Policy, VmAsk
from specs.ids import UserId
from tests.property.test_atomd_capacity_placement_rules import (
    USERS,
    asks,
    machines,
    machines_of_caches,
    policies,
    settled,
    users,
    vm,
)

SHARE_OF_BEST = 0.95
SETS_MAX = 3000


def every_share(
    ask: VmAsk, now: Occupancy, like: Claim, user_id: UserId
) -> Iterator[tuple[Claim, Sequence[Unit], int]]:
    """Each set of units that would do, with how many are open of its kind. Where the RAM lies makes no difference to
    the score: it is where `like` has it."""
    for units in now.open_units(ask, user_id).values():
        for some in itertools.islice(itertools.combinations(units, ask.slots), SETS_MAX):
            threads = tuple(thread for unit in some for thread in unit.threads)
            per_core = 1 if ask.smt else len(some[0].threads)
            mixed = ask.core_class is CoreClass.ANY
            yield replace(like, threads=threads, threads_per_core=per_core, spans_classes=mixed), some, len(units)


def rank(ask: VmAsk, units: Sequence[Unit], now: Occupancy) -> tuple[int, ...]:
    """What comes before the score; lower is better."""
    cores = [now.hardware.cores[unit.core] for unit in units]
    nodes = {core.numa for core in cores}
    pages = {pages.node for pages in now.pages_for(ask)} if ask.hugepages_kib else nodes
    is_near = len(nodes) == 1 and nodes <= pages and now.free_mib.get(*nodes, 0) >= plain_mib(ask)
    is_slow = ask.core_class is not CoreClass.ANY and any(core.core_class == "efficiency" for core in cores)
    sockets = len({core.socket for core in cores}) if len(nodes) == 1 else 0
    caches = len({cache_of(core, now.hardware) for core in cores}) if sockets == 1 else 0
    return len(nodes) > 1, is_slow, not is_near, sockets, caches


def cache_of(core: Core, hardware: Hardware) -> int:
    """Cores of which nobody knows are as if they shared one."""
    return next((number for number, each in enumerate(hardware.caches) if core.threads[0] in each), -1)


def scored(ask: VmAsk, claim: Claim, units: Sequence[Unit], open_units: int, now: Occupancy, policy: Policy) -> float:
    before = Before(
        open_units=open_units,
        fresh_units=sum(not unit.core_vms for unit in units),
        free_mib=now.free_total_mib,
        total_mib=sum(mib for _, mib in now.hardware.ram_mib),
        device_shares=(),
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


def is_among_the_best(ask: VmAsk, hardware: Hardware, residents: list[Claim], user_id: UserId, policy: Policy) -> None:
    found = place(ask, hardware, residents, vm_id=vm(99), user_id=user_id, policy=policy)
    if found is None:
        return
    now = Occupancy(hardware, residents)
    shares = [each for each in every_share(ask, now, found.claim, user_id) if admits(hardware, residents, each[0])]
    first = min(rank(ask, units, now) for _, units, _ in shares)
    (own,) = [units for claim, units, _ in shares if set(claim.threads) == set(found.claim.threads)]
    assert rank(ask, own, now) == first
    alike = [each for each in shares if rank(ask, each[1], now) == first]
    best = max(scored(ask, claim, units, count, now, policy) for claim, units, count in alike)
    assert found.score >= SHARE_OF_BEST * best


plain = st.builds(
    replace,
    asks(),
    slots=st.integers(1, 3),
    ram_mib=st.integers(1, 600),
    core_class=st.none(),
    hugepages_kib=st.just(0),
    min_frequency_mhz=st.just(0),
    pci=st.just(()),
    usb=st.just(()),
)


@settings(max_examples=400, deadline=None)
@given(
    hardware=machines_of_caches(),
    before=st.lists(st.tuples(plain, users), min_size=1, max_size=5),
    gone=st.sets(st.integers(0, 4), max_size=2),
    ask=plain,
    policy=policies,
)
def test_so_it_is_where_only_the_caches_tell_cores_apart(
    hardware: Hardware, before: list[tuple[VmAsk, UserId]], gone: set[int], ask: VmAsk, policy: Policy
) -> None:
    residents = [claim for at, claim in enumerate(settled(before, hardware, policy)) if at not in gone]
    is_among_the_best(ask, hardware, residents, USERS[0], policy)
