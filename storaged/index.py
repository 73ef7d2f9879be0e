"""Finds the volumes: every `<uuid>.elimg` folder beneath the configured pools, at any depth.

One bad volume never hides another: it is listed with its reason. Nothing is followed out of a pool (see `beneath`),
no image is probed; of a qcow2 image, called so by its metadata, the header's fields are read, of a raw one nothing.
Folders whose name starts with a dot are left alone, since snapshots and trash hold copies of volumes there. One vid at
two places is a conflict, and neither is given; one folder reached by two ways (bind mounts) is not. A pool within
another one counts for itself.
Synchronous: a daemon runs an `Index` in worker threads, one at a time. It keeps what it read with the stat of every
file that it was read from, and opens a volume again only where one of these differs. Nothing here holds Python's lock
for long at a time (no sort of everything, few objects that the collector has to walk): a loop beside it lives on.
"""

import gc
import os
import stat
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain
from struct import Struct
from sys import intern

from matcher.wire.messages import ImageFormat
from specs.ids import UserId, Vid, parse_id
from storaged.beneath import (
    Unusable,
    check_regular,
    open_beneath,
    open_file,
    open_folder,
    read_file,
    read_start,
    shown,
)
from storaged.export.qcow2_header import HEADER_BYTES, parse_qcow2_header
from storaged.gathering import gathered
from storaged.metadata import META_MAX_BYTES, Bad, Metadata, parse_metadata
from storaged.pool import VOLUMES_MAX, Pool, Pools
from storaged.record import RECORD, read_right
from storaged.volume import IMAGE_PATH_MAX_BYTES, BadVolume, Found, Ignored, PoolUse, Snapshot, Volume

DEPTH_MAX = 16  # folders beneath a pool's root
ENTRIES_MAX = 2_000_000  # names looked at in one scan
PROBLEMS_MAX = 64
FREEZE_EACH = 10_000  # volumes that are new: the collector, which holds Python's lock, need not walk them ever after
SETTLED_NS = 2_000_000_000  # a file changed less than this ago may change again within one tick of its clock

META = "meta.json"
FOLDER = ".elimg"

_MIB = 2**20
_64 = 2**64 - 1
_FACTS = Struct("=5Q")


@dataclass(frozen=True, slots=True)
class _Place:
    """What a folder held, and the digest of the stat of every file that this was read from; `None` where one of them
    had changed so lately that another change may not show. `image` is `None` where the metadata names none."""

    found: Found
    image: str | None
    stamp: bytes | None


class Index:
    """Looks at pools, and remembers. One thread at a time."""

    def __init__(self, pools: Pools | None = None) -> None:
        self._pools = pools or Pools()
        self._seen = _Seen()

    def scan(self, pools: Iterable[Pool | str | os.PathLike[str]]) -> Snapshot:
        """Everything beneath `pools`. Never raises for what it finds there."""
        roots: dict[str, Pool] = {}
        for pool in pools:
            named = pool if isinstance(pool, Pool) else Pool(os.fspath(pool))
            roots.setdefault(os.path.realpath(named.path), named)
        walk = _Walk(self._pools, _Seen(), self._seen.places)
        for root, pool in roots.items():
            walk.pool(root, pool, roots)
        self._seen = walk.seen
        return self._seen.snapshot()

    def look(self, paths: Iterable[str]) -> Snapshot | None:
        """Like a scan, but at these `.elimg` folders alone, each in a folder that the last scan went through; others
        are passed over. `None` where a pool is not what it was, so that only a scan can tell."""
        by_root: defaultdict[str, list[str]] = defaultdict(list)
        for path in paths:
            root = self._seen.folders.get(os.path.dirname(path))
            if root is not None:
                by_root[root].append(path)
        walk = _Walk(self._pools, self._seen, {})
        if not all(walk.look(root, paths) for root, paths in by_root.items()):
            return None
        return self._seen.snapshot()

    def watchable(self) -> Iterator[str]:
        """The folders in which a change matters, the most telling first: those that hold volumes or lead there, then
        the volumes themselves."""
        return chain(self._seen.folders, self._seen.places)


class _Seen:
    """What lay beneath the pools."""

    def __init__(self) -> None:
        self.places: dict[str, _Place] = {}
        self.misplaced: dict[str, BadVolume] = {}  # named like a volume, but no folder
        self.folders: dict[str, str] = {}  # each that was gone through, and its pool's root
        self.pools: dict[str, tuple[Pool, PoolUse]] = {}
        self.counts: Counter[str] = Counter()  # of places, by root
        self.problems: list[str] = []
        self.ignored = Ignored()

    def snapshot(self) -> Snapshot:
        return gathered(
            (place.found for place in self.places.values()),
            self.misplaced.values(),
            [use for _, use in self.pools.values()],
            problems=self.problems,
            ignored=self.ignored,
        )


