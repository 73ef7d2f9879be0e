"""Leases on volumes that two servers see, with real sanlock daemons and the tgtd that holds what it serves."""

import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from matcher.wire.messages import Refused
from specs.ids import Vid
from storaged.export.child import Child
from storaged.export.description import Unknown
from storaged.leases.area import ground_of
from storaged.leases.sanlock import CHANGED, IN_USE, NO_HOLDER, Held, Sanlock, Silent
from storaged.leases.takeover import NOT_FENCED, why_not
from storaged.leases.words import Leader, Lease
from storaged.testing import vid_of
from tests.fakes.sanlock_world import IO_S, SanlockWorld, Server

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        shutil.which("sanlock") is None or shutil.which("tgtd") is None,
        reason="sanlock or tgtd is not installed: packaging/setup",
    ),
]

PATIENCE_S = 180.0


@asynccontextmanager
async def exporting(server: Server, name: str = "tgt") -> AsyncIterator[Child]:
    child = await server.exporter(name)
    try:
        yield child
    finally:
        child.kill()
        await child.ended()
        child.close()


async def taken(server: Server, vid: Vid, child: Child, seen: Leader | None = None) -> Held | Refused | Unknown:
    lease = server.lease(vid)
    return await server.sanlock.acquire(lease, seen or await server.sanlock.leader(lease), child.pid)


async def leader(server: Server, vid: Vid) -> Leader:
    return await server.sanlock.leader(server.lease(vid))


async def until_free(server: Server, vid: Vid) -> Leader:
    with trio.fail_after(PATIENCE_S):
        while True:
            found = await leader(server, vid)
            if found.is_free:
                return found
            await trio.sleep(0.05)


async def test_servers_that_make_a_lease_at_once_have_one_lease(servers: SanlockWorld) -> None:
    vid = vid_of(1)
    async with trio.open_nursery() as nursery:
        for server in (servers.one, servers.two):
            nursery.start_soon(server.area.make_lease, vid, server.sanlock)
    assert (await leader(servers.one, vid)).version == 1
    assert (await leader(servers.two, vid)).is_free
    assert not [name for name in os.listdir(servers.one.area.folder) if name.startswith(".new")]
    async with exporting(servers.one) as mine:
        assert await taken(servers.one, vid, mine) == Held(2)
        await servers.two.area.make_lease(vid, servers.two.sanlock)  # made anew it would be free
        assert await leader(servers.two, vid) == Leader(servers.one.number, 2, is_free=False)


async def test_a_lease_made_too_late_takes_nothing_from_who_has_it(servers: SanlockWorld) -> None:
    vid = vid_of(8)
    async with exporting(servers.one) as mine:

        class Slow(Sanlock):
            async def begin(self, lease: Lease) -> None:
                """Done, but for its name, when the other server makes one and has it."""
                await super().begin(lease)
                await servers.one.area.make_lease(vid, servers.one.sanlock)
                assert await taken(servers.one, vid, mine) == Held(2)

        await servers.two.area.make_lease(vid, Slow(servers.two.root, io_s=IO_S))
        assert await leader(servers.two, vid) == Leader(servers.one.number, 2, is_free=False)


async def test_a_second_server_is_refused_while_the_first_ones_exporter_lives(servers: SanlockWorld) -> None:
    vid = vid_of(2)
    await servers.one.area.make_lease(vid, servers.one.sanlock)
    async with exporting(servers.one) as mine, exporting(servers.two) as other:
        assert await taken(servers.one, vid, mine) == Held(2)
        assert await taken(servers.one, vid, mine) == Held(2)
        refused = await taken(servers.two, vid, other)
        assert isinstance(refused, Refused)
        assert refused.code == IN_USE
        mine.kill()
        await mine.ended()
        assert await until_free(servers.two, vid) == Leader(servers.one.number, 2, is_free=True)
        assert await taken(servers.two, vid, other) == Held(3)


async def test_what_was_given_back_is_free_and_the_process_keeps_its_other_leases(servers: SanlockWorld) -> None:
    for number in (3, 4):
        await servers.one.area.make_lease(vid_of(number), servers.one.sanlock)
    async with exporting(servers.one) as mine:
        for number in (3, 4):
            assert await taken(servers.one, vid_of(number), mine) == Held(2)
        for _ in range(2):
            await servers.one.sanlock.release(servers.one.lease(vid_of(3)), mine.pid)
        assert (await leader(servers.two, vid_of(3))).is_free
        assert not (await leader(servers.two, vid_of(4))).is_free
    await servers.one.sanlock.release(servers.one.lease(vid_of(4)), mine.pid)


