"""A machine's files under any root: bounded reads that answer `None` instead of raising.

Links are followed as chroot would follow them: an absolute target or a `..` stays inside the root, so that a recording
never shows the files of the machine that reads it. Text ends at the first NUL, since kernels and recorders leave some.
"""

import os
import stat
from itertools import islice
from pathlib import Path

from atomd.inventory.text import whole

TEXT_BYTES_MAX = 256 * 1024  # the longest list a kernel prints is far below
NAMES_MAX = 65_536
LINKS_MAX = 40  # as Linux: path_resolution(7)


class Tree:
    """Paths are relative to the root ("sys/devices/system/cpu/online")."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root).rstrip("/")
        self._links: dict[str, str | None] = {}

    def data(self, path: str, bytes_max: int = TEXT_BYTES_MAX) -> bytes | None:
        """The first `bytes_max` bytes of a regular file; `None` where there is none to read."""
        real = self.real(path)
        return None if real is None else self._bytes(real, bytes_max)

    def text(self, path: str, bytes_max: int = TEXT_BYTES_MAX) -> str | None:
        """The file's text without blanks around it."""
        data = self.data(path, bytes_max)
        return None if data is None else data.split(b"\0", 1)[0].decode(errors="replace").strip()

    def number(self, path: str) -> int | None:
        return whole(self.text(path, 64))

    def names(self, path: str) -> list[str]:
        """What a directory holds, sorted; empty where there is none."""
        real = self.real(path)
        return [] if real is None else self._entries(real)

    def has(self, path: str) -> bool:
        real = self.real(path)
        return real is not None and self._is_there(real)

    def link(self, path: str) -> str | None:
        """A link's target as it is written, dangling or not."""
        folder, _, name = path.rpartition("/")
        real = self.real(folder)
        return None if real is None else self._link(f"{real}/{name}")

    def link_name(self, path: str) -> str | None:
        """The last part of a link's target: how sysfs names a driver, a group, a master."""
        target = self.link(path)
        return None if target is None else target.rstrip("/").rpartition("/")[2] or None

    def real(self, path: str) -> str | None:
        """The path with every link followed inside the root; `None` where links go in circles."""
        done, todo, links_left = "", path.split("/")[::-1], LINKS_MAX
        while todo:
            name = todo.pop()
            if name == "..":
                done = done.rpartition("/")[0]
            elif name not in ("", "."):
                here = f"{done}/{name}" if done else name
                target = self._link(here)
                if target is None:
                    done = here
                    continue
                if links_left == 0:
                    return None
                links_left -= 1
                done = "" if target.startswith("/") else done
                todo += target.split("/")[::-1]
        return done

    def _link(self, path: str) -> str | None:
        if path not in self._links:
            self._links[path] = self._target(path)
        return self._links[path]

    # ---- the machine's files, by their places without links

    def _bytes(self, real: str, bytes_max: int) -> bytes | None:
        try:
            # A pipe in a recording must not hang us, nor a link appear between the look and the open.
            descriptor = os.open(f"{self._root}/{real}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        try:
            return _read(descriptor, bytes_max) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        except OSError:  # sysfs may refuse at the read: EINVAL, EIO, ENODEV
            return None
        finally:
            os.close(descriptor)

    def _entries(self, real: str) -> list[str]:
        try:
            with os.scandir(f"{self._root}/{real}") as entries:
                return sorted(entry.name for entry in islice(entries, NAMES_MAX))
        except (OSError, ValueError):
            return []

    def _is_there(self, real: str) -> bool:
        return os.path.lexists(f"{self._root}/{real}")

    def _target(self, path: str) -> str | None:
        try:
            return os.readlink(f"{self._root}/{path}")
        except (OSError, ValueError):
            return None


def _read(descriptor: int, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    while bytes_max > 0 and (chunk := os.read(descriptor, bytes_max)):  # procfs hands out a page at a time
        chunks.append(chunk)
        bytes_max -= len(chunk)
    return b"".join(chunks)
