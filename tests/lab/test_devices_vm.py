"""A VM with a card of its host, from its loan to the driver that has the card again. See `test_devices_kernel`.

libvirt is our own here, on the emulated machine alone: nothing of this machine's is changed.
"""

import dataclasses
import glob
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from atomd.accelerator import detect
from atomd.functions import IDLE_S
from atomd.hypervisor.domain_xml import DomainSpec, domain_xml
from atomd.hypervisor.hypervisor import Hypervisor
from matcher.wire.messages import Accelerator, Arch, ImageFormat
from matcher.wire.volumes import AttachedVolume
from specs.ids import UserId, VmId
from tests.lab import test_devices_real
from tests.lab.test_devices_real import FUNCTIONS, NVME, Atomd, alone, at, clock, of_kind, run

VM_ID = VmId("6ba7b810" * 4)
GUESTS = "/var/cache/atomos-lab/guest-*.img"  # packaging/guest
USB_GUESTS = "/var/cache/atomos-lab/usb-guest-*.img"  # packaging/guest --usb
SOCKET = Path("/run/libvirt/libvirt-sock")
NETWORK = "<network><name>default</name><forward mode='bridge'/><bridge name='br0'/></network>"
QEMU_CONF = 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nnamespaces = []\ncgroup_controllers = []\n'
ASKS_FOR_AN_ADDRESS = (
    b"for link in eth0 eth1; do ip link set $link up; udhcpc -n -q -t 3 -T 1 -i $link -s /bin/on-lease; done\n"
)
ADDRESS = "ATOMOS-HTTP 10.0.2.15"  # QEMU's, behind the card that is passed through
WAIT_S = 180.0

__all__ = ["clock"]  # pytest finds it here

pytestmark = [
    *test_devices_real.pytestmark,
    pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="no /dev/kvm: test_devices_kernel has one"),
]


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not is_so():  # noqa: ASYNC110  another program makes it so
            await trio.sleep(0.25)


async def said_in(log: Path, words: str) -> None:
    await until(lambda: log.exists() and words in log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of the emulated machine, with a network of the name that VMs want."""
    Path("/etc/libvirt/qemu.conf").write_text(QEMU_CONF)
    Path("/etc/libvirt/qemu/networks/default.xml").unlink(missing_ok=True)  # Debian's, which needs a firewall
    network = tmp_path_factory.mktemp("libvirt") / "network.xml"
    network.write_text(NETWORK)
    daemons = [subprocess.Popen([each]) for each in ("/usr/sbin/virtlogd", "/usr/sbin/libvirtd")]
    try:
        trio.run(until, SOCKET.exists)
        run("ip", "link", "add", "br0", "type", "bridge")
        run("virsh", "-q", "net-create", str(network))
        yield
        run("virsh", "-q", "net-destroy", "default")
        run("ip", "link", "del", "br0")
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()
        SOCKET.unlink(missing_ok=True)  # the next suite waits for its own


@pytest.fixture
async def hypervisor(libvirt: None) -> AsyncIterator[Hypervisor]:
    async with Hypervisor.open("qemu:///system") as opened:
        yield opened
        for left in await opened.domains():  # of a test that has failed
            await opened.destroy(left.vm_id)


def guest(folder: Path, images: str = GUESTS, **words: Any) -> DomainSpec:
    """A guest of the lab, on KVM."""
    image = folder / "guest.img"
    run("cp", "--sparse=always", max(glob.glob(images), key=os.path.getmtime), str(image))  # /tmp is in memory
    spec = DomainSpec(
        vm_id=VM_ID,
        generation=1,
        title="a guest",
        user_id=UserId("a1" * 32),
        accelerator=Accelerator.KVM,
        arch=Arch.X86_64,
        vcpus=1,
        threads=(0,),
        exclusive=True,
        threads_per_core=1,
        ram_mib=192,
        console_log=str(folder / "console.log"),
        volumes=(AttachedVolume("a" * 32, str(image), ImageFormat.RAW, False, False, True),),
    )
    return dataclasses.replace(spec, **words)


async def says(hypervisor: Hypervisor, spec: DomainSpec, typed: bytes, answer: str) -> None:
    """The guest is up, and answers so to what is typed."""
    await said_in(Path(spec.console_log), "ATOMOS-GUEST-UP")
    console = await hypervisor.open_console(VM_ID)
    await console.send(typed)
    await said_in(Path(spec.console_log), answer)
    await console.aclose()


async def test_kvm_is_found_to_work(tmp_path: Path) -> None:
    detected = await detect("auto", state_dir=tmp_path)
    assert detected.accelerator is Accelerator.KVM, detected.why


async def test_a_vm_gets_an_address_through_the_card_that_it_was_given(hypervisor: Hypervisor, tmp_path: Path) -> None:
    card, atomd = alone(), Atomd(tmp_path)
    atomd.held.add(card.address)
    assert await atomd.devices.lend([card.address]) is None
    spec = guest(tmp_path, pci=(card.address,))
    await hypervisor.start(domain_xml(spec))
    assert at(card.address).driver == "vfio-pci"
    await atomd.devices.look()
    assert atomd.offers(card.address), "its VM has it"
    await says(hypervisor, spec, ASKS_FOR_AN_ADDRESS, ADDRESS)
    await hypervisor.destroy(VM_ID)
    atomd.held.clear()
    await atomd.devices.look()
    assert at(card.address).driver == "virtio-pci"
    assert atomd.offers(card.address)
    assert not atomd.devices.quarantined


async def test_a_vm_has_a_virtual_function_that_was_made_for_it(
    hypervisor: Hypervisor, tmp_path: Path, clock: list[float]
) -> None:
    (maker,) = of_kind(NVME)
    atomd = Atomd(tmp_path, {maker.address: FUNCTIONS})
    await atomd.devices.look()
    address = atomd.offered(NVME)[0]
    atomd.held.add(address)
    assert await atomd.devices.lend([address]) is None
    spec = guest(tmp_path, pci=(address,))
    await hypervisor.start(domain_xml(spec))
    await says(hypervisor, spec, b"cat /sys/bus/pci/devices/*/class\n", f"0x{maker.device_class}")
    await hypervisor.destroy(VM_ID)
    atomd.held.clear()
    for _ in range(2):
        await atomd.devices.look()
    clock[0] += IDLE_S
    await atomd.devices.look()
    assert [device.address for device in of_kind(NVME)] == [maker.address]
    assert atomd.offers(address)
