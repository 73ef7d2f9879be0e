"""Whatever a machine's files hold, the inventory is sound and never fails."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomd.inventory import cpu, cpuinfo, cpuset, read_inventory, sriov, to_json
from atomd.inventory.addresses import ADDRESS
from atomd.inventory.document import to_table
from atomd.inventory.ecc import read_ecc
from atomd.inventory.facts import Inventory, PciDevice
from atomd.inventory.tree import Tree

CPUS = 4
SIBLINGS = ["0,2", "1", "0,2", "3"]
PCI = "sys/devices/pci0000:00/0000:00:01.0"


SRIOV = {"totalvfs": "8", "numvfs": "0", "offset": "1", "stride": "1", "vf_device": "154c"}
TOKEN = {"idVendor": "1050", "idProduct": "0407", "busnum": "1", "devnum": "3", "product": "Token", "authorized": "1"}
CARD = PciDevice("0000:00:01.0", "8086", "1572", "020000", 0, 3, "i40e", True, None)


def sound_machine() -> dict[str, str]:
    """Path → text, or "-> target": two nodes, four threads, a disk, a link and a group."""
    files = {
        f"{cpu.CPU_DIR}/online": "0-3\n",
        "proc/meminfo": "MemTotal: 1048576 kB\n",
        "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
        "proc/cpuinfo": "".join(f"processor : {n}\nmodel name : CPU\nflags : lm sse2\n\n" for n in range(CPUS)),
        "sys/devices/system/edac/mc/mc0/dimm0/dimm_edac_mode": "SECDED\n",
        "run/udev/data/+dmi:id": "E:MEMORY_ARRAY_EC_TYPE=None\n",
        "sys/devices/cpu_core/cpus": "0,2\n",
        "sys/devices/cpu_atom/cpus": "1,3\n",
        "sys/bus/pci/devices/0000:00:01.0": f"-> ../../../../{PCI}",
        f"{PCI}/vendor": "0x8086\n",
        f"{PCI}/config": "configuration space",
        f"{PCI}/iommu_group": "-> ../../../kernel/iommu_groups/3",
        f"{PCI}/block/sda/sda1/dev": "8:1\n",
        "sys/class/block/sda1": f"-> ../../../{PCI}/block/sda/sda1",
        f"{PCI}/net/eth0/operstate": "up\n",
        f"{PCI}/net/eth0/upper_vlan7": "-> ../../../../virtual/net/vlan7",
        f"{PCI}/boot_vga": "0\n",
        f"{PCI}/graphics/fb0/name": "fb\n",
        "sys/class/graphics/fb0": f"-> ../../../{PCI}/graphics/fb0",
        "sys/class/vtconsole/vtcon1/name": "(M) frame buffer device\n",
        "sys/class/vtconsole/vtcon1/bind": "1\n",
        f"{PCI}/drm/card0-DP-1/enabled": "enabled\n",
        "sys/class/drm/card0-DP-1": f"-> ../../../{PCI}/drm/card0-DP-1",
        f"{PCI}/tty/ttyS4/dev": "4:68\n",
        "sys/class/tty/ttyS4": f"-> ../../../{PCI}/tty/ttyS4",
        "sys/class/tty/console/active": "tty0 ttyS4\n",
        f"{PCI}/input/input3/capabilities/key": "1 fffffffe\n",
        "sys/class/input/input3": f"-> ../../../{PCI}/input/input3",
        f"{PCI}/usb1/1-1/1-1:1.0/bInterfaceClass": "03\n",
        "sys/bus/usb/devices/1-1:1.0": f"-> ../../../../{PCI}/usb1/1-1/1-1:1.0",
        "sys/bus/usb/devices/1-1": f"-> ../../../../{PCI}/usb1/1-1",
        **{f"{PCI}/usb1/1-1/{name}": f"{text}\n" for name, text in TOKEN.items()},
        "proc/interrupts": "  8:  0  IR-IO-APIC  8-edge  rtc0\n",
        "proc/cmdline": "quiet vfio_iommu_type1.allow_unsafe_interrupts=0\n",
        "etc/modprobe.d/vfio.conf": "options vfio_iommu_type1 allow_unsafe_interrupts=0\n",
        "sys/module/vfio/parameters/enable_unsafe_noiommu_mode": "N\n",
        "sys/fs/bcache/4f3c/cache0": f"-> ../../../../{PCI}/block/sda/sda1/bcache",
        "proc/spl/kstat/zfs/tank/state": "ONLINE\n",
        **{f"{PCI}/sriov_{name}": f"{value}\n" for name, value in SRIOV.items()},
        f"{PCI}/virtfn0": "-> ../0000:00:02.0",
        "sys/class/net/eth0": f"-> ../../../{PCI}/net/eth0",
    }
    for number, siblings in enumerate(SIBLINGS):
        files[f"{cpu.CPU_DIR}/cpu{number}/topology/core_cpus_list"] = siblings
        files[f"{cpu.CPU_DIR}/cpu{number}/topology/physical_package_id"] = str(number % 2)
        files[f"{cpu.CPU_DIR}/cpu{number}/cpu_capacity"] = "1024"
    for node in range(2):
        files[f"sys/devices/system/node/node{node}/cpulist"] = f"{node * 2}-{node * 2 + 1}"
        files[f"sys/devices/system/node/node{node}/meminfo"] = f"Node {node} MemTotal: 524288 kB\n"
    return files


SOUND = sound_machine()
NUMBERS = st.integers(min_value=-2, max_value=10**25).map(str)
GARBAGE = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"\0", b"0-", b"0-7", b"7-0", b"-1", b"ffffffff", b"f,f", b"0-4294967295", b"\xff\xfe", b"0\0-7"]
    ),
    st.lists(NUMBERS, max_size=4).map(lambda numbers: ",".join(numbers).encode()),
)
HARM = st.one_of(GARBAGE, st.sampled_from(["gone", "folder", "pipe", "circle", "outside", "cut"]))


def write(root: Path, harm: dict[str, bytes | str], files: dict[str, str] = SOUND) -> None:
    for path, text in files.items():
        place = root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _write_one(place, text, harm.get(path))
        except OSError:  # what was harmed before is on the way: the file is gone as well
            continue


def _write_one(place: Path, text: str, harm: bytes | str | None) -> None:
    if harm == "gone":
        return
    if harm == "folder":
        place.mkdir()
    elif harm == "pipe":
        os.mkfifo(place)
    elif harm in ("circle", "outside"):
        place.symlink_to(place.name if harm == "circle" else "/etc/passwd")
    elif isinstance(harm, bytes):
        place.write_bytes(harm)
    elif text.startswith("-> "):
        place.symlink_to(text[3:])
    else:
        place.write_text(text[: len(text) // 2] if harm == "cut" else text)


def check_sound(inventory: Inventory) -> None:
    threads = [thread for core in inventory.cpu.cores for thread in core.threads]
    assert len(threads) == len(set(threads)), "a thread is in one core"
    assert all(core.threads == tuple(sorted(core.threads)) and core.threads for core in inventory.cpu.cores)
    assert all(0 <= thread < cpuset.CPUS_MAX for thread in threads)
    assert inventory.memory.numa
    assert all(device.assignable == (device.why_not is None) for device in (*inventory.pci, *inventory.usb))
    json.dumps(to_json(inventory)).encode()
    to_table(inventory).encode()


def check_foretold(tree: Tree) -> None:
    could = sriov.foretold(tree, CARD, sriov.functions_max(tree, CARD.address))
    addresses = [device.address for device in could]
    assert len(set(addresses)) == len(addresses) <= sriov.FUNCTIONS_MAX
    assert all(ADDRESS.fullmatch(address) and address != CARD.address for address in addresses)
    assert all(isinstance(name, str) for name in sriov.functions_of(tree, CARD.address))


@settings(max_examples=20, deadline=None)  # files are as slow as the machine is busy
@given(st.dictionaries(st.sampled_from(sorted(SOUND)), HARM, max_size=12))
def test_a_harmed_tree_is_read_soundly_and_never_fails(harm: dict[str, bytes | str]) -> None:
    with TemporaryDirectory() as folder:
        write(Path(folder), harm)
        check_sound(read_inventory(Path(folder)))
        check_foretold(Tree(Path(folder)))


EDAC = "sys/devices/system/edac/mc"
# Two controllers, by modules and by rows; the last module of each corrects nothing.
PARTLY_ECC = {
    f"{EDAC}/mc{controller}/{part}{number}/{file}": text
    for controller, part, mode, size in ((0, "dimm", "dimm_edac_mode", "size"), (1, "csrow", "edac_mode", "size_mb"))
    for number, corrects in enumerate(("SECDED\n", "None\n"))
    for file, text in ((mode, corrects), (size, "8192\n"))
}
ABSENT = st.sampled_from(["gone", "folder", "pipe", "circle", "outside", "cut", b"", b"\0", b"\xff\xfe"])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(PARTLY_ECC)), ABSENT))
def test_no_loss_of_files_makes_a_memory_that_corrects(harm: dict[str, bytes | str]) -> None:
    with TemporaryDirectory() as folder:
        write(Path(folder), harm, PARTLY_ECC)
        assert read_ecc(Tree(Path(folder)))[0] is not True


class Written(Tree):
    """A tree of texts, without a disk below it."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__(Path("/nowhere"))
        self._texts = texts

    def text(self, path: str, bytes_max: int = 0) -> str | None:
        return self._texts.get(path)


