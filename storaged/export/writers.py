"""Whether anything on this host can still write an image: the kernel's own answer, not a server's.

A read lease is given only while no process has the file open for writing (fcntl(2), F_SETLEASE: the kernel counts open
descriptions, mappings and requests under way as well). It is asked for and given back at once. That needs no look into
other processes, but the file's owner or CAP_LEASE. Filesystems of a network mostly give no leases: there only the
server's own open files can be looked at, and others' hosts not at all.
"""

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from storaged.beneath import Unusable, open_file
from storaged.export.description import Image
from storaged.reopening import reopened


class Writers(StrEnum):
    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


def writers_of(image: Image, server: int | None) -> tuple[Writers, str]:
    """The answer, and for the log why it isn't *none*. `server`: the process that served it, `None` when it ended."""
    try:
        with _opened(image) as (file, facts):
            answer = _lease(file)
            return answer if answer[0] is not Writers.UNKNOWN or server is None else _look(server, facts, answer[1])
    except FileNotFoundError:
        return Writers.UNKNOWN, "the image is gone"
    except (Unusable, OSError) as problem:
        return Writers.UNKNOWN, f"the image can't be opened: {problem}"


def serves(server: int, image: Image) -> bool:
    """Whether the process has this very image open, whatever path it was given. Raises `Unusable` or `OSError`."""
    with _opened(image) as (_, facts):
        return _is_open(server, facts)


@contextmanager
def _opened(image: Image) -> Iterator[tuple[int, os.stat_result]]:
    with reopened(image) as folder, open_file(image.name, folder) as opened:
        yield opened


def _lease(file: int) -> tuple[Writers, str]:
    # Who opens the file in that moment waits for us, and the kernel tells us by a signal that would end us as it is.
    fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as problem:
        if problem.errno == errno.EAGAIN:
            return Writers.SOME, "it is open for writing"
        return Writers.UNKNOWN, f"no lease on it: {problem.strerror}"
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return Writers.NONE, ""


def _look(server: int, facts: os.stat_result, why: str) -> tuple[Writers, str]:
    try:
        return (Writers.SOME, "its server has it open") if _is_open(server, facts) else (Writers.NONE, "")
    except OSError as problem:
        return Writers.UNKNOWN, f"{why}; its server can't be looked at: {problem.strerror}"


def _is_open(server: int, facts: os.stat_result) -> bool:
    with os.scandir(f"/proc/{server}/fd") as opened:
        return any(_same(entry.path, facts) for entry in opened)


def _same(path: str, facts: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), facts)
    except FileNotFoundError:  # closed meanwhile
        return False
