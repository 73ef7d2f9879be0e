"""What a person and a program see of an inventory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from atomd.inventory.command import NoMachine, show

REPOSITORY = Path(__file__).parents[2]
CPUINFO = "processor\t: 0\nmodel name\t: Some CPU\nflags\t: lm sse sse2\n\nprocessor\t: 1\nflags\t: lm sse sse2\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4194304 kB\n")
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "device").write_text("0x24b0\n")
    (device / "class").write_text("0x030000\n")
    token = tmp_path / "sys/bus/usb/devices/1-2"
    token.mkdir(parents=True)
    said = {"idVendor": "1050", "idProduct": "0407", "product": "YubiKey", "busnum": "1", "devnum": "3"}
    for name, text in said.items():
        (token / name).write_text(f"{text}\n")
    return tmp_path


def test_the_document_has_exactly_the_fields_of_its_schema(root: Path) -> None:
    assert json.loads(show(root, "json")) == {
        "schema": "atomd.inventory/1",
        "arch": "x86_64",
        "cpu": {
            "model": "Some CPU",
            "flags": ["lm", "sse", "sse2"],
            "level": None,
            "cores": [
                {"threads": [0], "socket": 0, "die": None, "numa": 0, "class": None, "max_mhz": None},
                {"threads": [1], "socket": 0, "die": None, "numa": 0, "class": None, "max_mhz": None},
            ],
            "caches": [],
            "withheld": [],
        },
        "memory": {
            "total_mib": 4096,
            "ecc": None,
            "ecc_source": None,
            "numa": [{"number": 0, "total_mib": 4096, "hugepages": [], "distances": []}],
        },
        "pci": [
            {
                "address": "0000:01:00.0",
                "vendor": "10de",
                "model": "24b0",
                "class": "030000",
                "numa": None,
                "iommu_group": None,
                "acs": None,
                "driver": None,
                "mdev_types": [],
                "assignable": False,
                "why_not": "no IOMMU (no passthrough on this host)",
            }
        ],
        "usb": [
            {
                "address": "1-2",
                "vendor": "1050",
                "model": "0407",
                "class": "000000",
                "name": "YubiKey",
                "bus": 1,
                "number": 3,
                "controller": None,
                "driver": None,
                "assignable": True,
                "why_not": None,
            }
        ],
        "unknown": [
            {"fact": "cpu.caches", "path": "sys/devices/system/cpu/cpu0/cache"},
            {"fact": "memory.ecc", "path": "sys/devices/system/edac/mc"},
            {"fact": "cpu.cores.max_mhz", "path": "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"},
        ],
    }


def test_the_table_says_the_same_to_a_person(root: Path) -> None:
    assert show(root, "table").splitlines() == [
        "Some CPU  (x86_64)",
        "2 cores, 2 threads, 1 socket, 1 NUMA node",
        "memory 4.0 GiB, ECC unknown",
        "",
        "NUMA  MEMORY   HUGE PAGES  CORES  CLASS  THREADS",
        "0     4.0 GiB  -           2      -      0-1",
        "",
        "PCI           DEVICE     CLASS   NUMA  GROUP  DRIVER  FOR VMS",
        "0000:01:00.0  10de:24b0  030000  -     -      -       no: no IOMMU (no passthrough on this host)",
        "",
        "USB  DEVICE     NAME     DRIVER  FOR VMS",
        "1-2  1050:0407  YubiKey  -       yes",
        "",
        "cpu.caches is unknown: it would be told by sys/devices/system/cpu/cpu0/cache",
        "memory.ecc is unknown: it would be told by sys/devices/system/edac/mc",
        "cpu.cores.max_mhz is unknown: it would be told by sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
    ]


def test_an_empty_machine_has_a_table_too(tmp_path: Path) -> None:
    assert "0 cores" in show(tmp_path, "table")


def test_a_root_that_is_no_folder_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoMachine, match="is not there"):
        show(tmp_path / "missing", "json")


def test_reading_an_inventory_imports_nothing_slow(root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from atomd.inventory.command import show;"
        f"show(Path({str(root)!r}), 'json');"
        "print(sorted({'trio', 'pydantic', 'rich', 'cyclopts', 'libvirt'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_this_machine_is_read_with_the_kernels_own_name_for_it() -> None:
    document = json.loads(show(Path("/"), "json"))
    assert document["arch"] == os.uname().machine
    assert document["cpu"]["cores"]
