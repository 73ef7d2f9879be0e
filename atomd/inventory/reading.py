"""One machine, read once: `read_inventory(root)`. Never raises for what a tree lacks or holds."""

import os
from pathlib import Path

from atomd.inventory import cpuinfo
from atomd.inventory.cpu import read_cpu
from atomd.inventory.cpuinfo import CPUINFO_BYTES_MAX, CpuInfo
from atomd.inventory.facts import Inventory
from atomd.inventory.memory import read_memory
from atomd.inventory.pci import read_pci
from atomd.inventory.text import printable
from atomd.inventory.tree import Tree
from atomd.inventory.unknown import unknown_facts
from atomd.inventory.usb import read_usb


def read_inventory(root: Path) -> Inventory:
    """The machine whose /proc and /sys lie under `root`; "/" is this one."""
    return read_inventory_of(Tree(root), is_this_machine=root.resolve() == Path("/"))


def read_inventory_of(tree: Tree, *, is_this_machine: bool) -> Inventory:
    info = cpuinfo.parse(tree.text("proc/cpuinfo", CPUINFO_BYTES_MAX) or "")
    arch = os.uname().machine if is_this_machine else _arch(tree, info)
    cpu, memory = read_cpu(tree, info), read_memory(tree)
    return Inventory(arch, cpu, memory, read_pci(tree), unknown_facts(arch, cpu, memory), read_usb(tree))


def _arch(tree: Tree, info: CpuInfo) -> str:
    """The kernel's word (6.1 and later), else the format of /proc/cpuinfo: a recording is of another machine."""
    if named := tree.text("proc/sys/kernel/arch", 64):
        return printable(named)
    order = tree.text("sys/kernel/cpu_byteorder", 16)
    little_endian = order == "little" if order else "ppc64le" in (tree.text("proc/version") or "")
    return cpuinfo.arch(info, little_endian=little_endian)
