"""Cores, sockets, NUMA nodes and classes, on small machines written out by hand."""

from pathlib import Path

import pytest

from atomd.inventory import read_inventory
from atomd.inventory.facts import Core, Inventory

Machine = dict[str, str]


def machine(root: Path, files: Machine) -> Inventory:
    """An inventory of `files`: path below the machine's root → text, or "-> target" for a link."""
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            place.symlink_to(text[3:])
        else:
            place.write_bytes(text.encode())
    return read_inventory(root)


def topology(cpu: int, **files: str) -> Machine:
    return {f"sys/devices/system/cpu/cpu{cpu}/topology/{name}": text for name, text in files.items()}


def groups(inventory: Inventory) -> list[tuple[int, ...]]:
    return [core.threads for core in inventory.cpu.cores]


ONLINE = "sys/devices/system/cpu/online"


def test_siblings_come_from_the_list_however_they_are_numbered(tmp_path: Path) -> None:
    files = {ONLINE: "0-3\n"}
    for cpu, siblings in enumerate(["0,3", "1-2", "1-2", "0,3"]):
        files |= topology(cpu, core_cpus_list=siblings, thread_siblings_list=siblings, core_id="7")
    assert groups(machine(tmp_path, files)) == [(0, 3), (1, 2)]


def test_offline_siblings_are_left_out(tmp_path: Path) -> None:
    files = {ONLINE: "0,2-3"} | topology(0, core_cpus_list="0-1")
    files |= topology(2, core_cpus_list="2-3") | topology(3, core_cpus_list="2-3")
    assert groups(machine(tmp_path, files)) == [(0,), (2, 3)]


@pytest.mark.parametrize("garbage", ["", "\0", "0-", "x", "2-3", "99999999", "0-99999", "3-0"])
def test_a_list_that_cannot_be_right_gives_way_to_the_next_source(tmp_path: Path, garbage: str) -> None:
    files = {ONLINE: "0-1"}
    for cpu in (0, 1):
        files |= topology(
            cpu, core_cpus_list=garbage, thread_siblings_list=garbage, thread_siblings="00000000,00000003"
        )
    assert groups(machine(tmp_path, files)) == [(0, 1)]


def test_text_after_a_nul_is_not_read(tmp_path: Path) -> None:
    files = {ONLINE: "0-1\0,5-9\n"} | topology(0, thread_siblings_list="0-1\n\0\0") | topology(1, core_id="0")
    assert groups(machine(tmp_path, files)) == [(0, 1)]


def test_an_old_kernel_with_masks_alone_is_read(tmp_path: Path) -> None:
    files: Machine = {}
    for cpu, mask in {0: "00000000,00000101", 1: "2", 8: "00000000,00000101"}.items():
        files |= topology(cpu, thread_siblings=mask)
    assert groups(machine(tmp_path, files)) == [(0, 8), (1,)]


def test_where_lists_contradict_each_other_the_lowest_thread_counts(tmp_path: Path) -> None:
    files = {ONLINE: "0-2"}
    files |= topology(0, core_cpus_list="0-1") | topology(1, core_cpus_list="1-2") | topology(2, core_cpus_list="1-2")
    assert groups(machine(tmp_path, files)) == [(0, 1), (2,)]


def test_without_an_online_list_each_cpu_says_whether_it_is_online(tmp_path: Path) -> None:
    files = {f"sys/devices/system/cpu/cpu{cpu}/online": word for cpu, word in {1: "1", 2: "0", 3: "1"}.items()}
    files["sys/devices/system/cpu/cpu0/crash_notes"] = "0"
    assert groups(machine(tmp_path, files)) == [(0,), (1,), (3,)]


def test_without_any_word_the_cpus_with_a_topology_are_online(tmp_path: Path) -> None:
    files = topology(0, thread_siblings="00000005") | topology(2, thread_siblings="00000005")
    files["sys/devices/system/cpu/cpu1/cache/level"] = "1"
    assert groups(machine(tmp_path, files)) == [(0, 2)]


def test_a_listed_cpu_without_a_folder_is_not_there(tmp_path: Path) -> None:
    files = {ONLINE: "0-9000"} | topology(0, core_cpus_list="0-1") | topology(1, core_cpus_list="0-1")
    assert groups(machine(tmp_path, files)) == [(0, 1)]


def x86_block(cpu: int, package: int, core: int, siblings: int, cores: int) -> str:
    lines = {"processor": cpu, "physical id": package, "siblings": siblings, "core id": core, "cpu cores": cores}
    return "".join(f"{key}\t: {value}\n" for key, value in lines.items()) + "\n"


