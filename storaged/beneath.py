"""Opens what lies beneath a pool, one name at a time, and never through a symbolic link.

Python's `os` has no `openat2(RESOLVE_BENEATH)`; walking by directory descriptors with O_NOFOLLOW does the same: each
name is one component, so that neither a link nor ".." can lead out. Types are checked on what was opened, not on
what was listed before, and O_NONBLOCK keeps a FIFO that takes a file's place from holding us up.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from storaged.metadata import Bad
from storaged.volume import shown as shown

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

REPLACED_MAX = 8  # times that a name is looked up, as its file was replaced in between


class Unusable(Exception):
    """What was found beneath a pool can't be used; the message is one sentence for a person."""

    @property
    def bad(self) -> Bad:
        return Bad(str(self))


@contextmanager
def open_folder(path: str, *, within: int | None = None) -> Iterator[int]:
    """A descriptor of the folder `path`, one name when `within` a folder. Raises `OSError`."""
    assert within is None or ("/" not in path and path not in ("", ".", ".."))
    folder = os.open(path, _DIR if within is not None else _DIR & ~os.O_NOFOLLOW, dir_fd=within)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def open_beneath(root: str, path: str, check: Callable[[int], None] = lambda _: None) -> Iterator[int]:
    """A descriptor of the folder `path`, which lies beneath `root`; only `root` itself may be a link. `check` is given
    the open root, and raises `Unusable` where it is not the one that is meant."""
    relative = os.path.relpath(path, root)
    names = [] if relative == "." else relative.split("/")
    if ".." in names:
        raise Unusable(f"{shown(path)} is not beneath {shown(root)}")
    folder = os.open(root, _DIR & ~os.O_NOFOLLOW)
    try:
        check(folder)
        for name in names:
            below = os.open(name, _DIR, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


@contextmanager
def open_file(name: str, folder: int) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file with one name alone, read-only, and its facts. Raises `Unusable` or `OSError`."""
    file = _opened(name, folder)
    try:
        facts = os.fstat(file)
        check_regular(name, facts)
        yield file, facts
    finally:
        os.close(file)


def _opened(name: str, folder: int) -> int:
    """Where another file takes this one's name meanwhile, that one."""
    for _ in range(REPLACED_MAX):
        check_regular(name, os.stat(name, dir_fd=folder, follow_symlinks=False))  # opening a device can do things
        file = os.open(name, _FILE, dir_fd=folder)
        if os.fstat(file).st_nlink > 0:
            return file
        os.close(file)
    raise Unusable(f"{shown(name)} is replaced again and again")


def check_regular(name: str, facts: os.stat_result) -> None:
    """Raises `Unusable` unless the facts are of a regular file that has one name alone, or none: replaced just now."""
    if stat.S_ISLNK(facts.st_mode):
        raise Unusable(f"{shown(name)} is a symbolic link")
    if not stat.S_ISREG(facts.st_mode):
        raise Unusable(f"{shown(name)} is not a regular file")
    if facts.st_nlink > 1:
        # The other name may be anywhere, in another volume or another user's home, and the bytes are the same.
        raise Unusable(f"{shown(name)} is a hard link: the same file has another name elsewhere")


def read_file(name: str, folder: int, max_bytes: int) -> bytes:
    """The whole file, or its first `max_bytes` + 1 bytes, by which the caller sees that it is too long."""
    with open_file(name, folder) as (file, _):
        return read_start(file, max_bytes + 1)


def read_start(file: int, size_bytes: int) -> bytes:
    """The first `size_bytes` bytes, or all where there are fewer."""
    parts = bytearray()
    while len(parts) < size_bytes and (part := os.pread(file, size_bytes - len(parts), len(parts))):
        parts += part
    return bytes(parts)
