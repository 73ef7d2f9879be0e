"""The PCI devices that the host itself lives on, each with a sentence for a person.

A disk is in use where a file system or swap lies on it, however many layers (LVM, RAID, encryption) are between; a link
where its interface is up; a console where the firmware drew on it. Where use cannot be told, the device counts as used:
taking a host's root disk away from it costs more than a device less to offer.
"""

import re
from collections.abc import Iterator

from atomd.inventory.text import printable, whole
from atomd.inventory.tree import Tree

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")
BLOCK_DIRS = ("sys/class/block", "sys/block")  # the first lists partitions as well
NET_DIR = "sys/class/net"

_MOUNTS = ("proc/self/mountinfo", "proc/1/mountinfo", "proc/self/mounts", "proc/mounts")
_MOUNTS_BYTES_MAX = 4 * 1024 * 1024
_IFF_UP = 1
_UNTOLD = {"zfs", "bcachefs"}  # file systems that do not name their disks in the list of mounts


def devices_in_use(tree: Tree) -> tuple[dict[str, str], str | None]:
    """Address → why the host needs it; and why no storage at all may be given away, where that is so."""
    disks, untold = _disks_in_use(tree)
    used: dict[str, str] = {}
    for disk in sorted(disks):
        for address in _controllers(tree, disk):
            used.setdefault(address, f"holds the host's own disk {printable(disk)}")
    for link, why in _links_in_use(tree):
        for address in behind_link(tree, link):
            used.setdefault(address, f"carries the host's network link {printable(link)}, {why}")
    return used, untold


def behind_link(tree: Tree, link: str) -> list[str]:
    """The PCI devices of a network interface: it is a link itself, or, before 2.6.26, a folder with a link."""
    paths = (tree.real(f"{NET_DIR}/{link}"), tree.real(f"{NET_DIR}/{link}/device"))
    return [address for path in paths for address in addresses_in(path or "")]


def addresses_in(path: str) -> list[str]:
    """The PCI devices on a path of sysfs, the nearest to the root first."""
    return [part for part in path.split("/") if ADDRESS.match(part)]


def _disks_in_use(tree: Tree) -> tuple[set[str], str | None]:
    """Names of disks and partitions, and why the list may lack some."""
    tops, untold = _mounted(tree)
    names = {name for folder in BLOCK_DIRS for name in tree.names(folder)}
    tops |= {name for name in names if _has_holders(tree, name)}
    return _below(tree, tops), untold


def _mounted(tree: Tree) -> tuple[set[str], str | None]:
    """Block devices with a file system or swap in use."""
    tables = [(path, text) for path in _MOUNTS if (text := tree.text(path, _MOUNTS_BYTES_MAX))]
    if not tables:
        return set(), "may hold the host's own disks: what is mounted cannot be read"
    found: set[str] = set()
    untold: str | None = None
    by_mapper = _mapper_names(tree)
    for number, kind, source in (row for path, text in tables for row in _rows(path, text)):
        name = _block_name(tree, number, source, by_mapper)
        if name:
            found.add(name)
        elif kind in _UNTOLD or (source.startswith("/dev/") and not kind.startswith("fuse.")):
            untold = f"may hold the host's own file system ({printable(source, 60)})"
        if kind == "btrfs":
            found |= _btrfs_disks(tree)
    for line in (tree.text("proc/swaps") or "").splitlines()[1:]:
        name = _block_name(tree, "", line.split(" ")[0].split("\t")[0], by_mapper)
        found |= {name} if name else set()
    return found, untold


def _rows(path: str, text: str) -> Iterator[tuple[str, str, str]]:
    """(major:minor, kind of file system, source) of each mount; see proc(5)."""
    for line in text.splitlines():
        words = line.split(" ")
        if not path.endswith("mountinfo"):
            yield "", *((words[2], _unescaped(words[0])) if len(words) > 2 else ("", ""))
        elif "-" in words[6:] and len(words) > (dash := words.index("-", 6)) + 2:
            yield words[2], words[dash + 1], _unescaped(words[dash + 2])


def _unescaped(source: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), source)


