"""A tgtd that serves only what it has the lease of, with real sanlock daemons."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from matcher.wire.messages import ImageFormat
from specs.ids import Vid
from storaged.export.child import Child
from storaged.export.description import Access, Cut, Export, Image, Kind, Refused, Unknown, chap_of
from storaged.export.tgt import Portal
from storaged.leases.sanlock import IN_USE, Held, Sanlock
from storaged.leases.takeover import NOT_FENCED
from storaged.leases.tgt import LeasedTgt
from storaged.leases.words import Leader
from storaged.record import write_right
from storaged.testing import ALICE, H2, make_volume, vid_of, vm_of
from storaged.volume import Epoch, Right
from tests.fakes.iscsi_world import qemu_io
from tests.fakes.sanlock_world import IO_S, SanlockWorld, Server
from tests.lab import test_leases

pytestmark = test_leases.pytestmark

PATIENCE_S = 60.0


@asynccontextmanager
async def serving(server: Server, name: str, *, is_left: bool = False) -> AsyncIterator[LeasedTgt]:
    """Its tgtd is ended too, unless `is_left`."""
    portal = server.portal(name)
    exporter = LeasedTgt(portal, server.area, server.sanlock, server.number, call_s=8)
    async with trio.open_nursery() as nursery:
        await nursery.start(exporter.run)
        yield exporter
        nursery.cancel_scope.cancel()
    if not is_left:
        await end(portal)


async def end(portal: Portal) -> None:
    child = Child.find(portal.command)
    assert child is not None
    child.kill()
    await child.ended()
    child.close()


def export_of(server: Server, vid: Vid, counter: int) -> Export:
    """Of an epoch that the record says, from now on."""
    pool = server.area.root
    folder = next(iter(pool.glob(f"*{vid[-12:]}.elimg")), None) or make_volume(pool, vid, size_mib=8)
    epoch = Epoch(counter, "0" * 16)
    write_right(str(pool), str(folder), Right(vid, epoch, server.host_id, H2, ALICE, vm_of(1), 1, held=True))
    image = Image(vid, str(pool), str(folder), "data.img", ImageFormat.RAW, readonly=False)
    return Export(image, epoch, Kind.ISCSI, H2, chap_of(bytes(32), vid, epoch))


async def written(access: Access | Refused | Unknown) -> bool:
    """Through the export, by QEMU's own initiator."""
    assert isinstance(access, Access), access
    done = await trio.run_process([*qemu_io(access), "-c", "write -P 7 0 4096"], capture_stdout=True, check=False)
    return done.returncode == 0 and b"wrote" in done.stdout


async def test_what_one_server_serves_the_other_is_refused_until_it_is_given_back(servers: SanlockWorld) -> None:
    vid = vid_of(21)
    async with serving(servers.one, "one") as mine, serving(servers.two, "two") as other:
        export = export_of(servers.one, vid, 1)
        assert await written(await mine.export(export))
        refusal = await other.export(export)
        assert isinstance(refusal, Refused)
        assert refusal.code == NOT_FENCED
        said = await other.hold(vid, is_said_dead=True)
        assert not isinstance(said, Held), "a person's word takes nothing from who renews it"
        assert not isinstance(said, Unknown)
        assert said.code == IN_USE
        assert isinstance(await mine.release(vid), Unknown)
        assert await mine.cut(export.image) == Cut()
        assert await mine.release(vid) is None
        assert await written(await other.export(export_of(servers.two, vid, 2)))


async def test_a_tgtd_that_died_serves_again_with_its_leases(servers: SanlockWorld) -> None:
    vid = vid_of(22)
    portal = servers.one.portal("again")
    async with serving(servers.one, "again") as mine:
        access = await mine.export(export_of(servers.one, vid, 1))
        assert await written(access)
        await end(portal)
        with trio.fail_after(PATIENCE_S):
            while True:
                observed = await mine.observe()
                if not isinstance(observed, Unknown) and observed:
                    break
                await trio.sleep(0.1)
        assert await written(access)
        lease = servers.one.lease(vid)
        assert await servers.one.sanlock.leader(lease) == Leader(servers.one.number, 3, is_free=False)


async def test_what_another_server_gave_away_meanwhile_is_not_served_again(servers: SanlockWorld) -> None:
    vid = vid_of(23)
    async with serving(servers.one, "old") as mine:
        old = export_of(servers.one, vid, 1)
        assert isinstance(await mine.export(old), Access)
    async with serving(servers.two, "new") as other:
        assert isinstance(await other.hold(vid), Held)
        new = export_of(servers.two, vid, 2)
        assert isinstance(await other.export(new), Access)
        assert await other.cut(new.image) == Cut()
        assert await other.release(vid) is None
    async with serving(servers.one, "old") as mine:
        (problem,) = (await mine.reconcile([old])).values()
        assert isinstance(problem, Refused)
        assert problem.code == "another-epoch"
        assert await mine.observe() == frozenset()


async def test_a_sanlock_that_stands_still_makes_a_hold_unknown_until_it_goes_on(
    servers: SanlockWorld,
) -> None:
    one, vid = servers.one, vid_of(24)
    hurried = Sanlock(one.root, io_s=IO_S, call_s=1)  # it is stopped for less than its lockspace outlasts
    async with serving(one, "still") as mine:
        assert isinstance(await mine.hold(vid), Held)
        assert await mine.release(vid) is None
        mine._sanlock = hurried
        os.killpg(one.pid, signal.SIGSTOP)
        try:
            assert isinstance(await mine.hold(vid), Unknown)
            assert isinstance(await mine.held(), Unknown)
        finally:
            os.killpg(one.pid, signal.SIGCONT)
        mine._sanlock = one.sanlock
        with trio.fail_after(PATIENCE_S):  # what it was asked while it stood still comes first
            while isinstance(said := await mine.hold(vid), Unknown):  # noqa: ASYNC110  sanlock tells nobody
                await trio.sleep(0.2)
        assert isinstance(said, Held)
        assert await mine.release(vid) is None


@pytest.mark.slow
async def test_without_sanlock_there_is_no_tgtd_either(fresh_servers: SanlockWorld) -> None:
    one = fresh_servers.one
    async with serving(one, "tgt", is_left=True) as mine:
        assert isinstance(await mine.export(export_of(one, vid_of(1), 1)), Access)
        os.killpg(one.pid, signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            while True:
                child = Child.find(one.portal("tgt").command)
                if child is None:
                    break
                child.close()
                await trio.sleep(0.2)
