"""What is known of threads beyond their cores: caches, dies, frequencies, and those that are for no VM."""

from pathlib import Path

import pytest

from atomd.inventory import read_inventory
from atomd.inventory.document import to_table
from atomd.inventory.facts import Cache, Inventory, Unknown, Withheld

CPU = "sys/devices/system/cpu"
CGROUP = "sys/fs/cgroup"


def machine(root: Path, files: dict[str, str]) -> Inventory:
    """Two cores of two threads, and `files`."""
    cores = {f"{CPU}/cpu{cpu}/topology/core_cpus_list": f"{cpu % 2},{cpu % 2 + 2}" for cpu in range(4)}
    for path, text in ({f"{CPU}/online": "0-3", "proc/meminfo": "MemTotal: 1048576 kB"} | cores | files).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return read_inventory(root)


def cache(cpu: int, index: int, level: str, kind: str, shared: str, size: str = "32K") -> dict[str, str]:
    folder = f"{CPU}/cpu{cpu}/cache/index{index}"
    return {f"{folder}/{name}": text for name, text in _words(level, kind, shared, size)}


def _words(level: str, kind: str, shared: str, size: str) -> list[tuple[str, str]]:
    return [("level", level), ("type", kind), ("shared_cpu_list", shared), ("size", size)]


def test_a_cache_is_told_once_with_all_who_share_it(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for cpu in range(4):
        files |= cache(cpu, 0, "1", "Data", f"{cpu % 2},{cpu % 2 + 2}")
        files |= cache(cpu, 3, "3", "Unified", "0-7", "16384K")  # 4 to 7 are offline
    assert machine(tmp_path, files).cpu.caches == (
        Cache(1, "data", 32, (0, 2)),
        Cache(1, "data", 32, (1, 3)),
        Cache(3, "unified", 16384, (0, 1, 2, 3)),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        cache(0, 0, "x", "Data", "0"),
        cache(0, 0, "0", "Data", "0"),
        cache(0, 0, "99", "Data", "0"),
        cache(0, 0, "1", "Other", "0"),
        cache(0, 0, "1", "Data", "1-3"),  # it is not its own
        cache(0, 0, "1", "Data", "\0"),
    ],
)
def test_a_cache_that_makes_no_sense_is_left_out(tmp_path: Path, wrong: dict[str, str]) -> None:
    assert machine(tmp_path, wrong).cpu.caches == ()


def test_a_cache_of_unknown_size_is_a_cache(tmp_path: Path) -> None:
    assert machine(tmp_path, cache(0, 2, "2", "Unified", "0,2", "many")).cpu.caches == (
        Cache(2, "unified", None, (0, 2)),
    )


def test_dies_and_frequencies_are_those_of_each_core(tmp_path: Path) -> None:
    files = {
        f"{CPU}/cpu0/topology/die_id": "1\n",
        f"{CPU}/cpu1/topology/die_id": "-1\n",
        f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "3900000\n",
        f"{CPU}/cpu1/cpufreq/cpuinfo_max_freq": "0\n",
    }
    found = machine(tmp_path, files)
    assert [(core.die, core.max_mhz) for core in found.cpu.cores] == [(1, 3900), (None, None)]
    assert Unknown("cpu.cores.max_mhz", f"{CPU}/cpu1/cpufreq/cpuinfo_max_freq") in found.unknown


def test_isolated_threads_are_for_no_vm(tmp_path: Path) -> None:
    found = machine(tmp_path, {f"{CPU}/isolated": "1,3,9\n"})
    assert found.cpu.withheld == (Withheld((1, 3), f"isolated at boot ({CPU}/isolated)"),)
    assert "threads 1,3 are for no VM: they are isolated at boot" in to_table(found)


def test_threads_that_cgroups_keep_from_vms_are_for_none(tmp_path: Path) -> None:
    files = {f"{CGROUP}/machine.slice/cpuset.cpus.effective": "0,2\n", f"{CGROUP}/cpuset.cpus.effective": "0-3\n"}
    (withheld,) = machine(tmp_path, files).cpu.withheld
    assert withheld.threads == (1, 3)
    assert "machine.slice" in withheld.why


def test_the_root_counts_where_there_is_no_slice_for_machines(tmp_path: Path) -> None:
    (withheld,) = machine(tmp_path, {f"{CGROUP}/cpuset.cpus.effective": "2-3\n"}).cpu.withheld
    assert withheld.threads == (0, 1)


def test_the_older_cgroups_are_asked_too(tmp_path: Path) -> None:
    (withheld,) = machine(tmp_path, {f"{CGROUP}/cpuset/machine/cpuset.effective_cpus": "0-1,3\n"}).cpu.withheld
    assert withheld.threads == (2,)


@pytest.mark.parametrize("nothing", ["", "\n", "\0", "all"])
def test_an_empty_set_of_cgroups_says_nothing(tmp_path: Path, nothing: str) -> None:
    assert machine(tmp_path, {f"{CGROUP}/cpuset.cpus.effective": nothing}).cpu.withheld == ()


def test_a_thread_is_withheld_for_one_reason(tmp_path: Path) -> None:
    files = {f"{CPU}/isolated": "3\n", f"{CGROUP}/cpuset.cpus.effective": "0-1\n"}
    assert [each.threads for each in machine(tmp_path, files).cpu.withheld] == [(3,), (2,)]


def test_what_is_missing_is_named_with_its_file(tmp_path: Path) -> None:
    unknown = {each.fact: each.path for each in machine(tmp_path, {}).unknown}
    assert unknown == {
        "arch": "proc/sys/kernel/arch",
        "cpu.model": "proc/cpuinfo",
        "cpu.flags": "proc/cpuinfo",
        "cpu.caches": f"{CPU}/cpu0/cache",
        "memory.ecc": "sys/devices/system/edac/mc",
        "cpu.cores.max_mhz": f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq",
    }
