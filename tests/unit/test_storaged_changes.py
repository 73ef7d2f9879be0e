"""Volumes made, changed and removed through a storage host's door: by whom, how much, and never under a VM."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import trio

from matcher.trust.identity import Identity
from matcher.wire.messages import ImageFormat, Refused, Unfit, VolumeOffer
from matcher.wire.realm import Grant, Verb
from matcher.wire.volumes import (
    ChangeVolume,
    CloneVolume,
    ImportVolume,
    NewVolume,
    RollBack,
    StoppedVm,
    TakeSnapshot,
    VolumeView,
)
from specs.ids import HostId, UserId, Vid, dashed
from storaged.config import Config
from storaged.images import making
from storaged.images.fetch import Fetching
from storaged.keeper import Kept
from storaged.record import RECORD
from storaged.testing import H2, make_volume, vid_of, vm_of
from tests.fakes.realms import Realm, make_realm
from tests.fakes.storage import Storage, open_storage

NEW, OTHER, NOBODYS, BOBS, LOCKED = (vid_of(number) for number in range(1, 6))


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "realm", "h1", "bob", "ada")
    made.add("ann", Grant(verbs=(Verb.PLEDGE, Verb.RUN), volumes_gb=2))
    make_volume(tmp_path / "pool", NOBODYS, name="found", size_mib=1024)
    make_volume(tmp_path / "pool", BOBS, name="bobs", owner=UserId(made["bob"].principal.id))
    make_volume(tmp_path / "pool", LOCKED, name="locked", readonly=True)
    return made


def new(offer: VolumeOffer | Unfit, vid: Vid = NEW, size_mib: int = 1024, **more: bool) -> NewVolume:
    assert isinstance(offer, VolumeOffer), offer
    traits = {"bootable": False, "private": False, "shareable": False, "readonly": False} | more
    return NewVolume(vid, offer.offer_id, "data", size_mib, ImageFormat.RAW, **traits)


async def make(storage: Storage, who: Identity, vid: Vid = NEW, size_mib: int = 1024) -> VolumeView:
    offer = storage.pledge(who, vid, size_mib)
    made = await storage.order(who, "POST", "/v1/volumes", new(offer, vid, size_mib))
    assert isinstance(made, VolumeView), made
    return made


def code(answer: VolumeView | Refused) -> str:
    assert isinstance(answer, Refused)
    assert all(reason.has for reason in answer.reasons)
    return answer.code


def attach(storage: Storage, vid: Vid, who: Identity, generation: int = 1, host_id: HostId | None = None) -> None:
    kept = storage.keeper.attach(
        [vid],
        storage.catalogue.snapshot(),
        vm_id=vm_of(1),
        generation=generation,
        user_id=UserId(who.principal.id),
        host_id=host_id or storage.host_id,
    )
    assert isinstance(kept, Kept)


async def test_a_volume_is_made_in_the_room_that_was_offered_and_is_its_makers(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        made = await make(storage, realm["ann"])
    assert (made.name, made.size_mib, made.owner, made.state) == ("data", 1024, realm["ann"].principal.id, "free")
    folder = storage.pool / f"{dashed(NEW)}.elimg"
    assert (folder / "data.img").stat().st_size == 2**30
    assert (folder / "data.img").stat().st_blocks == 0, "it takes no space yet"
    assert json.loads((folder / "meta.json").read_text())["owner"] == realm["ann"].principal.id
    assert '"volume.change"' in storage.audit.read_text()


async def test_the_same_request_again_is_the_same_volume(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        body = new(storage.pledge(realm["ann"], NEW, 1024))
        answers: list[VolumeView | Refused] = []

        async def ask() -> None:
            answers.append(await storage.order(realm["ann"], "POST", "/v1/volumes", body, name="made-once"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        await ask()
    assert len(answers) == 4
    assert all(isinstance(answer, VolumeView) and answer == answers[0] for answer in answers)


async def test_without_a_hold_nothing_is_made(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        before = storage.files()
        offer = storage.pledge(realm["ann"], NEW, 1024)
        bobs = await storage.order(realm["bob"], "POST", "/v1/volumes", new(offer))
        larger = await storage.order(realm["ann"], "POST", "/v1/volumes", new(offer, size_mib=1152))
        another = await storage.order(realm["ann"], "POST", "/v1/volumes", new(offer, OTHER))
        assert [code(bobs), code(larger), code(another)] == ["hold-lapsed"] * 3
        assert storage.files() == before


async def test_the_grant_counts_own_volumes_and_what_is_just_being_made(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await make(storage, realm["ann"])
        over = storage.pledge(realm["ann"], OTHER, 1152)
        assert isinstance(over, Unfit)
        assert "1 GB of your 2 GB are left" in over.reasons[0].has
        offers = [storage.pledge(realm["ann"], vid_of(20 + number), 1024) for number in range(2)]
        assert [type(offer) for offer in offers] == [VolumeOffer, Unfit], "the first hold takes what is left"
        clone = await storage.order(
            realm["ann"], "POST", f"/v1/volumes/{NEW}/clones", CloneVolume(OTHER, "copy", private=False)
        )
        assert code(clone) == "not-done"
        larger = await storage.order(realm["ann"], "PATCH", f"/v1/volumes/{NEW}", ChangeVolume(size_mib=2176))
        assert code(larger) == "not-done"


async def test_a_pools_limit_holds_for_all_users_together(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"], limit_gb=3) as storage:  # 1.25 GB are there
        first = storage.pledge(realm["ann"], NEW, 1024)
        assert isinstance(first, VolumeOffer)
        assert first.left_mib == 3072 - 1024 - 2 * 128 - 1024
        second = storage.pledge(realm["bob"], OTHER, 1024)
        assert isinstance(second, Unfit)
        assert "at most 0.75 GB" in second.reasons[0].has


async def test_a_pools_limit_holds_for_copies_and_for_volumes_that_grow(tmp_path: Path, realm: Realm) -> None:
    ada, path = realm["ada"], f"/v1/volumes/{NOBODYS}"
    async with open_storage(tmp_path, realm["h1"], limit_gb=3) as storage:  # 1.25 GB are there
        copy = CloneVolume(NEW, "copy", private=False)
        assert isinstance(await storage.order(ada, "POST", f"{path}/clones", copy), VolumeView)
        again = await storage.order(ada, "POST", f"{path}/clones", CloneVolume(OTHER, "copy", private=False))
        larger = await storage.order(ada, "PATCH", path, ChangeVolume(size_mib=1920))
        assert [code(each) for each in (again, larger)] == ["not-done"] * 2
        assert "0.75 GB more" in str(again)
        assert isinstance(await storage.order(ada, "PATCH", path, ChangeVolume(size_mib=1792)), VolumeView)


async def test_a_pool_has_no_more_volumes_than_it_may_and_what_is_there_still_grows(
    tmp_path: Path, realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, path, copies = realm["ada"], f"/v1/volumes/{NOBODYS}", [vid_of(30 + number) for number in range(3)]
    answers: list[VolumeView | Refused] = []
    others_were_asked, copy_file = Event(), making.copy_file

    def waits(*words: Any) -> bool:
        others_were_asked.wait(5)
        return copy_file(*words)

    monkeypatch.setattr(making, "copy_file", waits)
    async with open_storage(tmp_path, realm["h1"], volumes_max=4) as storage:  # 3 are there

        async def clone(vid: Vid) -> None:
            copy = CloneVolume(vid, "copy", private=False)
            answers.append(await storage.order(ada, "POST", f"{path}/clones", copy))
            if len(answers) == 2:
                others_were_asked.set()

        async with trio.open_nursery() as nursery:
            for vid in copies:
                nursery.start_soon(clone, vid)
        assert sorted(type(answer).__name__ for answer in answers) == ["Refused", "Refused", "VolumeView"]
        assert len(storage.files()) == 4, "none was made that would be left out of the lists"
        assert isinstance(storage.pledge(ada, NEW, 128), Unfit)
        assert isinstance(await storage.order(ada, "PATCH", path, ChangeVolume(size_mib=1152)), VolumeView)


async def test_a_volume_is_its_owners_to_change_and_nobodys_is_for_admins(tmp_path: Path, realm: Realm) -> None:
    name = ChangeVolume(name="mine now")
    async with open_storage(tmp_path, realm["h1"]) as storage:
        made = await make(storage, realm["bob"])
        rename = await storage.order(realm["ann"], "PATCH", f"/v1/volumes/{made.vid}", name)
        assert code(rename) == "denied"
        assert "electros volume clone" in str(rename), "who wants another one can have a copy"
        remove = await storage.order(realm["ann"], "DELETE", f"/v1/volumes/{made.vid}")
        assert code(remove) == "denied"
        assert "clone" not in str(remove), "which helps nobody who wants it away"
        assert code(await storage.order(realm["ann"], "PATCH", f"/v1/volumes/{NOBODYS}", name)) == "denied"
        assert code(await storage.order(realm["ann"], "DELETE", f"/v1/volumes/{BOBS}")) == "not-found", "it is private"
        renamed = await storage.order(realm["ada"], "PATCH", f"/v1/volumes/{NOBODYS}", name)
        assert isinstance(renamed, VolumeView)
        assert renamed.name == "mine now"


async def test_a_volume_that_a_vm_has_stays_as_it_is_but_for_its_name(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await make(storage, realm["ann"], size_mib=128)
        attach(storage, NEW, realm["ann"])
        path = f"/v1/volumes/{NEW}"
        larger = await storage.order(realm["ann"], "PATCH", path, ChangeVolume(size_mib=256))
        other = await storage.order(realm["ann"], "PATCH", path, ChangeVolume(format=ImageFormat.QCOW2))
        copy = await storage.order(realm["ann"], "POST", f"{path}/clones", CloneVolume(OTHER, "copy", private=False))
        gone = await storage.order(realm["ann"], "DELETE", path)
        kept = await storage.order(realm["ann"], "POST", f"{path}/snapshots", TakeSnapshot("before"))
        assert [code(each) for each in (larger, other, copy, gone, kept)] == ["volume-in-use"] * 5
        assert "electros volume detach" in str(larger)
        assert "electros stop" in str(kept), "which is enough for a snapshot"
        renamed = await storage.order(realm["ann"], "PATCH", path, ChangeVolume(name="still here"))
        assert isinstance(renamed, VolumeView)
        assert (renamed.name, renamed.state) == ("still here", "attached")


async def test_a_volume_that_nobody_can_write_may_be_copied_while_vms_have_it(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        attach(storage, LOCKED, realm["bob"])
        copied = await storage.order(
            realm["ann"], "POST", f"/v1/volumes/{LOCKED}/clones", CloneVolume(OTHER, "copy", private=True)
        )
        assert isinstance(copied, VolumeView), copied
        assert (copied.name, copied.private, copied.readonly) == ("copy", True, False)


async def test_format_and_size_change_and_the_volume_goes(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        before = storage.files()
        await make(storage, realm["ann"], size_mib=128)
        path = f"/v1/volumes/{NEW}"
        for image_format in (ImageFormat.QCOW2, ImageFormat.RAW, ImageFormat.QCOW2):
            converted = await storage.order(realm["ann"], "PATCH", path, ChangeVolume(format=image_format))
            assert isinstance(converted, VolumeView), converted
            assert converted.format is image_format
        larger = await storage.order(realm["ann"], "PATCH", path, ChangeVolume(size_mib=256))
        assert isinstance(larger, VolumeView)
        assert larger.size_mib == 256
        smaller = await storage.order(realm["ann"], "PATCH", path, ChangeVolume(size_mib=128))
        assert code(smaller) == "not-done"
        both = await storage.order(realm["ann"], "PATCH", path, ChangeVolume(name="a", size_mib=384))
        assert code(both) == "bad-request"
        gone = await storage.order(realm["ann"], "DELETE", path, name="a")
        assert isinstance(gone, VolumeView)
        assert storage.files() == before
        again = await storage.order(realm["ann"], "DELETE", path, name="a")
        assert again == gone, "the answer was lost, and is given again"
        assert code(await storage.order(realm["ann"], "DELETE", path, name="b")) == "not-found"
        assert code(await storage.order(realm["ann"], "DELETE", path)) == "not-found"


async def test_the_copy_of_a_private_volume_is_private_whatever_is_asked(tmp_path: Path, realm: Realm) -> None:
    """A seed's secrets would get out by it."""
    async with open_storage(tmp_path, realm["h1"]) as storage:
        secret = replace(new(storage.pledge(realm["ann"], NEW, 1024)), private=True)
        assert isinstance(await storage.order(realm["ann"], "POST", "/v1/volumes", secret), VolumeView)
        asked = CloneVolume(OTHER, "copy", private=False)
        copy = await storage.order(realm["ann"], "POST", f"/v1/volumes/{NEW}/clones", asked)
        assert isinstance(copy, VolumeView), copy
        assert copy.private


