"""PCI devices as the machine names them, and which of them a VM may have."""

from pathlib import Path

import pytest

from atomd.inventory.facts import PciDevice
from atomd.inventory.pci import NO_IOMMU, read_pci
from atomd.inventory.tree import Tree

DISK, NIC, GPU, PORT = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:00:1c.0"
MOUNTED = {"proc/self/mountinfo": "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"}


class Machine:
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


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_device_is_told_by_its_files(machine: Machine) -> None:
    folder = machine.device(GPU, "030000", 7, "nouveau")
    machine.file(f"{folder}/numa_node", "1")
    assert machine.read()[GPU] == PciDevice(GPU, "10de", "24b0", "030000", 1, 7, "nouveau", True, None)


def test_ids_come_from_the_configuration_space_where_files_lack(machine: Machine) -> None:
    config = bytes.fromhex("868062150000000001000002") + bytes(52)
    (machine.root / f"sys/bus/pci/devices/{NIC}").mkdir(parents=True)
    (machine.root / f"sys/bus/pci/devices/{NIC}/config").write_bytes(config)
    nic = machine.read()[NIC]
    assert (nic.vendor, nic.model, nic.device_class) == ("8086", "1562", "020000")


def test_devices_are_found_without_the_bus_and_in_wide_domains(machine: Machine) -> None:
    machine.file(f"sys/devices/pci0000:00/{PORT}/10000:e1:00.0/vendor", "0x8086")
    machine.file(f"sys/devices/pci0000:00/{PORT}/vendor", "0x8086")
    assert list(machine.read()) == [PORT, "10000:e1:00.0"]


def test_without_an_iommu_nothing_is_assignable_and_the_reason_is_said(machine: Machine) -> None:
    machine.device(GPU, "030000", None)
    assert machine.read()[GPU].why_not == NO_IOMMU


def test_a_device_without_a_group_is_not_assignable_beside_others_that_have_one(machine: Machine) -> None:
    machine.device(GPU, "030000", None)
    machine.device(NIC, "020000", 3)
    assert machine.read()[GPU].why_not == "is in no IOMMU group"
    assert machine.read()[NIC].assignable


def test_groups_are_found_where_the_device_lacks_the_link(machine: Machine) -> None:
    machine.device(GPU, "030000", None)
    machine.link(f"sys/kernel/iommu_groups/12/devices/{GPU}", f"../../../../devices/pci0000:00/{GPU}")
    assert (machine.read()[GPU].iommu_group, machine.read()[GPU].assignable) == (12, True)


@pytest.mark.parametrize("kind", ["060000", "060100", "060400", "050000", "080600"])
def test_the_hosts_own_parts_are_not_assignable(machine: Machine, kind: str) -> None:
    machine.device(GPU, kind, 1)
    assert not machine.read()[GPU].assignable


def test_the_controller_of_a_mounted_disk_is_not_assignable(machine: Machine) -> None:
    machine.disk(machine.device(DISK, "010601", 4, "ahci"), "sda", "sda1")
    assert machine.read()[DISK].assignable
    machine.file("proc/self/mountinfo", MOUNTED["proc/self/mountinfo"])
    assert machine.read()[DISK].why_not == "holds the host's own disk sda1"


