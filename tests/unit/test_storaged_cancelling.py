"""Whoever asked for a change ends it: the volume is then as it was, or as it should become; nothing is left over."""

import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio

from matcher.trust.identity import Identity
from matcher.wire.messages import ImageFormat, Refused, VolumeOffer
from matcher.wire.realm import Done, Grant, Verb
from matcher.wire.volumes import (
    ChangeVolume,
    CloneVolume,
    ImportVolume,
    NewVolume,
    RollBack,
    TakeSnapshot,
    VolumeView,
    VolumeViews,
)
from specs.ids import UserId, Vid, dashed
from storaged.images import changing, making, snapshots
from storaged.testing import make_volume, vid_of
from tests.fakes.realms import Realm, make_realm
from tests.fakes.storage import Storage, open_storage

MINE, NEW = vid_of(1), vid_of(2)
MIB = 2**20


@pytest.fixture
def realm(tmp_path: Path) -> Realm:
    made = make_realm(tmp_path / "realm", "h1", "bob", "ada")
    made.add("ann", Grant(verbs=(Verb.PLEDGE, Verb.RUN), volumes_gb=2))
    folder = make_volume(tmp_path / "pool", MINE, name="mine", owner=UserId(made["ann"].principal.id))
    (folder / "data.img").write_bytes(b"as it was" + bytes(128 * MIB - 9))
    return made