async def test_a_stopped_vms_volume_is_kept_and_rolled_back_unless_it_was_started_again(
    tmp_path: Path, realm: Realm
) -> None:
    ann, path = realm["ann"], f"/v1/volumes/{NEW}"
    over = StoppedVm(vm_of(1), 1)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await make(storage, ann)
        attach(storage, NEW, ann)
        assert code(await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("s"))) == "volume-in-use"
        other = TakeSnapshot("s", StoppedVm(vm_of(2), 1))
        assert code(await storage.order(ann, "POST", f"{path}/snapshots", other)) == "volume-in-use"
        kept = await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("s", over))
        assert isinstance(kept, VolumeView), kept
        image = storage.pool / f"{dashed(NEW)}.elimg" / storage.catalogue.snapshot().volumes[NEW].image
        with image.open("r+b") as file:
            file.write(b"written since")
        back = await storage.order(ann, "POST", f"{path}/rollback", RollBack("s", over))
        assert isinstance(back, VolumeView), back
        now = storage.pool / f"{dashed(NEW)}.elimg" / storage.catalogue.snapshot().volumes[NEW].image
        with now.open("rb") as file:
            assert file.read(16) == bytes(16)
        assert storage.keeper.is_attached(NEW), "the VM has it still"
        attach(storage, NEW, ann, generation=2)
        again = await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("t", over))
        assert code(again) == "volume-in-use", "it was started meanwhile"