class _Walk:
    """One pass over the pools, or a look at single places of them."""

    def __init__(self, pools: Pools, seen: _Seen, known: dict[str, _Place]) -> None:
        self._pools, self._known = pools, known
        self.seen = seen
        self._visited: set[int] = set()
        self._entries_left = ENTRIES_MAX
        self._fresh = 0
        self._root = ""
        self._roots: Container[str] = ()

    def pool(self, root: str, pool: Pool, roots: Container[str]) -> None:
        self._root, self._roots = root, roots
        try:
            with open_folder(root) as folder:
                self.seen.pools[root] = pool, self._pools.use(folder, pool, root)
                self._walk(folder, root, 0)
        except OSError as problem:
            self._problem(f"pool {shown(root)}: {problem.strerror}")
        except Unusable as problem:
            self._problem(f"pool {shown(root)} is left out: {problem}")

    def look(self, root: str, paths: Iterable[str]) -> bool:
        """Whether its pool and the folders above the paths are still what they were."""
        self._root = root
        pool, before = self.seen.pools[root]
        try:
            with open_folder(root) as folder:
                use = self._pools.use(folder, pool, root)
            if use != before:
                return False
            self.seen.pools[root] = pool, use
            for path in paths:
                self._look_at(path)
        except (OSError, Unusable):
            return False
        return True

    def _look_at(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        ignored = self.seen.ignored  # is of the last scan
        self.seen.misplaced.pop(path, None)
        known = self.seen.places.pop(path, None)
        if known is not None:
            self.seen.counts[self._root] -= 1
            self._known = {path: known}
        with open_beneath(self._root, parent) as folder, suppress(FileNotFoundError):
            self._named_as_volume(name, folder, path)
        self.seen.ignored = ignored

    def _walk(self, folder: int, path: str, depth: int) -> None:
        if not self._first_visit(os.fstat(folder)):
            return
        self.seen.folders[path] = self._root
        with os.scandir(folder) as listing:
            for entry in listing:
                if self._entries_left <= 0:
                    self._problem(f"{shown(path)}: more than {ENTRIES_MAX} names to look at; the rest is left out")
                    return
                self._entries_left -= 1
                try:
                    self._entry(entry, folder, f"{path}/{entry.name}", depth)
                except OSError:
                    self._ignore(unreadable=1)

    def _entry(self, entry: os.DirEntry[str], folder: int, path: str, depth: int) -> None:
        if entry.name.endswith(FOLDER) and not entry.name.startswith("."):
            self._named_as_volume(entry.name, folder, path)
        elif entry.is_symlink():
            self._ignore(symlinks=1)
        elif not entry.is_dir(follow_symlinks=False):
            self._ignore(specials=not entry.is_file(follow_symlinks=False))
        elif entry.name.startswith("."):
            self._ignore(hidden=1)
        elif path in self._roots:
            return
        elif depth + 1 >= DEPTH_MAX:
            self._problem(f"{shown(path)}: deeper than {DEPTH_MAX} folders, not looked at")
        else:
            with open_folder(entry.name, within=folder) as below:
                self._walk(below, path, depth + 1)

    def _named_as_volume(self, name: str, parent: int, path: str) -> None:
        facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            if self._first_visit(facts):
                self._volume(name, parent, path, facts)
            return
        kind = "a file"
        if stat.S_ISLNK(facts.st_mode):
            kind = "a symbolic link"
            self._ignore(symlinks=1)
        elif not stat.S_ISREG(facts.st_mode):
            kind = "a special file"
            self._ignore(specials=1)
        if len(self.seen.misplaced) >= VOLUMES_MAX:
            self._problem(f"more than {VOLUMES_MAX} files and links named like volumes; some are left out")
            return
        self.seen.misplaced[path] = BadVolume(shown(path), f"it is {kind}, not a folder", _vid_of(name))

    def _volume(self, name: str, parent: int, path: str, facts: os.stat_result) -> None:
        pool, use = self.seen.pools[self._root]
        volumes_max = pool.volumes_max
        if len(self.seen.places) >= VOLUMES_MAX or self.seen.counts[self._root] >= volumes_max:
            most = min(VOLUMES_MAX, volumes_max)
            self._problem(f"more than {most} volumes in {shown(self._root)}; some are left out")
            return
        known = self._known.get(path)
        if known is not None and isinstance(known.found, Volume) and known.found.pool_id != use.pool_id:
            known = None
        if known is None or known.stamp is None or known.stamp != _stamp(facts, parent, f"{name}/", known):
            known = _placed(name, parent, use, path)
            self._fresh += 1
            if self._fresh % FREEZE_EACH == 0:
                gc.freeze()
        elif isinstance(known.found, Volume):
            path = known.found.path  # the same text, once in memory
        self.seen.places[path] = known
        self.seen.counts[self._root] += 1

    def _first_visit(self, facts: os.stat_result) -> bool:
        key = facts.st_dev << 64 | facts.st_ino
        first = key not in self._visited
        self._visited.add(key)
        return first

    def _ignore(self, **counts: int) -> None:
        ignored = self.seen.ignored
        self.seen.ignored = replace(ignored, **{name: getattr(ignored, name) + n for name, n in counts.items()})

    def _problem(self, problem: str) -> None:
        if len(self.seen.problems) < PROBLEMS_MAX and problem not in self.seen.problems:
            self.seen.problems.append(problem)


def read_volume(folder: int, pool: str, pool_id: str | None, path: str, vid: Vid) -> Volume:
    """The volume in the open `.elimg` folder. Raises `Unusable` with the reason why it can't be given."""
    return _volume(folder, pool, pool_id, path, vid, _metadata(folder))


def _placed(name: str, parent: int, use: PoolUse, path: str) -> _Place:
    vid = _vid_of(name)
    if vid is None:
        return _Place(BadVolume(shown(path), "its name is not a UUID followed by .elimg"), None, None)
    try:
        with open_folder(name, within=parent) as folder:
            return _read_afresh(folder, use, path, vid)
    except OSError as problem:
        return _Place(BadVolume(shown(path), f"its folder can't be opened: {problem.strerror}", vid), None, None)


def _read_afresh(folder: int, use: PoolUse, path: str, vid: Vid) -> _Place:
    """Each file's stat is taken before it is read: what changes in between differs from its stat at the next look."""
    facts = [os.fstat(folder), _facts(META, folder), _facts(RECORD, folder)]
    image = owner = None
    found: Found
    try:
        metadata = _metadata(folder)
        image, owner = metadata.image, metadata.owner if metadata.private else None
        facts.append(_facts(image, folder))
        found = _volume(folder, use.path, use.pool_id, path, vid, metadata)
    except Unusable as problem:
        found = BadVolume(shown(path), str(problem), vid, owner)
    newest_ns = max(each.st_ctime_ns for each in facts if each)  # unlike `mtime`, nobody can set it
    return _Place(found, image, _digest(facts) if newest_ns < time.time_ns() - SETTLED_NS else None)


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


def _volume(folder: int, pool: str, pool_id: str | None, path: str, vid: Vid, metadata: Metadata) -> Volume:
    _check_path(f"{path}/{metadata.image}")
    if metadata.format is ImageFormat.FOLDER:
        _check_folder(folder, metadata.image)
        size_bytes = metadata.size_mib * _MIB  # a promise: what is in it is not counted
    else:
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
        owner=metadata.owner and UserId(intern(metadata.owner)),
        goes_with=metadata.goes_with,
        sha256=metadata.sha256,
        pool=pool,
        path=path,
        image=intern(metadata.image),
        right=read_right(folder, vid),
        note=_note(folder, metadata, size_bytes),
        pool_id=pool_id,
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


def _check_folder(folder: int, name: str) -> None:
    """Never through a link: what lies in it is guests' own, and nobody here looks at it."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError as problem:
        raise Unusable(f"its folder {name} is missing") from problem
    if not stat.S_ISDIR(facts.st_mode):
        raise Unusable(f"its folder {name} is {'a symbolic link' if stat.S_ISLNK(facts.st_mode) else 'no folder'}")


def _check_path(path: str) -> None:
    """The path goes into JSON and XML: it must be text, and no longer than the messages allow."""
    if not path.isprintable() and any(unicodedata.category(char) in ("Cc", "Cs", "Cn") for char in path):
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


def _stamp(folder: os.stat_result, at: int, prefix: str, known: _Place) -> bytes:
    """The digest for the folder with the stat `folder`, of the files that were read for `known`. Nothing is opened."""
    facts = [folder, _facts(prefix + META, at)]
    if isinstance(known.found, BadVolume) or known.found.right is not None:  # a record that is new changes the folder
        facts.append(_facts(prefix + RECORD, at))
    if known.image is not None:
        facts.append(_facts(prefix + known.image, at))
    return _digest(facts)


def _facts(name: str, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None


def _digest(facts: Sequence[os.stat_result | None]) -> bytes:
    return blake2b(b"".join([_packed(each) for each in facts if each]), digest_size=16).digest()


def _packed(facts: os.stat_result) -> bytes:
    """Whatever changes a file's content, place, mode or links changes one of these."""
    return _FACTS.pack(
        facts.st_dev,
        facts.st_ino,
        facts.st_mtime_ns & _64,
        facts.st_ctime_ns & _64,
        facts.st_size,
    )


def _vid_of(name: str) -> Vid | None:
    vid = parse_id(name.removesuffix(FOLDER).removeprefix("vid."))
    return None if vid is None else Vid(vid)
