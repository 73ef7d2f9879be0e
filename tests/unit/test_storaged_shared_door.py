"""What users and sysadmins may do with a pool that several servers serve, through the daemon's own doors."""

import json
import os
from pathlib import Path

import pytest
import trio

from matcher.net.audit import Audit
from matcher.net.local import Peer
from matcher.trust.identity import Identity
from matcher.wire.messages import ImageFormat, Refused, VolumeOffer
from matcher.wire.realm import Done
from matcher.wire.volumes import (
    AskPools,
    Attached,
    ChangeVolume,
    CloneVolume,
    Detach,
    NewVolume,
    PoolRows,
    SharePool,
    TakeSnapshot,
    VolumeView,
)
from specs.ids import HostId, UserId, dashed
from storaged.attaching import AGAIN_HINT
from storaged.beneath import Unusable
from storaged.keeper import Kept
from storaged.leases.takeover import NOT_FENCED
from storaged.pool import POOL, PoolId
from storaged.pooling import Pooling
from storaged.record import read_right_at, write_right
from storaged.testing import H2, make_volume, vid_of, vm_of
from storaged.volume import Epoch, Right
from tests.fakes.leases import LeaseTable
from tests.fakes.realms import Realm, make_realm
from tests.fakes.storage import Storage, open_storage
from tests.unit.test_storaged_remote import ask, attach, confirm, hold

DISK, MADE, FIXED = vid_of(1), vid_of(2), vid_of(3)
PEER = Peer(1, os.geteuid(), frozenset())


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "realm", "h1", "h2", "ann")
    make_volume(tmp_path / "pool", DISK, bootable=True)
    make_volume(tmp_path / "pool", FIXED, readonly=True)
    return made


@pytest.fixture
def table() -> LeaseTable:
    return LeaseTable()


def server_id(realm: Realm) -> HostId:
    return HostId(realm["h1"].principal.id)


def held_by(storage: Storage, server: HostId) -> Right:
    """Another server has given the disk to a VM."""
    right = Right(DISK, Epoch(5, "f" * 16), server, H2, UserId("c" * 64), vm_of(8), 1, held=True)
    write_right(str(storage.pool), str(storage.pool / f"{dashed(DISK)}.elimg"), right)
    return right


def right(storage: Storage) -> Right | None:
    return read_right_at(str(storage.pool), str(storage.pool / f"{dashed(DISK)}.elimg"), DISK)


async def taken_over(storage: Storage, who: Identity, dead: int) -> Done | Refused:
    answer: Done | Refused = await ask(storage, who, f"/v1/volumes/{DISK}/takeover?dead={dead}", Done, None)
    return answer


# ---- users


async def test_a_vm_on_the_server_itself_is_told_where_the_exporter_is(
    tmp_path: Path, realm: Realm, table: LeaseTable
) -> None:
    async with open_storage(tmp_path, realm["h1"], leases=table.of(server_id(realm))) as storage:
        words = confirm(realm, storage, "h1", hold(storage, realm))
        answer = await storage.attaching.attach(words, storage.host_id)
        assert isinstance(answer, Attached)
        (volume,) = answer.volumes
        assert volume.path == ""
        assert volume.iscsi is not None
        assert len(answer.secrets) == 1
        assert table.holders == {DISK: storage.host_id}
        await storage.attaching.detach(Detach(vm_of(1), 1, "0" * 32), storage.host_id)
        assert [each.vid for each in storage.exports.ended] == [DISK]
        assert table.holders == {}


async def test_what_can_be_read_only_is_a_file_for_a_vm_on_the_server_itself(
    tmp_path: Path, realm: Realm, table: LeaseTable
) -> None:
    async with open_storage(tmp_path, realm["h1"], leases=table.of(server_id(realm))) as storage:
        words = confirm(realm, storage, "h1", hold(storage, realm, vid=FIXED), vid=FIXED)
        answer = await storage.attaching.attach(words, storage.host_id)
        assert isinstance(answer, Attached)
        assert answer.volumes[0].path.endswith("data.img")
        assert answer.secrets == ()