async def test_a_stopped_vms_volume_on_another_host_is_cut_there_and_the_vm_keeps_it_in_a_new_epoch(
    tmp_path: Path, realm: Realm
) -> None:
    ann, path, over = realm["ann"], f"/v1/volumes/{NEW}", StoppedVm(vm_of(1), 1)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await make(storage, ann)
        attach(storage, NEW, ann, host_id=H2)
        (before,) = storage.keeper.state.attachments
        storage.exports.is_stuck = True
        assert code(await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("s", over))) == "not-done"
        assert storage.keeper.state.attachments == (before,)
        storage.exports.is_stuck = False
        kept = await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("s", over))
        assert isinstance(kept, VolumeView), kept
        assert storage.exports.ended == [before]
        write_into(storage, NEW, b"a VM was here")
        back = await storage.order(ann, "POST", f"{path}/rollback", RollBack("s", over))
        assert isinstance(back, VolumeView), back
        assert image_of(storage, NEW).read_bytes()[:13] == bytes(13)
        (after,) = storage.keeper.state.attachments
        assert after == replace(before, epoch=after.epoch)
        assert after.epoch.counter == before.epoch.counter + 2
        assert storage.catalogue.snapshot().volumes[NEW].right == after.right(storage.host_id, held=True)
        attach(storage, NEW, ann, generation=2, host_id=H2)
        assert storage.exports.ended[-1] == after, "what it starts with is cut from the life before, as ever"


