"""Memory and huge pages as they are now: what a sysadmin or a stranger does to them, and what VMs of ours have."""

from collections.abc import Collection
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from atomd.answering import Face
from atomd.capacity.guest_cpu import lent_mib
from atomd.capacity.hardware import Claim
from atomd.inventory.facts import Cpu, HugePages, Memory, NumaNode, Pages
from atomd.memory import LOOK_S, LentMemory
from specs.ids import UserId, VmId
from tests.unit.test_atomd_capacity_fit import HOST

TOTAL_MIB, SIZE_KIB = 8192, 2048
VM = Claim(VmId("2" * 32), UserId("a" * 64), (0,), 1, True, 1, ((0, 140),), 0, (), pages=Pages(0, SIZE_KIB, 64))


class Machine:
    """One node, with huge pages of one size; `kept` of them, of which `free` are nobody's."""

    def __init__(self) -> None:
        self.kept, self.free, self.mounted = 512, 512, {SIZE_KIB}
        self.up: list[Claim] = []
        self.starts: Claim | None = None  # while it is looked
        self.face = Face("h1", 7766, HOST, False)
        self.memory = LentMemory(self.face, lent=self._lent, up=lambda: tuple(self.up), reads=self._reads)

    def _reads(self) -> tuple[Memory, Collection[int]]:
        pages = (HugePages(SIZE_KIB, self.kept, self.free),)
        if self.starts is not None:
            self.up.append(self.starts)
        return Memory(TOTAL_MIB, None, (NumaNode(0, TOTAL_MIB, pages),)), self.mounted

    @staticmethod
    def _lent(memory: Memory) -> tuple[tuple[int, int], ...]:
        cpu = Cpu("Some CPU", frozenset(), None, HOST.cores)
        return lent_mib(cpu, memory, ram_reserve_mib=1024, reserved_core=True, reserved_cpus=frozenset())

    async def lent(self) -> tuple[int, int]:
        """Huge pages, and MiB of ordinary memory."""
        await self.memory.look()
        hardware = self.face.hardware
        return sum(pages.count for pages in hardware.pages), sum(mib for _, mib in hardware.ram_mib)


@pytest.fixture
def machine() -> Machine:
    return Machine()


async def never() -> None:
    await trio.sleep_forever()


async def test_pages_that_are_kept_later_are_lent_and_are_ordinary_memory_no_more(
    machine: Machine, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.1  # it is looked in a thread, which the clock does not see
    async with trio.open_nursery() as nursery:
        await nursery.start(machine.memory.keep, never)
        assert machine.face.hardware.pages == (Pages(0, SIZE_KIB, 512),)
        assert machine.face.hardware.ram_mib == ((0, TOTAL_MIB - 1024 - 1024),)
        machine.kept = machine.free = 1024
        await trio.sleep(LOOK_S + 1)
        assert machine.face.hardware.pages == (Pages(0, SIZE_KIB, 1024),)
        assert machine.face.hardware.ram_mib == ((0, TOTAL_MIB - 1024 - 2048),)
        nursery.cancel_scope.cancel()


async def test_a_vm_that_has_started_is_looked_at_as_soon_as_it_is_told(machine: Machine) -> None:
    machine.free, looked = 448, trio.Event()

    async def changed() -> None:
        if machine.up:  # it waits for the next change
            looked.set()
            await trio.sleep_forever()
        machine.up = [VM]

    async with trio.open_nursery() as nursery:
        await nursery.start(machine.memory.keep, changed)
        with trio.fail_after(LOOK_S / 2):
            await looked.wait()
        assert machine.face.hardware.pages == (Pages(0, SIZE_KIB, 512),)
        nursery.cancel_scope.cancel()


async def test_what_strangers_have_is_not_lent_and_what_vms_of_ours_have_is(machine: Machine) -> None:
    machine.free = 312  # strangers have 200
    assert await machine.lent() == (312, TOTAL_MIB - 2048)
    machine.up, machine.free = [VM], 248
    assert await machine.lent() == (312, TOTAL_MIB - 2048)


async def test_of_a_vm_that_starts_meanwhile_nobody_knows_whether_its_pages_are_among_the_free(
    machine: Machine,
) -> None:
    machine.free, machine.starts = 312, VM
    assert await machine.lent() == (312, TOTAL_MIB - 2048)


async def test_pages_that_qemu_cannot_have_are_not_lent(machine: Machine) -> None:
    machine.mounted = set()
    assert await machine.lent() == (0, TOTAL_MIB - 2048)


async def test_where_nothing_has_changed_the_hardware_is_the_same_object(machine: Machine) -> None:
    await machine.lent()
    before = machine.face.hardware
    await machine.lent()
    assert machine.face.hardware is before


async def test_a_recorded_machine_stays_as_it_is() -> None:
    machine = Machine()
    machine.face.pretended = True
    async with trio.open_nursery() as nursery:
        await nursery.start(machine.memory.keep, never)
    assert machine.face.hardware == replace(HOST)
