"""Where VMs are put on a recorded machine with several last-level caches on each node: an EPYC 7451 of two sockets and
eight nodes, each with two caches that three cores share."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from atomd.capacity.guest_cpu import hardware_of
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.placement import place
from atomd.inventory.facts import Memory, NumaNode
from atomd.inventory.reading import read_inventory_of
from atomd.inventory.recording import Recorded
from matcher.wire.messages import Accelerator, Arch, Firmware, Policy, VmAsk
from specs.ids import UserId, VmId
from tests.zoo.machines import SUITES

EPYC = SUITES / "lscpu" / "x86_64-epyc_7451.tar.gz"
NODE_MIB = 32 * 1024  # the recording tells nothing of its memory

ONE = VmAsk(
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


@pytest.fixture(scope="module")
def epyc() -> Hardware:
    if not EPYC.exists():
        pytest.skip(f"the recorded machines are not beside this repository ({EPYC} is missing)")
    return hardware_from(EPYC)


def hardware_from(recording: Path) -> Hardware:
    inventory = read_inventory_of(Recorded(recording), is_this_machine=False)
    numbers = sorted({core.numa for core in inventory.cpu.cores})
    nodes = tuple(NumaNode(number, NODE_MIB) for number in numbers)
    inventory = replace(inventory, memory=Memory(NODE_MIB * len(nodes), None, nodes))
    return hardware_of(inventory, accelerator=Accelerator.KVM, firmwares=tuple(Firmware), reserved_core=False)


def settled(ask: VmAsk, hardware: Hardware, policy: Policy, residents: list[Claim]) -> Iterator[Claim]:
    """One after the other, until there is no room."""
    while True:
        number = VmId(f"{len(residents):032x}")
        placed = place(ask, hardware, residents, vm_id=number, user_id=UserId("a" * 64), policy=policy)
        if placed is None:
            return
        residents.append(placed.claim)
        yield placed.claim


def caches_under(claim: Claim, hardware: Hardware) -> set[int]:
    return {number for number, threads in enumerate(hardware.caches) if not set(threads).isdisjoint(claim.threads)}


def test_its_caches_are_known(epyc: Hardware) -> None:
    assert [len(threads) for threads in epyc.caches] == [6] * 16


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("wanted", [replace(ONE, slots=3), replace(ONE, slots=6, smt=True)], ids=["cores", "threads"])
def test_exclusive_vms_as_large_as_a_cache_fill_one_each(epyc: Hardware, wanted: VmAsk, policy: Policy) -> None:
    under = [caches_under(claim, epyc) for claim in settled(wanted, epyc, policy, [])]
    assert sorted(under, key=min) == [{number} for number in range(16)]


@pytest.mark.parametrize("policy", Policy)
def test_shared_vms_float_within_one_cache(epyc: Hardware, policy: Policy) -> None:
    shared = replace(ONE, slots=4, smt=True, overprovision=3)
    under = [caches_under(claim, epyc) for claim in settled(shared, epyc, policy, [])]
    assert len(under) >= 3 * 16
    assert all(len(caches) == 1 for caches in under[: 3 * 16])


def test_a_vm_of_two_cores_rather_takes_another_cache_than_two(epyc: Hardware) -> None:
    under = [caches_under(claim, epyc) for claim in settled(replace(ONE, slots=2), epyc, Policy.PACK, [])]
    assert len(under) == 24
    assert [len(caches) for caches in under] == [1] * 16 + [2] * 8, (
        "the rests of two caches of a node, when all else is gone"
    )


def test_small_vms_leave_whole_caches_to_larger_ones(epyc: Hardware) -> None:
    residents: list[Claim] = []
    small = settled(ONE, epyc, Policy.PACK, residents)
    begun = set[int]().union(*(caches_under(next(small), epyc) for _ in range(8)))
    assert len({number // 2 for number in begun}) == len(begun), "no node has both of its caches begun"
    large = [caches_under(claim, epyc) for claim in settled(replace(ONE, slots=3), epyc, Policy.PACK, residents)]
    assert sum(len(caches) == 1 for caches in large) == 16 - len(begun)


def test_a_vm_larger_than_a_cache_takes_both_of_one_node(epyc: Hardware) -> None:
    residents: list[Claim] = []
    next(settled(ONE, epyc, Policy.PACK, residents))
    large = list(settled(replace(ONE, slots=6), epyc, Policy.PACK, residents))
    assert [claim.numa >= 0 and len(caches_under(claim, epyc)) for claim in large] == [2] * 7