def _block_name(tree: Tree, number: str, source: str, by_mapper: dict[str, str]) -> str | None:
    """The kernel's name of a mounted block device: by its number, else by the file in /dev."""
    if re.match(r"\d+:\d+$", number) and (name := tree.link_name(f"sys/dev/block/{number}")):
        return name
    if not source.startswith("/dev/"):
        return None
    name = (tree.real(source[1:]) or source).rpartition("/")[2]
    for candidate in (name, by_mapper.get(name, "")):
        if candidate and any(tree.has(f"{folder}/{candidate}") for folder in BLOCK_DIRS):
            return candidate
    return next((name for name in [_whole_disk(name)] if name and tree.has(f"sys/block/{name}")), None)


def _whole_disk(name: str) -> str | None:
    """sda1 → sda, nvme0n1p2 → nvme0n1: for recordings that list whole disks alone."""
    found = re.match(r"(nvme\d+n\d+|mmcblk\d+|nbd\d+|md\d+)p\d+$|([a-z]+?)\d+$", name)
    return (found[1] or found[2]) if found else None


def _mapper_names(tree: Tree) -> dict[str, str]:
    """/dev/mapper's names → dm-N."""
    names = {name for folder in BLOCK_DIRS for name in tree.names(folder) if name.startswith("dm-")}
    return {
        mapped: name for name in names for folder in BLOCK_DIRS if (mapped := tree.text(f"{folder}/{name}/dm/name"))
    }


def _btrfs_disks(tree: Tree) -> set[str]:
    return {
        disk for filesystem in tree.names("sys/fs/btrfs") for disk in tree.names(f"sys/fs/btrfs/{filesystem}/devices")
    }


def _has_holders(tree: Tree, name: str) -> bool:
    return any(tree.names(f"{folder}/{name}/holders") for folder in BLOCK_DIRS)


def _below(tree: Tree, tops: set[str]) -> set[str]:
    """The disks and partitions that block devices finally lie on, through LVM, RAID, encryption and multipath."""
    seen: set[str] = set()
    todo = list(tops)
    bottoms: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        slaves = [slave for folder in BLOCK_DIRS for slave in tree.names(f"{folder}/{name}/slaves")]
        todo += slaves
        bottoms |= set() if slaves else {name}
    return bottoms


def _controllers(tree: Tree, disk: str) -> list[str]:
    """Every PCI device between the CPU and the disk: the controller, and what it hangs on."""
    found: list[str] = []
    for folder in BLOCK_DIRS:
        for path in (tree.real(f"{folder}/{disk}"), tree.real(f"{folder}/{disk}/device")):
            found += addresses_in(path or "")
            if path and "/nvme-subsystem/" in path:  # multipath: the disk is virtual, its controllers are links beside
                found += _nvme_controllers(tree, path)
    return list(dict.fromkeys(found))


def _nvme_controllers(tree: Tree, path: str) -> list[str]:
    """…/nvme-subsystem/nvme-subsys0/nvme0n1 has the controllers nvme0, nvme1 as links beside it."""
    head, _, tail = path.partition("/nvme-subsystem/")
    subsystem = f"{head}/nvme-subsystem/{tail.split('/')[0]}"
    names = [name for name in tree.names(subsystem) if re.match(r"nvme\d+$", name)]
    return [address for name in names for address in addresses_in(tree.real(f"{subsystem}/{name}") or "")]


def _links_in_use(tree: Tree) -> Iterator[tuple[str, str]]:
    """Interfaces with the way in which they are used."""
    for name in tree.names(NET_DIR):
        folder = f"{NET_DIR}/{name}"
        state, carrier = tree.text(f"{folder}/operstate"), tree.number(f"{folder}/carrier")
        flags = _hex(tree.text(f"{folder}/flags"))
        if state == "up" or carrier == 1:
            yield name, "which is up"
        elif master := tree.link_name(f"{folder}/master"):
            yield name, f"a part of {printable(master)}"
        elif flags is not None and flags & _IFF_UP:
            yield name, "which is switched on"
        elif flags is None and state in (None, "", "unknown"):
            yield name, "which may be up: its state cannot be read"


def _hex(text: str | None) -> int | None:
    digits = (text or "").removeprefix("0x")
    return int(digits, 16) if re.match(r"[0-9a-fA-F]{1,8}$", digits) else None


def is_boot_console(tree: Tree, folder: str) -> bool:
    return whole(tree.text(f"{folder}/boot_vga", 8)) == 1
