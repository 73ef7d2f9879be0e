"""A storage host's own front door: what is there, who may see it, and what is not there for others."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio

from matcher.net.audit import Audit
from matcher.net.door.serving import Opened, serve
from matcher.net.https import Connection, Door
from matcher.net.intake import Intake
from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.trust.identity import Identity
from matcher.wire.codec import M
from matcher.wire.messages import Refused, Role, VmViews
from matcher.wire.realm import Grant, Verb
from matcher.wire.volumes import VolumeView, VolumeViews
from specs.ids import HostId, UserId
from storaged.answering import Proposer, StorageAnswers, admitting
from storaged.attaching import Attaching
from storaged.claims import VolumeShare
from storaged.exporting import NoExports
from storaged.index import Index
from storaged.journal import Journal
from storaged.keeper import Keeper, Kept
from storaged.quota import Quota
from storaged.store import Store
from storaged.testing import make_volume, vid_of, vm_of
from tests.fakes.realms import Realm, make_realm

OPEN, HIDDEN = vid_of(1), vid_of(2)


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "realm", "h1", "ann", "bob")
    made.add("con", Grant(verbs=(Verb.CONSOLE,)))
    return made


class Storage:
    def __init__(self, folder: Path, identity: Identity) -> None:
        self.identity = identity
        self.host_id = HostId(identity.principal.id)
        self.keeper = Keeper(Journal(folder / "journal"), server=self.host_id)
        self.snapshot = Index().scan([folder / "pool"])
        self.audit = folder / "audit.jsonl"
        quota = Quota(host="h1", shares=self.keeper.shares, snapshot=lambda: self.snapshot)
        ledger = Ledger[VolumeShare](admitting(self.keeper, lambda: self.snapshot), quota.allows)
        audit = Audit(self.audit, "h1")
        proposer = Proposer("h1", self.host_id, self.keeper, lambda: self.snapshot, quota)
        offering = Offering(host="h1", role=Role.STORAGE, proposer=proposer, ledger=ledger, random=Random(1))
        answers = StorageAnswers("h1", 7767, offering, lambda: self.snapshot, lambda: None, lambda: "")
        intake = Intake(identity, answers, role=Role.STORAGE)
        self.attaching = Attaching(
            identity, self.keeper, ledger, lambda: self.snapshot, intake, quota, audit, NoExports()
        )
        self.store = Store("h1", self.host_id, self.keeper, lambda: self.snapshot, self.attaching, audit)
        self.port = 0

    async def get(self, who: Identity, path: str, answer: type[M]) -> M | Refused:
        def ask() -> M | Refused:
            with Connection(who, Door("h1", self.host_id, "127.0.0.1", self.port), timeout_s=5) as connection:
                return connection.ask("GET", path, answer)

        return await trio.to_thread.run_sync(ask)


@pytest.fixture
def storage(tmp_path: Path, realm: Realm) -> Storage:
    make_volume(tmp_path / "pool", OPEN, name="open")
    make_volume(tmp_path / "pool", HIDDEN, name="hidden", owner=UserId(realm["ann"].principal.id))
    return Storage(tmp_path, realm["h1"])


@asynccontextmanager
async def opened(storage: Storage) -> AsyncIterator[Storage]:
    async with trio.open_nursery() as nursery:
        begin: Callable[..., object] = partial(serve, storage.identity, store=storage.store, port=0)
        door: Opened = await nursery.start(begin)
        storage.port = door.port
        yield storage
        nursery.cancel_scope.cancel()


async def test_everybody_sees_public_volumes_and_their_own_private_ones(storage: Storage, realm: Realm) -> None:
    async with opened(storage):
        anns = await storage.get(realm["ann"], "/v1/volumes", VolumeViews)
        bobs = await storage.get(realm["bob"], "/v1/volumes", VolumeViews)
        foreign = await storage.get(realm["bob"], f"/v1/volumes/{HIDDEN}", VolumeView)
        absent = await storage.get(realm["bob"], f"/v1/volumes/{vid_of(9)}", VolumeView)
    assert isinstance(anns, VolumeViews)
    assert isinstance(bobs, VolumeViews)
    assert {volume.name for volume in anns.volumes} == {"open", "hidden"}
    assert {volume.name for volume in bobs.volumes} == {"open"}
    assert isinstance(foreign, Refused)
    assert foreign == absent, "nobody can tell a private volume from none"
    assert foreign.code == "not-found"


async def test_who_has_a_volume_is_told_to_the_one_whose_vm_it_is(storage: Storage, realm: Realm) -> None:
    ann = UserId(realm["ann"].principal.id)
    attached = storage.keeper.attach(
        [OPEN], storage.snapshot, vm_id=vm_of(1), generation=1, user_id=ann, host_id=storage.host_id, vm_name="web"
    )
    assert isinstance(attached, Kept)
    async with opened(storage):
        anns = await storage.get(realm["ann"], f"/v1/volumes/{OPEN}", VolumeView)
        bobs = await storage.get(realm["bob"], f"/v1/volumes/{OPEN}", VolumeView)
    assert isinstance(anns, VolumeView)
    assert isinstance(bobs, VolumeView)
    assert (anns.state, anns.vms) == ("attached", ("web",))
    assert (bobs.state, bobs.vms) == ("attached", ())


async def test_what_a_grant_lacks_is_refused_and_written_down(storage: Storage, realm: Realm) -> None:
    async with opened(storage):
        refused = await storage.get(realm["con"], "/v1/volumes", VolumeViews)
    assert isinstance(refused, Refused)
    assert refused.code == "denied"
    assert '"GET /v1/volumes"' in storage.audit.read_text()


async def test_this_door_has_no_vms(storage: Storage, realm: Realm) -> None:
    async with opened(storage):
        refused = await storage.get(realm["ann"], "/v1/vms", VmViews)
    assert isinstance(refused, Refused)
    assert refused.code == "not-found"
