"""What is being made, or thrown away, lies hidden in its pool's root, and is seen all at once or not at all.

    .new-<hex>/   being made: renamed into place when all of it is on the disk
    .gone-<hex>/  being deleted: renamed out of place first

Whoever makes something holds a lock on its folder, which the kernel drops when the process ends, however it ends. So
`sweep` knows what is left over from a crash. An image that takes another's place in a volume is the one thing that no
rename does alone, as meta.json has to change with it: `replacing` writes down which of the two is to go, and whichever
meta.json then names, stays.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex

from specs.ids import UserId
from storaged.beneath import Unusable, open_beneath, open_folder, read_file
from storaged.index import META
from storaged.lenient import NotJson, read
from storaged.metadata import META_MAX_BYTES, OURS, Bad, Metadata, parse_metadata, write_metadata

NEW, GONE = ".new-", ".gone-"
MODE = 0o600
FOLDER_MODE = 0o755
REPLACES = "replaces.json"
REPLACES_MAX_BYTES = 16 * 1024

_NEW_META = ".meta.json.new"
_META_MODE = 0o644
_META_FIELDS = json.loads(write_metadata(Metadata(128, owner=UserId("0" * 64)))).keys()
_SENTENCES = {
    errno.ENOSPC: "the pool is full",
    errno.EDQUOT: "the pool's quota on the host is used up",
    errno.EFBIG: "the image is too large for the pool's filesystem",
    errno.EXDEV: "the volume lies on another filesystem than its pool's root; make that folder a pool of its own",
    errno.EROFS: "the pool is mounted read-only",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A hidden folder in the root of `pool`. `folder` and `root` are descriptors of it and of the pool."""

    pool: str
    name: str
    root: int
    folder: int

    @contextmanager
    def new_file(self, name: str) -> Iterator[int]:
        """A new file for reading and writing. On the disk when left without an error."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, MODE, dir_fd=self.folder)
        try:
            yield file
            os.fsync(file)
        finally:
            os.close(file)

    def write(self, name: str, data: bytes) -> None:
        """A small file, readable for all, on the disk."""
        with self.new_file(name) as file, open(file, "wb", closefd=False) as stream:
            os.fchmod(file, _META_MODE)
            stream.write(data)

    def publish(self, name: str, within: int) -> None:
        """The folder becomes `name` in the open folder `within`, and is on the disk there."""
        os.chmod(self.folder, FOLDER_MODE)
        os.fsync(self.folder)
        if _exists(name, within):
            raise Unusable(f"{name} is there already")
        os.rename(self.name, name, src_dir_fd=self.root, dst_dir_fd=within)
        os.fsync(within)
        os.fsync(self.root)


@contextmanager
def staged(pool: str) -> Iterator[Stage]:
    """Room to make something in. Whatever is still there when it is left is deleted. Errors are `Unusable`."""
    try:
        with open_folder(pool) as root:
            name, folder = _locked_folder(root)
            try:
                yield Stage(pool, name, root, folder)
            finally:
                if _is(folder, name, root):
                    _delete(name, root)
                os.close(folder)
    except OSError as problem:
        raise Unusable(sentence(problem)) from problem


def sentence(problem: OSError) -> str:
    """For a person: what kept us from writing into a pool."""
    return _SENTENCES.get(problem.errno or 0, f"the pool can't be written: {problem.strerror}")


def _locked_folder(root: int) -> tuple[str, int]:
    while True:  # a sweep may come between any two of these steps
        name = f"{NEW}{token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=root)
        with suppress(FileNotFoundError):
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
            if _lock(folder) and _is(folder, name, root):
                return name, folder
            os.close(folder)


def _lock(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(folder: int, name: str, root: int) -> bool:
    try:
        there, here = os.stat(name, dir_fd=root, follow_symlinks=False), os.fstat(folder)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _exists(name: str, folder: int) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


def _delete(name: str, root: int) -> None:
    shutil.rmtree(name, ignore_errors=True, dir_fd=root)


def discard(root: int, name: str, within: int) -> None:
    """The folder `name` in `within` is gone at once, for good when this returns; its space comes back a little later.
    `root` is the root of its pool."""
    trash = f"{GONE}{token_hex(8)}"
    os.rename(name, trash, src_dir_fd=within, dst_dir_fd=root)
    os.fsync(within)
    os.fsync(root)
    _delete(trash, root)


@dataclass(frozen=True, slots=True)
class Swept:
    """How many leftovers were deleted, and how many not: work of others, or what can't be judged."""

    deleted: int
    left: int


def sweep(pool: str) -> Swept:
    """Deletes what a crash left in the root of `pool`, and finishes what it interrupted.

    Harmless at any time and quick, so that it may come with each rescan: what is left today is gone tomorrow.
    """
    deleted = left = 0
    try:
        with open_folder(pool) as root:
            names = [name for name in os.listdir(root) if name.startswith((NEW, GONE))]
            for name in names:
                if _swept(pool, name, root):
                    deleted += 1
                else:
                    left += 1
    except OSError as problem:
        raise Unusable(f"the pool can't be read: {problem.strerror}") from problem
    return Swept(deleted, left)


