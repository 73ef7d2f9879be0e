"""Where a VM sits, on machines small enough to see it."""

from dataclasses import replace

import pytest

from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.occupancy import Capacity, capacity, charged_mib
from atomd.capacity.placement import Placed, admits, place
from atomd.inventory.facts import Core, PciDevice
from matcher.wire.messages import Accelerator, Arch, CoreClass, Firmware, PciAsk, Policy, VmAsk
from specs.ids import UserId, VmId

ANN, BOB = UserId("a" * 64), UserId("b" * 64)
ASK = VmAsk(
    slots=1,
    smt=False,
    overprovision=1,
    archs=(Arch.X86_64,),
    flags=(),
    ram_mib=512,
    ecc=False,
    pci=(),
    firmware=Firmware.BIOS,
    allow_emulation=False,
)
GPU = PciAsk("10de", "24b0", 1)
AUDIO = PciAsk("10de", "228b", 1)


def host(*cores: Core, ram: tuple[tuple[int, int], ...] = ((0, 16384),), pci: tuple[PciDevice, ...] = ()) -> Hardware:
    return Hardware(
        archs=frozenset({Arch.X86_64, Arch.X86_32}),
        accelerator=Accelerator.KVM,
        cpu_model="Some CPU",
        guest_flags=frozenset({"sse2", "avx2", "x86-64-v1"}),
        cores=cores,
        ram_mib=ram,
        ecc=None,
        pci=tuple(device for device in pci if device.assignable),
        pci_refused=tuple(device for device in pci if not device.assignable),
        firmwares=frozenset({Firmware.BIOS}),
    )


