"""The disks that the host itself lives on, and the PCI devices that they hang on.

A disk is in use where a file system or swap lies on it, however many layers (LVM, RAID, encryption, multipath, caches)
are between. Where that cannot be told, as with ZFS, which names no disk anywhere, all storage counts as used.
"""

import re
from collections.abc import Iterator

from atomd.inventory.addresses import addresses_in
from atomd.inventory.text import printable
from atomd.inventory.tree import Tree

BLOCK_DIRS = ("sys/class/block", "sys/block")  # the first lists partitions as well

_MOUNTS = ("proc/self/mountinfo", "proc/1/mountinfo", "proc/self/mounts", "proc/mounts")
_MOUNTS_BYTES_MAX = 4 * 1024 * 1024
_UNTOLD = {"zfs", "bcachefs"}  # file systems that do not name their disks in the list of mounts
_ZFS_POOLS = "proc/spl/kstat/zfs"


def disks_in_use(tree: Tree) -> tuple[set[str], str | None]:
    """Names of disks and partitions, and why the list may lack some."""
    tops, untold = _mounted(tree)
    tops |= _caches(tree)
    untold = untold or _zfs(tree)
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


def _zfs(tree: Tree) -> str | None:
    """A pool is in use though no file system of it is mounted: its volumes may be disks of VMs."""
    pools = [name for name in tree.names(_ZFS_POOLS) if tree.has(f"{_ZFS_POOLS}/{name}/state")]
    return f"may hold the host's ZFS pool {printable(pools[0], 60)}" if pools else None


def _caches(tree: Tree) -> set[str]:
    """The disks that bcache keeps its cache on: nothing else names them as held."""
    folders = [f"sys/fs/bcache/{each}" for each in tree.names("sys/fs/bcache")]
    caches = [f"{folder}/{name}" for folder in folders for name in tree.names(folder) if re.match(r"cache\d+$", name)]
    parts = [(tree.real(path) or "").split("/") for path in caches]
    return {part[-2] for part in parts if len(part) > 1 and part[-1] == "bcache"}


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


def controllers(tree: Tree, disk: str) -> list[str]:
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
