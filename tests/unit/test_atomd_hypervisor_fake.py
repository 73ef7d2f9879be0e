"""The fake hypervisor keeps the contract that libvirt's keeps in `tests/lab/test_hypervisor.py`."""

import pytest

from atomd.hypervisor.domain_xml import DomainSpec
from atomd.hypervisor.domains import DomainState, ObservedDomain
from matcher.wire.messages import Accelerator, Arch, ImageFormat
from matcher.wire.volumes import AttachedVolume
from specs.ids import UserId, VmId
from tests.fakes.hypervisor import FakeHypervisor
from tests.fakes.hypervisor_contract import HypervisorContract

SPEC = DomainSpec(
    vm_id=VmId("5a" * 16),
    generation=3,
    title="web",
    user_id=UserId("a1" * 32),
    accelerator=Accelerator.TCG,
    arch=Arch.X86_64,
    vcpus=1,
    threads=(0,),
    exclusive=True,
    threads_per_core=1,
    ram_mib=64,
    console_log="/var/lib/atomos/console.log",
)


class FakeWorld:
    def __init__(self) -> None:
        self.hypervisor = FakeHypervisor()
        self.spec = SPEC

    def more(self) -> AttachedVolume:
        return AttachedVolume("a" * 32, "/srv/more.img", ImageFormat.RAW, True, False, False)

    async def virsh_destroy(self, vm_id: VmId) -> None:
        self.hypervisor.virsh_destroy(vm_id)

    async def kill_qemu(self, vm_id: VmId) -> None:
        self.hypervisor.kill_qemu(vm_id)

    async def end_libvirt(self) -> None:
        self.hypervisor.lose()

    async def begin_libvirt(self) -> None:
        self.hypervisor.come_back()

    async def secrets(self) -> tuple[str, ...]:
        return tuple(self.hypervisor.kept)

    async def leave_secret(self, usage: str) -> None:
        self.hypervisor.kept.add(usage)

    async def add_foreign(self, vm_id: VmId, name: str) -> None:
        self.hypervisor.add(ObservedDomain(vm_id, name, None, None, DomainState.RUNNING, ours=False))


class TestFakeHypervisor(HypervisorContract):
    @pytest.fixture
    def world(self) -> FakeWorld:
        return FakeWorld()
