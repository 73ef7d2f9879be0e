"""A VM with a USB stick of its host, and the host that has it back. See `test_devices_kernel`."""

from collections import Counter
from pathlib import Path

import pytest

from atomd.devices import read_usb_here
from atomd.hypervisor.domain_xml import DomainSpec, domain_xml
from atomd.hypervisor.domains import StartFailed
from atomd.hypervisor.hypervisor import Hypervisor
from atomd.inventory.facts import UsbDevice
from atomd.inventory.usb import IN_A_PROGRAM
from tests.lab import test_devices_vm
from tests.lab.test_devices_real import Atomd, run
from tests.lab.test_devices_vm import USB_GUESTS, VM_ID, guest, hypervisor, libvirt, says, until

STICK, SERIAL = ("46f4", "0001"), "ATOMOS-STICK"  # QEMU's, and what test_devices_kernel plugs in
IN_THE_GUEST = f"{':'.join(STICK)} {SERIAL}"
TELLS_OF_STICKS = (
    b"cd /sys/bus/usb/devices; for d in [0-9]-*.[0-9] [0-9]-[0-9]; do cat $d/idVendor $d/idProduct $d/serial"
)
TELLS_OF_STICKS += b" | { read v; read p; read s; echo $v:$p $s; }; done\n"

__all__ = ["hypervisor", "libvirt"]  # pytest finds them here

pytestmark = test_devices_vm.pytestmark


def stick() -> UsbDevice:
    (found,) = [device for device in read_usb_here() if (device.vendor, device.model) == STICK]
    return found


def disks() -> list[str]:
    """Of the host: what its storage driver has made of the stick."""
    return [path.name for path in Path("/sys/block").glob("sd*")]


def with_stick(device: UsbDevice, folder: Path) -> DomainSpec:
    return guest(folder, USB_GUESTS, usb=(device,))


async def promised(atomd: Atomd) -> UsbDevice:
    """The stick, as the VM that is to have it gets it."""
    port = stick().address
    atomd.held.add(port)
    plugged = await atomd.devices.plug([port], Counter([STICK]))
    assert isinstance(plugged, tuple), plugged
    return plugged[0]


async def has_it_back(atomd: Atomd) -> None:
    atomd.held.clear()
    await until(lambda: bool(disks()))
    await atomd.devices.look()
    assert [device.address for device in atomd.face.hardware.usb] == [stick().address]
    assert stick().driver == "usb-storage"


async def test_a_stick_is_its_hosts_while_something_on_it_is_mounted(tmp_path: Path) -> None:
    await until(lambda: bool(disks()))
    (disk,) = disks()
    assert stick().assignable
    run("mkfs.ext4", "-q", "-F", f"/dev/{disk}")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    run("mount", f"/dev/{disk}", str(mounted))
    why = f"holds the host's own disk {disk}"
    atomd = Atomd(tmp_path)
    assert stick().why_not == why
    refused = await atomd.devices.plug([stick().address], Counter([STICK]))
    assert refused == f"the USB device at {stick().address} can't be given to the VM: it {why}"
    assert atomd.face.hardware.usb == ()
    run("umount", str(mounted))
    await has_it_back(atomd)


async def test_a_vm_sees_the_stick_that_it_was_given_and_the_host_has_it_back(
    hypervisor: Hypervisor, tmp_path: Path
) -> None:
    await until(lambda: bool(disks()))
    atomd = Atomd(tmp_path)
    spec = with_stick(await promised(atomd), tmp_path)
    await hypervisor.start(domain_xml(spec))
    assert disks() == []
    await says(hypervisor, spec, TELLS_OF_STICKS, IN_THE_GUEST)
    assert stick().why_not == IN_A_PROGRAM
    await atomd.devices.look()
    assert [device.address for device in atomd.face.hardware.usb] == [stick().address], "its VM has it"
    await hypervisor.destroy(VM_ID)
    await has_it_back(atomd)


def plug_anew(device: UsbDevice) -> None:
    """As a hand would: its port is switched off and on (Documentation/ABI/testing/sysfs-bus-usb)."""
    (port,) = Path("/sys/bus/usb/devices").glob(f"usb{device.bus}/*/*-port{device.address.rpartition('-')[2]}/disable")
    for word in ("1", "0"):
        port.write_text(word)


async def test_a_stick_that_was_plugged_in_anew_is_not_taken_for_the_one_before(
    hypervisor: Hypervisor, tmp_path: Path
) -> None:
    await until(lambda: bool(disks()))
    atomd = Atomd(tmp_path)
    before = await promised(atomd)
    plug_anew(before)
    await until(lambda: bool(disks()))
    with pytest.raises(StartFailed) as caught:
        await hypervisor.start(domain_xml(with_stick(before, tmp_path)))
    assert str(caught.value) == f"the USB device {':'.join(STICK)} is not plugged into this host any more"
    after = await promised(atomd)
    assert after.address == before.address
    assert after.number != before.number
    await has_it_back(atomd)
