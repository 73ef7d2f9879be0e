"""A storaged's shared pools, with a real sanlock and its tgtd: joined, kept joined, and given away under leases."""

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from matcher.wire.messages import Refused
from matcher.wire.volumes import AttachedVolume
from specs.ids import Vid
from storaged.config import Config, PoolSettings
from storaged.export.child import Child, Command
from storaged.exporting import Exporting, NoExports
from storaged.index import Index
from storaged.journal import Journal
from storaged.keeper import Disk, Keeper, Kept
from storaged.leases.pools import SharedPools
from storaged.leases.takeover import NOT_FENCED
from storaged.leases.words import Leader
from storaged.pool import MEMORY, POOL, Pools
from storaged.record import read_right_at
from storaged.testing import ALICE, H2, make_volume, vid_of, vm_of
from storaged.volume import Snapshot
from tests.fakes.iscsi_world import free_port
from tests.fakes.sanlock_world import POOL as POOL_ID
from tests.fakes.sanlock_world import SanlockWorld, Server
from tests.lab import test_leases

pytestmark = test_leases.pytestmark

PATIENCE_S = 120.0


class Storaged:
    """What a daemon has of it, on one of the world's servers. Made again on the same `folder`, it is the next run."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.pool = server, server.area.root
        settings = (PoolSettings(path=self.pool),)
        port = free_port()
        config = Config(state=folder, exports=folder, pools=settings, shared_port=min(port, 65000), lease_io_s=1)
        self.shared = SharedPools(config, server.host_id, lambda: self.seen, server.sanlock)
        self.index = Index(Pools(server.host_id, folder / MEMORY, joined=self.shared.joined))
        self.seen = Snapshot()
        exports = Exporting(NoExports(), NoExports(), lambda: self.seen, self.shared.disks)
        self.exports = exports
        self.keeper = Keeper(
            Journal(folder / "journal"),
            server=server.host_id,
            cut=lambda attachment: trio.from_thread.run(exports.cut, attachment),
            random=Random(1),
            disk=Disk(self.shared.joined),
            leases=self.shared,
        )

    async def scan(self) -> None:
        self.seen = await trio.to_thread.run_sync(self.index.scan, [str(self.pool)])

    async def attach(self, vid: Vid, vm: int) -> Kept | Refused:
        return await trio.to_thread.run_sync(
            lambda: self.keeper.attach([vid], self.seen, vm_id=vm_of(vm), generation=1, user_id=ALICE, host_id=H2)
        )

    async def detach(self, vm: int) -> None:
        await trio.to_thread.run_sync(lambda: self.keeper.detach(vm_of(vm), 1, H2, self.seen))

    async def given(self, kept: Kept | Refused) -> AttachedVolume:
        assert isinstance(kept, Kept), kept
        answer = await self.exports.give(kept.attachments[0], kept.files[0], "127.0.0.1")
        assert not isinstance(answer, Refused), answer
        return answer[0]

    async def until(self, what: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not what():  # noqa: ASYNC110  tasks of the product's own change it
                await trio.sleep(0.1)

    @property
    def withheld(self) -> str:
        return self.seen.pools[0].withheld

    def exporter(self) -> int | None:
        folder = self.shared._config.exports / f"shared-{POOL_ID[:16]}"
        child = Child.find(Command((), mark=folder / "tgtd.0.lock", log=folder / "log"))
        if child is not None:
            child.close()
        return child.pid if child is not None else None


@asynccontextmanager
async def running(server: Server, folder: Path) -> AsyncIterator[Storaged]:
    """Its tgtd goes on when it ends, as it does."""
    await trio.Path(folder).mkdir(exist_ok=True)
    mine = Storaged(server, folder)
    await mine.scan()
    mine.keeper.recover(mine.seen)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine.shared.run, mine.keeper, mine.scan)
        await mine.until(lambda: mine.withheld == "")
        yield mine
        nursery.cancel_scope.cancel()


def end(exporter: int | None) -> None:
    if exporter is not None:
        os.kill(exporter, signal.SIGKILL)


def shared_pool(world: SanlockWorld) -> Path:
    root = world.one.area.root
    (root / POOL).write_text(json.dumps({"pool_id": POOL_ID, "owner": world.one.host_id, "shared": True}))
    return root


async def leader(server: Server, vid: Vid) -> Leader:
    return await server.sanlock.leader(server.lease(vid))


async def until_leader(server: Server, vid: Vid, is_so: Callable[[Leader], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not is_so(await leader(server, vid)):  # noqa: ASYNC110  it is on the disk
            await trio.sleep(0.1)


async def test_a_volume_is_served_under_its_lease_by_one_run_after_the_other(servers: SanlockWorld) -> None:
    root, vid = shared_pool(servers), vid_of(41)
    make_volume(root, vid)
    make_volume(root, vid_of(42))
    folder = servers.one.root / "storaged"
    async with running(servers.one, folder) as first:
        served = await first.given(await first.attach(vid, 1))
        assert served.iscsi is not None
        assert await leader(servers.two, vid) == Leader(servers.one.number, 2, is_free=False)
        assert isinstance(await first.attach(vid_of(42), 2), Kept)
        exporter = first.exporter()
    (folder / "journal").unlink()  # a crash between the lease and all that comes of it
    (next(root.glob(f"*{vid_of(42)[-12:]}.elimg")) / "attachment.json").unlink()
    try:
        async with running(servers.one, folder) as second:
            assert second.exporter() == exporter
            await until_leader(servers.two, vid_of(42), lambda found: found.is_free)
            assert second.keeper.is_attached(vid), "its record says so"
            assert not (await leader(servers.two, vid)).is_free
            await second.detach(1)
            assert (await leader(servers.two, vid)).is_free
            right = read_right_at(str(root), str(next(root.glob(f"*{vid[-12:]}.elimg"))), vid)
            assert right is not None
            assert not right.held
    finally:
        end(exporter)


async def test_what_another_server_has_is_refused_and_nothing_is_left_of_the_question(servers: SanlockWorld) -> None:
    root, vid = shared_pool(servers), vid_of(43)
    make_volume(root, vid)
    exporters = []
    async with (
        running(servers.one, servers.one.root / "mine") as mine,
        running(servers.two, servers.two.root / "other") as other,
    ):
        exporters = [mine.exporter(), other.exporter()]
        await mine.given(await mine.attach(vid, 1))
        refused = await other.attach(vid, 2)
        assert isinstance(refused, Refused)
        assert refused.code == NOT_FENCED
        await mine.detach(1)
        assert (await other.given(await other.attach(vid, 2))).iscsi is not None
        await other.detach(2)
    for exporter in exporters:
        end(exporter)


@pytest.mark.slow
async def test_a_pool_whose_sanlock_dies_is_not_given_away_until_it_has_joined_again(
    fresh_servers: SanlockWorld,
) -> None:
    one, vid = fresh_servers.one, vid_of(1)
    make_volume(shared_pool(fresh_servers), vid)
    async with running(one, one.root / "storaged") as mine:
        await mine.given(await mine.attach(vid, 1))
        before = mine.exporter()
        os.killpg(one.pid, signal.SIGKILL)
        await mine.until(lambda: mine.withheld != "")
        await mine.until(lambda: mine.exporter() != before)
        assert isinstance(await mine.attach(vid, 2), Refused)
        assert mine.keeper.is_attached(vid)
        fresh_servers.start(one)
        await mine.until(lambda: mine.withheld == "")
        await until_leader(fresh_servers.two, vid, lambda found: found.version > 2)
        assert mine.exporter() != before
        await mine.detach(1)
        end(mine.exporter())
