"""The files by which a machine tells of its devices, written one by one under a root."""

from pathlib import Path

from atomd.inventory.facts import PciDevice
from atomd.inventory.pci import read_pci
from atomd.inventory.tree import Tree

DISK, NIC, GPU, PORT, USB = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:00:1c.0", "0000:00:14.0"


class MachineFiles:
    """Writes the part of /sys that tells of PCI."""

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
