"""The index finds every volume, says why one is bad, and follows nothing out of a pool."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from specs.ids import Vid, dashed
from storaged import index
from storaged.index import Index
from storaged.testing import ALICE, make_volume, vid_of
from storaged.volume import Snapshot

ONE, TWO = vid_of(1), vid_of(2)


def scan(*pools: Path) -> Snapshot:
    return Index().scan(pools)


def reason_for(pool: Path) -> str:
    snapshot = scan(pool)
    assert not snapshot.volumes
    return snapshot.bad[ONE].reason


def test_a_volume_is_found_at_any_depth_with_all_that_it_says(tmp_path: Path) -> None:
    folder = make_volume(tmp_path / "a/b", ONE, name="web", size_mib=256, bootable=True, owner=ALICE)
    volume = scan(tmp_path).volumes[ONE]
    assert (volume.path, volume.image, volume.name, volume.size_mib) == (str(folder), "data.img", "web", 256)
    assert (volume.bootable, volume.private, volume.owner, volume.format) == (True, True, ALICE, ImageFormat.RAW)
    assert (volume.note, volume.right, volume.exclusive) == ("", None, True)


@pytest.mark.parametrize(
    "name", [f"{dashed(ONE)}.elimg", f"{ONE}.elimg", f"vid.{ONE}.elimg", f"vid.{dashed(ONE)}.elimg"]
)
def test_the_folder_may_be_named_in_each_known_way(tmp_path: Path, name: str) -> None:
    make_volume(tmp_path, ONE).rename(tmp_path / name)
    assert set(scan(tmp_path).volumes) == {ONE}


@pytest.mark.parametrize(
    "name", ["web.elimg", f"{ONE}0.elimg", f"vm.{ONE}.elimg", "ffffffffffffffffffffffffffffffff0.elimg"]
)
def test_a_name_that_is_no_uuid_is_listed_as_bad(tmp_path: Path, name: str) -> None:
    make_volume(tmp_path, ONE).rename(tmp_path / name)
    snapshot = scan(tmp_path)
    assert [bad.reason for bad in snapshot.nameless] == ["its name is not a UUID followed by .elimg"]


def test_one_bad_volume_does_not_hide_another(tmp_path: Path) -> None:
    make_volume(tmp_path, ONE, meta=b"{")
    make_volume(tmp_path, TWO)
    snapshot = scan(tmp_path)
    assert set(snapshot.volumes) == {TWO}
    assert "ends too early" in snapshot.bad[ONE].reason


def test_a_volume_without_metadata_is_bad(tmp_path: Path) -> None:
    (make_volume(tmp_path, ONE) / "meta.json").unlink()
    assert reason_for(tmp_path) == "meta.json is missing"


def test_a_volume_without_its_image_is_bad(tmp_path: Path) -> None:
    (make_volume(tmp_path, ONE) / "data.img").unlink()
    assert reason_for(tmp_path) == "its image data.img is missing"


def test_an_empty_image_is_bad(tmp_path: Path) -> None:
    os.truncate(make_volume(tmp_path, ONE) / "data.img", 0)
    assert reason_for(tmp_path) == "its image data.img is empty"


@pytest.mark.parametrize("name", ["data.img", "meta.json"])
def test_a_link_in_a_files_place_is_bad(tmp_path: Path, name: str) -> None:
    file = make_volume(tmp_path / "pool", ONE) / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert reason_for(tmp_path / "pool") == f"{name} is a symbolic link"


@pytest.mark.parametrize("name", ["data.img", "meta.json"])
def test_a_hard_link_in_a_files_place_is_bad(tmp_path: Path, name: str) -> None:
    file = make_volume(tmp_path / "pool", ONE) / name
    os.link(file, tmp_path / "elsewhere")
    assert "hard link" in reason_for(tmp_path / "pool")


@pytest.mark.parametrize("name", ["data.img", "meta.json", "attachment.json"])
def test_a_fifo_in_a_files_place_is_bad_and_holds_nobody_up(tmp_path: Path, name: str) -> None:
    file = make_volume(tmp_path, ONE) / name
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    assert reason_for(tmp_path) == f"{name} is not a regular file"


def test_a_folder_in_the_images_place_is_bad(tmp_path: Path) -> None:
    file = make_volume(tmp_path, ONE) / "data.img"
    file.unlink()
    file.mkdir()
    assert reason_for(tmp_path) == "data.img is not a regular file"


def test_links_fifos_and_hidden_folders_are_ignored_and_counted(tmp_path: Path) -> None:
    make_volume(tmp_path / "pool/.snapshots/daily", ONE)
    make_volume(tmp_path / "elsewhere", TWO)
    (tmp_path / "pool/link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pool/fifo")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "pool/door"))
        snapshot = scan(tmp_path / "pool")
    assert not snapshot.volumes
    assert (snapshot.ignored.symlinks, snapshot.ignored.specials, snapshot.ignored.hidden) == (1, 2, 1)


def test_a_link_named_like_a_volume_is_bad_unless_the_volume_is_here_too(tmp_path: Path) -> None:
    folder = make_volume(tmp_path / "elsewhere", ONE)
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / folder.name).symlink_to(folder)
    assert reason_for(pool) == "it is a symbolic link, not a folder"
    make_volume(pool / "real", ONE)
    assert set(scan(pool).volumes) == {ONE}


def test_a_file_named_like_a_volume_is_bad(tmp_path: Path) -> None:
    (tmp_path / f"{ONE}.elimg").write_text("")
    assert reason_for(tmp_path) == "it is a file, not a folder"


def test_the_same_vid_in_two_pools_is_a_conflict_that_names_both(tmp_path: Path) -> None:
    paths = {str(make_volume(tmp_path / pool, ONE)) for pool in ("p1", "p2")}
    snapshot = scan(tmp_path / "p1", tmp_path / "p2")
    assert not snapshot.volumes
    assert set(snapshot.conflicts[ONE].paths) == paths


def test_a_bad_copy_makes_a_conflict_too(tmp_path: Path) -> None:
    make_volume(tmp_path / "p1", ONE)
    make_volume(tmp_path / "p2", ONE, meta=b"{")
    snapshot = scan(tmp_path)
    assert not snapshot.volumes
    assert not snapshot.bad
    assert len(snapshot.conflicts[ONE].paths) == 2


def test_one_folder_reached_by_two_pools_is_one_volume(tmp_path: Path) -> None:
    make_volume(tmp_path / "a", ONE)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert set(scan(tmp_path, tmp_path / "a", tmp_path / "link").volumes) == {ONE}


def test_a_missing_pool_is_a_problem_and_the_others_are_scanned(tmp_path: Path) -> None:
    make_volume(tmp_path / "here", ONE)
    snapshot = scan(tmp_path / "gone", tmp_path / "here")
    assert snapshot.problems == (f"pool {tmp_path}/gone: No such file or directory",)
    assert set(snapshot.volumes) == {ONE}


def test_a_qcow2_volume_is_held_to_its_header(tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    folder = make_volume(tmp_path, ONE, meta=b"{size: .125, format: qcow2}")
    assert reason_for(tmp_path) == "the image is not qcow2, as meta.json says it is"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "data.img", "128M"], check=True)
    assert scan(tmp_path).volumes[ONE].note == ""
    base = ["-b", "/etc/hostname", "-F", "raw"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, folder / "data.img", "128M"], check=True)
    assert "backing file" in reason_for(tmp_path)


def test_a_raw_image_is_raw_whatever_it_holds(tmp_path: Path) -> None:
    with (make_volume(tmp_path, ONE) / "data.img").open("r+b") as image:
        image.write(b"QFI\xfb\x00\x00\x00\x03")
    assert scan(tmp_path).volumes[ONE].format is ImageFormat.RAW


def test_a_raw_image_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_volume(tmp_path, ONE)
    really_open, opened = os.open, []

    def spy(path: str, *rest: int, **where: int) -> int:
        opened.append(path)
        return really_open(path, *rest, **where)

    monkeypatch.setattr(os, "open", spy)
    assert set(scan(tmp_path).volumes) == {ONE}
    assert "meta.json" in opened
    assert "data.img" not in opened


def test_an_image_of_another_size_is_noted(tmp_path: Path) -> None:
    os.truncate(make_volume(tmp_path, ONE) / "data.img", 17 * 2**20)
    assert scan(tmp_path).volumes[ONE].note == "its image has 17 MiB, its metadata says 128 MiB"


def test_a_damaged_record_makes_the_volume_bad(tmp_path: Path) -> None:
    (make_volume(tmp_path, ONE) / "attachment.json").write_text("{}")
    assert "damaged" in reason_for(tmp_path)


@pytest.mark.parametrize("name", [b"not-\xff-text", b"new\nline"])
def test_a_path_that_is_no_text_is_bad_and_shown_escaped(tmp_path: Path, name: bytes) -> None:
    make_volume(tmp_path / os.fsdecode(name), ONE)
    bad = scan(tmp_path).bad[ONE]
    assert bad.reason == "its path holds characters that are not text"
    assert bad.path.isprintable()


def test_a_rescan_reads_again_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    read: list[str] = []
    really_read = index._read_afresh

    def spy(folder: int, pool: str, path: str, vid: Vid) -> index._Place:
        read.append(vid)
        return really_read(folder, pool, path, vid)

    monkeypatch.setattr(index, "_read_afresh", spy)
    for vid in (ONE, TWO):
        make_volume(tmp_path, vid)
    scanner = Index()
    before = scanner.scan([tmp_path])
    assert sorted(read) == [ONE, TWO]
    assert scanner.scan([tmp_path]) == before
    assert sorted(read) == [ONE, TWO]
    (tmp_path / f"{dashed(TWO)}.elimg/meta.json").write_text("{size: .125, name: new}")
    assert scanner.scan([tmp_path]).volumes[TWO].name == "new"
    assert sorted(read) == [ONE, TWO, TWO]


@pytest.mark.parametrize("change", ["link", "remove", "empty", "repair"])
def test_no_change_to_a_settled_volume_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    folder = make_volume(tmp_path / "pool", ONE, meta=b"{" if change == "repair" else None)
    scanner = Index()
    before = scanner.scan([tmp_path / "pool"])
    match change:
        case "link":
            os.link(folder / "data.img", tmp_path / "other")
        case "remove":
            (folder / "data.img").unlink()
        case "empty":
            os.truncate(folder / "data.img", 0)
        case "repair":
            (folder / "meta.json").write_text("{size: .125}")
    after = scanner.scan([tmp_path / "pool"])
    assert (ONE in before.volumes, ONE in after.volumes) == ((False, True) if change == "repair" else (True, False))


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("DEPTH_MAX", 2, "deeper than 2"),
        ("ENTRIES_MAX", 3, "more than 3 names"),
        ("VOLUMES_MAX", 1, "more than 1 volumes"),
    ],
)
def test_every_limit_is_said_when_it_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, words: str
) -> None:
    monkeypatch.setattr(index, limit, value)
    make_volume(tmp_path / "a/b/c", ONE)
    for number in range(2, 6):
        make_volume(tmp_path / "many", vid_of(number))
    assert any(words in problem for problem in scan(tmp_path).problems)


def test_what_is_misplaced_in_nested_pools_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/web.elimg").write_text("")
    (tmp_path / f"a/{ONE}.elimg").write_text("")
    snapshot = scan(tmp_path, tmp_path / "a")
    assert len(snapshot.nameless) == 1
    assert set(snapshot.bad) == {ONE}
