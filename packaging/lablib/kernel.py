"""The Linux calls that Python 3.11 lacks: namespaces, mounts, and what tells one process from the next.

Every failure is an OSError that names the call.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(call: str, result: int) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{call}: {os.strerror(errno)}")


def unshare(flags: int) -> None:
    _checked("unshare", _libc.unshare(flags))


def enter(namespace_fd: int, kind: int) -> None:
    _checked("setns", _libc.setns(namespace_fd, kind))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = [text.encode() or None for text in (source, target, kind)]
    _checked(f"mount {target}", _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None))


def bind(source: str, target: str) -> None:
    """Show `source`, with all that is mounted below it, at `target`."""
    mount(source, target, flags=MS_BIND | MS_REC)


def die_with_parent(signal_number: int) -> None:
    _checked("prctl", _libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def started_at(pid: int) -> int | None:
    """Clock ticks from boot to this process's start: with the pid, a name that is never used again. None: dead."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            state, *fields = stat.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in (b"Z", b"X") else int(fields[18])