def smt2(count: int, *, nodes: int = 1, sockets: int = 1) -> tuple[Core, ...]:
    return tuple(Core((n, n + count), n * sockets // count, n * nodes // count) for n in range(count))


def device(
    address: str, ask: PciAsk, group: int | None = None, *, numa: int | None = 0, free: bool = True
) -> PciDevice:
    return PciDevice(address, ask.vendor, ask.model, "030000", numa, group, None, free, None if free else "in use")


def sit(ask: VmAsk, hardware: Hardware, *residents: Claim, user: UserId = ANN, policy: Policy = Policy.PACK) -> Placed:
    placed = place(ask, hardware, residents, vm_id=VmId("1" * 32), user_id=user, policy=policy)
    assert placed is not None
    assert admits(hardware, residents, placed.claim)
    return placed


def no_room(ask: VmAsk, hardware: Hardware, *residents: Claim, user: UserId = ANN) -> bool:
    return place(ask, hardware, residents, vm_id=VmId("1" * 32), user_id=user, policy=Policy.PACK) is None


def test_a_whole_core_comes_with_every_sibling_side_by_side() -> None:
    claim = sit(replace(ASK, slots=2), host(*smt2(4))).claim
    assert claim.threads == (0, 4, 1, 5)
    assert claim.threads_per_core == 2
    assert claim.numa == 0


def test_a_thread_vm_fills_one_core_before_it_opens_the_next() -> None:
    claim = sit(replace(ASK, slots=3, smt=True), host(*smt2(4))).claim
    assert claim.threads == (0, 4, 1)
    assert claim.threads_per_core == 1


def test_a_thread_vm_takes_the_sibling_of_its_users_own_thread() -> None:
    hardware = host(*smt2(4))
    one = sit(replace(ASK, smt=True), hardware).claim
    two = sit(replace(ASK, smt=True), hardware, one).claim
    assert (one.threads, two.threads) == ((0,), (4,))


def test_siblings_are_not_shared_between_users_unless_the_host_allows_it() -> None:
    hardware = host(*smt2(1))
    one = sit(replace(ASK, smt=True), hardware).claim
    assert no_room(replace(ASK, smt=True), hardware, one, user=BOB)
    assert sit(replace(ASK, smt=True), replace(hardware, share_cores_between_users=True), one, user=BOB)


def test_users_may_share_a_core_that_has_no_siblings() -> None:
    hardware = host(Core((0,), 0, 0))
    shared = replace(ASK, overprovision=2)
    assert sit(shared, hardware, sit(shared, hardware).claim, user=BOB).claim.threads == (0,)


def test_the_strictest_vm_on_a_core_rules() -> None:
    hardware = host(Core((0,), 0, 0))
    four, two = replace(ASK, overprovision=4), replace(ASK, overprovision=2)
    first = sit(four, hardware).claim
    second = sit(two, hardware, first).claim
    assert no_room(four, hardware, first, second)
    assert sit(four, hardware, first, first)


def test_the_strictest_vm_on_a_thread_rules_too() -> None:
    hardware = host(Core((0,), 0, 0))
    exclusive = sit(replace(ASK, smt=True), hardware).claim
    assert no_room(replace(ASK, smt=True, overprovision=4), hardware, exclusive)
    assert no_room(replace(ASK, overprovision=4), hardware, exclusive)


def test_a_thread_vm_counts_on_the_core_of_a_whole_core_vm() -> None:
    hardware = host(*smt2(1))
    whole = sit(replace(ASK, overprovision=2), hardware).claim
    thread = sit(replace(ASK, smt=True, overprovision=2), hardware, whole).claim
    assert no_room(replace(ASK, smt=True, overprovision=2), hardware, whole, thread)


def test_shared_vms_huddle_so_that_exclusive_cores_stay_free() -> None:
    hardware = host(*smt2(4))
    shared = replace(ASK, overprovision=4)
    residents: list[Claim] = []
    for _ in range(4):
        residents.append(sit(shared, hardware, *residents).claim)
    assert {claim.threads for claim in residents} == {(0, 4)}
    assert sit(shared, hardware, *residents).claim.threads == (1, 5)


def test_spread_gives_shared_vms_a_core_each() -> None:
    hardware = host(*smt2(4))
    shared = replace(ASK, overprovision=4)
    residents: list[Claim] = []
    for _ in range(4):
        residents.append(sit(shared, hardware, *residents, policy=Policy.SPREAD).claim)
    assert len({claim.threads for claim in residents}) == 4


def test_pack_takes_the_node_that_is_already_in_use_and_spread_the_other() -> None:
    hardware = host(*smt2(8, nodes=2), ram=((0, 8192), (1, 8192)))
    first = sit(ASK, hardware).claim
    assert sit(ASK, hardware, first).claim.numa == first.numa
    assert sit(ASK, hardware, first, policy=Policy.SPREAD).claim.numa != first.numa


def test_without_numa_pack_fills_one_socket_before_the_next() -> None:
    hardware = host(*smt2(8, sockets=2))
    residents = [sit(ASK, hardware).claim]
    residents.append(sit(replace(ASK, slots=2), hardware, *residents).claim)
    assert {thread % 8 // 4 for claim in residents for thread in claim.threads} == {0}


def test_pack_leaves_the_node_that_a_large_vm_needs_whole() -> None:
    """Though a small one would fill it better."""
    large, small = charged_mib(64 * 1024), charged_mib(8 * 1024)
    cores = tuple(Core((n,), 0, int(n >= 16)) for n in range(34))
    sat = sit(replace(ASK, slots=2, ram_mib=8 * 1024), host(*cores, ram=((0, large), (1, large + small))))
    assert sat.claim.numa == 1


def test_a_node_with_ram_and_threads_is_preferred_to_a_tighter_one_without_ram() -> None:
    hardware = host(*smt2(2), *(Core((n,), 1, 1) for n in range(10, 18)), ram=((0, 100), (1, 8192)))
    assert sit(ASK, hardware).claim.numa == 1


def test_ram_is_split_where_no_node_has_enough_and_the_vm_then_spans() -> None:
    hardware = host(*smt2(4, nodes=2), ram=((0, 1000), (1, 1000)))
    claim = sit(replace(ASK, ram_mib=1200), hardware).claim
    assert claim.numa == -1
    assert sum(mib for _, mib in claim.ram_mib) == charged_mib(1200) == 1352
    assert max(mib for _, mib in claim.ram_mib) == 1000
    assert len({thread % 4 // 2 for thread in claim.threads}) == 1


def test_ram_lies_where_the_threads_do_in_the_same_proportion_where_it_can() -> None:
    claim = sit(
        replace(ASK, slots=6, smt=True, ram_mib=1024),
        host(*smt2(8, nodes=4), ram=tuple((node, 4096) for node in range(4))),
    ).claim
    assert claim.numa == -1
    assert dict(claim.ram_mib) == {0: 782, 1: 391}, "four threads there, and two here"
    small = host(*smt2(8, nodes=4), ram=((0, 4096), (1, 300), (2, 4096), (3, 4096)))
    assert sum(mib for _, mib in sit(replace(ASK, slots=8, ram_mib=2048), small).claim.ram_mib) == charged_mib(2048)


def test_a_vm_larger_than_a_node_takes_as_few_nodes_as_can_be() -> None:
    hardware = host(*smt2(8, nodes=4), ram=((0, 4096), (1, 4096), (2, 4096), (3, 4096)))
    claim = sit(replace(ASK, slots=3), hardware).claim
    assert claim.numa == -1
    assert len({thread % 8 // 2 for thread in claim.threads}) == 2


def test_of_as_few_nodes_a_larger_vm_takes_those_that_are_begun_and_there_the_begun_cores_first() -> None:
    hardware = host(*[Core((n,), 0, n // 4) for n in range(12)], ram=((0, 4096), (1, 4096), (2, 4096)))
    shared = replace(ASK, smt=True, overprovision=2)
    claims = [replace(sit(shared, hardware).claim, threads=(thread,)) for thread in (5, 6, 8, 9)]
    claim = sit(replace(shared, slots=5), hardware, *claims).claim
    assert {5, 6, 8, 9} < set(claim.threads)
    assert {thread // 4 for thread in claim.threads} == {1, 2}


def test_memory_only_nodes_lend_and_cpu_only_nodes_borrow() -> None:
    hardware = host(Core((5,), 0, 1), ram=((2, 4096), (7, 4096)))
    claim = sit(replace(ASK, ram_mib=6000), hardware).claim
    assert claim.numa == -1
    assert dict(claim.ram_mib).keys() == {2, 7}


def test_a_vm_never_spans_core_classes() -> None:
    performance = [Core((n, n + 1), 0, 0, "performance") for n in (0, 2)]
    efficiency = [Core((n,), 0, 0, "efficiency") for n in range(4, 10)]
    hardware = host(*performance, *efficiency)
    assert sit(ASK, hardware).claim.threads == (0, 1)
    assert set(sit(replace(ASK, slots=3), hardware).claim.threads) <= set(range(4, 10))
    assert no_room(replace(ASK, slots=7), hardware)
    assert no_room(replace(ASK, slots=8, smt=True), hardware)


def test_a_class_that_was_asked_for_is_taken_or_none_and_any_mixes_them() -> None:
    performance = [Core((n,), 0, 0, "performance") for n in (0, 1)]
    hardware = host(*performance, *(Core((n,), 0, 0, "efficiency") for n in range(4, 7)))
    little = replace(ASK, slots=2, core_class=CoreClass.EFFICIENCY)
    assert set(sit(little, hardware).claim.threads) <= {4, 5, 6}
    assert no_room(replace(ASK, slots=3, core_class=CoreClass.PERFORMANCE), hardware)
    mixed = sit(replace(ASK, slots=5, core_class=CoreClass.ANY), hardware).claim
    assert mixed.threads == (0, 1, 4, 5, 6)
    assert mixed.spans_classes
    assert not admits(hardware, (), replace(mixed, spans_classes=False))
    assert not sit(replace(ASK, core_class=CoreClass.ANY), hardware).claim.spans_classes


def test_cores_that_are_too_slow_or_do_not_say_are_not_taken() -> None:
    hardware = host(*(Core((n,), 0, 0, max_mhz=mhz) for n, mhz in enumerate((None, 2000, 4000, 4000))))
    assert sit(replace(ASK, slots=2, min_frequency_mhz=4000), hardware).claim.threads == (2, 3)
    assert no_room(replace(ASK, slots=3, min_frequency_mhz=4000), hardware)
    assert no_room(replace(ASK, min_frequency_mhz=4001), hardware)
    assert len(sit(replace(ASK, slots=4), hardware).claim.threads) == 4


def test_cores_of_one_vm_have_equally_many_threads() -> None:
    hardware = host(Core((0, 1), 0, 0), Core((2,), 0, 0), Core((3, 4), 0, 0))
    assert sit(replace(ASK, slots=2), hardware).claim.threads == (0, 1, 3, 4)
    assert no_room(replace(ASK, slots=3), hardware)
    assert len(sit(replace(ASK, slots=5, smt=True), hardware).claim.threads) == 5


def test_a_group_moves_whole_and_serves_several_asks_at_once() -> None:
    hardware = host(*smt2(4), pci=(device("0000:01:00.0", GPU, 7), device("0000:01:00.1", AUDIO, 7)))
    both = ("0000:01:00.0", "0000:01:00.1")
    assert sit(replace(ASK, pci=(GPU,)), hardware).claim.pci == both
    taken = sit(replace(ASK, pci=(GPU, AUDIO)), hardware).claim
    assert taken.pci == both
    assert no_room(replace(ASK, pci=(AUDIO,)), hardware, taken)


def test_a_group_with_a_device_of_the_host_stays_but_a_bridge_does_not_keep_it() -> None:
    keeper = device("0000:00:1f.0", AUDIO, 7, free=False)
    bridge = replace(keeper, device_class="060400")
    gpu = device("0000:01:00.0", GPU, 7)
    assert no_room(replace(ASK, pci=(GPU,)), host(*smt2(2), pci=(gpu, keeper)))
    assert sit(replace(ASK, pci=(GPU,)), host(*smt2(2), pci=(gpu, bridge)))


def test_asks_for_one_kind_add_up() -> None:
    gpus = tuple(device(f"0000:0{n}:00.0", GPU, n) for n in range(1, 4))
    twice = replace(ASK, pci=(GPU, replace(GPU, quantity=2)))
    assert len(sit(twice, host(*smt2(2), pci=gpus)).claim.pci) == 3
    assert no_room(twice, host(*smt2(2), pci=gpus[:2]))


def test_any_device_of_a_class_will_do_and_one_that_is_asked_for_by_name_is_left_to_that() -> None:
    gpu, other = device("0000:01:00.0", GPU, 1), device("0000:02:00.0", PciAsk("1002", "73bf", 1), 2)
    any_gpu, nic = PciAsk("", "", 1, "03"), PciAsk("", "", 1, "02")
    assert sit(replace(ASK, pci=(any_gpu,)), host(*smt2(2), pci=(other,))).claim.pci == (other.address,)
    assert no_room(replace(ASK, pci=(nic,)), host(*smt2(2), pci=(gpu, other)))
    for asks in ((any_gpu, GPU), (GPU, any_gpu)):
        both = sit(replace(ASK, pci=asks), host(*smt2(2), pci=(gpu, other)))
        assert both.claim.pci == (gpu.address, other.address)


def test_of_a_class_the_device_that_brings_least_along_is_taken() -> None:
    sound = device("0000:01:00.1", AUDIO, 1)
    with_sound, alone = device("0000:01:00.0", GPU, 1), device("0000:02:00.0", PciAsk("1002", "73bf", 1), 2)
    more = device("0000:03:00.0", GPU, 3), device("0000:03:00.1", AUDIO, 3)
    hardware = host(*smt2(2), pci=(with_sound, sound, alone, *more))
    assert sit(replace(ASK, pci=(PciAsk("", "", 1, "03"),)), hardware).claim.pci == (alone.address,)


def test_the_vm_sits_near_its_device() -> None:
    gpus = (device("0000:01:00.0", GPU, 1, numa=1), device("0000:02:00.0", GPU, 2, numa=0))
    hardware = host(*smt2(8, nodes=2), ram=((0, 8192), (1, 8192)), pci=gpus[:1])
    assert sit(replace(ASK, pci=(GPU,)), hardware).claim.numa == 1
    assert sit(ASK, hardware).claim.numa == 0
    both = replace(hardware, pci=gpus)
    first = sit(replace(ASK, pci=(GPU,), slots=4), both).claim
    second = sit(replace(ASK, pci=(GPU,)), both, first).claim
    near = {"0000:01:00.0": 1, "0000:02:00.0": 0}
    assert {near[claim.pci[0]] == claim.numa for claim in (first, second)} == {True}


def test_a_vm_without_devices_does_not_sit_in_front_of_them() -> None:
    pci = (device("0000:01:00.0", GPU, 1, numa=0),)
    hardware = host(*smt2(8, nodes=2), ram=((0, 8192), (1, 8192)), pci=pci)
    assert sit(ASK, hardware).claim.numa == 1
    assert sit(replace(ASK, pci=(GPU,)), hardware).claim.numa == 0


def test_a_lone_device_is_taken_before_one_that_drags_others_along() -> None:
    pci = (device("0000:01:00.0", GPU, 1), device("0000:01:00.1", AUDIO, 1), device("0000:02:00.0", GPU, 2))
    assert sit(replace(ASK, pci=(GPU,)), host(*smt2(2), pci=pci)).claim.pci == ("0000:02:00.0",)


def test_more_functions_than_an_offer_can_name_are_not_placed() -> None:
    pci = tuple(device(f"0000:01:{n:02x}.{f}", AUDIO if f else GPU, n) for n in range(31) for f in range(3))
    assert no_room(replace(ASK, pci=(replace(GPU, quantity=30),)), host(*smt2(2), pci=pci))
    assert sit(replace(ASK, pci=(replace(GPU, quantity=21),)), host(*smt2(2), pci=pci))


@pytest.mark.parametrize("ask", [replace(ASK, slots=4096), replace(ASK, ram_mib=64 * 1024 * 1024)])
def test_the_largest_asks_are_refused_quietly(ask: VmAsk) -> None:
    assert no_room(ask, host(*smt2(4)))


def test_a_host_without_cores_places_nothing() -> None:
    assert no_room(ASK, host())
    assert no_room(ASK, host(*smt2(2), ram=()))


def test_a_resident_on_a_thread_that_went_offline_is_no_obstacle() -> None:
    old = sit(ASK, host(*smt2(8))).claim
    assert sit(ASK, host(Core((20,), 0, 0)), old)


def test_memory_that_was_taken_away_is_not_lent_by_another_node() -> None:
    before = sit(replace(ASK, ram_mib=4000), host(*smt2(4))).claim
    shrunk = host(*smt2(4), ram=((0, 1000), (1, 500)))
    assert no_room(replace(ASK, ram_mib=500), shrunk, before)
    assert sit(replace(ASK, ram_mib=300), shrunk, before).claim.ram_mib == ((1, charged_mib(300)),)


def test_capacity_counts_threads_and_mib() -> None:
    hardware = host(*smt2(4))
    claim = sit(ASK, hardware).claim
    assert capacity(hardware, [claim]) == Capacity(8, 6, 16384, 16384 - charged_mib(512))


# --- the judge -----------------------------------------------------------------------------------------------------

GOOD = Claim(VmId("2" * 32), ANN, (0, 4), 2, False, 1, ((0, 651),), 0, ())


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, threads=()),
        replace(GOOD, threads=(0,)),
        replace(GOOD, threads=(0, 0)),
        replace(GOOD, threads=(0, 4, 4)),
        replace(GOOD, threads=(0, 4, 99)),
        replace(GOOD, threads_per_core=1),
        replace(GOOD, smt=True),
        replace(GOOD, overprovision=0),
        replace(GOOD, ram_mib=((0, 16385),)),
        replace(GOOD, ram_mib=((0, 0),)),
        replace(GOOD, ram_mib=((3, 1),)),
        replace(GOOD, ram_mib=((0, 16384), (0, 1))),
        replace(GOOD, pci=("0000:09:00.0",)),
        replace(GOOD, pci=("0000:01:00.0",)),
        replace(GOOD, pci=("0000:01:00.0", "0000:01:00.0", "0000:01:00.1")),
    ],
)
def test_the_judge_denies_a_claim_that_is_not_well_formed(bad: Claim) -> None:
    hardware = host(*smt2(4), pci=(device("0000:01:00.0", GPU, 7), device("0000:01:00.1", AUDIO, 7)))
    assert admits(hardware, [], GOOD)
    assert not admits(hardware, [], bad)


def test_the_judge_denies_two_users_on_one_core() -> None:
    hardware = host(*smt2(4))
    half = replace(GOOD, threads=(0,), threads_per_core=1, smt=True)
    other = replace(half, threads=(4,), user_id=BOB)
    assert not admits(hardware, [half], other)
    assert admits(hardware, [half], replace(other, user_id=ANN))
    assert admits(replace(hardware, share_cores_between_users=True), [half], other)


def test_the_judge_denies_a_device_that_has_an_owner() -> None:
    hardware = host(*smt2(4), pci=(device("0000:01:00.0", GPU, 7),))
    owner = replace(GOOD, pci=("0000:01:00.0",))
    assert admits(hardware, [GOOD], replace(owner, threads=(1, 5)))
    assert not admits(hardware, [owner], replace(owner, threads=(1, 5)))


def test_the_judge_denies_a_group_that_the_host_keeps_a_part_of() -> None:
    gpu, disk = device("0000:01:00.0", GPU, 7), device("0000:02:00.0", AUDIO, 7, free=False)
    claim = replace(GOOD, pci=(gpu.address,))
    assert admits(host(*smt2(4), pci=(gpu,)), [], claim)
    assert not admits(host(*smt2(4), pci=(gpu, disk)), [], claim)


# --- the score -----------------------------------------------------------------------------------------------------


def test_pack_scores_the_tighter_hole_higher_and_spread_the_wider() -> None:
    small, large = host(*smt2(4)), host(*smt2(32), ram=((0, 131072),))
    assert sit(ASK, small).score > sit(ASK, large).score
    assert sit(ASK, small, policy=Policy.SPREAD).score < sit(ASK, large, policy=Policy.SPREAD).score


def test_an_exact_fit_scores_one() -> None:
    exact = host(*smt2(2), ram=((0, charged_mib(512)),))
    assert sit(replace(ASK, slots=2), exact).score == 1.0


def test_pack_keeps_scarce_things_for_those_who_ask() -> None:
    plain = host(*smt2(4))
    gpu = replace(plain, pci=(device("0000:01:00.0", GPU, 1),))
    wide = replace(plain, guest_flags=plain.guest_flags | {"avx512f"})
    ecc = replace(plain, ecc=True)
    for scarce in (gpu, wide, ecc):
        assert sit(ASK, scarce).score < sit(ASK, plain).score
    assert sit(replace(ASK, ecc=True), ecc).score == sit(ASK, plain).score
    assert sit(replace(ASK, flags=("avx512f",)), wide).score == sit(ASK, plain).score
    assert sit(replace(ASK, pci=(GPU,)), gpu).score > sit(ASK, plain).score


def test_a_shared_vm_scores_higher_beside_others() -> None:
    hardware = host(*smt2(4))
    shared = replace(ASK, overprovision=4)
    first = sit(shared, hardware)
    assert sit(shared, hardware, first.claim).score > first.score


def test_cores_of_one_cache_are_rather_taken_than_what_is_left_of_two() -> None:
    """On the first node it would fill a hole, and break up nothing."""
    cores = smt2(8, nodes=2)
    pairs = tuple(cores[n].threads + cores[n + 1].threads for n in range(0, 8, 2))
    apart, near = (replace(host(*cores, ram=((0, 16384), (1, 16384))), caches=caches) for caches in ((), pairs))
    residents = [
        replace(sit(ASK, apart).claim, vm_id=VmId(f"{number:032x}"), threads=cores[number].threads) for number in (0, 2)
    ]
    assert sit(replace(ASK, slots=2), apart, *residents).claim.threads == (1, 9, 3, 11)
    assert sit(replace(ASK, slots=2), near, *residents).claim.threads == (4, 12, 5, 13)


@pytest.mark.parametrize("policy", Policy)
def test_shared_vms_float_over_the_threads_of_one_cache(policy: Policy) -> None:
    cores = smt2(4)
    hardware = replace(host(*cores), caches=tuple(cores[n].threads + cores[n + 1].threads for n in (0, 2)))
    claims: list[Claim] = []
    for _ in range(4):
        claims.append(sit(replace(ASK, slots=3, smt=True, overprovision=2), hardware, *claims, policy=policy).claim)
        assert any(set(claims[-1].threads) <= set(cache) for cache in hardware.caches)


def test_a_vm_larger_than_a_cache_takes_as_few_as_can_be_and_leaves_the_begun_one() -> None:
    cores = smt2(9)
    caches = tuple(tuple(t for core in cores[n : n + 3] for t in core.threads) for n in (0, 3, 6))
    hardware = replace(host(*cores), caches=caches)
    one = sit(ASK, hardware).claim
    large = sit(replace(ASK, slots=6), hardware, one).claim
    assert set(large.threads) == {*caches[1], *caches[2]}
