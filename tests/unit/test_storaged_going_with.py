"""A seed is removed with its VM: when the VM is, and not when it only stops, starts elsewhere, or never came to be."""

from pathlib import Path
from typing import Any

import pytest

from matcher.net.caller import Caller
from matcher.wire.messages import Refused
from matcher.wire.realm import Done
from matcher.wire.volumes import Detach, Detached, VolumeView
from specs.ids import HostId, UserId, Vid, VmId, dashed
from storaged.images import changing
from storaged.journal import JournalError
from storaged.keeper import Kept
from storaged.metadata import Metadata, write_metadata
from storaged.testing import make_volume, vid_of, vm_of
from tests.fakes.realms import Realm, make_realm
from tests.fakes.storage import Storage, open_storage

SEED, DISK = vid_of(1), vid_of(2)
VM, OTHER = vm_of(1), vm_of(2)


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "realm", "h1", "h2", "ann")
    owner = UserId(made["ann"].principal.id)
    meta = write_metadata(Metadata(128, "seed", private=True, readonly=True, owner=owner, goes_with=VM))
    make_volume(tmp_path / "pool", SEED, meta=meta)
    make_volume(tmp_path / "pool", DISK, bootable=True)
    return made


def has(storage: Storage, realm: Realm, vm: VmId = VM, generation: int = 1, host: str = "h1") -> None:
    """As if the VM had been attached to both, or another VM to the seed alone."""
    kept = storage.keeper.attach(
        [SEED, DISK] if vm == VM else [SEED],
        storage.catalogue.snapshot(),
        vm_id=vm,
        generation=generation,
        user_id=UserId(realm["ann"].principal.id),
        host_id=HostId(realm[host].principal.id),
    )
    assert isinstance(kept, Kept), kept


async def ended(storage: Storage, realm: Realm, *, gone: bool, generation: int = 1, host: str = "h1") -> Any:
    question = Detach(VM, generation, f"{generation:032x}", gone=gone)
    return await storage.attaching.detach(question, HostId(realm[host].principal.id))


def is_there(storage: Storage, vid: Vid) -> bool:
    return (storage.pool / f"{dashed(vid)}.elimg").exists()


@pytest.mark.parametrize("host", ["h1", "h2"])
async def test_it_goes_with_its_vm_and_the_disk_stays(tmp_path: Path, realm: Realm, host: str) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        has(storage, realm, host=host)
        assert await ended(storage, realm, gone=True, host=host) == Detached()
        assert not is_there(storage, SEED)
        assert is_there(storage, DISK)
        assert storage.keeper.state.attachments == ()
        assert "removed with VM" in storage.audit.read_text()
        assert await ended(storage, realm, gone=True, host=host) == Detached(), "it is harmless to repeat"


async def test_it_stays_where_the_vm_was_never_promised_or_only_lost_its_volumes(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        has(storage, realm)
        assert await ended(storage, realm, gone=False) == Detached()
        assert is_there(storage, SEED)


async def test_it_stays_for_the_vms_next_life_and_for_another_vm(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        has(storage, realm)
        has(storage, realm, generation=2, host="h2")
        assert await ended(storage, realm, gone=True) == Detached(), "the record that it left on its old host"
        assert is_there(storage, SEED)
        has(storage, realm, OTHER)
        assert await ended(storage, realm, gone=True, generation=2, host="h2") == Detached()
        assert is_there(storage, SEED)


async def test_another_host_can_not_have_it_removed(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        has(storage, realm)
        await ended(storage, realm, gone=True, host="h2")
        assert is_there(storage, SEED)


async def test_after_a_failure_on_the_way_the_next_time_removes_it(
    tmp_path: Path, realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        has(storage, realm)
        with monkeypatch.context() as broken:
            broken.setattr(storage.keeper, "detach", _fails)
            assert isinstance(await ended(storage, realm, gone=True), Refused)
        assert not is_there(storage, SEED)
        assert await ended(storage, realm, gone=True) == Detached()
        assert storage.keeper.state.attachments == ()


async def test_one_that_can_not_be_removed_keeps_no_vm(
    tmp_path: Path, realm: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        has(storage, realm)
        changing.remove(storage.catalogue.snapshot().volumes[SEED])  # by hand, say
        assert await ended(storage, realm, gone=True) == Detached()
        assert storage.keeper.state.attachments == ()
        assert "stays, though its VM is removed" in caplog.text


async def test_one_that_nobody_has_says_so_and_one_that_its_vm_has_does_not(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        free = await seen(storage, realm)
        assert f"VM {dashed(VM)}, with which it goes, does not have it" in free.why
        has(storage, realm, host="h2")
        assert (await seen(storage, realm)).why == ""


async def test_its_owner_frees_one_from_a_host_that_is_dead_and_removes_it(tmp_path: Path, realm: Realm) -> None:
    ann = realm["ann"]
    async with open_storage(tmp_path, realm["h1"]) as storage:
        has(storage, realm, host="h2")
        refused = await storage.order(ann, "DELETE", f"/v1/volumes/{SEED}")
        assert isinstance(refused, Refused)
        assert await take_over(storage, realm) == Done(
            f"volume {dashed(SEED)} is free: 1 VMs of other hosts have it no more"
        )
        assert [each.vid for each in storage.exports.ended] == [SEED]
        assert isinstance(await storage.order(ann, "DELETE", f"/v1/volumes/{SEED}"), VolumeView)
        assert not is_there(storage, SEED)


async def test_one_that_a_vm_on_its_own_host_has_or_that_can_not_be_cut_stays_its_vms(
    tmp_path: Path, realm: Realm
) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        has(storage, realm)
        assert isinstance(await take_over(storage, realm), Refused)
        assert storage.keeper.is_attached(SEED)
        await ended(storage, realm, gone=False)
        has(storage, realm, generation=2, host="h2")
        storage.exports.is_stuck = True
        assert isinstance(await take_over(storage, realm), Refused)
        assert storage.keeper.is_attached(SEED)


async def seen(storage: Storage, realm: Realm) -> VolumeView:
    view = await storage.get(realm["ann"], f"/v1/volumes/{SEED}", VolumeView)
    assert isinstance(view, VolumeView)
    return view


async def take_over(storage: Storage, realm: Realm) -> Done | Refused:
    caller = Caller(realm["ann"].principal, "")
    return await storage.store.take_over(SEED, caller, is_said_dead=False)


def _fails(*_: object) -> None:
    raise JournalError("the disk is full")
