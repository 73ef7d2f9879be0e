"""The pools that this host serves together with others: each is joined, and has an exporter of its own.

    shared, by pool.json --joining, 20 s and more--> joined --its exporter answers--> given away
                 ^--a rest-- its exporter is ended <--sanlock is gone, or has lost it--'

Before it has joined, and while it has not, nothing of the pool is given for writing, and what is there is listed with
the reason. What is given goes through the exporter, to VMs on this host as well, since that is what has the lease: an
exporter that sanlock does not know, of whichever run of storaged, is ended before anything else.
"""

import json
import logging
import shutil
import socket
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import trio

from specs.ids import HostId, Vid
from storaged.attachments import Attachment
from storaged.beneath import Unusable, open_folder
from storaged.config import Config
from storaged.export.child import Child
from storaged.export.choosing import TGTD, end
from storaged.export.description import Image, Unknown
from storaged.export.keeping import HUNG_S
from storaged.export.key import load_key
from storaged.export.tgt import Portal
from storaged.exporting import KEY, Iscsi
from storaged.journal import JournalCorrupt, JournalError
from storaged.keeper import Keeper, NotHeld
from storaged.leases.area import Area
from storaged.leases.sanlock import IN_USE, PROGRAM, Held, Sanlock, Silent
from storaged.leases.takeover import NOT_FENCED
from storaged.leases.tgt import LeasedTgt
from storaged.looking import Hangs, Looks
from storaged.pool import PoolId, not_joined, read_mark
from storaged.reaching import image_of
from storaged.volume import Snapshot, Volume

SHARED_MAX = 64  # as many as the settings can have
PORTS = "shared-ports.json"  # VMs elsewhere come back to the port that they know
LOOK_S = 2.0
REST_S = 5.0
CALL_S = 4.0  # of one question about a volume: somebody waits for it, and others behind them

log = logging.getLogger("storaged")

Scan = Callable[[], Awaitable[None]]


class LeasedDisks(Iscsi):
    """The volumes of one pool, for VMs on any host."""

    def __init__(
        self, exporter: LeasedTgt, key: bytes, snapshot: Callable[[], Snapshot], server: HostId, root: str
    ) -> None:
        super().__init__(exporter, key, snapshot, server)
        self._root = root

    def _is_mine(self, attachment: Attachment, volume: Volume) -> bool:
        return volume.pool == self._root and self._snapshot().is_leased(volume)