async def test_what_a_vm_has_on_this_host_keeps_its_epoch(tmp_path: Path, realm: Realm) -> None:
    ann, path, over = realm["ann"], f"/v1/volumes/{NEW}", StoppedVm(vm_of(1), 1)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await make(storage, ann)
        attach(storage, NEW, ann)
        before = storage.keeper.state
        assert isinstance(await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("s", over)), VolumeView)
        assert storage.keeper.state == before


async def test_a_record_that_says_something_else_lets_nothing_be_rolled_back(tmp_path: Path, realm: Realm) -> None:
    ann, path, over = realm["ann"], f"/v1/volumes/{NEW}", StoppedVm(vm_of(1), 1)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await make(storage, ann)
        attach(storage, NEW, ann, host_id=H2)
        (storage.pool / f"{dashed(NEW)}.elimg" / RECORD).unlink()
        assert code(await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("s", over))) == "not-done"
        assert storage.exports.ended == []


def write_into(storage: Storage, vid: Vid, data: bytes) -> None:
    """As a VM does that runs for a while."""
    with image_of(storage, vid).open("r+b") as file:
        file.write(data)


def image_of(storage: Storage, vid: Vid) -> Path:
    return storage.pool / f"{dashed(vid)}.elimg" / storage.catalogue.snapshot().volumes[vid].image


