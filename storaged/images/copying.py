"""Copies bytes into a new image: another image's, or a stream's. Holes stay holes.

What a copy shares with its source (reflinks, on XFS, btrfs and their kin) is the filesystem's business: the copy is
whole from the first moment, and writing to one never shows in the other.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from storaged.beneath import Unusable

CHUNK_BYTES = 8 * 2**20
BLOCK_BYTES = 64 * 1024  # zeros of this many bytes, at such an offset, become a hole

Progress = Callable[[str, int, int], None]  # step, bytes done, bytes in all (0: unknown); may raise, to stop

_FICLONE = 0x40049409  # linux/fs.h
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
_ZEROS = bytes(BLOCK_BYTES)


class Stream(Protocol):
    """Bytes from outside. `read` gives at least one, or none at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Copied:
    size_bytes: int
    sha256: str  # of all bytes, holes as zeros; 64 hex digits


def silent(_step: str, _done: int, _total: int) -> None:
    """A `Progress` that tells nobody."""


def copy_file(source: int, target: int, progress: Progress = silent) -> bool:
    """Makes `target`, open and empty, a copy of `source`; `True` where they share their blocks. It counts the bytes of
    data, and not those of holes."""
    size_bytes = os.fstat(source).st_size
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as problem:
        if problem.errno not in _NO_CLONE:
            raise
    else:
        progress("share", size_bytes, size_bytes)
        return True
    os.ftruncate(target, size_bytes)
    total = sum(end - start for start, end in _data(source, size_bytes))
    done = 0
    for start, end in _data(source, size_bytes):
        at = start
        while at < end:
            progress("copy", done, total)
            copied = _copy_range(source, target, at, min(CHUNK_BYTES, end - at))
            at, done = at + copied, done + copied
    progress("copy", done, total)
    return False


def _data(source: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Where the file is no hole: from, to."""
    at = 0
    while (at := _data_after(source, at, size_bytes)) < size_bytes:
        end = min(os.lseek(source, at, os.SEEK_HOLE), size_bytes)
        yield at, end
        at = end


def _data_after(source: int, at: int, size_bytes: int) -> int:
    try:
        return os.lseek(source, at, os.SEEK_DATA) if at < size_bytes else size_bytes
    except OSError as problem:
        if problem.errno == errno.ENXIO:  # nothing but a hole
            return size_bytes
        raise


def _copy_range(source: int, target: int, at: int, length: int) -> int:
    try:
        copied = os.copy_file_range(source, target, length, at, at)
    except OSError as problem:
        if problem.errno not in _NO_CLONE:
            raise
        copied = os.pwrite(target, os.pread(source, length, at), at)
    if copied == 0:
        raise Unusable("the image became shorter while it was copied")
    return copied


def copy_stream(source: Stream, target: int, *, most_bytes: int, total: int = 0, progress: Progress = silent) -> Copied:
    """Writes all of `source` to `target`, open and empty. Raises `Unusable` at the first byte beyond `most_bytes`."""
    digest, at = sha256(), 0
    while part := source.read(min(CHUNK_BYTES, most_bytes - at + 1)):
        if at + len(part) > most_bytes:
            raise Unusable(f"the image is larger than {_shown(most_bytes)}, the most that is taken")
        digest.update(part)
        _write_sparse(target, part, at)
        at += len(part)
        progress("copy", at, total)
    os.ftruncate(target, at)
    return Copied(at, digest.hexdigest())


def _write_sparse(target: int, data: bytes, at: int) -> None:
    """Blocks of zeros are left out, where they lie on the grid of blocks: each is one extent less."""
    view, start = memoryview(data), 0
    while start < len(data):
        end = min(len(data), start + BLOCK_BYTES - (at + start) % BLOCK_BYTES)
        if data[start:end] != _ZEROS[: end - start]:
            write_all(target, view[start:end], at + start)
        start = end


def write_all(target: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, at)
        view, at = view[written:], at + written


def _shown(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.6g} GB" if size_bytes >= 2**27 else f"{size_bytes} bytes"
