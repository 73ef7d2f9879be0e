"""The machine's memory: how much, in which NUMA node, and whether it corrects errors.

Sources: Documentation/filesystems/proc.rst (meminfo), Documentation/ABI/stable/sysfs-devices-node,
Documentation/driver-api/edac.rst, and systemd's dmi_memory_id, which leaves its answer in udev's database.
"""

import re

from atomd.inventory.cpu import NODE_DIR, node_numbers
from atomd.inventory.facts import Memory, NumaNode
from atomd.inventory.text import whole
from atomd.inventory.tree import Tree

EDAC_DIR = "sys/devices/system/edac/mc"
DMI_RECORD = "run/udev/data/+dmi:id"

_TOTAL = re.compile(r"^(?:Node +\d+ +)?MemTotal: +(\d+) kB", re.MULTILINE)
_KIB_MAX = 1 << 50  # an exbibyte: more is garbage
_CORRECTING = {"SECDED", "S2ECD2ED", "S4ECD4ED", "S8ECD8ED", "S16ECD16ED"}
_NOT_CORRECTING = {"None", "PARITY", "EC"}  # EC notices errors and corrects none
_EC_TYPES = {"Single-bit ECC": True, "Multi-bit ECC": True, "None": False, "Parity": False, "CRC": False}


def read_memory(tree: Tree) -> Memory:
    """A node's share is 0 where it cannot be read: nothing can be promised there."""
    nodes = {node: _total_mib(tree, f"{NODE_DIR}/node{node}/meminfo") for node in node_numbers(tree)}
    total_mib = _total_mib(tree, "proc/meminfo")
    if total_mib is None:
        total_mib = sum(share or 0 for share in nodes.values())
    if len(nodes) <= 1:  # all of it is in the one node
        node = next(iter(nodes), 0)
        nodes = {node: nodes.get(node) or total_mib}
    return Memory(total_mib, _ecc(tree), tuple(NumaNode(node, share or 0) for node, share in nodes.items()))


def _total_mib(tree: Tree, path: str) -> int | None:
    found = _TOTAL.search(tree.text(path) or "")
    kib = whole(found[1]) if found else None
    return None if kib is None or kib > _KIB_MAX else kib // 1024


def _ecc(tree: Tree) -> bool | None:
    by_edac = _ecc_by_edac(tree)
    return by_edac if by_edac is not None else _ecc_by_udev(tree)


def _ecc_by_edac(tree: Tree) -> bool | None:
    """True where every module that a memory controller knows is in a correcting mode."""
    modes: set[str] = set()
    for controller in tree.names(EDAC_DIR):
        folder = f"{EDAC_DIR}/{controller}"
        parts = tree.names(folder) if re.match(r"mc\d+$", controller) else []
        modules = [part for part in parts if re.match(r"(dimm|rank)\d+$", part)]
        rows = [part for part in parts if re.match(r"csrow\d+$", part)]
        modes |= {mode for name in modules if (mode := _mode(tree, f"{folder}/{name}", "dimm_edac_mode", "size"))}
        if not modules:
            modes |= {mode for name in rows if (mode := _mode(tree, f"{folder}/{name}", "edac_mode", "size_mb"))}
    if modes and modes <= _CORRECTING:
        return True
    return False if modes & _NOT_CORRECTING else None


def _mode(tree: Tree, folder: str, mode: str, size: str) -> str | None:
    """An empty slot has a mode too, which says nothing."""
    return None if tree.number(f"{folder}/{size}") == 0 else tree.text(f"{folder}/{mode}")


def _ecc_by_udev(tree: Tree) -> bool | None:
    found = re.search(r"^E:MEMORY_ARRAY_EC_TYPE=(.+)$", tree.text(DMI_RECORD) or "", re.MULTILINE)
    return _EC_TYPES.get(found[1].strip()) if found else None
