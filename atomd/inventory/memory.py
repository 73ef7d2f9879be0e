"""The machine's memory: how much, in which NUMA node, and how much of it is kept as huge pages.

Sources: Documentation/filesystems/proc.rst (meminfo), Documentation/ABI/stable/sysfs-devices-node,
Documentation/ABI/testing/sysfs-kernel-mm-hugepages.
"""

import re

from atomd.inventory.cpu import node_numbers
from atomd.inventory.ecc import read_ecc
from atomd.inventory.facts import HugePages, Memory, NumaNode
from atomd.inventory.paths import NODE_DIR
from atomd.inventory.text import whole
from atomd.inventory.tree import Tree

HUGE_PAGES_DIR = "sys/kernel/mm/hugepages"

_TOTAL = re.compile(r"^(?:Node +\d+ +)?MemTotal: +(\d+) kB", re.MULTILINE)
_KIB_MAX = 1 << 50  # an exbibyte: more is garbage
_MOUNTS_BYTES = 1 << 20
_PAGESIZE = re.compile(r"\bpagesize=([0-9]{1,9})([KMG])\b")
_PAGES_NAME = re.compile(r"hugepages-([0-9]{1,9})kB$")
_PAGES_MAX = 1 << 40
_DISTANCE_MAX = 255  # "out of reach"


def read_memory(tree: Tree) -> Memory:
    """A node's share is 0 where it cannot be read: nothing can be promised there."""
    nodes = {node: _total_mib(tree, f"{NODE_DIR}/node{node}/meminfo") for node in node_numbers(tree)}
    total_mib = _total_mib(tree, "proc/meminfo")
    if total_mib is None:
        total_mib = sum(share or 0 for share in nodes.values())
    if len(nodes) <= 1:  # all of it is in the one node
        node = next(iter(nodes), 0)
        nodes = {node: nodes.get(node) or total_mib}
    ecc, source = read_ecc(tree)
    return Memory(
        total_mib, ecc, tuple(_node(tree, node, share or 0, len(nodes)) for node, share in nodes.items()), source
    )


def _node(tree: Tree, number: int, total_mib: int, nodes: int) -> NumaNode:
    folder = f"{NODE_DIR}/node{number}"
    pages = _huge_pages(tree, f"{folder}/hugepages") or (_huge_pages(tree, HUGE_PAGES_DIR) if nodes == 1 else ())
    return NumaNode(number, total_mib, pages, _distances(tree, folder))


def mounted_page_sizes(tree: Tree) -> frozenset[int]:
    """In KiB: those of which QEMU can have huge pages, as a hugetlbfs of that size is mounted where libvirtd sees it.
    The kernel writes the size there as "pagesize=2M" (mm/hugetlb, fs/hugetlbfs/inode.c)."""
    mounts = tree.text("proc/1/mounts", _MOUNTS_BYTES) or tree.text("proc/self/mounts", _MOUNTS_BYTES) or ""
    sizes = (_PAGESIZE.search(line) for line in mounts.splitlines() if " hugetlbfs " in line)
    return frozenset(int(size[1]) * {"K": 1, "M": 1024, "G": 1024 * 1024}[size[2]] for size in sizes if size)


def _huge_pages(tree: Tree, folder: str) -> tuple[HugePages, ...]:
    """Sizes of which there is at least one page."""
    found: list[HugePages] = []
    for name in tree.names(folder):
        size = _PAGES_NAME.match(name)
        total, free = (tree.number(f"{folder}/{name}/{file}") for file in ("nr_hugepages", "free_hugepages"))
        if size and total is not None and 0 < total < _PAGES_MAX:
            found.append(HugePages(int(size[1]), total, min(max(free or 0, 0), total)))
    return tuple(sorted(found, key=lambda pages: pages.size_kib))


def _distances(tree: Tree, folder: str) -> tuple[tuple[int, int], ...]:
    """One for each node, in their order: Documentation/ABI/stable/sysfs-devices-node."""
    distances = [whole(word) for word in (tree.text(f"{folder}/distance") or "").split()]
    nodes = node_numbers(tree)
    if len(distances) != len(nodes) or any(each is None or not 0 < each <= _DISTANCE_MAX for each in distances):
        return ()
    return tuple((node, each) for node, each in zip(nodes, distances, strict=True) if each is not None)


def _total_mib(tree: Tree, path: str) -> int | None:
    found = _TOTAL.search(tree.text(path) or "")
    kib = whole(found[1]) if found else None
    return None if kib is None or kib > _KIB_MAX else kib // 1024