THREADS = st.integers(0, 11)


@given(st.dictionaries(THREADS, st.sets(THREADS)), st.sets(THREADS, min_size=1))
def test_cores_partition_the_online_threads_whatever_siblings_claim(
    claims: dict[int, set[int]], online: set[int]
) -> None:
    texts = {
        f"{cpu.CPU_DIR}/cpu{number}/topology/core_cpus_list": ",".join(map(str, sorted(siblings)))
        for number, siblings in claims.items()
    }
    cores = cpu.core_groups(Written(texts), cpuinfo.CpuInfo(), sorted(online))
    assert sorted(thread for core in cores for thread in core) == sorted(online)
    for core in cores:
        assert len(core) == 1 or set(core) <= claims[core[0]], "threads of one core are listed by its lowest"


@given(st.sets(st.integers(0, cpuset.CPUS_MAX - 1), max_size=60))
def test_lists_and_masks_come_back_as_they_were_printed(cpus: set[int]) -> None:
    assert cpuset.parse_list(cpuset.format_list(tuple(sorted(cpus)))) == frozenset(cpus)
    words = [0] * (max(cpus, default=0) // 32 + 1)
    for number in cpus:
        words[number // 32] |= 1 << number % 32
    assert cpuset.parse_mask(",".join(f"{word:08x}" for word in reversed(words))) == frozenset(cpus)


@given(st.text(alphabet="0123456789abcdef,-x \n\u0663", max_size=60))
def test_no_text_breaks_the_reading_of_sets(text: str) -> None:
    for parsed in (cpuset.parse_list(text), cpuset.parse_mask(text)):
        assert parsed is None or all(0 <= number < cpuset.CPUS_MAX for number in parsed)


@pytest.mark.parametrize("text", ["3-0", "0-", "-", "1,,2", "0-16384", "1 2"])
def test_half_a_list_is_no_list(text: str) -> None:
    assert cpuset.parse_list(text) is None


@pytest.mark.parametrize("text", ["", "f,f", "0x1", ",ffffffff", "f" * (cpuset.CPUS_MAX // 4 + 1)])
def test_half_a_mask_is_no_mask(text: str) -> None:
    assert cpuset.parse_mask(text) is None


LINES = st.tuples(
    st.sampled_from(
        ["processor", "processor 0", "cpu", "isa", "flags", "Features", "CPU part", "CPU implementer",
         "CPU architecture", "vendor_id", "CPU3", "physical id", "core id", "revision", "type", "model name", ""]
    ),
    st.sampled_from([":", " : ", "", "::"]),
    st.text(max_size=20) | st.sampled_from(["0", "rv64", "rv", "0xd0c", "IBM/S390", "online", "٣", "9" * 5000]),
).map("".join)  # fmt: skip


@given(st.lists(LINES, max_size=12).map("\n".join))
def test_no_cpuinfo_breaks_the_reader(text: str) -> None:
    info = cpuinfo.parse(text)
    assert cpuinfo.model(info).isprintable()
    assert cpuinfo.arch(info, little_endian=None)
    assert all(flag == flag.lower() for flag in cpuinfo.flags(info))
    assert all(0 <= number < cpuset.CPUS_MAX for number in info.processors)
