"""From what lies in the pools to a `Snapshot`: each vid has one answer, each pool a sum.

One vid at two places is a conflict, and neither is given. What lies in a pool that is withheld from writing is given
read-only or not at all. From a pool that several servers serve, what can be written goes through the exporter that has
its lease, or is not given.
Pure.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from matcher.wire.messages import ImageFormat
from specs.ids import Vid
from specs.units import GB_MIB
from storaged.volume import BadVolume, Conflict, Found, Ignored, PoolUse, Snapshot, Volume, shown


def gathered(
    found: Iterable[Found],
    misplaced: Iterable[BadVolume],
    pools: Sequence[PoolUse],
    *,
    problems: Iterable[str],
    ignored: Ignored,
) -> Snapshot:
    """`misplaced` are named like volumes and are no folders: where a vid has a folder, they don't count. `pools` come
    without their sums."""
    withheld = {pool.path: pool.withheld for pool in pools if pool.withheld}
    gathering = _Gathering(withheld, frozenset(pool.path for pool in pools if pool.shared))
    for each in found:
        gathering.add(each)
    for each in misplaced:
        if each.vid is None or not gathering.has(each.vid):
            gathering.add(each)
    uses = tuple(
        replace(pool, promised_mib=gathering.promised_mib[pool.path], volumes=gathering.counts[pool.path])
        for pool in pools
    )
    return Snapshot(
        volumes=gathering.volumes,
        bad=gathering.bad,
        conflicts={vid: _conflict(vid, copies) for vid, copies in gathering.crowds.items()},
        nameless=tuple(gathering.nameless),
        problems=(*problems, *_overfull(uses)),
        ignored=ignored,
        pools=uses,
    )


class _Gathering:
    def __init__(self, withheld: dict[str, str], shared: frozenset[str]) -> None:
        self._withheld, self._shared = withheld, shared
        self.volumes: dict[Vid, Volume] = {}
        self.bad: dict[Vid, BadVolume] = {}
        self.crowds: dict[Vid, list[Found]] = {}
        self.nameless: list[BadVolume] = []
        self.promised_mib: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def has(self, vid: Vid) -> bool:
        return vid in self.volumes or vid in self.bad or vid in self.crowds

    def add(self, found: Found) -> None:
        if isinstance(found, Volume):
            self.promised_mib[found.pool] += found.size_mib
            self.counts[found.pool] += 1
            if (self._withheld or self._shared) and (why := self._why_not(found)):
                found = _withheld(found, why)
        if found.vid is None:
            assert isinstance(found, BadVolume)
            self.nameless.append(found)
        elif self.has(found.vid):
            self._crowd(found.vid, found)
        elif isinstance(found, Volume):
            self.volumes[found.vid] = found
        else:
            self.bad[found.vid] = found

    def _why_not(self, volume: Volume) -> str:
        if volume.readonly:
            return ""
        by_kind = why_not_shared(volume.format, shareable=volume.shareable) if volume.pool in self._shared else ""
        return self._withheld.get(volume.pool, "") or by_kind

    def _crowd(self, vid: Vid, found: Found) -> None:
        first = self.volumes.pop(vid, None) or self.bad.pop(vid, None)
        self.crowds.setdefault(vid, [first] if first else []).append(found)


def why_not_shared(image_format: ImageFormat, *, shareable: bool) -> str:
    """Why a volume that can be written has no place in a pool that several servers serve; empty where it has."""
    if shareable:
        return "its pool is shared by several servers, which share no locks: it belongs into a pool of one server"
    if image_format is not ImageFormat.RAW:
        return f"its pool is shared by several servers, which give raw images alone; this one is {image_format}"
    return ""


def _overfull(uses: Iterable[PoolUse]) -> Iterator[str]:
    for use in uses:
        if use.limit_mib is not None and use.promised_mib > use.limit_mib:
            promised, limit = use.promised_mib / GB_MIB, use.limit_mib / GB_MIB
            yield f"pool {shown(use.path)}: its volumes have {promised:.6g} GB together, its limit is {limit:.6g} GB"


def _withheld(volume: Volume, why: str) -> BadVolume:
    return BadVolume(volume.path, why, volume.vid, volume.owner if volume.private else None, volume)


def _conflict(vid: Vid, copies: list[Found]) -> Conflict:
    copies = sorted(copies, key=lambda copy: copy.path)  # a folder's order is its filesystem's
    return Conflict(vid, tuple(shown(copy.path) for copy in copies), tuple(copies))
