"""Finds the volumes: every `<uuid>.elimg` folder beneath the configured pools, at any depth.

One bad volume never hides another: it is listed with its reason. Nothing is followed out of a pool (see `beneath`),
no image is probed; of a qcow2 image, called so by its metadata, the header's fields are read, of a raw one nothing.
Folders whose name starts with a dot are left alone, since snapshots and trash hold copies of volumes there. One vid at
two places is a conflict, and neither is given; one folder reached by two ways (nested pools, bind mounts) is not.
Synchronous: a daemon runs `Index.scan` in a worker thread. A rescan reads again only what changed, by its stat.
"""

import os
import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from matcher.wire.messages import ImageFormat
from specs.ids import Vid, parse_id
from storaged.beneath import Unusable, check_regular, open_file, open_folder, read_file, read_start, shown
from storaged.export.qcow2_header import HEADER_BYTES, parse_qcow2_header
from storaged.metadata import META_MAX_BYTES, Bad, Metadata, parse_metadata
from storaged.record import RECORD, read_right
from storaged.volume import IMAGE_PATH_MAX_BYTES, BadVolume, Conflict, Ignored, Snapshot, Volume

DEPTH_MAX = 16  # folders beneath a pool's root
ENTRIES_MAX = 2_000_000  # names looked at in one scan
VOLUMES_MAX = 200_000
PROBLEMS_MAX = 64
SETTLED_NS = 2_000_000_000  # a file changed less than this ago may change again within one tick of its clock

META = "meta.json"