class SharedPool:
    """One of them. `why_not` is empty while it is given away."""

    def __init__(
        self,
        area: Area,
        host_id: HostId,
        sanlock: Sanlock,
        portal: Portal,
        key: bytes,
        snapshot: Callable[[], Snapshot],
    ) -> None:
        self.area, self._host_id, self._sanlock = area, host_id, sanlock
        self._portal, self._key, self._snapshot = portal, key, snapshot
        self.root = str(area.root)
        self.why_not = "this server is joining it"
        self.exporter: LeasedTgt | None = None
        self.disks: LeasedDisks | None = None
        self._number = 0
        self._scope = trio.CancelScope()

    async def run(self, tidy: Scan, keeper: Keeper, scan: Scan) -> None:
        """For ever, or until it is left."""
        with self._scope:
            while True:
                try:
                    await self._join()
                    await self._serve(tidy, keeper, scan)
                except (Silent, Unusable, OSError) as problem:
                    self._is_out(str(problem))
                await scan()
                await trio.sleep(REST_S)

    async def leave(self) -> None:
        """It is no longer shared, and nobody here has anything of it."""
        self._scope.cancel()
        self._is_out("it is shared no longer")
        try:
            await self._end_exporter()
            await self._sanlock.leave(self.area.lockspace, self._number)
        except Silent as problem:
            log.warning("pool %s: %s", self.root, problem)

    async def let_go(self, image: Image) -> None:
        """Of the lease of a volume that nobody here has."""
        if self.exporter is None:
            return
        problem = await self._let_go(self.exporter, image)
        if problem is not None:
            log.info("the lease of volume %s is not let go of yet: %s", image.vid, problem.why)

    async def _let_go(self, exporter: LeasedTgt, image: Image) -> Unknown | None:
        held = await exporter.held()
        if isinstance(held, Unknown):
            return held
        ended = await exporter.cut(image)
        if isinstance(ended, Unknown):
            return ended
        if image.vid in held and not await trio.Path(image.path).exists():
            await trio.to_thread.run_sync(self.area.drop_lease, image.vid)
        return await exporter.release(image.vid)

    async def _join(self) -> None:
        """Raises `Silent`, `Unusable` or `OSError`."""
        for program, package in ((PROGRAM, "sanlock"), (TGTD, "tgt")):
            if await trio.to_thread.run_sync(shutil.which, program) is None:
                raise Unusable(f"there is no {program} on this server (Debian: {package})")
        await self._end_stranger()
        watched = await self._sanlock.is_watched()
        await self.area.open(self._sanlock)
        self._number = await trio.to_thread.run_sync(partial(self.area.join, self._host_id, watched=watched))
        log.info("pool %s: joining as server %d", self.root, self._number)
        await self._sanlock.join(self.area.lockspace, self._number)
        if await self._sanlock.is_watched() != watched:
            raise Silent("sanlock was started again meanwhile")

    async def _serve(self, tidy: Scan, keeper: Keeper, scan: Scan) -> None:
        """As long as it is joined."""
        self._is_out("what serves it has not started yet")
        exporter = LeasedTgt(self._portal, self.area, self._sanlock, self._number)
        disks = LeasedDisks(exporter, self._key, self._snapshot, self._host_id, self.root)
        async with trio.open_nursery() as nursery:
            await nursery.start(exporter.run)
            self.exporter, self.disks, self.why_not = exporter, disks, ""
            await scan()
            while not self._is_seen():  # what it should serve is not known before
                await trio.sleep(REST_S)
                await scan()
            await trio.to_thread.run_sync(lambda: keeper.recover(self._snapshot()))
            await tidy()
            await disks.tell(keeper)
            disks.is_up()
            log.info(
                "pool %s: joined as server %d; its exporter listens on %d", self.root, self._number, self._portal.port
            )
            await self._until_lost()
            nursery.cancel_scope.cancel()
        self._is_out("its sanlock has ended, or has lost it")
        log.error("pool %s: %s", self.root, self.why_not)

    def _is_seen(self) -> bool:
        return any(use.path == self.root and use.shared and not use.withheld for use in self._snapshot().pools)

    async def _until_lost(self) -> None:
        answered_s = trio.current_time()
        while trio.current_time() - answered_s < HUNG_S:
            try:
                if not await self._sanlock.has_joined(self.area.lockspace, self._number):
                    return
                answered_s = trio.current_time()
            except Silent as problem:
                log.warning("pool %s: %s", self.root, problem)
            await trio.sleep(LOOK_S)

    async def _end_stranger(self) -> None:
        """An exporter that sanlock does not know writes without leases."""
        child = await trio.to_thread.run_sync(Child.find, self._portal.command)
        if child is None:
            return
        child.close()
        try:
            knows = await self._sanlock.knows(child.pid)
        except Silent:
            knows = False
        if not knows:
            log.error("pool %s: its exporter (pid %d) has no leases: killed", self.root, child.pid)
            await self._end_exporter()

    async def _end_exporter(self) -> None:
        """Raises `Silent` where it does not end: what it has begun to write may land yet."""
        if why := await end(self._portal.command, TGTD):
            raise Silent(why)

    def _is_out(self, why: str) -> None:
        if why != self.why_not:
            log.info("pool %s is not given for writing: %s", self.root, why)
        self.why_not, self.exporter, self.disks = why, None, None


