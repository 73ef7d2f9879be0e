"""The processes of a lab, named so that a pid used again is never taken for one of ours."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from lablib.kernel import started_at

END_S = 20.0


def write_pid(path: Path, pid: int) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{pid} {started_at(pid)}\n")
    fresh.rename(path)


def read_pid(path: Path) -> int | None:
    """The pid in the file, if that very process still lives."""
    try:
        pid, start = path.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if start == str(started_at(int(pid))) else None


def inside(namespace_inodes: Iterable[int]) -> list[int]:
    """All processes that live in one of these network namespaces; nothing of others ever does."""
    wanted = set(namespace_inodes)
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if os.stat(f"{entry.path}/ns/net").st_ino in wanted:
                    found.append(int(entry.name))
            except OSError:  # ended meanwhile
                continue
    return found


def kill_all(pids: Iterable[int]) -> list[int]:
    """SIGKILL each and wait until it is gone; what is still there after END_S is returned."""
    waiting = {}
    for pid in pids:
        try:
            waiting[os.pidfd_open(pid)] = pid
        except ProcessLookupError:
            continue
    for fd in waiting:
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            continue
    ends = select.poll()
    for fd in waiting:
        ends.register(fd, select.POLLIN)
    deadline_s = time.monotonic() + END_S
    while waiting and (left_s := deadline_s - time.monotonic()) > 0:
        for fd, _ in ends.poll(left_s * 1000):
            ends.unregister(fd)
            os.close(fd)
            del waiting[fd]
    for fd in waiting:
        os.close(fd)
    return list(waiting.values())
