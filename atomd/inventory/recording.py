"""Recordings of machines: `atomd inventory --record FILE` writes one, and `--root FILE` reads it.

Written are the files, lists and links that the inventory looked at, covered (`atomd.inventory.covering`), so that what
it says of the recording is what it says of the machine; what it did not look at, a recording can't give away. An
archive is read in memory, as whoever sent it may have put anything into it.
"""

import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from atomd.inventory.covering import Cover
from atomd.inventory.facts import Inventory
from atomd.inventory.in_use import NET_DIR
from atomd.inventory.reading import read_inventory_of
from atomd.inventory.tree import NAMES_MAX, Tree

ENTRIES_MAX = 200_000
BYTES_MAX = 64 * 1024 * 1024

_STAND_INS = (
    ("link", (NET_DIR,)),
    ("pool", ("sys/fs/btrfs", "proc/spl/kstat/zfs")),
    ("options", ("etc/modprobe.d",)),
)
_MEDIATED = re.compile(r"/mdev_supported_types/[^/]+/devices$")
_KEPT = {"lo", "features"}  # the loopback's name, and a folder of btrfs that is there on every machine


class NoRecording(Exception):
    """What a person has named is none; the message is a sentence for them."""


class Watched(Tree):
    """Remembers what is read of it, by places without links."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.files: dict[str, bytes] = {}
        self.folders: dict[str, list[str]] = {}

    @property
    def links(self) -> dict[str, str]:
        return {path: target for path, target in self._links.items() if target is not None}

    def _bytes(self, real: str, bytes_max: int) -> bytes | None:
        data = super()._bytes(real, bytes_max)
        if data is not None and len(data) >= len(self.files.get(real, b"")):
            self.files[real] = data
        return data

    def _entries(self, real: str) -> list[str]:
        names = super()._entries(real)
        if names:
            self.folders[real] = names
        return names


class Recorded(Tree):
    """A machine in an archive; any that `tar` makes of a proc/ and a sys/ will do, also with a folder around them.
    Raises `NoRecording`."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._files: dict[str, bytes] = {}
        self._targets: dict[str, str] = {}
        self._folders: dict[str, set[str]] = {}
        try:
            with tarfile.open(file) as archive:
                entries = _entries_of(archive)
                around = _around([path for path, _ in entries])
                for path, entry in entries:
                    if path.startswith(around):
                        self._take(path.removeprefix(around), entry, archive)
        except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
            raise NoRecording(f'"{file}" is neither a folder nor a recording of a machine: {error}') from None

    def _take(self, path: str, entry: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        self._note(path)
        if entry.issym():
            self._targets[path] = entry.linkname
        elif entry.isreg():
            read = archive.extractfile(entry)
            self._files[path] = read.read() if read is not None else b""

    def _note(self, path: str) -> None:
        """In all folders above it."""
        while path:
            folder, _, name = path.rpartition("/")
            names = self._folders.setdefault(folder, set())
            if name in names:
                return
            names.add(name)
            path = folder

    def _bytes(self, real: str, bytes_max: int) -> bytes | None:
        data = self._files.get(real)
        return None if data is None else data[:bytes_max]

    def _entries(self, real: str) -> list[str]:
        return sorted(self._folders.get(real, ()))[:NAMES_MAX]

    def _is_there(self, real: str) -> bool:
        folder, _, name = real.rpartition("/")
        return name in self._folders.get(folder, ())

    def _target(self, path: str) -> str | None:
        return self._targets.get(path)


def _entries_of(archive: tarfile.TarFile) -> list[tuple[str, tarfile.TarInfo]]:
    found: list[tuple[str, tarfile.TarInfo]] = []
    left = BYTES_MAX
    for entry in archive:
        left -= entry.size
        if left < 0 or len(found) >= ENTRIES_MAX:
            raise NoRecording(f"a recording has {ENTRIES_MAX} entries and {BYTES_MAX // 2**20} MiB at the most")
        found.append(("/".join(part for part in entry.name.split("/") if part not in ("", ".")), entry))
    return found


def _around(paths: Iterable[str]) -> str:
    """What stands before the nearest sys/ or proc/."""
    tops = {path[: found.start()] for path in paths if (found := re.search(r"(?:^|(?<=/))(?:sys|proc)(?=/|$)", path))}
    return min(tops, key=lambda top: (top.count("/"), top), default="")


def record(root: Path, file: Path) -> Inventory:
    """Writes `file`, readable to its owner alone, whole or not at all; gives what was recorded. Raises `OSError`."""
    tree = Watched(root)
    inventory = read_inventory_of(tree, is_this_machine=root.resolve() == Path("/"))
    if inventory.arch not in ("", "unknown"):
        tree.files["proc/sys/kernel/arch"] = inventory.arch.encode()
    part = file.with_name(file.name + ".part")
    try:
        with open(part, "xb", opener=_private) as opened, tarfile.open(fileobj=opened, mode="w:gz") as archive:
            _write(archive, tree, _cover(tree))
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return inventory


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _cover(tree: Watched) -> Cover:
    cover = Cover()
    for kind, folders in _STAND_INS:
        cover.hide(kind, {name for folder in folders for name in tree.folders.get(folder, ())} - _KEPT)
    cover.hide("mdev", {name for folder in tree.folders if _MEDIATED.search(folder) for name in tree.folders[folder]})
    mapped = {data.decode(errors="replace").strip() for path, data in tree.files.items() if path.endswith("/dm/name")}
    cover.hide("volume", mapped - {""})
    return cover


def _write(archive: tarfile.TarFile, tree: Watched, cover: Cover) -> None:
    """Folders come with all their names, as a list of these is a fact; what was not looked into is empty."""
    links, files = tree.links, tree.files
    folders = {f"{folder}/{name}" for folder, names in tree.folders.items() for name in names}
    for path in sorted(folders - files.keys() - links.keys()):
        _add(archive, cover.path(path), tarfile.DIRTYPE)
    for path, target in sorted(links.items()):
        _add(archive, cover.path(path), tarfile.SYMTYPE, target=cover.path(target))
    for path, data in sorted(files.items()):
        _add(archive, cover.path(path), tarfile.REGTYPE, cover.content(path, data))


def _add(archive: tarfile.TarFile, path: str, kind: bytes, data: bytes = b"", target: str = "") -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname, entry.size, entry.mtime = kind, target, len(data), 0
    entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    archive.addfile(entry, io.BytesIO(data))
