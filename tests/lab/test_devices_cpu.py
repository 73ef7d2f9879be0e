"""What a guest on KVM is told of its CPU, which emulation can't show. See `test_devices_kernel`."""

from pathlib import Path

import pytest

from atomd.hypervisor.domain_xml import domain_xml
from atomd.hypervisor.domains import StartFailed
from atomd.hypervisor.hypervisor import Hypervisor
from tests.lab import test_devices_vm
from tests.lab.test_devices_vm import VM_ID, guest, hypervisor, libvirt, says

TELLS_OF_CORES = (
    b"cd /sys/devices/system/cpu; echo $(for c in cpu[0-9]; do cat $c/topology/core_cpus_list; done) are cores\n"
)

__all__ = ["hypervisor", "libvirt"]  # pytest finds them here

pytestmark = test_devices_vm.pytestmark


async def test_a_guest_on_amds_cpus_sees_which_threads_make_a_core(hypervisor: Hypervisor, tmp_path: Path) -> None:
    # Shared, since there are two threads here and four are to be seen. A flag, so that libvirt checks all of them.
    cores = {"vcpus": 4, "threads": (0, 1), "exclusive": False, "threads_per_core": 2, "topoext": True}
    spec = guest(tmp_path, **cores, flags=("sse2",))
    await hypervisor.start(domain_xml(spec))
    await says(hypervisor, spec, TELLS_OF_CORES, "0-1 0-1 2-3 2-3 are cores")
    await hypervisor.destroy(VM_ID)


async def test_a_flag_that_kvm_can_not_give_here_fails_the_start(hypervisor: Hypervisor, tmp_path: Path) -> None:
    with pytest.raises(StartFailed) as caught:
        await hypervisor.start(domain_xml(guest(tmp_path, flags=("sse2", "avx512f", "avx2"))))
    assert str(caught.value).startswith("guests on this host do not get the CPU flags avx2,avx512f: ")
    assert await hypervisor.domains() == ()
