"""The volumes as they were last seen: looked at when there is a hint, searched anew now and then, in worker threads.

    hint that names volumes  -> look at these alone
    any other hint, a miss   -> scan, at most a tenth of the time
    every `rescan_s`         -> scan, whatever was heard

Answers never wait for disks: they are given from the newest snapshot.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import chain, islice

import trio

from specs.ids import HostId
from storaged.beneath import Unusable
from storaged.config import Config
from storaged.hints import NAMED, PATHS_MAX, Hint, Hints, Watched
from storaged.images.sweeping import sweep
from storaged.index import Index
from storaged.pool import MEMORY, Joined, Pools, not_joined
from storaged.volume import Snapshot, shown

RESCAN_MIN_S = 1.0  # however often volumes are asked for that are not here
REST = 10  # the disks rest ten times as long as a scan or a look took
SETTLE_S = 0.2  # a change is rarely alone: folder, metadata and image are made one after the other
SLOW_S = 60.0  # a scan that takes longer is told of: the server of a pool may not answer
COMPLAINTS_MAX = 100  # told in the log, of each kind

log = logging.getLogger("storaged")


class Catalogue:
    """Keeps the newest snapshot."""

    def __init__(self, config: Config, host_id: HostId, joined: Joined = not_joined) -> None:
        self._pools = [pool.named() for pool in config.pools]
        self._index = Index(Pools(host_id, config.state / MEMORY, joined=joined))
        self._rescan_s = config.rescan_s
        self._snapshot = Snapshot()
        self._said: frozenset[str] = frozenset()
        self._hints: Hints | None = None
        self._is_all_watched = True
        self._missed = trio.Event()
        self._again: frozenset[str] = frozenset()  # to be looked at once more, without a hint
        self._due_s = self._scan_from_s = 0.0
        self._turn = trio.Lock()
        self._renewed = trio.Event()

    def snapshot(self) -> Snapshot:
        return self._snapshot

    async def renewed(self) -> None:
        """Until there is another snapshot."""
        await self._renewed.wait()

    def missed(self) -> None:
        """Somebody asks for a volume that was not seen: it may have been made since."""
        self._missed.set()

    async def sweep(self) -> None:
        """Delete what a crash left half-made in the pools that are ours to write, and finish what it interrupted."""
        for use in self._snapshot.pools:
            if not use.withheld and not use.shared:  # of a shared one, another server may be making it
                try:
                    swept = await trio.to_thread.run_sync(sweep, use.path)
                except Unusable as problem:
                    log.warning("pool %s: %s", shown(use.path), problem)
                    continue
                if swept.deleted:
                    log.info("pool %s: %d things that were half-made are gone", shown(use.path), swept.deleted)

    async def scan(self) -> None:
        """Look at all pools again; what is wrong there is told once, and again when it comes back."""
        self._again = frozenset()
        took_s = await self._see(partial(self._index.scan, self._pools))
        now_s = trio.current_time()
        self._scan_from_s = now_s + max(RESCAN_MIN_S, REST * took_s)
        self._due_s = max(now_s + self._rescan_s, self._scan_from_s)

    async def look(self, path: str) -> None:
        """At one `.elimg` folder, of which it is known that it has changed."""
        await self._see(partial(self._index.look, (path,)))

    async def keep_scanned(self) -> None:
        """For ever, after a first `scan`."""
        try:
            self._hints = Hints()
        except OSError as problem:
            log.warning(
                "changes are seen every %g s, as the kernel gives no hints: %s", self._rescan_s, problem.strerror
            )
        try:
            await self._see(partial(self._index.look, ()))  # by which the folders are watched
            while True:
                await self._next()
        finally:
            if self._hints is not None:
                self._hints.close()
                self._hints = None

    async def _next(self) -> None:
        hint = await self._stirred()
        if hint.whole:
            self._hurry()
        paths, self._again = hint.paths | self._again, frozenset()
        took_s = 0.0
        if trio.current_time() >= self._due_s:
            await self.scan()
        elif paths:
            took_s = await self._see(partial(self._index.look, paths))
        await trio.sleep(max(SETTLE_S, REST * took_s))

    async def _stirred(self) -> Hint:
        """Until there is something to look at; at the latest when a scan is due."""
        if not self._again:
            with trio.move_on_at(self._due_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_first, self._missed.wait, nursery.cancel_scope)
                    if self._hints is not None:
                        nursery.start_soon(_first, self._hints.heard, nursery.cancel_scope)
            await trio.sleep(SETTLE_S)
        missed, self._missed = self._missed.is_set(), trio.Event()
        hint = self._hints.take() if self._hints is not None else Hint()
        return Hint(hint.paths, hint.whole or missed)

    def _hurry(self) -> None:
        self._due_s = min(self._due_s, self._scan_from_s)

    async def _see(self, see: Callable[[], Snapshot | None]) -> float:
        """Returns how long it took."""
        async with self._turn, trio.open_nursery() as nursery:
            begun_s = trio.current_time()
            nursery.start_soon(_impatient)
            # Abandoned at the daemon's end alone: who waits for a dead server must not be waited for.
            seen = await trio.to_thread.run_sync(self._seen, see, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()
        snapshot, wrong, watched = seen
        if snapshot is None:
            self._hurry()
        else:
            self._snapshot = snapshot
            self._renewed.set()
            self._renewed = trio.Event()
            self._tell(wrong)
        self._heed(watched)
        return trio.current_time() - begun_s

    def _seen(self, see: Callable[[], Snapshot | None]) -> tuple[Snapshot | None, tuple[str, ...], Watched]:
        """In a thread, with all that takes longer the more volumes there are."""
        snapshot = see()
        wrong = tuple(complaints(snapshot)) if snapshot is not None else ()
        return snapshot, wrong, self._hints.watch(self._index.watchable()) if self._hints is not None else Watched()

    def _tell(self, wrong: tuple[str, ...]) -> None:
        for complaint in wrong:
            if complaint not in self._said:
                log.warning("%s", complaint)
        self._said = frozenset(wrong)

    def _heed(self, watched: Watched) -> None:
        """What is watched from now on may have changed just before: it is looked at once more."""
        if len(watched.new) <= PATHS_MAX and all(path.endswith(NAMED) for path in watched.new):
            self._again |= frozenset(watched.new)
        else:
            self._hurry()
        if self._is_all_watched and not watched.is_all:
            log.info("not all folders can be watched: a change in the others is seen within %g s", self._rescan_s)
        self._is_all_watched = watched.is_all


def complaints(snapshot: Snapshot) -> Iterator[str]:
    """What a sysadmin should know about the pools, a sentence each; of very many of one kind, the first ones."""
    for pool in snapshot.pools:
        if pool.withheld:
            yield f"pool {shown(pool.path)} is not offered for writing: {pool.withheld}"
    yield from snapshot.problems
    withheld = {pool.withheld for pool in snapshot.pools}
    bad = chain(snapshot.bad.values(), snapshot.nameless)
    yield from _some(f"{each.path} is not offered: {each.reason}" for each in bad if each.reason not in withheld)
    yield from _some(
        f"volume {conflict.vid} is not offered, as it is in several places: {', '.join(conflict.paths)}"
        for conflict in snapshot.conflicts.values()
    )
    yield from _some(f"{volume.path}: {volume.note}" for volume in snapshot.volumes.values() if volume.note)


def _some(sentences: Iterator[str]) -> Iterator[str]:
    yield from islice(sentences, COMPLAINTS_MAX)
    if more := sum(1 for _ in sentences):
        yield f"and {more} more like this"


async def _impatient() -> None:
    await trio.sleep(SLOW_S)
    log.warning("looking through the pools takes long: is the server of one away? What was seen last is offered")


async def _first(waiting: Callable[[], Awaitable[object]], others: trio.CancelScope) -> None:
    await waiting()
    others.cancel()
