"""Whole members on loopback, with real keys and real sockets; without multicast, as they share one machine's ports."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from matcher.gossip.effects import Send
from matcher.net import multicast
from matcher.net.gossip.member import Member
from matcher.net.gossip.sockets import Came, Refused, Sockets
from matcher.net.multicast import Link
from matcher.trust.identity import Identity
from matcher.wire.gossip import Digest, HostState, Want
from matcher.wire.messages import Address, Role
from specs.ids import HostId
from tests.fakes.realms import Realm, make_realm

LO = Link(socket.if_nametoindex("lo"), "lo", "127.0.0.1", None)
DIGEST = Digest((Role.COMPUTE,), "X86_64", slots=8, slots_free=8)
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multicast, "links", lambda: (LO,))


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Realm:
    return make_realm(tmp_path_factory.mktemp("realm"), "h1", "h2")


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def of(identity: Identity) -> HostId:
    return HostId(identity.principal.id)


async def comes_true(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while not is_so():  # noqa: ASYNC110  nothing tells of it
            await trio.sleep(0.01)


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for member in members:
            await nursery.start(member.run)
        yield
        nursery.cancel_scope.cancel()


async def test_two_members_find_each_other_by_a_seed_and_see_what_changes_and_who_leaves(realm: Realm) -> None:
    port, calls, free = free_port(), list[int](), [DIGEST]
    first = Member(realm["h0"], digest=lambda: free[0], port=port, changed=lambda: calls.append(1))
    second = Member(realm["h1"], digest=lambda: DIGEST, port=free_port(), seeds=[f"127.0.0.1:{port}"])
    async with running(first):
        async with running(second):
            await comes_true(lambda: first.hosts_known == second.hosts_known == 2)
            assert second.state(of(realm["h0"])) is HostState.ALIVE
            assert [len(each.far()) for each in (first, second)] == [1, 1], "neither has heard the other's multicast"
            assert calls
            free[0] = replace(DIGEST, slots_free=3)
            first.look()
            await comes_true(lambda: 3 in {seen.record.alive.digest.slots_free for seen in second.hosts()})
        await comes_true(lambda: first.state(of(realm["h1"])) is HostState.LEFT)
        assert first.hosts_known == 1


async def test_a_daemon_that_vanishes_is_seen_to_be_down(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    first = Member(realm["h0"], digest=lambda: DIGEST, port=port)
    second = Member(realm["h1"], digest=lambda: DIGEST, port=free_port(), seeds=[f"127.0.0.1:{port}"])
    async with running(first):
        async with running(second):
            await comes_true(lambda: first.hosts_known == 2)
            assert second._core is not None
            monkeypatch.setattr(second._core, "leave", lambda _now_s: [])
        await comes_true(lambda: first.state(of(realm["h1"])) is HostState.DOWN)


async def test_storaged_gives_way_to_atomd_and_knows_how_many_hosts_there_are(realm: Realm) -> None:
    port = free_port()
    storage = Member(realm["h2"], digest=lambda: Digest((Role.STORAGE,), disk_gb=9), role=Role.STORAGE, port=port)
    compute = Member(realm["h2"], digest=lambda: DIGEST, port=port)
    async with running(storage):
        await comes_true(lambda: storage.hosts_known == 1)
        assert storage.hosts()
        async with running(compute):
            await comes_true(lambda: not storage.hosts() and storage.hosts_known == 1)
            (me,) = compute.hosts()
            assert (me.record.alive.digest.disk_gb, me.record.alive.digest.slots) == (9, 8)
        await comes_true(lambda: bool(storage.hosts()))


async def test_a_stranger_writes_what_it_likes_and_is_counted(realm: Realm) -> None:
    port = free_port()
    member = Member(realm["h0"], digest=lambda: DIGEST, port=port)
    async with running(member):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for noise in (b"", b"x", b"aTmO" + bytes(60), bytes(1500)):
                stranger.sendto(noise, ("127.0.0.1", port))
            bad_list = Send(Address("127.0.0.1", port), Want(bytes(8), b"123"))
            stranger.sendto(member.scribe.datagram(bad_list), ("127.0.0.1", port))
        await comes_true(lambda: sum(member.scribe.counters.values()) >= 4)
        assert member.hosts_known == 1


# ---- sockets


def test_a_datagram_says_whether_it_was_for_all_and_a_refused_one_comes_back() -> None:
    sockets = Sockets(free_port())
    try:
        assert sockets.follow((LO,))
        assert not sockets.follow((LO,))
        assert sockets.addresses() == (Address("127.0.0.1", sockets.port),)
        by_ipv4 = next(each for each in sockets.all if each.family == socket.AF_INET)
        sockets.shout(b"to all")
        sockets.send(b"to one", Address("127.0.0.1", sockets.port))
        came = [each for each in sockets.read(by_ipv4) if isinstance(each, Came)]
        assert [(each.data, each.by_multicast) for each in came] == [(b"to all", True), (b"to one", False)]
        nobody = Address("127.0.0.1", free_port())
        sockets.send(b"are you there", nobody)
        assert list(sockets.read(by_ipv4)) == [Refused(b"are you there")]
        assert list(sockets.read(by_ipv4)) == []
        sockets.send(b"again", nobody)
        sockets.send(b"to one", Address("127.0.0.1", sockets.port))
        assert len(list(sockets.read(by_ipv4))) == 2, "a refusal loses nothing else"
    finally:
        sockets.close()


def test_a_port_belongs_to_one_daemon() -> None:
    sockets = Sockets(free_port())
    try:
        with pytest.raises(OSError, match="in use"):
            Sockets(sockets.port)
    finally:
        sockets.close()
