"""What volumes take of their disks is shown, and a folder that outgrows its size says so."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from matcher.wire.messages import ImageFormat, Pledge, Policy, VolumeAsk
from matcher.wire.volumes import VolumeView, VolumeViews
from specs.ids import UserId
from storaged import measuring
from storaged.fit import offer_room
from storaged.index import Index
from storaged.measuring import used
from storaged.metadata import Metadata, write_metadata
from storaged.testing import ALICE, make_volume, vid_of
from storaged.volume import PoolUse, Snapshot, Volume, how_full
from tests.fakes.realms import make_realm
from tests.fakes.storage import open_storage

DISK, FOLDER = vid_of(1), vid_of(2)
MIB = 2**20


def make_folder(pool: Path) -> Path:
    meta = write_metadata(Metadata(128, "common", shareable=True, format=ImageFormat.FOLDER, image="share"))
    folder = make_volume(pool, FOLDER, meta=meta)
    (folder / "share").mkdir()
    return folder / "share"


def volume_in(pool: Path, vid: Any) -> Volume:
    return Index().scan([pool]).volumes[vid]


def written(path: Path, mib: int) -> None:
    path.write_bytes(os.urandom(mib * MIB))


def test_of_an_image_its_blocks_count_and_its_holes_do_not(tmp_path: Path) -> None:
    folder = make_volume(tmp_path, DISK)
    with (folder / "data.img").open("r+b") as image:
        image.seek(5 * MIB)
        image.write(os.urandom(3 * MIB))
    assert used(volume_in(tmp_path, DISK)) == 3


def test_of_a_folder_all_files_count_once_and_links_lead_nowhere(tmp_path: Path) -> None:
    share, elsewhere = make_folder(tmp_path / "pool"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    written(elsewhere / "large", 20)
    (share / "deep" / "er").mkdir(parents=True)
    written(share / "deep" / "er" / "one", 2)
    written(share / "two", 3)
    os.link(share / "two", share / "deep" / "two-again")
    (share / "link").symlink_to(elsewhere)
    (share / "file-link").symlink_to(elsewhere / "large")
    os.mkfifo(share / "fifo")
    assert used(volume_in(tmp_path / "pool", FOLDER)) in (5, 6), "with its folders' own blocks"


def test_of_a_folder_with_too_many_files_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = make_folder(tmp_path)
    for number in range(5):
        (share / f"{number}").touch()
    monkeypatch.setattr(measuring, "FILES_MAX", 4)
    assert used(volume_in(tmp_path, FOLDER)) is None


def test_of_a_volume_that_is_gone_or_another_one_nothing_is_said(tmp_path: Path) -> None:
    folder = make_volume(tmp_path, DISK)
    volume = volume_in(tmp_path, DISK)
    (folder / "data.img").unlink()
    assert used(volume) is None


async def test_it_is_listed_and_a_folder_that_outgrew_its_size_says_so(tmp_path: Path) -> None:
    realm = make_realm(tmp_path / "realm", "h1", "ann")
    make_volume(tmp_path / "pool", DISK, owner=UserId(realm["ann"].principal.id))
    written(make_folder(tmp_path / "pool") / "much", 130)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        listed = await storage.get(realm["ann"], "/v1/volumes", VolumeViews)
        assert isinstance(listed, VolumeViews)
        assert {view.vid: view.used_mib for view in listed.volumes}[DISK] == 0
        view = await storage.get(realm["ann"], f"/v1/volumes/{FOLDER}", VolumeView)
        assert isinstance(view, VolumeView)
        assert view.used_mib in (130, 131)
        assert "more than its size" in view.why


async def test_nobody_waits_for_a_disk_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def hangs(_: Volume) -> int:
        goes_on.wait(60)
        return 1

    monkeypatch.setattr(measuring, "used", hangs)
    monkeypatch.setattr(measuring, "LOOK_S", 0.05)
    realm = make_realm(tmp_path / "realm", "h1", "ann")
    make_volume(tmp_path / "pool", DISK)
    async with open_storage(tmp_path, realm["h1"]) as storage:
        for _ in range(2):  # the second one finds the first one's thread still waiting
            view = await storage.get(realm["ann"], f"/v1/volumes/{DISK}", VolumeView)
            assert isinstance(view, VolumeView)
            assert view.used_mib is None
        goes_on.set()


def room_for(size_mib: int, image_format: ImageFormat) -> Pledge:
    room = VolumeAsk(size_mib, image_format)
    return Pledge("0" * 32, 0, (), False, FOLDER, 1, None, (), b"0" * 32, 3000, 1, Policy.PACK, room)


@pytest.mark.parametrize(
    ("size_mib", "image_format", "left_mib"),
    [(8192, ImageFormat.RAW, 92 * 1024), (8192, ImageFormat.FOLDER, None), (4096, ImageFormat.FOLDER, 0)],
)
def test_a_folder_is_made_only_where_the_filesystem_has_room_for_all_of_it(
    size_mib: int, image_format: ImageFormat, left_mib: int | None
) -> None:
    use = PoolUse("/pool", None, 100 * 1024, 0, 0, 10, free_mib=4096)
    claim, left, reasons = offer_room(room_for(size_mib, image_format), Snapshot(pools=(use,)), [], user_id=ALICE)
    assert (None if claim is None else left) == left_mib
    assert bool(reasons) == (claim is None)


def test_how_full_a_pool_is_says_promises_limit_and_disk() -> None:
    assert how_full(2048, 102400, 1536) == "2 GB promised, of at most 100 GB; 1.5 GB free on its filesystem"
    assert how_full(0, None, 1024) == "0 GB promised, no limit; 1 GB free on its filesystem"
