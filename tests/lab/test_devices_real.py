"""Devices of a real kernel: read, lent, bound, given back, and made.

`test_devices_kernel` runs these on an emulated machine: an NVMe disk that can make virtual functions, a network card
alone in its group, and two that share one.
"""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import trio

from atomd import devices as module
from atomd.answering import Face
from atomd.devices import Devices, read_here
from atomd.functions import IDLE_S, Functions
from atomd.inventory.facts import PciDevice
from atomd.lent import RETURN_S
from atomd.mediated import Mediated
from matcher.net.audit import Audit
from tests.unit.test_atomd_capacity_fit import HOST

BUS = Path("/sys/bus/pci")
NVME, NET = ("1b36", "0010"), ("1af4", "1041")  # QEMU's, and virtio's
FUNCTIONS = 2
SETTLED_S = 30.0
HERE = "ATOMOS_DEVICES_ARE_OURS"  # no other machine's disks and links are to be played with

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        HERE not in os.environ, reason="it makes use of all devices: on a machine of test_devices_kernel"
    ),
]


def of_kind(kind: tuple[str, str]) -> list[PciDevice]:
    return [device for device in read_here() if (device.vendor, device.model) == kind]


def at(address: str) -> PciDevice:
    return next(device for device in read_here() if device.address == address)


def alone() -> PciDevice:
    """The network card that has a group for itself."""
    groups = [device.iommu_group for device in read_here()]
    return next(device for device in of_kind(NET) if groups.count(device.iommu_group) == 1)


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def bind(address: str, driver: str) -> None:
    """As libvirt does it for a managed device; an empty driver is its own."""
    write(BUS / "devices" / address / "driver_override", driver or "\n")
    if (BUS / "devices" / address / "driver").exists():
        write(BUS / "devices" / address / "driver/unbind", address)
    write(BUS / "drivers_probe", address)