@pytest.mark.parametrize("name", ["", "another"])
async def test_the_same_words_as_a_moment_ago_are_another_request(tmp_path: Path, realm: Realm, name: str) -> None:
    ann, path = realm["ann"], f"/v1/volumes/{NEW}"
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await make(storage, ann)
        assert isinstance(await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("s")), VolumeView)
        for named in ("one", name):
            write_into(storage, NEW, b"a VM was here")
            assert isinstance(
                await storage.order(ann, "POST", f"{path}/rollback", RollBack("s"), name=named), VolumeView
            )
            assert image_of(storage, NEW).read_bytes()[:13] == bytes(13)


async def test_a_request_that_is_repeated_late_is_not_done_again_whatever_came_between(
    tmp_path: Path, realm: Realm
) -> None:
    ann, path = realm["ann"], f"/v1/volumes/{NEW}"
    async with open_storage(tmp_path, realm["h1"]) as storage:
        await make(storage, ann)
        assert isinstance(await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("s")), VolumeView)
        first = await storage.order(ann, "POST", f"{path}/rollback", RollBack("s"), name="lost")
        assert isinstance(await storage.order(ann, "PATCH", path, ChangeVolume(size_mib=1152)), VolumeView)
        write_into(storage, NEW, b"a VM was here")
        assert await storage.order(ann, "POST", f"{path}/rollback", RollBack("s"), name="lost") == first
        assert image_of(storage, NEW).read_bytes()[:13] == b"a VM was here"


async def test_a_name_that_is_none_is_refused(tmp_path: Path, realm: Realm) -> None:
    async with open_storage(tmp_path, realm["h1"]) as storage:
        asked = storage.order(realm["ann"], "DELETE", f"/v1/volumes/{NEW}", name="a b")
        assert code(await asked) == "bad-request"


async def test_an_image_is_fetched_from_addresses_that_the_settings_open_and_its_checksum_is_kept(
    tmp_path: Path, realm: Realm
) -> None:
    data = b"a disk".ljust(2**20, b".")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "disk.img").write_bytes(data)
    handler = partial(Quiet, directory=str(tmp_path / "served"))
    opened = Config.model_validate({"fetch_allowed": ["127.0.0.0/8"]}).fetch_allowed
    answers = []
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/disk.img"
        for fetching in (None, Fetching(allowed=opened)):
            (folder := tmp_path / str(bool(fetching))).mkdir()
            async with open_storage(folder, realm["h1"], fetching=fetching) as storage:
                asked = ImportVolume(new(storage.pledge(realm["ann"], NEW, 1024)), url)
                answers.append(await storage.order(realm["ann"], "POST", "/v1/imports", asked))
        await trio.to_thread.run_sync(server.shutdown)
    refused, made = answers
    assert isinstance(refused, Refused)
    assert "it is the host itself" in refused.reasons[0].has
    assert isinstance(made, VolumeView)
    assert made.sha256 == hashlib.sha256(data).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Not on stderr."""