class SharedPools:
    """All of them: the keeper's `Leases`, and what judges pools by whether they are joined."""

    def __init__(
        self, config: Config, host_id: HostId, snapshot: Callable[[], Snapshot], sanlock: Sanlock | None = None
    ) -> None:
        """`sanlock`: another than the machine's own."""
        self._config, self._host_id, self._snapshot = config, host_id, snapshot
        self._sanlock = sanlock or Sanlock(io_s=config.lease_io_s, call_s=CALL_S)
        self._pools: dict[PoolId, SharedPool] = {}
        self._looks = Looks()

    async def run(self, keeper: Keeper, scan: Scan) -> None:
        """For ever: join what is shared, leave what is not, and keep nothing that nobody needs."""
        tidy = partial(self._tidy, keeper)
        async with trio.open_nursery() as nursery:
            while True:
                for use in self._snapshot().pools:
                    pool_id = PoolId(use.pool_id or "")
                    if use.shared and pool_id not in self._pools and len(self._pools) < SHARED_MAX:
                        self._pools[pool_id] = one = self._pool(Area(pool_id, Path(use.path)))
                        nursery.start_soon(one.run, tidy, keeper, scan)
                    elif not use.shared and pool_id in self._pools:
                        await self._pools.pop(pool_id).leave()
                if any(one.exporter is not None for one in self._pools.values()):
                    await tidy()
                await trio.sleep(LOOK_S)

    async def prepare(self, root: str, pool_id: PoolId) -> None:
        """For servers to join. Raises `Unusable`, `OSError` or `Silent`."""
        if await trio.to_thread.run_sync(shutil.which, PROGRAM) is None:
            raise Unusable(f"there is no {PROGRAM} on this server (Debian: sanlock)")
        await Area(pool_id, Path(root)).open(self._sanlock)

    def joined(self, pool_id: PoolId) -> str:
        """Why it is not; from any thread."""
        one = self._pools.get(pool_id)
        return one.why_not if one is not None else not_joined(pool_id)

    def disks(self, root: str) -> LeasedDisks | None:
        one = self._at(root)
        return one.disks if one is not None else None

    # ---- the keeper's, from its threads

    def hold(self, volume: Volume, *, is_said_dead: bool = False) -> None:
        one = self._at(volume.pool)
        exporter = one.exporter if one is not None else None
        if exporter is None:
            raise NotHeld("its pool is shared by several servers, and not joined now")
        held = trio.from_thread.run(partial(exporter.hold, volume.vid, is_said_dead=is_said_dead))
        if isinstance(held, Held):
            return
        if isinstance(held, Unknown):
            raise NotHeld(f"its lease is not held yet: {held.why}")
        has = "; ".join(reason.has for reason in held.reasons)
        raise NotHeld(has, held if held.code in (IN_USE, NOT_FENCED) else None)

    def release(self, volume: Volume) -> None:
        one = self._at(volume.pool)
        if one is not None:
            trio.from_thread.run(one.let_go, image_of(volume))

    def held(self) -> Collection[Vid]:
        exporters = [one.exporter for one in self._pools.values() if one.exporter is not None]
        answers = [trio.from_thread.run(exporter.held) for exporter in exporters]
        return {vid for answer in answers if not isinstance(answer, Unknown) for vid in answer}

    # ---- inside

    async def _tidy(self, keeper: Keeper) -> None:
        try:
            for one in [one for one in self._pools.values() if one.exporter is not None]:
                await self._looks.at(one.root, partial(_read, one.root))
            for over in await trio.to_thread.run_sync(lambda: keeper.tidy(self._snapshot())):
                log.warning("volume %s was given away by another server: it is not served here any more", over.vid)
        except Hangs as problem:
            log.warning("pools are not tidied: %s", problem)
        except JournalCorrupt:
            raise
        except JournalError as problem:
            log.warning("%s", problem)

    def _at(self, root: str) -> SharedPool | None:
        return next((one for one in self._pools.values() if one.root == root), None)

    def _pool(self, area: Area) -> SharedPool:
        everywhere = IPv4Address("0.0.0.0")  # noqa: S104  hosts come by any link
        more = (IPv6Address("::"),) if socket.has_dualstack_ipv6() else ()
        config = self._config
        port = port_of(config.state / PORTS, area.pool_id, config.shared_port)
        portal = Portal(everywhere, config.exports / f"shared-{area.pool_id[:16]}", port, more=more)
        return SharedPool(area, self._host_id, self._sanlock, portal, load_key(config.state / KEY), self._snapshot)


def _read(root: str) -> None:
    """Something of the pool; what that says is for others to judge."""
    with suppress(Unusable, OSError), open_folder(root) as folder:
        read_mark(folder)


def port_of(file: Path, pool_id: str, first: int) -> int:
    """The pool's own, remembered in `file`: `first`, or the next one that no other pool has. Raises `OSError`."""
    try:
        ports = {str(name): int(port) for name, port in json.loads(file.read_text()).items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        ports = {}
    taken = {port for name, port in ports.items() if name != pool_id}
    port = ports.get(pool_id, 0)
    if not first <= port < first + SHARED_MAX or port in taken:
        port = next(port for port in range(first, first + SHARED_MAX + len(taken)) if port not in taken)
        new = file.with_suffix(".new")
        new.write_text(json.dumps({**ports, pool_id: port}, indent=2) + "\n")
        new.rename(file)
    return port
