"""This machine's own paths, with devices of another below them: umockdev stands between us and the kernel's /sys."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atomd.inventory.iommu import NO_IOMMU, NO_REMAPPING

UMOCKDEV = shutil.which("umockdev-run")
GPU, SOUND, NIC, DISK = "0000:3b:00.0", "0000:3b:00.1", "0000:5e:00.0", "0000:61:00.0"

FREE = (None, NO_REMAPPING)  # /proc is this machine's, and may tell of an IOMMU that remaps no interrupts

pytestmark = pytest.mark.skipif(UMOCKDEV is None, reason="umockdev is not installed: packaging/setup")


def device(address: str, ids: str, kind: str, *more: str) -> list[str]:
    vendor, model = ids.split(":")
    return [
        f"P: /devices/pci0000:3a/{address}",
        "E: SUBSYSTEM=pci",
        f"E: PCI_SLOT_NAME={address}",
        f"A: vendor=0x{vendor}\\n",
        f"A: device=0x{model}\\n",
        f"A: class=0x{kind}\\n",
        "A: numa_node=0\\n",
        *more,
        "",
    ]


def in_group(number: int, driver: str) -> list[str]:
    groups, drivers = "../../../kernel/iommu_groups", "../../../bus/pci/drivers"
    return [f"L: iommu_group={groups}/{number}", f"L: driver={drivers}/{driver}"]


def link(name: str, flags: str) -> list[str]:
    folder = f"/devices/pci0000:3a/{NIC}/net/{name}"
    return [f"P: {folder}", "E: SUBSYSTEM=net", "A: operstate=down\\n", f"A: flags={flags}\\n", ""]


def inventory(folder: Path, lines: list[str]) -> dict[str, Any]:
    """By address, as `atomd inventory` says them with these devices in place of this machine's."""
    (folder / "machine.umockdev").write_text("\n".join(lines))
    words = [str(UMOCKDEV), "-d", str(folder / "machine.umockdev"), "--"]
    words += [sys.executable, "-m", "atomd.inventory", "-o", "json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    return {device["address"]: device for device in said["pci"] + said["usb"]}


def test_a_card_and_its_sound_are_told_by_the_paths_of_this_machine(tmp_path: Path) -> None:
    card = device(GPU, "10de:2230", "030200", *in_group(17, "nvidia"))
    said = inventory(tmp_path, card + device(SOUND, "10de:1aef", "040300", *in_group(17, "snd_hda_intel")))
    assert list(said) == [GPU, SOUND], "and none of this machine's"
    expected = {"vendor": "10de", "model": "2230", "class": "030200", "numa": 0, "iommu_group": 17, "driver": "nvidia"}
    assert expected.items() <= said[GPU].items()
    assert said[GPU]["why_not"] in FREE
    assert said[SOUND]["why_not"] in FREE


@pytest.mark.parametrize(("flags", "free"), [("0x1002", True), ("0x1003", False)])
def test_a_link_that_is_switched_on_keeps_its_card(tmp_path: Path, flags: str, free: bool) -> None:
    said = inventory(tmp_path, device(NIC, "15b3:1017", "020000", *in_group(3, "mlx5_core")) + link("eth7", flags))
    used = "carries the host's network link eth7, which is switched on"
    assert said[NIC]["why_not"] in (FREE if free else (used,))


def test_a_machine_without_groups_gives_nothing(tmp_path: Path) -> None:
    said = inventory(tmp_path, device(DISK, "144d:a80a", "010802"))
    assert said[DISK]["why_not"] == NO_IOMMU


def test_a_stick_is_told_by_the_paths_of_this_machine_without_its_hub_and_its_interfaces(tmp_path: Path) -> None:
    bus = "/devices/pci0000:3a/0000:3a:14.0/usb3"
    hub = {"idVendor": "05e3", "idProduct": "0610", "busnum": "3", "devnum": "2", "bDeviceClass": "09"}
    stick = {"idVendor": "0951", "idProduct": "1666", "busnum": "3", "devnum": "9", "product": "DataTraveler 3.0"}
    interface = {"bInterfaceClass": "08", "bInterfaceSubClass": "06", "bInterfaceProtocol": "50"}
    lines: list[str] = []
    for path, files in ((f"{bus}/3-1", hub), (f"{bus}/3-1/3-1.2", stick), (f"{bus}/3-1/3-1.2/3-1.2:1.0", interface)):
        lines += [f"P: {path}", "E: SUBSYSTEM=usb", *(f"A: {name}={text}\\n" for name, text in files.items()), ""]
    said = inventory(tmp_path, lines)
    assert [address for address in said if "-" in address] == ["3-1.2"]
    expected = {"vendor": "0951", "model": "1666", "bus": 3, "number": 9, "controller": "0000:3a:14.0"}
    assert expected.items() <= said["3-1.2"].items()
