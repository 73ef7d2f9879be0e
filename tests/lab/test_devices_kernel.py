"""Passthrough without such hardware: Debian's kernel on an emulated machine that has an IOMMU, and KVM as well.

The emulated machine sees this one's root and repository, and runs `SUITES` there; each outcome is one here.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import trio

from tests.lab import test_devices_cpu, test_devices_real, test_devices_usb, test_devices_vm
from tests.lab.emulated import ENTER, PLACES, ROOMY_MIB, ROOT, SEES_THIS_ROOT, USB_KERNEL, machine, this_root

RUN_S = 500.0
DISK_BYTES = 64 << 20
STICK_BYTES = 16 << 20
MODULES = ("virtio_pci", "virtiofs", "overlay", "virtio_net", "nvme", "vfio-pci", "vfio_iommu_type1", "ext4")
MODULES += ("crc32c_generic", "macvlan", "kvm-amd", "bridge", "tun", "xhci_pci", "usb_storage", "sd_mod")
SUITES = (test_devices_real, test_devices_vm, test_devices_usb, test_devices_cpu)

pytestmark = SEES_THIS_ROOT

SCRIPT = (
    ENTER
    + PLACES
    + """
chroot /new chown root:kvm /dev/kvm
chmod 660 /new/dev/kvm
chroot /new /bin/sh -c 'cd {root} && {here}=1 PYTHONDONTWRITEBYTECODE=1 .venv/bin/python -m pytest {words}'
echo; echo ITS-DONE
"""
)
WORDS = "-rA -q -n 0 -p no:cacheprovider -p no:hypothesispytest --color=no --tb=short"
WORDS += "".join(f" tests/lab/{suite.__name__.rpartition('.')[2]}.py" for suite in SUITES)


def _port(number: int, *devices: str) -> list[str]:
    return ["-device", f"pcie-root-port,id=port{number},chassis={number},slot={number}", *devices]


def _net(number: int, port: int, place: str) -> list[str]:
    device = f"virtio-net-pci,bus=port{port},addr={place},netdev=n{number},disable-legacy=on,iommu_platform=on,romfile="
    return ["-netdev", f"user,id=n{number},restrict=on", "-device", device]


def devices(disk: Path, stick: Path) -> list[str]:
    """A card alone behind its port, two functions of one behind another, a disk that makes functions behind a third, a
    stick in a USB port."""
    functions = "sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=5"
    return [
        *("-cpu", "qemu64,+svm,+npt"),
        *("-device", "intel-iommu,intremap=on,caching-mode=on"),
        *_port(1, *_net(1, 1, "0.0")),
        *_port(2, *_net(2, 2, "0.0,multifunction=on"), *_net(3, 2, "0.1")),
        *_port(3, "-drive", f"file={disk},format=raw,if=none,id=disk", "-device", "nvme-subsys,id=sub"),
        *("-device", f"nvme,bus=port3,serial=one,subsys=sub,{functions}", "-device", "nvme-ns,drive=disk"),
        *("-device", "qemu-xhci,id=usb", "-drive", f"file={stick},format=raw,if=none,id=stick"),
        *("-device", f"usb-storage,bus=usb.0,drive=stick,serial={test_devices_usb.SERIAL}"),
    ]


async def outcomes(folder: Path) -> Mapping[str, str]:
    disk, stick = folder / "disk", folder / "stick"
    for path, size in ((disk, DISK_BYTES), (stick, STICK_BYTES)):
        path.touch()
        os.truncate(path, size)
    script = SCRIPT.format(root=ROOT, here=test_devices_real.HERE, words=WORDS)
    async with this_root(folder) as root:
        its = {"modules": MODULES, "devices": (*root, *devices(disk, stick)), "kernel": USB_KERNEL}
        async with machine(folder, script, **its, ram_mib=ROOMY_MIB, told="intel_iommu=on") as emulated:
            await emulated.says("ITS-DONE", RUN_S)
            said = emulated.serial
    found = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) \S+::(test_\w+)", said, re.MULTILINE)
    return {name: outcome for outcome, name in found} | {"serial": said}


@pytest.fixture(scope="module")
def said() -> Mapping[str, str]:
    for flavour in ((), ("--usb",)):
        subprocess.run([ROOT / "packaging" / "guest", *flavour], check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        return trio.run(outcomes, Path(folder))


def names_of(suite: ModuleType) -> list[str]:
    return [name for name, held in vars(suite).items() if name.startswith("test_") and callable(held)]


@pytest.mark.parametrize("name", [name for suite in SUITES for name in names_of(suite)])
def test_on_a_machine_with_an_iommu(said: Mapping[str, str], name: str) -> None:
    assert said.get(name) == "PASSED", said.get("serial", said)
