"""Reads the audit: its last lines, and those that come, across the moments when the file is turned over."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from matcher.net.audit import FILES_KEPT

CHUNK_BYTES = 64 * 1024
LOOK_S = 0.25


def last_lines(path: Path, count: int, *, files_kept: int = FILES_KEPT) -> list[str]:
    """The newest `count` lines, oldest first; none where nothing was written yet. Raises `OSError`."""
    lines: list[str] = []
    for older in [path, *(Path(f"{path}.{number}") for number in range(1, files_kept + 1))]:
        if len(lines) >= count:
            break
        try:
            with open(older, "rb") as file:
                lines = [*_tail(file, count - len(lines)), *lines]
        except FileNotFoundError:
            continue
    return lines


def follow(path: Path, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Every line that is written from now on, for ever. Raises `OSError` where the file can't be read."""
    file, rest = _opened(path), b""
    if file is not None:
        file.seek(0, os.SEEK_END)
    while True:
        if file is not None:
            while data := file.read(CHUNK_BYTES):
                *whole, rest = (rest + data).split(b"\n")
                yield from (_text(line) for line in whole if line)
        now = _opened(path)
        if now is None or (file is not None and os.path.sameopenfile(now.fileno(), file.fileno())):
            if now is not None:
                now.close()
            sleep(LOOK_S)
            continue
        if file is not None:  # turned over: what was written to it until then, first
            *whole, rest = (rest + file.read()).split(b"\n")
            yield from (_text(line) for line in whole if line)
            file.close()
        file, rest = now, b""


def _opened(path: Path) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None


def _tail(file: BinaryIO, count: int) -> list[str]:
    """The last `count` whole lines, read from the end."""
    position = file.seek(0, os.SEEK_END)
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
