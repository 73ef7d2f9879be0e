"""PCI devices as the machine names them, and which of them a VM may have."""

from pathlib import Path

import pytest

from atomd.inventory.facts import SILENT, MdevType, PciDevice
from atomd.inventory.in_use import devices_in_use
from atomd.inventory.iommu import NO_IOMMU
from atomd.inventory.mdev import HAS_SOME
from atomd.inventory.tree import Tree
from tests.fakes.machine_files import DISK, GPU, NIC, PORT, USB, MachineFiles

MOUNTED = {"proc/self/mountinfo": "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"}


@pytest.fixture
def machine(tmp_path: Path) -> MachineFiles:
    return MachineFiles(tmp_path)


def test_a_device_is_told_by_its_files(machine: MachineFiles) -> None:
    folder = machine.device(GPU, "030000", 7, "nouveau")
    machine.file(f"{folder}/numa_node", "1")
    assert machine.read()[GPU] == PciDevice(GPU, "10de", "24b0", "030000", 1, 7, "nouveau", True, None)


def test_a_card_with_mediated_devices_is_not_given_away_under_them(machine: MachineFiles) -> None:
    folder = machine.device(GPU, "030200", 7, "nvidia")
    of_type = f"{folder}/mdev_supported_types/nvidia-63"
    said = {"name": "GRID P40-2Q", "device_api": "vfio-pci", "available_instances": "12"}
    for name, text in said.items():
        machine.file(f"{of_type}/{name}", f"{text}\n")
    assert machine.read()[GPU].assignable
    machine.file(f"{of_type}/devices/f00dfeed-1111-2222-3333-444455556666", "")
    card = machine.read()[GPU]
    assert card.mdev_types == (MdevType("nvidia-63", "GRID P40-2Q", "vfio-pci", available=12, made=1),)
    assert card.why_not == HAS_SOME


def test_ids_come_from_the_configuration_space_where_files_lack(machine: MachineFiles) -> None:
    config = bytes.fromhex("868062150000000001000002") + bytes(52)
    (machine.root / f"sys/bus/pci/devices/{NIC}").mkdir(parents=True)
    (machine.root / f"sys/bus/pci/devices/{NIC}/config").write_bytes(config)
    nic = machine.read()[NIC]
    assert (nic.vendor, nic.model, nic.device_class) == ("8086", "1562", "020000")


@pytest.mark.parametrize(("silent", "why_not"), [(64, SILENT), (4, None)])
def test_a_dead_device_is_not_assignable_but_a_virtual_function_only_hides_its_ids(
    machine: MachineFiles, silent: int, why_not: str | None
) -> None:
    config = bytes([0xFF] * silent + [0] * (64 - silent))
    (machine.root / machine.device(NIC, "020000", 3) / "config").write_bytes(config)
    assert machine.read()[NIC].why_not == why_not


def test_devices_are_found_without_the_bus_and_in_wide_domains(machine: MachineFiles) -> None:
    machine.file(f"sys/devices/pci0000:00/{PORT}/10000:e1:00.0/vendor", "0x8086")
    machine.file(f"sys/devices/pci0000:00/{PORT}/vendor", "0x8086")
    assert list(machine.read()) == [PORT, "10000:e1:00.0"]


def test_without_an_iommu_nothing_is_assignable_and_the_reason_is_said(machine: MachineFiles) -> None:
    machine.device(GPU, "030000", None)
    assert machine.read()[GPU].why_not == NO_IOMMU


def test_a_device_without_a_group_is_not_assignable_beside_others_that_have_one(machine: MachineFiles) -> None:
    machine.device(GPU, "030000", None)
    machine.device(NIC, "020000", 3)
    assert machine.read()[GPU].why_not == "is in no IOMMU group"
    assert machine.read()[NIC].assignable


def test_groups_are_found_where_the_device_lacks_the_link(machine: MachineFiles) -> None:
    machine.device(GPU, "030000", None)
    machine.link(f"sys/kernel/iommu_groups/12/devices/{GPU}", f"../../../../devices/pci0000:00/{GPU}")
    assert (machine.read()[GPU].iommu_group, machine.read()[GPU].assignable) == (12, True)


@pytest.mark.parametrize(
    "kind", ["060000", "060100", "060400", "050000", "080000", "080600", "0c0500", "0c0701", "110100"]
)
def test_the_hosts_own_parts_are_not_assignable(machine: MachineFiles, kind: str) -> None:
    machine.device(GPU, kind, 1)
    assert not machine.read()[GPU].assignable


def test_the_controller_of_a_mounted_disk_is_not_assignable(machine: MachineFiles) -> None:
    machine.disk(machine.device(DISK, "010601", 4, "ahci"), "sda", "sda1")
    assert machine.read()[DISK].assignable
    machine.file("proc/self/mountinfo", MOUNTED["proc/self/mountinfo"])
    assert machine.read()[DISK].why_not == "holds the host's own disk sda1"


