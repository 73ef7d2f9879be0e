"""Which pool lies at a path, whose it is, and whether it is the one that was there before.

A pool's root holds `pool.json`: {pool_id, owner, shared}. storaged writes it, once and durably, when it first uses a
pool that has none. A pool of another host is read and not written. One that several hosts share, as a person has said
on one of them, is written by those that have joined it (`leases`), whoever its owner is.

A pool that was unmounted leaves an empty folder at its path, and nothing there says so. So this host remembers, in a
file of its own, which pool it used at which path: where another one lies there, or none, the path is refused with a
sentence, and no pool is begun there, before a person has mounted it or has said that it is meant (`adopt`).
"""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import NewType

from specs.ids import HostId
from storaged.beneath import Unusable, open_folder, read_file, shown
from storaged.volume import PoolUse

POOL = "pool.json"
POOL_MAX_BYTES = 1024
MEMORY = "pools.json"
REMEMBERED_MAX = 256  # of those beyond, the first ones are forgotten
MEMORY_MAX_BYTES = 8 * 2**20  # as many paths, at their longest
VOLUMES_MAX = 200_000

PoolId = NewType("PoolId", str)  # 32 hex digits

_HEX_32 = re.compile(r"[0-9a-f]{32}")
_HEX_64 = re.compile(r"[0-9a-f]{64}")
_MIB = 2**20


Joined = Callable[[PoolId], str]  # why this server is not one of the shared pool's; empty where it is