def _swept(pool: str, name: str, root: int) -> bool:
    try:
        with open_folder(name, within=root) as folder:
            if not (_lock(folder) and _is(folder, name, root) and settle(pool, folder)):
                return False
            _delete(name, root)
    except OSError:
        return False  # not a folder, or a filesystem that locks none
    return not _exists(name, root)


# An image takes another's place


@dataclass(frozen=True, slots=True)
class Replacement:
    """`path` is the volume's folder; `old` and `new` are names of images in it."""

    path: str
    old: str
    new: str


def replace_image(stage: Stage, path: str, metadata: Metadata, staged_name: str) -> None:
    """The volume at `path` has the staged image and `metadata`, which names it; where this raises, the old ones.

    The staged image is on the disk already.
    """
    with open_beneath(stage.pool, path) as folder:
        replacement = Replacement(path, metadata_in(folder).image, metadata.image)
        assert replacement.old != replacement.new
        stage.write(REPLACES, _render(replacement))
        os.fsync(stage.folder)
        os.rename(staged_name, replacement.new, src_dir_fd=stage.folder, dst_dir_fd=folder)
        try:
            os.fsync(folder)
            write_meta(folder, metadata)
        except BaseException:
            # Where meta.json names the new image and nobody knows for how long, both stay.
            if metadata_in(folder).image == replacement.old:
                _settle(folder, replacement)
            raise
        _settle(folder, replacement)


def settle(pool: str, stage: int) -> bool:
    """Ends the replacement that the open folder of a stage tells of; `False` where that can't be judged."""
    try:
        data = read_file(REPLACES, stage, REPLACES_MAX_BYTES)
    except FileNotFoundError:
        return True  # it had not come to that
    except Unusable:
        return False
    replacement = _parse(data)
    if replacement is None:
        return True  # torn: it was written before anything was changed
    try:
        with open_beneath(pool, replacement.path) as folder:
            _settle(folder, replacement)
    except FileNotFoundError:
        return True  # the volume was removed since
    except (OSError, Unusable):
        return False
    return True


def _settle(folder: int, replacement: Replacement) -> None:
    """Whichever image meta.json names, stays; where it names another, a person was at it, and only ours goes."""
    named = metadata_in(folder).image
    os.fsync(folder)  # or a power cut could bring the old meta.json back, without its image
    loser = replacement.old if named == replacement.new else replacement.new
    for leftover in (loser, _NEW_META):
        with suppress(FileNotFoundError):
            os.unlink(leftover, dir_fd=folder)
    os.fsync(folder)


def _render(replacement: Replacement) -> bytes:
    return json.dumps({"path": replacement.path, "old": replacement.old, "new": replacement.new}).encode()


def _parse(data: bytes) -> Replacement | None:
    try:
        value = json.loads(data)
        path, old, new = value["path"], value["old"], value["new"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = all(isinstance(text, str) for text in (path, old, new))
    return Replacement(path, old, new) if texts and _plain(old) and _plain(new) else None


def _plain(name: str) -> bool:
    return bool(name) and "/" not in name and "\0" not in name and not name.startswith(".") and name not in OURS


def metadata_in(folder: int) -> Metadata:
    """What the open `.elimg` folder says of itself now. Raises `Unusable` or `OSError`."""
    metadata = parse_metadata(read_file(META, folder, META_MAX_BYTES))
    if isinstance(metadata, Bad):
        raise Unusable(metadata.reason)
    return metadata


def write_meta(folder: int, metadata: Metadata) -> None:
    """meta.json is exchanged in one step and is on the disk; fields in it that aren't ours are kept."""
    data = _with_foreign_fields(write_metadata(metadata), folder)
    with suppress(FileNotFoundError):
        os.unlink(_NEW_META, dir_fd=folder)  # left by a crash
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(_NEW_META, flags, _META_MODE, dir_fd=folder)
    try:
        with open(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(_NEW_META, META, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(_NEW_META, dir_fd=folder)
        raise
    os.fsync(folder)


def _with_foreign_fields(data: bytes, folder: int) -> bytes:
    try:
        old = read(read_file(META, folder, META_MAX_BYTES).decode("utf-8-sig"))
    except (NotJson, UnicodeDecodeError) as problem:
        raise Unusable("meta.json can't be read") from problem
    # A field of ours that the new metadata lacks, such as the owner, must not come back from the old.
    foreign = {key: value for key, value in old.items() if key not in _META_FIELDS} if isinstance(old, dict) else {}
    merged = json.dumps({**json.loads(data), **foreign}, indent=2, ensure_ascii=False).encode() + b"\n"
    if len(merged) > META_MAX_BYTES:
        raise Unusable(f"meta.json would become larger than {META_MAX_BYTES // 1024} KiB")
    return merged