async def test_a_daemon_that_is_gone_is_no_answer(servers: SanlockWorld) -> None:
    vid = vid_of(7)
    await servers.one.area.make_lease(vid, servers.one.sanlock)
    nobody = Sanlock(servers.root / "nobody")
    with pytest.raises(Silent):
        await nobody.release(servers.one.lease(vid), os.getpid())
    with pytest.raises(Silent):
        await nobody.join(servers.one.area.lockspace, 3)
    assert isinstance(
        await nobody.acquire(servers.one.lease(vid), await leader(servers.one, vid), os.getpid()), Unknown
    )


async def test_a_lease_that_another_had_meanwhile_is_refused_though_it_is_free(servers: SanlockWorld) -> None:
    """Who had it may have died with it, for all that was known when it was looked at."""
    vid = vid_of(5)
    await servers.one.area.make_lease(vid, servers.one.sanlock)
    seen = await leader(servers.one, vid)
    async with exporting(servers.one) as mine, exporting(servers.two) as other:
        assert await taken(servers.two, vid, other) == Held(2)
        await servers.two.sanlock.release(servers.two.lease(vid), other.pid)
        refused = await taken(servers.one, vid, mine, seen)
        assert isinstance(refused, Refused)
        assert refused.code == CHANGED
        assert (await leader(servers.one, vid)).is_free


async def test_who_is_not_known_to_sanlock_holds_nothing(servers: SanlockWorld) -> None:
    vid = vid_of(6)
    await servers.one.area.make_lease(vid, servers.one.sanlock)
    lease = servers.one.lease(vid)
    refused = await servers.one.sanlock.acquire(lease, await leader(servers.one, vid), os.getpid())
    assert isinstance(refused, Refused)
    assert refused.code == NO_HOLDER


async def test_a_daemon_without_a_watchdog_says_so_to_the_other_server(servers: SanlockWorld) -> None:
    assert not await servers.one.sanlock.is_watched()
    members = servers.two.area.members()
    assert {member.host_id for member in members} == {servers.one.host_id, servers.two.host_id}
    assert not any(member.watched for member in members)


@pytest.mark.slow
async def test_a_frozen_server_is_taken_over_on_a_persons_word_alone_and_only_when_its_lease_has_run_out(
    fresh_servers: SanlockWorld,
) -> None:
    """When its sanlock wakes, it ends the exporter before that can do anything. One that wakes first is what a
    watchdog is for: no machine of the tests has one."""
    one, two, vid = fresh_servers.one, fresh_servers.two, vid_of(1)
    await one.area.make_lease(vid, one.sanlock)
    async with exporting(one) as mine, exporting(two) as other:
        assert await taken(one, vid, mine) == Held(2)
        os.kill(mine.pid, signal.SIGSTOP)
        os.kill(one.pid, signal.SIGSTOP)
        frozen_s = time.monotonic()
        seen, members, ground = await leader(two, vid), two.area.members(), ground_of(two.area.root)
        refused = why_not(vid, seen, members, ground, me=two.number)
        assert refused is not None
        assert refused.code == NOT_FENCED
        assert why_not(vid, seen, members, ground, me=two.number, is_said_dead=True) is None
        answers = []
        with trio.fail_after(PATIENCE_S):
            while not isinstance(answer := await taken(two, vid, other), Held):
                answers.append(answer)
                assert await two.sanlock.knows(other.pid), "it waits for one lease, and keeps the others"
                await trio.sleep(1)
        print(f"taken over after {time.monotonic() - frozen_s:.0f} s, {len(answers)} times refused or unknown")
        assert answers, "it was taken from a server whose lease had not run out"
        assert await leader(two, vid) == Leader(two.number, 3, is_free=False)
        os.kill(one.pid, signal.SIGCONT)
        with trio.fail_after(PATIENCE_S):
            await mine.ended()


def overwrite(server: Server) -> None:
    """The server's sector of the lockspace, by which it shows the others that it lives."""
    with open(server.area.lockspace.file, "r+b") as file:
        file.seek((server.number - 1) * 512)
        file.write(bytes(512))
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.slow
async def test_a_server_that_can_not_renew_loses_its_exporter(fresh_servers: SanlockWorld) -> None:
    one, vid = fresh_servers.one, vid_of(1)
    await one.area.make_lease(vid, one.sanlock)
    async with exporting(one) as mine:
        assert await taken(one, vid, mine) == Held(2)
        lost_s = time.monotonic()
        await trio.to_thread.run_sync(overwrite, one)
        with trio.fail_after(PATIENCE_S):
            await mine.ended()
        print(f"ended after {time.monotonic() - lost_s:.0f} s")