def not_joined(_: PoolId) -> str:
    """For whoever has no leases."""
    return "this server has not joined it"


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool, as the settings have it. `limit_mib` is for the virtual sizes of its volumes together."""

    path: str
    limit_mib: int | None = None
    volumes_max: int = VOLUMES_MAX


@dataclass(frozen=True, slots=True)
class Mark:
    """What `pool.json` says."""

    pool_id: PoolId
    owner: HostId
    shared: bool = False


class Pools:
    """One host's judge of the roots of its pools. What is in its `memory` is compared with what is here; a command
    that `only_looks` begins no pool and remembers nothing. `joined`: which shared ones it may write."""

    def __init__(
        self,
        host_id: HostId | None = None,
        memory: Path | None = None,
        *,
        only_looks: bool = False,
        joined: Joined = not_joined,
    ) -> None:
        assert only_looks or memory is None or host_id is not None
        self._host_id, self._memory, self._joined = host_id, memory, joined
        self._only_looks = only_looks or memory is None

    def use(self, folder: int, pool: Pool, root: str) -> PoolUse:
        """The pool whose root is open as `folder`, without the sums over its volumes. Raises `Unusable` where it is
        not the pool that it was, and `OSError`."""
        mark, withheld = self._mark(folder, pool)
        disk = os.fstatvfs(folder)
        return PoolUse(
            path=root,
            pool_id=mark.pool_id if mark else None,
            limit_mib=pool.limit_mib,
            promised_mib=0,
            volumes=0,
            volumes_max=pool.volumes_max,
            free_mib=disk.f_bavail * disk.f_frsize // _MIB,
            withheld=withheld,
            shared=mark is not None and mark.shared,
        )

    def _mark(self, folder: int, pool: Pool) -> tuple[Mark | None, str]:
        remembered = _remembered(self._memory) if self._memory is not None else {}
        if self._host_id is not None and not self._only_looks:
            with suppress(OSError):
                os.unlink(_new(self._host_id), dir_fd=folder)  # left by a crash, and maybe a second name of the mark
        mark, known = read_mark(folder), remembered.get(pool.path)
        if known is not None and (mark is None or mark.pool_id != known):
            raise Unusable(_not_the_same(mark, known))
        if self._only_looks or self._host_id is None or self._memory is None:
            return mark, self._withheld(mark) if mark else ""
        if mark is None:
            try:
                mark = _begin(folder, self._host_id)
            except OSError as problem:
                return None, f"its pool has no {POOL}, and none can be made: {problem.strerror}"
        if known is None:
            _remember(self._memory, {**remembered, pool.path: mark.pool_id})
        return mark, self._withheld(mark)

    def _withheld(self, mark: Mark) -> str:
        return _withheld(mark, self._host_id, self._joined)


def check_ours(root: str, host_id: HostId, joined: Joined = not_joined) -> None:
    """As the mark is at this moment: a scan's answer may be older than another host's `adopt`. A pool without a mark is
    for the scans to judge. Raises `Unusable`."""
    try:
        with open_folder(root) as folder:
            mark = read_mark(folder)
    except OSError as problem:
        raise Unusable(f"its pool can't be opened: {problem.strerror}") from problem
    if mark is not None and (why := _withheld(mark, host_id, joined)):
        raise Unusable(why)


def _withheld(mark: Mark, host_id: HostId | None, joined: Joined) -> str:
    if mark.shared:
        why = joined(mark.pool_id)
        return f"its pool is shared by several servers: {why}" if why else ""
    if host_id is not None and mark.owner != host_id:
        return f"its pool is that of host {mark.owner[:16]}; where that one is gone for good: storaged adopt PATH"
    return ""


def adopt(pool: Pool, host_id: HostId, memory: Path) -> Mark:
    """On a person's word: what lies at the pool's path is this host's own pool, whatever was there before, and no other
    host uses it. Counts from the next scan on. Raises `Unusable` or `OSError`."""
    remembered = _remembered(memory)
    with open_folder(pool.path) as folder:
        try:
            mark = read_mark(folder) or Mark(PoolId(token_hex(16)), host_id)
        except Unusable:
            mark = Mark(PoolId(token_hex(16)), host_id)
        if mark.shared:
            raise Unusable(f"{pool.path} is shared by several servers; to end that: storaged pool unshare PATH")
        mark = replace(mark, owner=host_id)
        _put(POOL, render_mark(mark), folder, _new(host_id))
    _remember(memory, {**remembered, pool.path: mark.pool_id})
    return mark


def mark_shared(root: str, pool_id: PoolId, host_id: HostId, *, shared: bool) -> None:
    """On a person's word, and durable when it returns: several servers serve the pool, or this one alone, which owns it
    then. Raises `Unusable` where it is not that pool any more, or `OSError`."""
    with open_folder(root) as folder:
        mark = read_mark(folder)
        if mark is None or mark.pool_id != pool_id:
            raise Unusable("it is not the pool that it was")
        owner = mark.owner if shared else host_id
        _put(POOL, render_mark(replace(mark, owner=owner, shared=shared)), folder, _new(host_id))


def read_mark(folder: int) -> Mark | None:
    """The mark in the open root of a pool; `None` where there is none. Raises `Unusable`."""
    try:
        data = read_file(POOL, folder, POOL_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise Unusable(f"{POOL} can't be read: {problem.strerror}") from problem
    mark = parse_mark(data)
    if mark is None:
        raise Unusable(
            f"{POOL} is damaged, so that nobody knows which pool this is; where it is ours: storaged adopt PATH"
        )
    return mark


def parse_mark(data: bytes) -> Mark | None:
    """`None` for anything but an object of the three fields, each of its kind."""
    if len(data) > POOL_MAX_BYTES:
        return None
    try:
        value = json.loads(data.decode(), object_pairs_hook=_each_once)
        mark = Mark(PoolId(value.pop("pool_id")), HostId(value.pop("owner")), value.pop("shared"))
        rest = bool(value) or not (_HEX_32.fullmatch(mark.pool_id) and _HEX_64.fullmatch(mark.owner))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return None if rest or not isinstance(mark.shared, bool) else mark


def render_mark(mark: Mark) -> bytes:
    value = {"pool_id": mark.pool_id, "owner": mark.owner, "shared": mark.shared}
    return json.dumps(value, indent=2).encode() + b"\n"


def _begin(folder: int, host_id: HostId) -> Mark:
    """Make the mark of a new pool, on the disk when this returns; where another host was quicker, its mark stands."""
    new = _new(host_id)
    try:
        _write(new, render_mark(Mark(PoolId(token_hex(16)), host_id)), folder)
        with suppress(FileExistsError):
            os.link(new, POOL, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    finally:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
    os.fsync(folder)
    mark = read_mark(folder)
    if mark is None:
        raise Unusable(f"{POOL} was taken away while it was made")
    return mark


def _new(host_id: HostId) -> str:
    return f".{POOL}.{host_id[:16]}"


def _remembered(memory: Path) -> dict[str, str]:
    """Read anew each time, so that a line that a person took out counts at once."""
    try:
        with memory.open("rb") as file:
            value = json.loads(file.read(MEMORY_MAX_BYTES + 1))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as problem:
        raise Unusable(f"which pools this host has used can't be read from {memory}: {problem}") from problem
    if not isinstance(value, dict) or not all(isinstance(pool_id, str) for pool_id in value.values()):
        raise Unusable(f"{memory} is damaged: it must be an object of paths and pool ids")
    return value


def _remember(memory: Path, pools: dict[str, str]) -> None:
    pools = dict(list(pools.items())[-REMEMBERED_MAX:])
    try:
        with open_folder(str(memory.parent)) as folder:
            _put(memory.name, json.dumps(pools, indent=2).encode() + b"\n", folder, f".{memory.name}.new")
    except OSError as problem:
        raise Unusable(f"{memory} can't be written: {problem.strerror}") from problem


def _put(name: str, data: bytes, folder: int, new: str) -> None:
    """In the place of what was there, in one step, and on the disk when this returns."""
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=folder)
    _write(new, data, folder)
    os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _write(name: str, data: bytes, folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o644, dir_fd=folder), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _not_the_same(mark: Mark | None, known: str) -> str:
    here = f"pool {mark.pool_id} lies here" if mark else f"there is no {POOL} here"
    return f"{here}, and this host has used pool {shown(known)}: mount that one; if this is meant: storaged adopt PATH"


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands twice")
    return fields
