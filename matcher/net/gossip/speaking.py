"""Which of a host's two daemons is its member: atomd while it runs, else storaged; and what each knows of the host.

Each daemon holds a lock on a file of its own beside the identity for as long as it lives, and writes into it what it
would say of the host; who speaks says both. A lock that is free tells that the other is not there.
"""

import contextlib
import dataclasses
import fcntl
import os
from pathlib import Path

from matcher.wire.codec import BadBytes, from_json, to_json
from matcher.wire.gossip import Digest
from matcher.wire.messages import Role

PART_MAX_BYTES = 4096


class Parts:
    """One daemon's share in what its host says."""

    def __init__(self, folder: Path, role: Role) -> None:
        self._folder, self._role = folder, role
        self._mine: int | None = None
        self._written: Digest | None = None

    @property
    def speaks(self) -> bool:
        return self._role is Role.COMPUTE or not self._is_there(Role.COMPUTE)

    def open(self) -> None:
        """From now on this daemon is there."""
        self._mine = _opened(self._path(self._role))
        fcntl.flock(self._mine, fcntl.LOCK_SH)

    def close(self) -> None:
        if self._mine is not None:
            os.close(self._mine)
            self._mine = None

    def write(self, digest: Digest) -> None:
        if self._mine is None or digest == self._written:
            return
        self._written = digest
        content = to_json(digest).encode()
        with contextlib.suppress(OSError):  # it is less that the other can say
            os.pwrite(self._mine, content.ljust(PART_MAX_BYTES), 0)

    def joined(self, digest: Digest) -> Digest:
        """With what the other daemon knows, where it is there."""
        other = Role.STORAGE if self._role is Role.COMPUTE else Role.COMPUTE
        said = self._read(other) if self._is_there(other) else None
        if said is None:
            return digest
        compute, storage = (digest, said) if self._role is Role.COMPUTE else (said, digest)
        roles = (Role.COMPUTE, Role.STORAGE)
        return dataclasses.replace(compute, roles=roles, disk_gb=storage.disk_gb, disk_free_gb=storage.disk_free_gb)

    # ---- inside

    def _path(self, role: Role) -> Path:
        return self._folder / f".gossip.{role.value}"

    def _is_there(self, role: Role) -> bool:
        """Raises nothing: who can't be seen is not there."""
        try:
            theirs = os.open(self._path(role), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(theirs)
        return False

    def _read(self, role: Role) -> Digest | None:
        try:
            return from_json(Digest, self._path(role).read_bytes()[:PART_MAX_BYTES].strip())
        except (OSError, BadBytes):
            return None


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