async def test_a_takeover_says_what_a_person_has_to_know_and_their_word_is_in_the_audit(
    tmp_path: Path, realm: Realm, table: LeaseTable
) -> None:
    async with open_storage(tmp_path, realm["h1"], leases=table.of(server_id(realm))) as storage:
        before = held_by(storage, H2)
        await storage.catalogue.scan()
        table.holders[DISK] = H2
        table.died.add(H2)
        refused = await taken_over(storage, realm["ann"], 0)
        assert isinstance(refused, Refused)
        assert refused.code == NOT_FENCED
        assert right(storage) == before
        assert isinstance(await taken_over(storage, realm["ann"], 1), Done)
        now = right(storage)
        assert now is not None
        assert (now.held, now.epoch.counter, now.server) == (False, 6, storage.host_id)
        words = [json.loads(line)["detail"] for line in storage.audit.read_text().splitlines()]
        assert "said to be dead" not in words[0]
        assert "said to be dead" in words[1]


async def test_who_waits_for_a_lease_is_told_to_come_again(tmp_path: Path, realm: Realm, table: LeaseTable) -> None:
    leases = table.of(server_id(realm))
    async with open_storage(tmp_path, realm["h1"], leases=leases) as storage:
        leases.is_silent = True
        refused = await taken_over(storage, realm["ann"], 1)
        assert isinstance(refused, Refused)
        assert refused.reasons[0].hint == AGAIN_HINT
        words = confirm(realm, storage, "h2", hold(storage, realm))
        unsure = await attach(storage, realm["h2"], words)
        assert isinstance(unsure, Refused)
        assert unsure.code == "unavailable", "its host asks again"
        assert right(storage) is None


async def test_what_works_on_an_image_is_refused_and_what_does_not_is_done(
    tmp_path: Path, realm: Realm, table: LeaseTable
) -> None:
    ann = realm["ann"]
    async with open_storage(tmp_path, realm["h1"], leases=table.of(server_id(realm))) as storage:
        for method, path, body in (
            ("PATCH", "", ChangeVolume(size_mib=256)),
            ("PATCH", "", ChangeVolume(format=ImageFormat.QCOW2)),
            ("POST", "/clones", CloneVolume(MADE, "copy", private=False)),
            ("POST", "/snapshots", TakeSnapshot("s1")),
        ):
            refused = await storage.order(ann, method, f"/v1/volumes/{DISK}{path}", body)
            assert isinstance(refused, Refused), body
            assert refused.code == "shared-pool"
        renamed = await storage.order(ann, "PATCH", f"/v1/volumes/{DISK}", ChangeVolume(name="ours"))
        assert isinstance(renamed, VolumeView)
        assert (renamed.name, renamed.shared) == ("ours", True)
        copied = await storage.order(ann, "POST", f"/v1/volumes/{FIXED}/clones", CloneVolume(MADE, "copy", False))
        assert isinstance(copied, VolumeView)
        assert isinstance(await storage.order(ann, "DELETE", f"/v1/volumes/{MADE}"), VolumeView)
        assert table.said[-2:] == [f"{storage.host_id[:2]} holds", f"{storage.host_id[:2]} lets go"]


async def test_what_another_server_has_given_away_is_not_removed(
    tmp_path: Path, realm: Realm, table: LeaseTable
) -> None:
    async with open_storage(tmp_path, realm["h1"], leases=table.of(server_id(realm))) as storage:
        held_by(storage, H2)
        refused = await storage.order(realm["ann"], "DELETE", f"/v1/volumes/{DISK}")
        assert isinstance(refused, Refused)
        assert "by its own record" in refused.reasons[0].has
        assert (storage.pool / f"{dashed(DISK)}.elimg").exists()


async def test_nothing_is_made_there_that_the_exporter_can_not_serve(
    tmp_path: Path, realm: Realm, table: LeaseTable
) -> None:
    async with open_storage(tmp_path, realm["h1"], leases=table.of(server_id(realm))) as storage:
        offer = storage.pledge(realm["ann"], MADE, 128)
        assert isinstance(offer, VolumeOffer)
        traits = {"bootable": False, "private": False, "readonly": False}
        new = NewVolume(MADE, offer.offer_id, "odd", 128, ImageFormat.RAW, shareable=True, **traits)
        refused = await storage.order(realm["ann"], "POST", "/v1/volumes", new)
        assert isinstance(refused, Refused)
        assert "share no locks" in refused.reasons[0].has


async def test_a_volume_of_a_pool_that_is_not_joined_is_not_changed_and_says_why(tmp_path: Path, realm: Realm) -> None:
    (tmp_path / "pool" / POOL).write_text(json.dumps({"pool_id": "5b" * 16, "owner": H2, "shared": True}))
    async with open_storage(tmp_path, realm["h1"]) as storage:
        refused = await storage.order(realm["ann"], "DELETE", f"/v1/volumes/{DISK}")
        assert isinstance(refused, Refused)
        assert refused.code == "withheld"
        assert "not joined" in refused.reasons[0].has


