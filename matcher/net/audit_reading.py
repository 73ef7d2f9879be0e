"""Reads the audit: its last lines, and those that come, across the moments when the file is turned over."""

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from matcher.net.audit import FILES_KEPT

CHUNK_BYTES = 64 * 1024
LOOK_S = 0.25


def last_lines(path: Path, count: int, *, files_kept: int = FILES_KEPT) -> list[str]:
    """The newest `count` lines, oldest first; none where nothing was written yet. Raises `OSError`."""
    with ExitStack() as stack:
        file = _opened(path)
        if file is not None:
            stack.enter_context(file)
        return _last(path, file, count, files_kept)


def follow(path: Path, count: int = 0, sleep: Callable[[float], None] = time.sleep) -> Generator[str, None, None]:
    """The newest `count` lines, then every one that is written from now on, for ever; none is left out between the two.
    Raises `OSError` where the file can't be read."""
    file = _opened(path)
    try:
        end = file.seek(0, os.SEEK_END) if file is not None else 0
        yield from _last(path, file, count, FILES_KEPT, end)
        if file is not None:
            file.seek(end)
        rest = b""
        while True:
            rest = yield from _whole(file, rest)
            now = _opened(path)
            if now is not None and (file is None or not _is_same(now, file)):
                old, file = file, now
                yield from _rest_of(old, rest)
                rest = b""
                continue
            if now is not None:
                now.close()
            sleep(LOOK_S)
    finally:
        if file is not None:
            file.close()


def _rest_of(old: BinaryIO | None, rest: bytes) -> Iterator[str]:
    """What was written to a file until it was turned over."""
    if old is not None:
        with old:
            yield from _whole(old, rest)


def _whole(file: BinaryIO | None, rest: bytes) -> Generator[str, None, bytes]:
    """The lines that have come; returns what has come of the next one."""
    while file is not None and (data := file.read(CHUNK_BYTES)):
        *whole, rest = (rest + data).split(b"\n")
        yield from (_text(line) for line in whole if line)
    return rest


def _last(path: Path, file: BinaryIO | None, count: int, files_kept: int, end: int | None = None) -> list[str]:
    """The newest lines up to `end` of the open file, and of the older ones where these are not enough."""
    lines = _tail(file, count, end) if file is not None else []
    for number in range(1, files_kept + 1):
        if len(lines) >= count:
            break
        older = _opened(Path(f"{path}.{number}"))
        if older is None:
            continue
        with older:
            if file is None or not _is_same(older, file):  # turned over since it was opened
                lines = [*_tail(older, count - len(lines)), *lines]
    return lines


def _is_same(one: BinaryIO, other: BinaryIO) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())


def _opened(path: Path) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _tail(file: BinaryIO, count: int, end: int | None = None) -> list[str]:
    """The last `count` lines before `end` (of the file), read backwards."""
    position = file.seek(0, os.SEEK_END) if end is None else end
    data = b""
    while position > 0 and data.count(b"\n") <= count:
        size = min(CHUNK_BYTES, position)
        position -= size
        file.seek(position)
        data = file.read(size) + data
    lines = data.split(b"\n")
    whole = lines if position == 0 else lines[1:]
    return [_text(line) for line in whole if line][-count:] if count > 0 else []


def _text(line: bytes) -> str:
    return line.decode("ascii", "replace")