_FOLDER = re.compile(r"(?:vid\.)?(.*)\.elimg", re.DOTALL)
_MIB = 2**20
_Stamp = tuple[int, ...] | None
_Found = Volume | BadVolume


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What a folder held, and the stat of every file that this was read from."""

    found: _Found
    image: str | None
    stamps: tuple[_Stamp, ...]


_Memory = dict[tuple[int, int, str], _Remembered]


class Index:
    """Scans pools; keeps in memory what it read, for the next scan. One thread at a time."""

    def __init__(self) -> None:
        self._memory: _Memory = {}

    def scan(self, pools: Iterable[str | os.PathLike[str]]) -> Snapshot:
        """Everything beneath `pools`, read-only. Never raises for what it finds there."""
        scan = _Scan(self._memory)
        for pool in pools:
            scan.pool(os.path.realpath(pool))
        self._memory = scan.remembered
        return scan.snapshot()


class _Scan:
    """One pass over the pools."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self.remembered: _Memory = {}
        self._found: list[_Found] = []
        self._misplaced: list[BadVolume] = []  # named like a volume, but no folder
        self._problems: list[str] = []
        self._visited: set[tuple[int, int]] = set()
        self._entries_left = ENTRIES_MAX
        self._ignored = Ignored()
        self._pool = ""

    def pool(self, root: str) -> None:
        self._pool = root
        try:
            with open_folder(root) as folder:
                self._walk(folder, root, 0)
        except OSError as problem:
            self._problem(f"pool {shown(root)}: {problem.strerror}")

    def snapshot(self) -> Snapshot:
        by_vid: defaultdict[Vid, list[_Found]] = defaultdict(list)
        for found in self._found:
            if found.vid is not None:
                by_vid[found.vid].append(found)
        for link in self._misplaced:
            if link.vid is not None and link.vid not in by_vid:
                by_vid[link.vid].append(link)
        alone = {vid: copies[0] for vid, copies in by_vid.items() if len(copies) == 1}
        return Snapshot(
            volumes={vid: found for vid, found in alone.items() if isinstance(found, Volume)},
            bad={vid: found for vid, found in alone.items() if isinstance(found, BadVolume)},
            conflicts={vid: _conflict(vid, copies) for vid, copies in by_vid.items() if len(copies) > 1},
            nameless=tuple(
                found
                for found in (*self._found, *self._misplaced)
                if isinstance(found, BadVolume) and found.vid is None
            ),
            problems=tuple(self._problems),
            ignored=self._ignored,
        )

    def _walk(self, folder: int, path: str, depth: int) -> None:
        if not self._first_visit(folder):
            return
        with os.scandir(folder) as listing:
            entries = sorted(islice(listing, self._entries_left + 1), key=lambda entry: entry.name)
        if len(entries) > self._entries_left:
            self._problem(f"{shown(path)}: more than {ENTRIES_MAX} names to look at; the rest is left out")
        for entry in entries[: self._entries_left]:
            self._entries_left -= 1
            try:
                self._entry(entry, folder, f"{path}/{entry.name}", depth)
            except OSError:
                self._ignored = replace(self._ignored, unreadable=self._ignored.unreadable + 1)
            if self._entries_left <= 0:
                break

    def _entry(self, entry: os.DirEntry[str], folder: int, path: str, depth: int) -> None:
        if not entry.is_dir(follow_symlinks=False):
            self._not_a_folder(entry, path)
        elif entry.name.startswith("."):
            self._ignored = replace(self._ignored, hidden=self._ignored.hidden + 1)
        elif entry.name.endswith(".elimg"):
            self._volume(entry.name, folder, path)
        elif depth + 1 >= DEPTH_MAX:
            self._problem(f"{shown(path)}: deeper than {DEPTH_MAX} folders, not looked at")
        else:
            with open_folder(entry.name, within=folder) as below:
                self._walk(below, path, depth + 1)

    def _not_a_folder(self, entry: os.DirEntry[str], path: str) -> None:
        kind = "a file"
        if entry.is_symlink():
            kind = "a symbolic link"
            self._ignored = replace(self._ignored, symlinks=self._ignored.symlinks + 1)
        elif not entry.is_file(follow_symlinks=False):
            kind = "a special file"
            self._ignored = replace(self._ignored, specials=self._ignored.specials + 1)
        if entry.name.endswith(".elimg") and not entry.name.startswith("."):
            self._misplaced.append(BadVolume(shown(path), f"it is {kind}, not a folder", _vid_of(entry.name)))

    def _volume(self, name: str, parent: int, path: str) -> None:
        if len(self._found) >= VOLUMES_MAX:
            self._problem(f"more than {VOLUMES_MAX} volumes; {shown(path)} and others are left out")
            return
        vid = _vid_of(name)
        if vid is None:
            self._found.append(BadVolume(shown(path), "its name is not a UUID followed by .elimg"))
            return
        try:
            with open_folder(name, within=parent) as folder:
                if self._first_visit(folder):
                    self._found.append(self._read(folder, path, vid))
        except OSError as problem:
            self._found.append(BadVolume(shown(path), f"its folder can't be opened: {problem.strerror}", vid))

    def _read(self, folder: int, path: str, vid: Vid) -> _Found:
        facts = os.fstat(folder)
        key = (facts.st_dev, facts.st_ino, path)
        known = self._memory.get(key)
        if known is None or known.stamps != _stamps(folder, known.image):
            known = _read_afresh(folder, self._pool, path, vid)
        if _settled(known.stamps):
            self.remembered[key] = known
        return known.found

    def _first_visit(self, folder: int) -> bool:
        facts = os.fstat(folder)
        key = (facts.st_dev, facts.st_ino)
        first = key not in self._visited
        self._visited.add(key)
        return first

    def _problem(self, problem: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(problem)


def read_volume(folder: int, pool: str, path: str, vid: Vid) -> Volume:
    """The volume in the open `.elimg` folder. Raises `Unusable` with the reason why it can't be given."""
    return _volume(folder, pool, path, vid, _metadata(folder))


def _read_afresh(folder: int, pool: str, path: str, vid: Vid) -> _Remembered:
    stamps = _stamps(folder, None)
    image: str | None = None
    found: _Found
    try:
        metadata = _metadata(folder)
        image = metadata.image
        stamps = _stamps(folder, image)
        found = _volume(folder, pool, path, vid, metadata)
    except Unusable as problem:
        found = BadVolume(shown(path), str(problem), vid)
    return _Remembered(found, image, stamps)


def _metadata(folder: int) -> Metadata:
    try:
        metadata = parse_metadata(read_file(META, folder, META_MAX_BYTES))
    except FileNotFoundError as problem:
        raise Unusable(f"{META} is missing") from problem
    except OSError as problem:
        raise Unusable(f"{META} can't be read: {problem.strerror}") from problem
    if isinstance(metadata, Bad):
        raise Unusable(metadata.reason)
    return metadata


def _volume(folder: int, pool: str, path: str, vid: Vid, metadata: Metadata) -> Volume:
    _check_path(f"{path}/{metadata.image}")
    size_bytes = image_size_bytes(folder, metadata.image, metadata.format)
    return Volume(
        vid=vid,
        name=metadata.name,
        size_mib=metadata.size_mib,
        format=metadata.format,
        bootable=metadata.bootable,
        private=metadata.private,
        shareable=metadata.shareable,
        readonly=metadata.readonly,
        owner=metadata.owner,
        pool=pool,
        path=path,
        image=metadata.image,
        right=read_right(folder, vid),
        note=_note(folder, metadata, size_bytes),
    )


def image_size_bytes(folder: int, image: str, image_format: ImageFormat) -> int:
    """The size that a guest sees. Raises `Unusable` where the image is missing or not one that may be given.

    A raw image is never opened, so that its content can't matter.
    """
    try:
        if image_format is ImageFormat.RAW:
            facts = os.stat(image, dir_fd=folder, follow_symlinks=False)
            check_regular(image, facts)
            if facts.st_size == 0:
                raise Unusable(f"its image {image} is empty")
            return facts.st_size
        with open_file(image, folder) as (file, _):
            header = parse_qcow2_header(read_start(file, HEADER_BYTES))
    except FileNotFoundError as problem:
        raise Unusable(f"its image {image} is missing") from problem
    except OSError as problem:
        raise Unusable(f"its image {image} can't be read: {problem.strerror}") from problem
    if isinstance(header, Bad):
        raise Unusable(header.reason)
    return header.size_bytes


def _check_path(path: str) -> None:
    """The path goes into JSON and XML: it must be text, and no longer than the messages allow."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Cn") for character in path):
        raise Unusable("its path holds characters that are not text")
    if len(path.encode()) > IMAGE_PATH_MAX_BYTES:
        raise Unusable(f"its path is longer than {IMAGE_PATH_MAX_BYTES} bytes")


def _note(folder: int, metadata: Metadata, size_bytes: int) -> str:
    notes = []
    if size_bytes != metadata.size_mib * _MIB:
        notes.append(f"its image has {size_bytes / _MIB:.6g} MiB, its metadata says {metadata.size_mib} MiB")
    if os.fstat(folder).st_mode & 0o002:
        notes.append("anybody on this host may change its folder")
    return "; ".join(notes)


def _stamps(folder: int, image: str | None) -> tuple[_Stamp, ...]:
    return tuple(_stamp(folder, name) for name in (".", META, RECORD, image or META))


def _stamp(folder: int, name: str) -> _Stamp:
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino, facts.st_mode, facts.st_nlink)


def _settled(stamps: tuple[_Stamp, ...]) -> bool:
    now_ns = time.time_ns()
    return all(stamp is None or max(stamp[:2]) < now_ns - SETTLED_NS for stamp in stamps)


def _vid_of(name: str) -> Vid | None:
    found = _FOLDER.fullmatch(name)
    vid = parse_id(found.group(1)) if found else None
    return None if vid is None else Vid(vid)


def _conflict(vid: Vid, copies: list[_Found]) -> Conflict:
    paths = tuple(shown(copy.path) for copy in copies)
    return Conflict(vid, paths, tuple(copy for copy in copies if isinstance(copy, Volume)))