# ---- sysadmins


class Preparing:
    """What makes the leases' area, and may fail."""

    def __init__(self) -> None:
        self.done: list[tuple[str, PoolId]] = []
        self.fails: Exception | None = None

    async def prepare(self, root: str, pool_id: PoolId) -> None:
        await trio.lowlevel.checkpoint()
        if self.fails is not None:
            raise self.fails
        self.done.append((root, pool_id))


def pooling_of(storage: Storage, preparing: Preparing) -> Pooling:
    audit = Audit(storage.audit, "h1")
    return Pooling(
        storage.host_id,
        storage.keeper,
        storage.ledger,
        storage.catalogue,
        storage.jobs.doing,
        storage.attaching.turn,
        audit,
        preparing.prepare,
    )


def mark(storage: Storage) -> dict[str, object]:
    return dict(json.loads((storage.pool / POOL).read_text()))


async def test_a_pool_is_shared_and_unshared_on_a_sysadmins_word(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        preparing, path = Preparing(), str(storage.pool)
        pooling, before = pooling_of(storage, preparing), mark(storage)
        said = await pooling.answer(SharePool(path, shared=True), PEER)
        assert isinstance(said, Done)
        assert preparing.done == [(path, before["pool_id"])]
        assert mark(storage) == {**before, "shared": True}
        rows = await pooling.answer(AskPools(), PEER)
        assert isinstance(rows, PoolRows)
        assert (rows.pools[0].shared, "not joined" in rows.pools[0].why) == (True, True)
        assert (rows.pools[0].limit_mib, rows.pools[0].promised_mib > 0, rows.pools[0].free_mib > 0) == (
            None,
            True,
            True,
        )
        again = await pooling.answer(SharePool(path, shared=True), PEER)
        assert isinstance(again, Done)
        assert "already" in again.said
        assert isinstance(await pooling.answer(SharePool(path, shared=False), PEER), Done)
        assert mark(storage) == before
        verbs = [json.loads(line)["what"] for line in storage.audit.read_text().splitlines()]
        assert verbs == ["pool.share", "pool.share", "pool.unshare"]


async def refusal(storage: Storage, preparing: Preparing | None = None, path: str = "") -> str:
    before = mark(storage)
    said = await pooling_of(storage, preparing or Preparing()).answer(
        SharePool(path or str(storage.pool), shared=True), PEER
    )
    assert isinstance(said, Refused)
    assert mark(storage) == before
    return said.reasons[0].has


async def test_a_pool_of_which_something_is_attached_held_or_given_elsewhere_is_not_shared(
    tmp_path: Path, realm: Realm
) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        offer = hold(storage, realm)
        assert "held for a VM" in await refusal(storage)
        words = confirm(realm, storage, "h2", offer)
        assert isinstance(await attach(storage, realm["h2"], words), Attached)
        assert "a VM has its volume" in await refusal(storage)
        await storage.attaching.detach(Detach(vm_of(1), 1, offer.offer_id), HostId(realm["h2"].principal.id))
        held_by(storage, H2)
        assert f"server {H2[:16]} has given its volume" in await refusal(storage)


async def test_a_pool_of_another_host_none_at_all_or_one_without_sanlock_is_not_shared(
    tmp_path: Path, realm: Realm
) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        assert "no pool" in await refusal(storage, path="/nowhere")
        preparing = Preparing()
        preparing.fails = Unusable("there is no sanlock on this server")
        assert "no sanlock" in await refusal(storage, preparing)
        preparing.fails = OSError(28, "No space left on device")
        assert "No space left" in await refusal(storage, preparing)
        (storage.pool / POOL).write_text(json.dumps({**mark(storage), "owner": H2}))
        assert "that of host" in await refusal(storage)


async def test_a_pool_that_another_server_gives_from_is_not_unshared(
    tmp_path: Path, realm: Realm, table: LeaseTable
) -> None:
    async with open_storage(tmp_path, realm["h1"], leases=table.of(server_id(realm))) as storage:
        held_by(storage, H2)
        said = await pooling_of(storage, Preparing()).answer(SharePool(str(storage.pool), shared=False), PEER)
        assert isinstance(said, Refused)
        assert mark(storage)["shared"] is True
        kept = storage.keeper.attach(
            [FIXED],
            storage.catalogue.snapshot(),
            vm_id=vm_of(3),
            generation=1,
            user_id=UserId("c" * 64),
            host_id=H2,
        )
        assert isinstance(kept, Kept)
