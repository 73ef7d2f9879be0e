"""A host that runs storaged alone takes part in its realm: members read what it knows there, and bring it news."""

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from matcher.net import multicast
from matcher.net.https import Connection, Door
from matcher.net.upkeep import Upkeep
from matcher.trust.identity import Identity, load_identity
from matcher.trust.spreading import Peer
from matcher.wire.codec import decode
from matcher.wire.envelope import DATAGRAM_MAX_BYTES, unseal
from matcher.wire.framing import frame
from matcher.wire.messages import Refused
from matcher.wire.realm import Done, Members, News, RealmStatus
from specs.ids import HostId
from storaged import daemon
from storaged.config import Config
from tests.fakes.realms import Realm, make_realm


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    return make_realm(tmp_path / "realm", "h1", "h2", "ann", "bob")


class Alone:
    """storaged of h1, as it is wired, but away from this machine's links. `told`: what it would have multicast."""

    def __init__(self, realm: Realm, folder: Path) -> None:
        self.told: list[bytes] = []
        self.ready, self.spoke = trio.Event(), trio.Event()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.door = Door("h1", HostId(realm["h1"].principal.id), "127.0.0.1", port)
        self.config = Config(
            identity=realm.folder / "h1",
            state=folder,
            socket=folder / "storaged.sock",
            pools=(),
            audit=folder / "audit.jsonl",
            iscsi_port=0,
            nfs_port=0,
            front_door_port=port,
        )

    def tell(self, datagram: bytes, _: int) -> None:
        self.told.append(datagram)
        self.spoke.set()

    async def ask(self, who: Identity, question: Callable[[Connection], object]) -> object:
        def ask() -> object:
            with Connection(who, self.door, timeout_s=10) as connection:
                return question(connection)

        return await trio.to_thread.run_sync(ask)


@pytest.fixture
def alone(realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alone:
    made = Alone(realm, tmp_path)
    monkeypatch.setattr(multicast, "tell", made.tell)
    monkeypatch.setattr(daemon.peer, "serve", _hears_nobody)
    monkeypatch.setattr(daemon, "say_ready", lambda _: made.ready.set())
    return made


async def _hears_nobody(_: object, *, port: int, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await trio.sleep_forever()


@asynccontextmanager
async def running(alone: Alone) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.run, alone.config)
        await alone.ready.wait()
        yield
        nursery.cancel_scope.cancel()


async def test_it_tells_members_what_it_knows_and_issues_nothing(realm: Realm, alone: Alone) -> None:
    async with running(alone):
        status = await alone.ask(realm["ann"], lambda door: door.ask("GET", "/v1/realm", RealmStatus))
        asked = await alone.ask(realm["ann"], lambda door: door.ask("GET", "/v1/realm/members", Members))
    assert isinstance(status, RealmStatus)
    assert (status.host, status.epoch, status.issues_here, status.tokens_pending) == ("h1", 1, False, 0)
    assert isinstance(asked, Refused)
    assert asked.code == "not-found"


async def test_another_host_catches_up_with_it(realm: Realm, alone: Alone) -> None:
    revoked = realm.issuer.revoke("user", "bob", "", wall_s=time.time())
    realm["h1"].learn([revoked], time.time())
    realm["h1"].save()
    other = Upkeep(load_identity(realm.folder / "h2"), port=7766)
    peer = Peer(HostId(alone.door.host_id), "h1", "127.0.0.1", alone.door.port)
    async with running(alone):
        await other._fetch(peer)
    assert not other.identity.verifier.is_member("user", realm["bob"].principal.id)


async def test_a_revocation_that_is_brought_there_counts_at_once_and_is_kept_and_told(
    realm: Realm, alone: Alone
) -> None:
    revoked = realm.issuer.revoke("user", "bob", "", wall_s=time.time())
    documents = frame([revoked.data])
    async with running(alone):
        before = await alone.ask(realm["bob"], lambda door: door.ask("GET", "/v1/realm", RealmStatus))
        brought = await alone.ask(realm["h2"], lambda door: door.ask("POST", "/v1/realm/documents", Done, documents))
        after = await alone.ask(realm["bob"], lambda door: door.ask("GET", "/v1/realm", RealmStatus))
    assert isinstance(before, RealmStatus)
    assert brought == Done("known now")
    assert isinstance(after, Refused)
    assert not load_identity(realm.folder / "h1").verifier.is_member("user", realm["bob"].principal.id)
    assert alone.told


async def test_it_says_where_its_door_is_and_leaves_the_work_to_atomd_where_there_is_one(
    realm: Realm, alone: Alone
) -> None:
    atomd = Upkeep(load_identity(realm.folder / "h1"), port=7766)
    async with running(alone):
        await alone.spoke.wait()
        assert _is_free(realm), "it does the work, and holds nobody off"
        assert atomd._is_mine()
        assert not _is_free(realm)
    sealed = unseal(alone.told[0], realm=realm["h1"].realm, max_bytes=DATAGRAM_MAX_BYTES)
    assert decode(News, sealed.payload).front_door_port == alone.door.port


def _is_free(realm: Realm) -> bool:
    return Upkeep(load_identity(realm.folder / "h1"), port=0, is_first=False)._is_mine()
