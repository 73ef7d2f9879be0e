"""How much memory there is, where, and how much of it is kept as huge pages."""

from pathlib import Path

import pytest

from atomd.inventory.facts import HugePages, NumaNode
from atomd.inventory.memory import read_memory
from atomd.inventory.tree import Tree


def tree(root: Path, files: dict[str, str]) -> Tree:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Tree(root)


def test_a_machine_without_numa_has_one_node_with_all_of_it(tmp_path: Path) -> None:
    memory = read_memory(tree(tmp_path, {"proc/meminfo": "MemTotal:        2097152 kB\nMemFree: 1 kB\n"}))
    assert (memory.total_mib, memory.numa, memory.ecc) == (2048, (NumaNode(0, 2048),), None)


def test_the_nodes_add_up_where_the_total_is_missing(tmp_path: Path) -> None:
    nodes = {f"sys/devices/system/node/node{n}/meminfo": f"Node {n} MemTotal: {n << 20} kB\n" for n in (1, 2)}
    memory = read_memory(tree(tmp_path, nodes))
    assert (memory.total_mib, memory.numa) == (3072, (NumaNode(1, 1024), NumaNode(2, 2048)))


@pytest.mark.parametrize(
    "text", ["", "MemTotal:", "MemTotal: -5 kB", "MemTotal: 9999999999999999 kB", f"MemTotal: {10**40} kB", "\0"]
)
def test_garbage_promises_nothing(tmp_path: Path, text: str) -> None:
    assert read_memory(tree(tmp_path, {"proc/meminfo": text})).total_mib == 0


NODE = "sys/devices/system/node/node"
PAGES = "hugepages/hugepages-2048kB"


def test_huge_pages_are_those_of_each_node_by_size(tmp_path: Path) -> None:
    files = {
        f"{NODE}0/meminfo": "Node 0 MemTotal: 2097152 kB\n",
        f"{NODE}1/meminfo": "Node 1 MemTotal: 2097152 kB\n",
        f"{NODE}0/{PAGES}/nr_hugepages": "100\n",
        f"{NODE}0/{PAGES}/free_hugepages": "40\n",
        f"{NODE}0/hugepages/hugepages-1048576kB/nr_hugepages": "1\n",  # how many are free is not told
        f"{NODE}1/{PAGES}/nr_hugepages": "0\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "100\n",  # of the whole machine
    }
    first, second = read_memory(tree(tmp_path, files)).numa
    assert first.hugepages == (HugePages(2048, 100, 40), HugePages(1048576, 1, 0))
    assert second.hugepages == ()


def test_without_numa_huge_pages_are_the_machines(tmp_path: Path) -> None:
    files = {"proc/meminfo": "MemTotal: 2097152 kB\n"}
    files |= {f"sys/kernel/mm/{PAGES}/{name}_hugepages": "7" for name in ("nr", "free")}
    assert read_memory(tree(tmp_path, files)).numa == (NumaNode(0, 2048, (HugePages(2048, 7, 7),)),)


@pytest.mark.parametrize("garbage", ["", "-3", "x", f"{10**30}"])
def test_huge_pages_that_cannot_be_right_are_none(tmp_path: Path, garbage: str) -> None:
    files = {f"sys/kernel/mm/{PAGES}/nr_hugepages": garbage, f"sys/kernel/mm/{PAGES}/free_hugepages": "9"}
    assert read_memory(tree(tmp_path, files)).numa[0].hugepages == ()


@pytest.mark.parametrize(
    ("text", "distances"), [("10 21\n", ((2, 10), (5, 21))), ("10", ()), ("10 x", ()), ("10 0", ()), ("10 999", ())]
)
def test_distances_are_in_the_order_of_the_nodes(
    tmp_path: Path, text: str, distances: tuple[tuple[int, int], ...]
) -> None:
    files = {f"{NODE}2/distance": text, f"{NODE}5/cpulist": "0"}
    assert read_memory(tree(tmp_path, files)).numa[0].distances == distances