@pytest.mark.parametrize("path", ["proc/self/mounts", "proc/mounts"])
def test_an_older_list_of_mounts_tells_as_well(machine: Machine, path: str) -> None:
    (machine.root / "proc/self/mountinfo").unlink()
    machine.disk(machine.device(DISK, "010601", 4, "ahci"), "sda", "sda1")
    machine.file(path, "/dev/sda1 / ext4 rw 0 0\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk sda1"


def test_a_disk_under_lvm_on_raid_is_followed_down(machine: Machine) -> None:
    machine.disk(machine.device(DISK, "010601", 4, "ahci"), "sda", "sda2")
    machine.link("sys/class/block/dm-0", "../../devices/virtual/block/dm-0")
    machine.file("sys/devices/virtual/block/dm-0/dm/name", "vg-root\n")
    machine.link("sys/devices/virtual/block/dm-0/slaves/md0", "../../md0")
    machine.link("sys/class/block/md0", "../../devices/virtual/block/md0")
    machine.link("sys/devices/virtual/block/md0/slaves/sda2", "../../nowhere")
    machine.file("proc/self/mountinfo", "22 1 254:0 / / rw - ext4 /dev/mapper/vg-root rw\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk sda2"


def test_a_disk_that_another_layer_holds_is_in_use_though_nothing_is_mounted(machine: Machine) -> None:
    folder = machine.device(DISK, "010601", 4, "ahci")
    machine.disk(folder, "sda", "sda1")
    machine.file(f"{folder}/ata1/host0/block/sda/sda1/holders/md0", "")
    assert machine.read()[DISK].why_not == "holds the host's own disk sda1"


def test_every_disk_of_a_btrfs_is_in_use(machine: Machine) -> None:
    machine.disk(machine.device(DISK, "010601", 4, "ahci"), "sdb")
    machine.file("sys/fs/btrfs/0f3c/devices/sdb", "")
    machine.file("proc/self/mountinfo", "22 1 0:30 / / rw - btrfs none rw\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk sdb"


def test_a_part_of_a_bond_is_in_use(machine: Machine) -> None:
    folder = machine.device(NIC, "020000", 5, "ixgbe")
    machine.interface(folder, "eth0", operstate="down", flags="0x1002")
    machine.link(f"{folder}/net/eth0/master", "../../../virtual/net/bond0")
    assert machine.read()[NIC].why_not == "carries the host's network link eth0, a part of bond0"


def test_layers_that_go_in_circles_end(machine: Machine) -> None:
    machine.device(DISK, "010601", 4, "ahci")
    for one, other in (("dm-0", "dm-1"), ("dm-1", "dm-0")):
        for below in (one, other):
            machine.link(f"sys/class/block/{one}/slaves/{below}", "nowhere")
    machine.file("proc/self/mountinfo", "22 1 0:1 / / rw - ext4 /dev/dm-0 rw\n")
    assert machine.read()[DISK].assignable


def test_swap_keeps_its_disk(machine: Machine) -> None:
    machine.disk(machine.device(DISK, "010802", 4, "nvme"), "nvme0n1", "nvme0n1p2")
    machine.file("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 1 0 -2\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk nvme0n1p2"


def test_a_multipath_nvme_disk_is_behind_its_controllers(machine: Machine) -> None:
    folder = machine.device(DISK, "010802", 4, "nvme")
    subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    machine.file(f"{subsystem}/nvme0n1/dev", "259:0")
    machine.link(f"{subsystem}/nvme0", f"/{folder}/nvme/nvme0")
    machine.link("sys/class/block/nvme0n1", f"/{subsystem}/nvme0n1")
    machine.file("proc/self/mountinfo", "22 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk nvme0n1"


@pytest.mark.parametrize(
    "mounts", ["", "22 1 0:30 / / rw - zfs rpool/root rw\n", "22 1 8:1 / / rw - ext4 /dev/root rw\n"]
)
def test_where_the_hosts_disks_cannot_be_told_all_storage_counts(machine: Machine, mounts: str) -> None:
    machine.device(DISK, "010601", 4, "ahci")
    machine.file("proc/self/mountinfo", mounts)
    assert "host's own" in (machine.read()[DISK].why_not or "")


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"operstate": "up"}, False),
        ({"operstate": "down", "carrier": "1"}, False),
        ({"operstate": "down", "flags": "0x1003"}, False),
        ({"ifindex": "2"}, False),  # nothing told
        ({"operstate": "down", "flags": "0x1002"}, True),
    ],
)
def test_a_link_in_use_is_not_assignable(machine: Machine, files: dict[str, str], free: bool) -> None:
    machine.interface(machine.device(NIC, "020000", 5, "ixgbe"), "eth0", **files)
    nic = machine.read()[NIC]
    assert nic.assignable is free
    assert free or "network link eth0" in (nic.why_not or "")


def test_a_driven_link_that_cannot_be_seen_may_be_in_another_namespace(machine: Machine) -> None:
    machine.device(NIC, "020000", 5, "ixgbe")
    assert "another namespace" in (machine.read()[NIC].why_not or "")


def test_a_link_held_for_a_guest_is_assignable(machine: Machine) -> None:
    machine.device(NIC, "020000", 5, "vfio-pci")
    assert machine.read()[NIC].assignable


def test_the_boot_console_is_not_assignable(machine: Machine) -> None:
    machine.file(f"{machine.device(GPU, '030000', 5)}/boot_vga", "1\n")
    assert machine.read()[GPU].why_not == "is the console that the host started on"


def test_a_function_whose_virtual_functions_are_in_use_stays(machine: Machine) -> None:
    machine.link(f"{machine.device(NIC, '020000', 5)}/virtfn0", "../0000:02:10.0")
    assert "virtual functions" in (machine.read()[NIC].why_not or "")


def test_one_device_that_the_host_needs_keeps_its_group(machine: Machine) -> None:
    machine.interface(machine.device(NIC, "020000", 5, "ixgbe"), "eth0", operstate="up")
    machine.device(GPU, "030000", 5)
    assert machine.read()[GPU].why_not == (
        f"shares IOMMU group 5 with {NIC}, which carries the host's network link eth0, which is up"
    )


def test_a_pci_bridge_does_not_keep_what_is_behind_it(machine: Machine) -> None:
    machine.device(PORT, "060400", 5, "pcieport")
    machine.device(GPU, "030000", 5)
    assert machine.read()[GPU].assignable
