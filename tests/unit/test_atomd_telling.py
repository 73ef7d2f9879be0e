"""What each daemon tells the realm of its host."""

from dataclasses import replace
from pathlib import Path

import trio
import trio.testing

from atomd.answering import Face
from atomd.telling import digest, tell_changes
from matcher.wire.codec import encode
from matcher.wire.gossip import Alive, Digest
from matcher.wire.messages import Role
from storaged.telling import Room, room_in
from tests.fakes.one_host import OneHost
from tests.unit.test_atomd_capacity_placement import host, smt2


def test_what_is_committed_is_taken_and_what_is_only_held_is_not() -> None:
    one, face = OneHost(), Face("h1", 7766, host(*smt2(2)), False)
    before = digest(face, one.ledger, one.compute)
    assert (before.roles, before.slots, before.slots_free, before.vms) == ((Role.COMPUTE,), 4, 4, 0)
    assert (before.level, before.arch) == ("x86-64-v1", "X86_32+X86_64")
    confirm = one.offered(one.pledge())
    assert digest(face, one.ledger, one.compute) == before
    one.confirm(confirm)
    after = digest(face, one.ledger, one.compute)
    assert (after.slots_free, after.vms) == (3, 1)
    assert after.ram_free_mib < before.ram_free_mib
    assert after.like == before.like
    assert after.accelerator == "kvm"
    assert digest(replace(face, pretended=True), one.ledger, one.compute).accelerator == "pretended"
    assert len(encode(Alive(1, 0, (), 0, after))) - len(encode(Alive(1, 0, (), 0, Digest()))) < 30


async def test_a_change_is_told_at_once() -> None:
    events, looks = [trio.Event(), trio.Event()], list[int]()

    async def changed() -> None:
        await events[len(looks)].wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_changes, changed, lambda: looks.append(1))
        await trio.testing.wait_all_tasks_blocked()
        assert looks == []
        events[0].set()
        await trio.testing.wait_all_tasks_blocked()
        assert looks == [1]
        nursery.cancel_scope.cancel()


def test_each_filesystem_counts_once_and_one_that_is_not_there_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    alone = room_in([tmp_path])
    twice = room_in([tmp_path, tmp_path / "a", tmp_path / "none"])
    assert twice.disk_gb == alone.disk_gb > 0
    assert 0 <= twice.disk_free_gb <= twice.disk_gb
    assert room_in([tmp_path / "none"]).disk_gb == 0


async def test_storaged_looks_now_and_then(tmp_path: Path) -> None:
    room, looked = Room([tmp_path]), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.keep_looked, looked.set)
        with trio.fail_after(10):
            await looked.wait()
        assert room.digest.disk_gb > 0
        nursery.cancel_scope.cancel()
