"""Hears from the kernel that something changed beneath the pools (inotify), so that nobody has to wait for a rescan.

A hint, never the truth: what other hosts change on a shared filesystem is not heard, nor a new link to a file; a full
queue loses the rest, a volume may change before its folder is watched, and of very many folders only the first are
watched. Whoever listens looks for itself at what is named here, and scans now and then in any case.
By ctypes, as the standard library has no inotify. Source: inotify(7).
"""

import ctypes
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from struct import Struct

import trio

WATCHES_MAX = 8192  # each costs the kernel one or two KiB, and all programs of a user share fs.inotify.max_user_watches
PATHS_MAX = 256  # changed at once; beyond, everything is looked at
READ_BYTES = 64 * 1024
READS_MAX = 4  # in one go, so that a flood does not hold the loop up; what is left is a hint still
NAMED = ".elimg"

_EVENT = Struct("=iIII")  # struct inotify_event: watch, mask, cookie, length of the name
_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _Q_OVERFLOW, _IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK, _ISDIR = 0x1000000, 0x2000000, 0x4000000, 0x40000000
_ENTRIES = _CREATE | _DELETE | _MOVED_FROM | _MOVED_TO
_WATCHED = _ENTRIES | _ATTRIB | _CLOSE_WRITE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR | _DONT_FOLLOW | _EXCL_UNLINK


@dataclass(frozen=True, slots=True)
class Hint:
    """`paths` are `.elimg` folders that may have come, gone or changed; `whole` where it may be anything."""

    paths: frozenset[str] = frozenset()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Watched:
    """`new` are folders that are watched from now on; what changed there a moment before, nobody heard."""

    new: tuple[str, ...] = ()
    is_all: bool = True


class Hints:
    """One inotify queue. `watch` may run in a thread, while nothing else does. Raises `OSError` where there is none."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._queue = self._call(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._paths: dict[int, str] = {}
        self._watches: dict[str, int] = {}

    def close(self) -> None:
        os.close(self._queue)
        self._queue = -1  # a thread that was abandoned may still want to watch

    def watch(self, folders: Iterable[str]) -> Watched:
        """Watch these folders and no others; the first ones, where they are too many."""
        wanted = dict.fromkeys(islice(folders, WATCHES_MAX + 1))
        is_all = len(wanted) <= WATCHES_MAX
        if not is_all:
            wanted.popitem()
        for path in self._watches.keys() - wanted.keys():
            self._leave(path)
        new = []
        for path in wanted.keys() - self._watches.keys():
            try:
                self._begin(path)
            except OSError as problem:
                if problem.errno in (errno.ENOSPC, errno.ENOMEM):
                    is_all = False
                    break
                continue  # gone, or not a folder any more: its parent tells
            new.append(path)
        return Watched(tuple(new), is_all)

    async def heard(self) -> None:
        """Return as soon as there is something to `take`."""
        await trio.lowlevel.wait_readable(self._queue)

    def take(self) -> Hint:
        """What has been heard since the last call."""
        paths: set[str] = set()
        whole = False
        for _ in range(READS_MAX):
            try:
                data = os.read(self._queue, READ_BYTES)
            except BlockingIOError:
                break
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
                at += length
                whole |= self._hears(watch, mask, name, paths)
        return Hint(frozenset(), True) if whole or len(paths) > PATHS_MAX else Hint(frozenset(paths))

    def _hears(self, watch: int, mask: int, name: str, paths: set[str]) -> bool:
        """Adds to `paths`; whether everything has to be looked at."""
        if mask & (_Q_OVERFLOW | _UNMOUNT):
            return True
        if mask & _IGNORED:
            path = self._paths.pop(watch, None)
            if path is not None and self._watches.get(path) == watch:
                del self._watches[path]
            return False
        path = self._paths.get(watch)
        if path is None or len(paths) > PATHS_MAX:
            return False
        if path.endswith(NAMED):
            paths.add(path)
            return False
        if name.endswith(NAMED):
            paths.add(f"{path}/{name}")
            return False
        is_folder = bool(mask & _ISDIR and mask & _ENTRIES) and not name.startswith(".")
        return is_folder or bool(mask & (_DELETE_SELF | _MOVE_SELF)) or name == "pool.json"

    def _begin(self, path: str) -> None:
        watch = self._call(self._libc.inotify_add_watch(self._queue, os.fsencode(path), _WATCHED))
        self._paths[watch], self._watches[path] = path, watch

    def _leave(self, path: str) -> None:
        watch = self._watches.pop(path)
        self._paths.pop(watch, None)
        self._libc.inotify_rm_watch(self._queue, watch)  # fails where the folder is gone, and its watch with it

    def _call(self, answer: int) -> int:
        if answer < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return answer