class Slow:
    """Work that tells how far it is, again and again, until it is ended; or, `deaf`, until it is let go."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.begun, self.let_go, self._deaf = threading.Event(), threading.Event(), deaf

    def __call__(self, *words: Any, **more: Any) -> None:
        tick: Callable[..., None] = more.get("progress") or words[-1]
        self.begun.set()
        while not self.let_go.is_set():
            if not self._deaf:
                tick("copy", 1 * MIB, 4 * MIB) if tick.__code__.co_argcount == 3 else tick(25)
            time.sleep(0.005)


async def cancel(storage: Storage, who: Identity, vid: Vid) -> Done | Refused:
    return await storage._ask(who, lambda door: door.ask("DELETE", f"/v1/volumes/{vid}/job", Done))


def code(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


def image_of(storage: Storage) -> bytes:
    return (storage.pool / f"{dashed(MINE)}.elimg" / "data.img").read_bytes()[:9]


class Ordered:
    """A change that goes on in the background; `answer` is there when it has ended."""

    def __init__(self, nursery: trio.Nursery, storage: Storage, who: Identity, *order: Any) -> None:
        self.answer: VolumeView | Refused | None = None
        self._ended = trio.Event()

        async def run() -> None:
            self.answer = await storage.order(who, *order)
            self._ended.set()

        nursery.start_soon(run)

    async def end(self) -> VolumeView | Refused:
        await self._ended.wait()
        assert self.answer is not None
        return self.answer


async def begun(slow: Slow) -> None:
    await trio.to_thread.run_sync(slow.begun.wait)


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110  threads and sockets have no event of ours
        await trio.sleep(0.005)


async def under_way(storage: Storage, vid: Vid) -> None:
    await until(lambda: storage.jobs.changing(vid))


def importing(storage: Storage, who: Identity) -> ImportVolume:
    offer = storage.pledge(who, NEW, 1024)
    assert isinstance(offer, VolumeOffer), offer
    new = NewVolume(NEW, offer.offer_id, "new", 128, ImageFormat.RAW, False, True, False, False)
    return ImportVolume(new, size_bytes=1024 * MIB)


async def test_an_import_that_waits_for_its_image_ends_and_leaves_nothing(tmp_path: Path, realm: Realm) -> None:
    ann = realm["ann"]
    async with open_storage(tmp_path, realm["h1"]) as storage, trio.open_nursery() as nursery:
        before = storage.files()
        order = Ordered(nursery, storage, ann, "POST", "/v1/imports", importing(storage, ann))
        await under_way(storage, NEW)
        assert await cancel(storage, ann, NEW) == Done("it is not imported: all is as it was before")
        assert code(await order.end()) == "cancelled"
        assert storage.files() == before
        assert code(await storage.get(ann, f"/v1/volumes/{NEW}", VolumeView)) == "not-found"
        assert isinstance(storage.pledge(ann, NEW, 1920), VolumeOffer), "its room is free again"


async def test_one_whose_image_is_on_its_way_hangs_up_on_its_sender(tmp_path: Path, realm: Realm) -> None:
    ann, sent = realm["ann"], trio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * MIB
            sent.set()
            await trio.sleep(0.01)

    async with open_storage(tmp_path, realm["h1"]) as storage, trio.open_nursery() as nursery:
        before = storage.files()
        order = Ordered(nursery, storage, ann, "POST", "/v1/imports", importing(storage, ann))
        await under_way(storage, NEW)
        uploads = storage.store._arrivals._uploads
        upload = uploads.waiting(NEW, UserId(ann.principal.id))
        assert upload is not None
        ended: list[bool] = []

        async def send() -> None:
            async with aclosing(pieces()) as sending:
                ended.append(await uploads.feed(upload, sending))

        nursery.start_soon(send)
        await sent.wait()
        assert isinstance(await cancel(storage, ann, NEW), Done)
        assert code(await order.end()) == "cancelled"
        await until(lambda: ended)
        assert ended == [False]
        assert storage.files() == before


async def test_a_copy_ends_and_what_it_copies_stays(
    tmp_path: Path, realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, slow = realm["ann"], Slow()
    monkeypatch.setattr(making, "copy_file", slow)
    async with open_storage(tmp_path, realm["h1"]) as storage, trio.open_nursery() as nursery:
        before = storage.files()
        copy = CloneVolume(NEW, "copy", private=False)
        order = Ordered(nursery, storage, ann, "POST", f"/v1/volumes/{MINE}/clones", copy)
        await begun(slow)
        assert isinstance(await cancel(storage, ann, NEW), Done)
        assert code(await order.end()) == "cancelled"
        assert storage.files() == before
        assert storage.jobs.doing(MINE) is None


@pytest.mark.parametrize("doing", ["convert", "snapshot", "rollback"])
async def test_a_change_ends_and_the_volume_is_as_it_was(
    tmp_path: Path, realm: Realm, monkeypatch: pytest.MonkeyPatch, doing: str
) -> None:
    ann, slow, path = realm["ann"], Slow(), f"/v1/volumes/{MINE}"
    orders: dict[str, tuple[Any, ...]] = {
        "convert": ("PATCH", path, ChangeVolume(format=ImageFormat.QCOW2)),
        "snapshot": ("POST", f"{path}/snapshots", TakeSnapshot("second")),
        "rollback": ("POST", f"{path}/rollback", RollBack("first")),
    }
    async with open_storage(tmp_path, realm["h1"]) as storage, trio.open_nursery() as nursery:
        assert isinstance(await storage.order(ann, "POST", f"{path}/snapshots", TakeSnapshot("first")), VolumeView)
        inside = set((storage.pool / f"{dashed(MINE)}.elimg").rglob("*"))
        view, before = await storage.get(ann, path, VolumeView), storage.files()
        monkeypatch.setattr(snapshots, "copy_file", slow)
        monkeypatch.setattr(changing.qemu_img, "convert", slow)
        order = Ordered(nursery, storage, ann, *orders[doing])
        await begun(slow)
        assert isinstance(await cancel(storage, ann, MINE), Done)
        assert code(await order.end()) == "cancelled"
        assert await storage.get(ann, path, VolumeView) == view
        assert set((storage.pool / f"{dashed(MINE)}.elimg").rglob("*")) == inside
        assert (storage.files(), image_of(storage)) == (before, b"as it was")


async def test_what_can_not_be_ended_is_done_and_told_as_done(
    tmp_path: Path, realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, slow, remove = realm["ann"], Slow(deaf=True), changing.remove

    def removes(volume: Any) -> None:
        slow(None)
        remove(volume)

    monkeypatch.setattr(changing, "remove", removes)
    async with open_storage(tmp_path, realm["h1"]) as storage, trio.open_nursery() as nursery:
        order = Ordered(nursery, storage, ann, "DELETE", f"/v1/volumes/{MINE}")
        await begun(slow)
        answers: list[Done | Refused] = []

        async def ask() -> None:
            answers.append(await cancel(storage, ann, MINE))

        nursery.start_soon(ask)
        job = storage.jobs.changing(MINE)
        await until(lambda: job is not None and job.is_cancelled)
        slow.let_go.set()
        assert isinstance(await order.end(), VolumeView)
        await until(lambda: answers)
        assert code(answers[0]) == "too-late"
        assert "it was removed meanwhile" in str(answers[0])
        assert storage.files() == set()


async def test_who_did_not_ask_for_it_neither_ends_it_nor_sees_what_is_made(tmp_path: Path, realm: Realm) -> None:
    ann, ada = realm["ann"], realm["ada"]
    async with open_storage(tmp_path, realm["h1"]) as storage, trio.open_nursery() as nursery:
        order = Ordered(nursery, storage, ann, "POST", "/v1/imports", importing(storage, ann))
        await under_way(storage, NEW)
        assert code(await cancel(storage, ada, NEW)) == "not-found"
        assert code(await storage.get(ada, f"/v1/volumes/{NEW}", VolumeView)) == "not-found"
        theirs = await storage.get(ada, "/v1/volumes", VolumeViews)
        assert isinstance(theirs, VolumeViews)
        assert NEW not in {view.vid for view in theirs.volumes}
        assert order.answer is None
        assert isinstance(await cancel(storage, ann, NEW), Done)
        await order.end()


async def test_what_is_made_and_what_is_changed_is_listed_with_how_far_it_is_and_what_ends_it(
    tmp_path: Path, realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, slow = realm["ann"], Slow()
    monkeypatch.setattr(making, "copy_file", slow)
    async with open_storage(tmp_path, realm["h1"]) as storage, trio.open_nursery() as nursery:
        copy = CloneVolume(NEW, "copy", private=False)
        order = Ordered(nursery, storage, ann, "POST", f"/v1/volumes/{MINE}/clones", copy)
        await begun(slow)
        all_of_it = await storage.get(ann, "/v1/volumes", VolumeViews)
        assert isinstance(all_of_it, VolumeViews)
        (new,) = (view for view in all_of_it.volumes if view.vid == NEW)
        assert (new.name, new.state, new.size_mib, new.private) == ("copy", "busy", 128, True)
        assert new.why == "it is being copied, copy 25 % of 4 MiB"
        busy = await storage.order(ann, "DELETE", f"/v1/volumes/{NEW}")
        assert code(busy) == "busy"
        assert f"electros volume cancel {dashed(NEW)}" in str(busy)
        source = await storage.order(ann, "PATCH", f"/v1/volumes/{MINE}", ChangeVolume(size_mib=256))
        assert code(source) == "busy"
        assert f"electros volume cancel {dashed(NEW)}" in str(source), "what ends the copy, not the volume's own"
        assert isinstance(await cancel(storage, ann, NEW), Done)
        await order.end()
        assert code(await cancel(storage, ann, NEW)) == "not-found"


async def test_who_cancels_what_was_made_just_now_is_told_what_removes_it(tmp_path: Path, realm: Realm) -> None:
    ann = realm["ann"]
    async with open_storage(tmp_path, realm["h1"]) as storage:
        copy = CloneVolume(NEW, "copy", private=False)
        assert isinstance(await storage.order(ann, "POST", f"/v1/volumes/{MINE}/clones", copy), VolumeView)
        late = await cancel(storage, ann, NEW)
        assert code(late) == "too-late"
        assert f"electros volume rm {dashed(NEW)}" in str(late)
        assert isinstance(await storage.get(ann, f"/v1/volumes/{NEW}", VolumeView), VolumeView)
        assert code(await cancel(storage, realm["ada"], NEW)) == "not-found"