def test_without_sysfs_the_core_ids_of_cpuinfo_tell_cores(tmp_path: Path) -> None:
    cpuinfo = "".join(x86_block(cpu, cpu % 2, cpu // 4, siblings=4, cores=2) for cpu in range(8))
    inventory = machine(tmp_path, {"proc/cpuinfo": cpuinfo})
    assert groups(inventory) == [(0, 2), (1, 3), (4, 6), (5, 7)]
    assert [core.socket for core in inventory.cpu.cores] == [0, 1, 0, 1]


def test_core_ids_that_repeat_without_threads_are_different_dies(tmp_path: Path) -> None:
    cpuinfo = "".join(x86_block(cpu, 0, cpu % 2, siblings=4, cores=4) for cpu in range(4))
    assert groups(machine(tmp_path, {"proc/cpuinfo": cpuinfo})) == [(0,), (1,), (2,), (3,)]


def test_a_machine_without_any_topology_has_a_core_for_each_thread(tmp_path: Path) -> None:
    files = {ONLINE: "6-7,10", "proc/cpuinfo": "cpu\t\t: TI UltraSparc II\ntype\t\t: sun4u\n"}
    assert machine(tmp_path, files).cpu.cores == (Core((6,), 0, 0), Core((7,), 0, 0), Core((10,), 0, 0))


def test_sparc_lists_its_online_cpus_in_cpuinfo(tmp_path: Path) -> None:
    cpuinfo = "cpu\t: TI UltraSparc II\ntype\t: sun4u\nState:\nCPU6:\t\tonline\nCPU7:\t\toffline\nCPU10:\tonline\n"
    inventory = machine(tmp_path, {"proc/cpuinfo": cpuinfo})
    assert (inventory.arch, groups(inventory)) == ("sparc64", [(6,), (10,)])


def test_an_empty_root_is_an_unknown_machine_of_no_cores(tmp_path: Path) -> None:
    inventory = read_inventory(tmp_path)
    assert (inventory.arch, inventory.cpu.model, inventory.cpu.cores, inventory.pci) == ("unknown", "unknown", (), ())
    assert [(node.number, node.total_mib) for node in inventory.memory.numa] == [(0, 0)]


def test_packages_without_a_number_are_told_by_their_members(tmp_path: Path) -> None:
    files = {ONLINE: "0-3"}
    for cpu, package in enumerate(["0-1", "0-1", "2-3", "2-3"]):
        files |= topology(cpu, physical_package_id="-1", core_siblings_list=package)
    assert [core.socket for core in machine(tmp_path, files).cpu.cores] == [0, 0, 1, 1]


def test_nodes_come_from_lists_else_masks_else_links_and_may_have_no_cpus(tmp_path: Path) -> None:
    node = "sys/devices/system/node/node"
    files = {ONLINE: "0-3", f"{node}2/cpumap": "00000002", f"{node}4/cpulist": "0\n", f"{node}9/cpulist": "\n"}
    files |= {f"{node}5/cpu2": "-> ../../cpu/cpu2", f"{node}9/meminfo": "Node 9 MemTotal:  2048 kB\n"}
    inventory = machine(tmp_path, files)
    assert [core.numa for core in inventory.cpu.cores] == [4, 2, 5, 2], "a CPU in no node goes to the lowest one"
    assert [(node.number, node.total_mib) for node in inventory.memory.numa] == [(2, 0), (4, 0), (5, 0), (9, 2)]


def classes(inventory: Inventory) -> list[str | None]:
    return [core.core_class for core in inventory.cpu.cores]


def test_the_performance_monitors_tell_the_classes_of_a_hybrid(tmp_path: Path) -> None:
    files = {ONLINE: "0-2", "sys/devices/cpu_core/cpus": "0-1", "sys/devices/cpu_atom/cpus": "2\n"}
    files |= topology(0, core_cpus_list="0-1") | topology(1, core_cpus_list="0-1") | topology(2, core_cpus_list="2")
    assert classes(machine(tmp_path, files)) == ["performance", "efficiency"]


@pytest.mark.parametrize(
    ("capacities", "expected"),
    [
        (["280", "855", "1024"], ["efficiency", "performance", "performance"]),
        (["1000", "1010", "1024"], [None, None, None]),  # the same cores, not equally fast
        (["1024", "1024", "1024"], [None, None, None]),
        (["280", "garbage", "1024"], [None, None, None]),
    ],
)
def test_capacity_tells_the_classes_of_arm_cores(tmp_path: Path, capacities: list[str], expected: list[str]) -> None:
    files = {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": text for cpu, text in enumerate(capacities)}
    assert classes(machine(tmp_path, files | {ONLINE: "0-2"})) == expected


@pytest.mark.parametrize(
    ("siblings", "single_core", "expected"),
    [
        (["0-1", "0-1", "2"], "1400", ["performance", "efficiency"]),
        (["0-1", "0-1", "2"], "2400", [None, None]),  # the core with one thread is the faster
        (["0", "1", "2"], "1400", [None, None, None]),
    ],
)
def test_base_frequency_tells_classes_only_beside_threads(
    tmp_path: Path, siblings: list[str], single_core: str, expected: list[str | None]
) -> None:
    """Speed Select raises the base frequency of some cores of one kind."""
    files = {ONLINE: "0-2"}
    for cpu, (listed, frequency) in enumerate(zip(siblings, ["1900", "1900", single_core], strict=True)):
        files |= topology(cpu, core_cpus_list=listed)
        files[f"sys/devices/system/cpu/cpu{cpu}/cpufreq/base_frequency"] = frequency
    assert classes(machine(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("path", "text", "arch"),
    [
        ("sys/kernel/cpu_byteorder", "little\n", "ppc64le"),
        ("sys/kernel/cpu_byteorder", "big\n", "ppc64"),
        ("proc/version", "Linux version 6.1 (powerpc64le gcc) ppc64le\n", "ppc64le"),
        ("proc/sys/kernel/arch", "ppc64le\n", "ppc64le"),
        ("proc/uptime", "1 1", "ppc64"),
    ],
)
def test_a_recording_tells_its_own_architecture(tmp_path: Path, path: str, text: str, arch: str) -> None:
    cpuinfo = "processor : 0\ncpu : POWER9, altivec supported\nrevision : 2.2 (pvr 004e 1202)\n"
    assert machine(tmp_path, {"proc/cpuinfo": cpuinfo, path: text}).arch == arch
