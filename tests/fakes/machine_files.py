"""The files by which a machine tells of its devices, written one by one under a root."""

from pathlib import Path

from atomd.inventory.facts import PciDevice, UsbDevice
from atomd.inventory.pci import read_pci
from atomd.inventory.tree import Tree
from atomd.inventory.usb import NO_RULES, UsbRules, read_usb

DISK, NIC, GPU, PORT, USB = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:00:1c.0", "0000:00:14.0"


class MachineFiles:
    """Writes the part of /sys that tells of PCI and USB."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file("proc/self/mountinfo", "22 1 0:5 / / rw - tmpfs none rw\n")

    def file(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def link(self, path: str, target: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).symlink_to(target)

    def device(self, address: str, kind: str, group: int | None, driver: str | None = None) -> str:
        folder = f"sys/devices/pci0000:00/{address}"
        self.link(f"sys/bus/pci/devices/{address}", f"../../../devices/pci0000:00/{address}")
        for name, text in {"vendor": "0x10de", "device": "0x24B0", "class": f"0x{kind}", "numa_node": "-1"}.items():
            self.file(f"{folder}/{name}", text + "\n")
        if group is not None:
            self.link(f"{folder}/iommu_group", f"../../../kernel/iommu_groups/{group}")
        if driver:
            self.link(f"{folder}/driver", f"../../../bus/pci/drivers/{driver}")
        return folder

    def disk(self, folder: str, name: str, *partitions: str) -> None:
        for part in ("", *partitions):
            path = f"{folder}/ata1/host0/block/{name}{f'/{part}' if part else ''}"
            self.file(f"{path}/dev", "8:0\n")
            self.link(f"sys/class/block/{part or name}", "/" + path)

    def interface(self, folder: str, name: str, **files: str) -> None:
        for file, text in files.items():
            self.file(f"{folder}/net/{name}/{file}", text + "\n")
        self.link(f"{folder}/net/{name}/device", "../..")
        self.link(f"sys/class/net/{name}", f"../../{folder.removeprefix('sys/')}/net/{name}")

    def read(self) -> dict[str, PciDevice]:
        return {device.address: device for device in read_pci(Tree(self.root))}

    def usb(self, port: str, kind: str, *interfaces: tuple[str, str | None], number: int = 5, **files: str) -> str:
        """`kind` is vendor:model; an interface is its class, subclass and protocol as six digits, and its driver."""
        bus = port.split("-")[0]
        folder = f"sys/devices/pci0000:00/{USB}/usb{bus}/{port}"
        self.link(f"sys/bus/usb/devices/{port}", f"../../../devices/pci0000:00/{USB}/usb{bus}/{port}")
        vendor, model = kind.split(":")
        said = {"idVendor": vendor, "idProduct": model, "busnum": bus, "devnum": str(number)}
        said |= {"bDeviceClass": "00", "bDeviceSubClass": "00", "bDeviceProtocol": "00"} | files
        for name, text in said.items():
            self.file(f"{folder}/{name}", text + "\n")
        for index, (function, driver) in enumerate(interfaces):
            name = f"{port}:1.{index}"
            self.link(f"sys/bus/usb/devices/{name}", f"../../../{folder.removeprefix('sys/')}/{name}")
            for part, digits in zip(
                ("Class", "SubClass", "Protocol"), (function[:2], function[2:4], function[4:]), strict=True
            ):
                self.file(f"{folder}/{name}/bInterface{part}", digits + "\n")
            if driver:
                self.link(f"{folder}/{name}/driver", f"../../../bus/usb/drivers/{driver}")
        return folder

    def input(self, folder: str, number: int, keys: str) -> None:
        """What is typed or pointed with, by the kernel's bitmap of its keys."""
        self.file(f"{folder}/input/input{number}/capabilities/key", keys + "\n")
        self.link(f"sys/class/input/input{number}", f"/{folder}/input/input{number}")

    def read_usb(self, rules: UsbRules = NO_RULES) -> dict[str, UsbDevice]:
        return {device.address: device for device in read_usb(Tree(self.root), rules)}