@pytest.mark.parametrize("path", ["proc/self/mounts", "proc/mounts"])
def test_an_older_list_of_mounts_tells_as_well(machine: MachineFiles, path: str) -> None:
    (machine.root / "proc/self/mountinfo").unlink()
    machine.disk(machine.device(DISK, "010601", 4, "ahci"), "sda", "sda1")
    machine.file(path, "/dev/sda1 / ext4 rw 0 0\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk sda1"


def test_a_disk_under_lvm_on_raid_is_followed_down(machine: MachineFiles) -> None:
    machine.disk(machine.device(DISK, "010601", 4, "ahci"), "sda", "sda2")
    machine.link("sys/class/block/dm-0", "../../devices/virtual/block/dm-0")
    machine.file("sys/devices/virtual/block/dm-0/dm/name", "vg-root\n")
    machine.link("sys/devices/virtual/block/dm-0/slaves/md0", "../../md0")
    machine.link("sys/class/block/md0", "../../devices/virtual/block/md0")
    machine.link("sys/devices/virtual/block/md0/slaves/sda2", "../../nowhere")
    machine.file("proc/self/mountinfo", "22 1 254:0 / / rw - ext4 /dev/mapper/vg-root rw\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk sda2"


def test_a_disk_that_another_layer_holds_is_in_use_though_nothing_is_mounted(machine: MachineFiles) -> None:
    folder = machine.device(DISK, "010601", 4, "ahci")
    machine.disk(folder, "sda", "sda1")
    machine.file(f"{folder}/ata1/host0/block/sda/sda1/holders/md0", "")
    assert machine.read()[DISK].why_not == "holds the host's own disk sda1"


def test_every_disk_of_a_btrfs_is_in_use(machine: MachineFiles) -> None:
    machine.disk(machine.device(DISK, "010601", 4, "ahci"), "sdb")
    machine.file("sys/fs/btrfs/0f3c/devices/sdb", "")
    machine.file("proc/self/mountinfo", "22 1 0:30 / / rw - btrfs none rw\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk sdb"


def test_a_part_of_a_bond_is_in_use(machine: MachineFiles) -> None:
    folder = machine.device(NIC, "020000", 5, "ixgbe")
    machine.interface(folder, "eth0", operstate="down", flags="0x1002")
    machine.link(f"{folder}/net/eth0/master", "../../../virtual/net/bond0")
    assert machine.read()[NIC].why_not == "carries the host's network link eth0, a part of bond0"


@pytest.mark.parametrize("upper", ["vlan10", "macvtap0", "ovs-system"])
def test_a_link_that_another_lies_on_is_in_use_though_it_is_down(machine: MachineFiles, upper: str) -> None:
    folder = machine.device(NIC, "020000", 5, "ixgbe")
    machine.interface(folder, "eth0", operstate="down", flags="0x1002")
    machine.link(f"{folder}/net/eth0/upper_{upper}", f"../../../virtual/net/{upper}")
    assert machine.read()[NIC].why_not == f"carries the host's network link eth0, which {upper} lies on"


def test_the_disk_of_a_cache_is_in_use(machine: MachineFiles) -> None:
    folder = machine.device(DISK, "010802", 4, "nvme")
    machine.disk(folder, "nvme0n1", "nvme0n1p1")
    machine.link("sys/fs/bcache/4f3c/cache0", f"/{folder}/ata1/host0/block/nvme0n1/nvme0n1p1/bcache")
    assert machine.read()[DISK].why_not == "holds the host's own disk nvme0n1p1"


def test_a_zfs_pool_without_a_mounted_file_system_keeps_all_storage(machine: MachineFiles) -> None:
    machine.device(DISK, "010601", 4, "ahci")
    machine.file("proc/spl/kstat/zfs/arcstats", "")
    assert machine.read()[DISK].assignable
    machine.file("proc/spl/kstat/zfs/tank/state", "ONLINE\n")
    assert machine.read()[DISK].why_not == "may hold the host's ZFS pool tank"


def test_a_mounted_usb_disk_keeps_its_controller(machine: MachineFiles) -> None:
    machine.disk(machine.device(USB, "0c0330", 4, "xhci_hcd") + "/usb2/2-1/2-1:1.0", "sdb", "sdb1")
    assert machine.read()[USB].assignable
    machine.file("proc/self/mountinfo", "22 1 8:17 / /mnt rw - vfat /dev/sdb1 rw\n")
    assert machine.read()[USB].why_not == "holds the host's own disk sdb1"


def test_a_mounted_virtio_disk_keeps_its_device(machine: MachineFiles) -> None:
    machine.disk(machine.device(DISK, "010000", 4, "virtio-pci") + "/virtio1", "vda", "vda1")
    machine.file("proc/self/mountinfo", "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk vda1"


def test_every_path_of_a_multipath_disk_is_in_use(machine: MachineFiles) -> None:
    for address, name in ((DISK, "sda"), (NIC, "sdb")):
        machine.disk(machine.device(address, "0c0400", None, "qla2xxx"), name)
        machine.link(f"sys/devices/virtual/block/dm-0/slaves/{name}", "../../nowhere")
    machine.link("sys/class/block/dm-0", "../../devices/virtual/block/dm-0")
    machine.file("sys/devices/virtual/block/dm-0/dm/name", "mpatha\n")
    machine.file("proc/self/mountinfo", "22 1 254:0 / /srv rw - xfs /dev/mapper/mpatha rw\n")
    used, _ = devices_in_use(Tree(machine.root))
    assert used == {DISK: "holds the host's own disk sda", NIC: "holds the host's own disk sdb"}


def test_layers_that_go_in_circles_end(machine: MachineFiles) -> None:
    machine.device(DISK, "010601", 4, "ahci")
    for one, other in (("dm-0", "dm-1"), ("dm-1", "dm-0")):
        for below in (one, other):
            machine.link(f"sys/class/block/{one}/slaves/{below}", "nowhere")
    machine.file("proc/self/mountinfo", "22 1 0:1 / / rw - ext4 /dev/dm-0 rw\n")
    assert machine.read()[DISK].assignable


def test_swap_keeps_its_disk(machine: MachineFiles) -> None:
    machine.disk(machine.device(DISK, "010802", 4, "nvme"), "nvme0n1", "nvme0n1p2")
    machine.file("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 1 0 -2\n")
    assert machine.read()[DISK].why_not == "holds the host's own disk nvme0n1p2"


def test_a_multipath_nvme_disk_is_behind_its_controllers(machine: MachineFiles) -> None:
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
def test_where_the_hosts_disks_cannot_be_told_all_storage_counts(machine: MachineFiles, mounts: str) -> None:
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
def test_a_link_in_use_is_not_assignable(machine: MachineFiles, files: dict[str, str], free: bool) -> None:
    machine.interface(machine.device(NIC, "020000", 5, "ixgbe"), "eth0", **files)
    nic = machine.read()[NIC]
    assert nic.assignable is free
    assert free or "network link eth0" in (nic.why_not or "")


def test_a_driven_link_that_cannot_be_seen_may_be_in_another_namespace(machine: MachineFiles) -> None:
    machine.device(NIC, "020000", 5, "ixgbe")
    assert "another namespace" in (machine.read()[NIC].why_not or "")


def test_a_link_held_for_a_guest_is_assignable(machine: MachineFiles) -> None:
    machine.device(NIC, "020000", 5, "vfio-pci")
    assert machine.read()[NIC].assignable


def test_the_boot_console_is_not_assignable(machine: MachineFiles) -> None:
    machine.file(f"{machine.device(GPU, '030000', 5)}/boot_vga", "1\n")
    assert machine.read()[GPU].why_not == "is the console that the host started on"


def test_a_function_whose_virtual_functions_are_in_use_stays(machine: MachineFiles) -> None:
    machine.link(f"{machine.device(NIC, '020000', 5)}/virtfn0", "../0000:02:10.0")
    assert "virtual functions" in (machine.read()[NIC].why_not or "")


@pytest.mark.parametrize("driver", ["ccp", "mei_me"])
def test_what_guards_the_host_stays_with_it(machine: MachineFiles, driver: str) -> None:
    machine.device(GPU, "108000", 5, driver)
    assert not machine.read()[GPU].assignable


def test_a_gpus_sound_is_assignable_beside_it(machine: MachineFiles) -> None:
    machine.device(GPU, "030000", 5, "nouveau")
    machine.device("0000:03:00.1", "040300", 5, "snd_hda_intel")
    assert all(device.assignable for device in machine.read().values())


def test_one_device_that_the_host_needs_keeps_its_group(machine: MachineFiles) -> None:
    machine.interface(machine.device(NIC, "020000", 5, "ixgbe"), "eth0", operstate="up")
    machine.device(GPU, "030000", 5)
    assert machine.read()[GPU].why_not == (
        f"shares IOMMU group 5 with {NIC}, which carries the host's network link eth0, which is up"
    )


def test_a_pci_bridge_does_not_keep_what_is_behind_it(machine: MachineFiles) -> None:
    machine.device(PORT, "060400", 5, "pcieport")
    machine.device(GPU, "030000", 5)
    assert machine.read()[GPU].assignable
