"""A recording gives away nothing of whose machine it is, and what strangers send is read within limits."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from atomd.inventory import recording
from atomd.inventory.command import NoMachine, keep, show
from atomd.inventory.config_space import acs
from atomd.inventory.facts import Inventory
from atomd.inventory.reading import read_inventory, read_inventory_of
from atomd.inventory.recording import NoRecording, Recorded, record

PCI = "sys/devices/pci0000:00/0000:00:01.0"
MAC = "a0:36:9f:12:34:56"
SECRETS = (MAC, "a0369f123456", "enxa0369f123456", "S3RIAL", "vg-payroll", "nas.example.org", "10.20.30.40", "0BADCAFE",
           "f00dfeed-1111-2222-3333-444455556666", "/srv/payroll", "tank", "payroll.conf", "ann@builder",
           "N4711815")  # fmt: skip
SERIAL_CAPABILITY = bytes.fromhex("03000100") + b"S3RIAL\0\0"  # Device Serial Number, the last in the list
ACS_CAPABILITY = bytes.fromhex("0d00") + (0x110 << 4 | 1).to_bytes(2, "little") + bytes(2) + b"\x1d\0"
CONFIG = bytes.fromhex("86808d15") + bytes(5) + bytes.fromhex("000406") + bytes(52 + 192) + ACS_CAPABILITY + bytes(8)
STICK = {"idVendor": "0951", "idProduct": "1666", "busnum": "1", "devnum": "3", "serial": "S3RIAL", "manufacturer":
         "Kingston 0BADCAFE", "product": f"DataTraveler 3.0 {MAC} N4711815"}  # fmt: skip
FILES: dict[str, str | bytes] = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: CPU\nflags\t\t: lm\nSerial\t\t: S3RIAL\n\n"
    "processor 0: version = FF,  identification = 0BADCAFE,  machine = 2964\n",
    "proc/meminfo": "MemTotal: 1048576 kB\n",
    "proc/cmdline": f"BOOT_IMAGE=/srv/payroll/vmlinuz root=UUID={SECRETS[8]} ip=10.20.30.40 isolcpus=3 console=ttyS0",
    "proc/version": "Linux version 6.1 (ann@builder) (gcc) #1 SMP ppc64le\n",
    "proc/interrupts": f" 1: 5 IO-APIC 2-edge {MAC}\n 2: 7 IR-PCI-MSI enxa0369f123456\n",
    "proc/self/mountinfo": "22 1 253:0 / / rw - ext4 /dev/mapper/vg-payroll rw\n"
    "23 22 0:50 /srv/payroll /mnt rw - nfs4 nas.example.org:/srv/payroll rw,addr=10.20.30.40\n",
    "proc/swaps": "Filename Type Size Used Priority\n/dev/mapper/vg-payroll partition 1 0 -2\n",
    "proc/spl/kstat/zfs/tank/state": "ONLINE\n",
    "etc/modprobe.d/payroll.conf": "# ann@builder\noptions vfio_iommu_type1 allow_unsafe_interrupts=1\n",
    "run/udev/data/+dmi:id": "E:ID_SERIAL=S3RIAL\nE:MEMORY_ARRAY_EC_TYPE=Multi-bit ECC\n",
    f"{PCI}/config": CONFIG[:256] + ACS_CAPABILITY + bytes(8) + SERIAL_CAPABILITY + bytes(4096 - 284),
    f"{PCI}/vendor": "0x8086\n",
    f"{PCI}/device": "0x158d\n",
    f"{PCI}/class": "0x060400\n",
    f"{PCI}/net/enxa0369f123456/operstate": "up\n",
    f"{PCI}/net/enxa0369f123456/address": f"{MAC}\n",
    **{f"{PCI}/usb1/1-1/{name}": f"{text}\n" for name, text in STICK.items()},
    f"{PCI}/mdev_supported_types/i915-GVTg_V5_4/available_instances": "1\n",
    f"{PCI}/mdev_supported_types/i915-GVTg_V5_4/name": "GVTg_V5_4\n",
    f"{PCI}/mdev_supported_types/i915-GVTg_V5_4/device_api": "vfio-pci\n",
    f"{PCI}/mdev_supported_types/i915-GVTg_V5_4/devices/{SECRETS[8]}": "",
    "sys/devices/virtual/block/dm-0/dm/name": "vg-payroll\n",
    "sys/devices/virtual/block/dm-0/dm/uuid": f"LVM-{SECRETS[8]}\n",
    f"sys/fs/btrfs/{SECRETS[8]}/devices/sda": "",
    "sys/class/input/input0/name": "ann@builder's keyboard\n",
    "sys/class/input/input0/capabilities/key": "fffffffffffffffe\n",
}
LINKS = {
    "sys/bus/pci/devices/0000:00:01.0": "../../../devices/pci0000:00/0000:00:01.0",
    "sys/class/net/enxa0369f123456": "../../devices/pci0000:00/0000:00:01.0/net/enxa0369f123456",
    "sys/bus/usb/devices/1-1": "../../../devices/pci0000:00/0000:00:01.0/usb1/1-1",
    "sys/class/block/dm-0": "../../devices/virtual/block/dm-0",
    "sys/dev/block/253:0": "../../devices/virtual/block/dm-0",
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    root = tmp_path / "machine"
    for path, content in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)
    for path, target in LINKS.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    return root


def read(file: Path) -> Inventory:
    return read_inventory_of(Recorded(file), is_this_machine=False)


def everything(file: Path) -> str:
    with tarfile.open(file) as archive:
        entries = archive.getmembers()
        read = [archive.extractfile(entry) for entry in entries if entry.isreg()]
        said = [f"{entry.name} {entry.linkname} {entry.uname} {entry.gname} {entry.mtime}" for entry in entries]
        return "\n".join([*said, *(each.read().decode("latin-1") for each in read if each is not None)])


def test_the_machine_of_these_tests_tells_its_secrets_where_nothing_is_covered(machine: Path) -> None:
    bare = "\n".join([*(str(path) for path in machine.rglob("*")), *map(str, FILES.values())])
    assert [secret for secret in SECRETS if secret not in bare] == []


def test_nothing_in_a_recording_says_whose_machine_it_is(machine: Path, tmp_path: Path) -> None:
    record(machine, tmp_path / "machine.tar.gz")
    said = everything(tmp_path / "machine.tar.gz")
    assert [secret for secret in SECRETS if secret in said] == []


def test_a_recording_says_of_the_hardware_what_the_machine_says(machine: Path, tmp_path: Path) -> None:
    told = record(machine, tmp_path / "machine.tar.gz")
    again = read(tmp_path / "machine.tar.gz")
    assert told == read_inventory(machine)
    assert (again.cpu, again.memory, again.arch) == (told.cpu, told.memory, told.arch)
    assert told.memory.ecc is True
    assert [(device.address, device.acs, device.assignable) for device in again.pci] == [
        (device.address, device.acs, device.assignable) for device in told.pci
    ]
    assert again.pci[0].acs == "on"
    assert again.usb == (replace(told.usb[0], name="Kingston DataTraveler 3.0"),)


def test_acs_is_found_in_what_is_left_of_the_configuration(machine: Path) -> None:
    config = (machine / PCI / "config").read_bytes()
    assert acs(config) == "on"
    assert b"S3RIAL" in config


def test_a_recording_is_its_owners_alone_and_never_half_there(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "machine.tar.gz"
    assert "look: atomd inventory --root" in keep(machine, file)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NoMachine, match="is there already"):
        keep(machine, file)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "_write", full)
    with pytest.raises(NoMachine, match="No space left"):
        keep(machine, tmp_path / "other.tar.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["machine", "machine.tar.gz"]


@pytest.mark.parametrize("what", [b"", b"no archive at all", b"\x1f\x8b\x08\0half a gzip"])
def test_what_is_no_recording_is_refused_with_a_sentence(tmp_path: Path, what: bytes) -> None:
    (tmp_path / "file").write_bytes(what)
    with pytest.raises(NoMachine, match="neither a folder nor a recording"):
        show(tmp_path / "file", "table")


def archive_of(file: Path, *entries: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for entry in entries:
            entry.size = len(data) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(data))
    return file


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def test_a_recording_from_a_stranger_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BYTES_MAX", 100)
    monkeypatch.setattr(recording, "ENTRIES_MAX", 3)
    with pytest.raises(NoRecording, match="at the most"):
        Recorded(archive_of(tmp_path / "large", entry("proc/cpuinfo"), data=bytes(101)))
    with pytest.raises(NoRecording, match="at the most"):
        Recorded(archive_of(tmp_path / "many", *(entry(f"sys/{number}") for number in range(4))))


def test_nothing_in_an_archive_leads_out_of_it(tmp_path: Path) -> None:
    file = archive_of(
        tmp_path / "odd",
        entry("proc/meminfo", tarfile.SYMTYPE, "/etc/passwd"),
        entry("sys/devices/system/cpu/online", tarfile.LNKTYPE, "/etc/passwd"),
        entry("sys/devices/system/cpu/isolated", tarfile.FIFOTYPE),
        entry("proc/cpuinfo", tarfile.SYMTYPE, "../proc/cpuinfo"),
        entry("../../etc/passwd"),
    )
    found = read(file)
    assert (found.memory.total_mib, found.cpu.cores) == (0, ())


def test_an_archive_may_have_a_folder_around_it_all(tmp_path: Path) -> None:
    meminfo = b"MemTotal: 1048576 kB\n"
    found = read(archive_of(tmp_path / "around", entry("./some/machine/proc/meminfo"), data=meminfo))
    assert found.memory.total_mib == 1024