def link_of(address: str) -> str:
    """The name of its network link, once it is there."""
    until_s = time.monotonic() + SETTLED_S
    while time.monotonic() < until_s:
        if found := list((BUS / "devices" / address).glob("virtio*/net/*")):
            return found[0].name
        time.sleep(0.1)
    raise AssertionError(f"{address} has no link")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `atomd.devices` takes for the time."""
    now_s = [0.0]
    monkeypatch.setattr(module, "now_s", lambda: now_s[0])
    return now_s


class Atomd:
    """As much of it as sees to devices."""

    def __init__(self, folder: Path, functions: Mapping[str, int] = MappingProxyType({})) -> None:
        self.held: set[str] = set()
        self.face = Face("h1", 7766, HOST, False)
        self.audit = Audit(folder / "audit", "h1")
        self.devices = Devices(
            folder / "devices.json",
            self.face,
            held=lambda: frozenset(self.held),
            boot_id="1",
            audit=self.audit,
            functions=Functions(functions),
            mediated=Mediated({}),
        )

    def offers(self, address: str) -> bool:
        return address in {device.address for device in self.face.hardware.pci}

    def offered(self, kind: tuple[str, str]) -> list[str]:
        return sorted(each.address for each in self.face.hardware.pci if (each.vendor, each.model) == kind)


def test_a_link_is_its_hosts_while_it_is_up_and_takes_its_group_along() -> None:
    device = alone()
    link = link_of(device.address)
    run("ip", "link", "set", link, "up")
    assert (at(device.address).why_not or "").startswith(f"carries the host's network link {link}, ")
    run("ip", "link", "set", link, "down")
    assert at(device.address).assignable


def test_one_of_two_that_share_a_group_keeps_the_other() -> None:
    groups = [device.iommu_group for device in of_kind(NET)]
    first, second = [device for device in of_kind(NET) if groups.count(device.iommu_group) == 2]
    link = link_of(second.address)
    run("ip", "link", "set", link, "up")
    assert (at(first.address).why_not or "").startswith(f"shares IOMMU group {first.iommu_group} with {second.address}")
    run("ip", "link", "set", link, "down")
    assert at(first.address).assignable
    assert at(second.address).assignable


def test_a_link_under_a_vlan_or_in_a_bridge_is_its_hosts_though_it_is_down() -> None:
    device = alone()
    link = link_of(device.address)
    run("ip", "link", "add", "over0", "link", link, "type", "macvlan")
    assert at(device.address).why_not == f"carries the host's network link {link}, which over0 lies on"
    run("ip", "link", "del", "over0")
    assert at(device.address).assignable


def test_a_disk_is_its_hosts_while_something_on_it_is_mounted(tmp_path: Path) -> None:
    (disk,) = of_kind(NVME)
    assert disk.assignable
    run("mkfs.ext4", "-q", "-F", "/dev/nvme0n1")
    run("mount", "/dev/nvme0n1", str(tmp_path))
    assert at(disk.address).why_not == "holds the host's own disk nvme0n1"
    run("umount", str(tmp_path))
    assert at(disk.address).assignable


def test_ports_tell_of_acs() -> None:
    assert "on" in {device.acs for device in read_here() if device.device_class.startswith("0604")}


def test_a_lent_device_is_awaited_and_back_with_its_driver(tmp_path: Path, clock: list[float]) -> None:
    device = alone()
    atomd = Atomd(tmp_path)

    async def story() -> None:
        atomd.held.add(device.address)
        assert await atomd.devices.lend([device.address]) is None
        bind(device.address, "vfio-pci")
        await atomd.devices.look()
        assert atomd.offers(device.address), "as what its VM has"
        atomd.held.clear()
        await atomd.devices.look()
        assert not atomd.offers(device.address)
        bind(device.address, "")
        await atomd.devices.look()
        assert atomd.offers(device.address)
        assert at(device.address).driver == "virtio-pci"

    trio.run(story)


def test_a_device_that_stays_with_the_guests_driver_is_in_quarantine(tmp_path: Path, clock: list[float]) -> None:
    device = alone()
    atomd = Atomd(tmp_path)

    async def story() -> None:
        atomd.held.add(device.address)
        await atomd.devices.lend([device.address])
        bind(device.address, "vfio-pci")
        atomd.held.clear()
        await atomd.devices.look()
        clock[0] += RETURN_S
        await atomd.devices.look()
        (row,) = atomd.devices.quarantined
        assert row.why == "lacks its driver (virtio-pci)"
        bind(device.address, "")
        assert atomd.devices.readmit(device.address)
        await atomd.devices.look()
        assert atomd.offers(device.address)

    trio.run(story)


def test_a_device_that_leaves_the_bus_is_in_quarantine(tmp_path: Path, clock: list[float]) -> None:
    device = alone()
    atomd = Atomd(tmp_path)

    async def story() -> None:
        atomd.held.add(device.address)
        await atomd.devices.lend([device.address])
        write(BUS / "devices" / device.address / "remove", "1")
        atomd.held.clear()
        await atomd.devices.look()
        clock[0] += RETURN_S
        await atomd.devices.look()
        (row,) = atomd.devices.quarantined
        assert row.why == "is not on the bus any more"
        write(BUS / "rescan", "1")
        await atomd.devices.look()
        assert not atomd.offers(device.address)

    trio.run(story)
    link_of(device.address)


def test_virtual_functions_are_made_where_they_were_foretold_and_given_back(tmp_path: Path, clock: list[float]) -> None:
    (maker,) = of_kind(NVME)
    atomd = Atomd(tmp_path, {maker.address: FUNCTIONS})

    async def story() -> None:
        await atomd.devices.look()
        told = atomd.offered(NVME)
        assert len(told) == FUNCTIONS
        assert len(of_kind(NVME)) == 1
        atomd.held.add(told[0])
        assert await atomd.devices.lend([told[0]]) is None
        made = [device for device in of_kind(NVME) if device.address != maker.address]
        assert sorted(device.address for device in made) == told
        assert [device.driver for device in made] == [None] * FUNCTIONS, "the host has taken none of them up"
        bind(told[0], "vfio-pci")
        assert at(told[0]).driver == "vfio-pci"
        assert at(told[0]).assignable
        atomd.held.clear()
        await atomd.devices.look()
        await atomd.devices.look()
        clock[0] += IDLE_S
        await atomd.devices.look()
        assert [device.address for device in of_kind(NVME)] == [maker.address]
        assert atomd.offered(NVME) == told

    trio.run(story)
