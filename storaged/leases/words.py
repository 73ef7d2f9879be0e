"""sanlock's words: how a lease is named to it, and what it says about one.

A pool is a lockspace, a volume a resource in it. A lease's *version* counts who has had it: whoever acquires it names
the version that was seen, so that what happened in between refuses them.
Pure.
"""

import re
from dataclasses import dataclass
from enum import IntEnum

from specs.ids import Vid

AREA_BYTES = 2**20  # of one lease, for sectors of 512 bytes, and 2,000 servers
NUMBER_MAX = 2000
PATH_MAX_CHARS = 1000  # sanlock has 1,024 for it, and the marks before colons count

_HELD = re.compile(r"(?<![^\s\"])[0-9a-f]{32}:([0-9a-f]{32}):")  # the path behind it may have blanks and quotes
_DONE = re.compile(r"^\w+ done (-?\d+)", re.MULTILINE)


class Code(IntEnum):
    """What sanlock answers, where somebody here goes by it."""

    DONE = 0
    NOT_HELD = -1
    UNKNOWN = -2  # no such lockspace here
    NO_PROCESS = -3  # not one that is registered
    BUSY = -16  # with another question about this process: it may wait for a lease to run out
    HAS_IT = -17
    NO_LOCKSPACE = -28
    CHANGED = -240  # another version than the one that was named
    LIVE = -243  # its holder renews, or its server does
    OWNED = -244
    OTHER = -245


@dataclass(frozen=True, slots=True)
class Lockspace:
    """A pool, as sanlock knows it; `file` has a sector for each server, by its number."""

    pool_id: str
    file: str

    def member(self, number: int) -> str:
        assert 0 <= number <= NUMBER_MAX
        return f"{self.pool_id}:{number}:{_path(self.file)}:0"


@dataclass(frozen=True, slots=True)
class Lease:
    """A volume's, in a file of its own."""

    pool_id: str
    vid: Vid
    file: str

    @property
    def word(self) -> str:
        return f"{self.pool_id}:{self.vid}:{_path(self.file)}:0"

    def at(self, version: int) -> str:
        """As it was seen. Version 0 is no version to sanlock, and never that of a lease here."""
        assert version >= 1
        return f"{self.word}:{version}"


@dataclass(frozen=True, slots=True)
class Leader:
    """What a lease itself says: who has it, or had it last."""

    number: int  # of the server
    version: int
    is_free: bool


def code_of(said: str) -> int | None:
    """The result of a command; `None` where there is none."""
    found = _DONE.search(said)
    return int(found[1]) if found else None


def leader_of(said: str, lease: Lease) -> Leader | None:
    """`None` for anything but the whole answer about this very lease."""
    fields = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    try:
        is_it = (fields["space_name"], fields["resource_name"]) == (lease.pool_id, lease.vid)
        leader = Leader(int(fields["owner_id"]), int(fields["lver"]), int(fields["timestamp"]) == 0)
    except (KeyError, ValueError):
        return None
    return leader if is_it and code_of(said) == Code.DONE else None


def held_of(said: str, pool_id: str) -> frozenset[Vid]:
    """The volumes of the pool that a process has the leases of."""
    return frozenset(Vid(found[1]) for found in _HELD.finditer(said) if found[0].startswith(f"{pool_id}:"))


def is_watched(said: str) -> bool:
    """Whether the daemon that says this of itself ends its host by a watchdog where all else fails."""
    return any(line.strip() == "use_watchdog=1" for line in said.splitlines())


def _path(path: str) -> str:
    assert is_speakable(path)
    return path.replace(":", "\\:")


def is_speakable(path: str) -> bool:
    return path.isprintable() and "\\" not in path and " " not in path and len(path.encode()) <= PATH_MAX_CHARS
