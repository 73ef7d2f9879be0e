"""The index finds every volume, says why one is bad, and follows nothing out of a pool."""

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from specs.ids import Vid, dashed
from storaged import beneath, index
from storaged.index import Index
from storaged.metadata import META_MAX_BYTES
from storaged.record import RECORD, render_right, write_right
from storaged.testing import ALICE, H1, a_tick_later, make_volume, vid_of, vm_of
from storaged.volume import Epoch, Right, Snapshot

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
    a_tick_later(tmp_path)
    (tmp_path / f"{dashed(TWO)}.elimg/meta.json").write_text("{size: .125, name: new}")
    assert scanner.scan([tmp_path]).volumes[TWO].name == "new"
    assert sorted(read) == [ONE, TWO, TWO]


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are opened from now on."""
    really_open, names = os.open, []

    def spy(path: str, *rest: int, **where: int) -> int:
        names.append(path)
        return really_open(path, *rest, **where)

    monkeypatch.setattr(os, "open", spy)
    return names


def test_a_rescan_opens_no_volume_that_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    make_volume(tmp_path / "team", ONE)
    make_volume(tmp_path / "team", TWO, meta=b"{")
    right = Right(vid_of(3), Epoch(1, "0" * 16), H1, H1, ALICE, vm_of(1), 1, held=True)
    (make_volume(tmp_path / "team", vid_of(3)) / RECORD).write_bytes(render_right(right))
    (make_volume(tmp_path / "team", vid_of(4), meta=b"{") / RECORD).write_bytes(b"{")
    scanner = Index()
    scanner.scan([tmp_path])
    names = opened(monkeypatch)
    scanner.scan([tmp_path])
    assert names == [str(tmp_path), "team"]


def test_what_changed_a_moment_ago_is_read_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes within one tick of the filesystem's clock have the same stat."""
    make_volume(tmp_path, ONE)
    scanner = Index()
    scanner.scan([tmp_path])
    names = opened(monkeypatch)
    scanner.scan([tmp_path])
    assert "meta.json" in names


def times_put_back(path: Path, change: Callable[[], object]) -> None:
    """As whoever wants to hide a change can do, or a careless copy."""
    facts = path.stat()
    change()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "linked": lambda folder, away: os.link(folder / "data.img", away),
    "removed": lambda folder, _: (folder / "data.img").unlink(),
    "emptied": lambda folder, _: os.truncate(folder / "data.img", 0),
    "grown": lambda folder, _: os.truncate(folder / "data.img", 2**28),
    "replaced by a link": lambda folder, away: (
        (folder / "data.img").rename(away),
        (folder / "data.img").symlink_to(away),
    ),
    "metadata rewritten": lambda folder, _: (folder / "meta.json").write_text("{size: .125, name: new}"),
    "metadata exchanged": lambda folder, away: (away.write_text("{"), away.rename(folder / "meta.json")),
    "metadata rewritten, its times put back": lambda folder, _: times_put_back(
        folder / "meta.json", lambda: (folder / "meta.json").write_bytes((folder / "meta.json").read_bytes()[::-1])
    ),
    "metadata linked": lambda folder, away: os.link(folder / "meta.json", away),
    "record made": lambda folder, _: (folder / RECORD).write_text("{}"),
    "record made, the folder's times put back": lambda folder, _: times_put_back(
        folder, lambda: (folder / RECORD).write_text("{}")
    ),
    "opened to everybody": lambda folder, _: folder.chmod(0o777),
    "exchanged as a whole": lambda folder, away: (
        folder.rename(away),
        shutil.copytree(away, folder),
        (folder / "meta.json").write_text("{size: .125, name: other}"),
    ),
    "gone": lambda folder, away: folder.rename(away),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_to_a_settled_volume_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """By a scan, or by a look at it alone: what they say then is what a scan without memory says."""
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    folder = make_volume(tmp_path / "pool", ONE)
    scanner, looker = Index(), Index()
    before = scanner.scan([tmp_path / "pool"])
    assert looker.scan([tmp_path / "pool"]) == before
    a_tick_later(tmp_path)
    CHANGES[change](folder, tmp_path / "away")
    after = scan(tmp_path / "pool")
    assert after != before
    assert scanner.scan([tmp_path / "pool"]) == after
    assert looker.look([str(folder)]) == after


@pytest.mark.parametrize("name", ["meta.json", RECORD])
def test_a_bad_volume_that_is_mended_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    folder = make_volume(tmp_path, ONE)
    good = (folder / "meta.json").read_bytes()
    (folder / name).write_text("{")
    scanner = Index()
    assert ONE in scanner.scan([tmp_path]).bad
    a_tick_later(tmp_path)
    if name == RECORD:
        (folder / RECORD).write_bytes(
            render_right(Right(ONE, Epoch(1, "0" * 16), H1, H1, ALICE, vm_of(1), 1, held=False))
        )
    else:
        (folder / name).write_bytes(good)
    assert ONE in scanner.scan([tmp_path]).volumes


def test_a_record_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    folder = make_volume(tmp_path, ONE)
    scanner = Index()
    for counter in (1, 2):
        a_tick_later(tmp_path)
        right = Right(ONE, Epoch(counter, "0" * 16), H1, H1, ALICE, vm_of(1), 1, held=True)
        (folder / RECORD).write_bytes(render_right(right))  # in place: the folder stays as it is
        assert scanner.scan([tmp_path]).volumes[ONE].right == right


def test_a_look_finds_what_is_new_and_opens_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED_NS", 0)
    make_volume(tmp_path / "team", ONE)
    scanner = Index()
    scanner.scan([tmp_path])
    folder = make_volume(tmp_path / "team", TWO)
    names = opened(monkeypatch)
    looked = scanner.look([str(folder)])
    assert f"{dashed(TWO)}.elimg" in names
    assert f"{dashed(ONE)}.elimg" not in names
    assert looked == scan(tmp_path)


@pytest.mark.parametrize("kind", ["link", "file", "fifo"])
def test_a_look_tells_what_is_no_folder(tmp_path: Path, kind: str) -> None:
    (tmp_path / "pool").mkdir()
    scanner = Index()
    scanner.scan([tmp_path / "pool"])
    path = tmp_path / f"pool/{ONE}.elimg"
    match kind:
        case "link":
            path.symlink_to(make_volume(tmp_path / "elsewhere", ONE))
        case "file":
            path.write_text("")
        case "fifo":
            os.mkfifo(path)
    looked = scanner.look([str(path)])
    assert looked is not None
    assert looked.bad == scan(tmp_path / "pool").bad
    path.unlink()
    assert scanner.look([str(path)]) is not None
    assert scanner.look([str(path)]).bad == {}  # type: ignore[union-attr]


def test_a_look_goes_nowhere_that_no_scan_has_been(tmp_path: Path) -> None:
    outside = make_volume(tmp_path / "outside", ONE)
    (tmp_path / "pool").mkdir()
    scanner = Index()
    scanner.scan([tmp_path / "pool"])
    names = [outside, tmp_path / "pool/../outside" / outside.name, tmp_path / "pool/new" / outside.name, Path("/")]
    assert scanner.look(map(str, names)) == scan(tmp_path / "pool")


def test_a_look_through_a_folder_that_became_a_link_is_left_to_a_scan(tmp_path: Path) -> None:
    folder = make_volume(tmp_path / "pool/team", ONE)
    scanner = Index()
    scanner.scan([tmp_path / "pool"])
    (tmp_path / "pool/team").rename(tmp_path / "elsewhere")
    (tmp_path / "pool/team").symlink_to(tmp_path / "elsewhere")
    assert scanner.look([str(folder)]) is None
    assert not scanner.scan([tmp_path / "pool"]).volumes


def test_a_volume_that_moved_is_no_conflict_where_both_names_are_looked_at(tmp_path: Path) -> None:
    folder = make_volume(tmp_path / "a", ONE)
    (tmp_path / "b").mkdir()
    scanner = Index()
    scanner.scan([tmp_path])
    moved = folder.rename(tmp_path / "b" / folder.name)
    for paths in ([moved, folder], [folder, moved]):
        assert scanner.look(map(str, paths)) == scan(tmp_path)


# ---- what is hostile


def test_of_a_meta_json_of_100_mb_no_more_is_read_than_one_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(make_volume(tmp_path, ONE) / "meta.json", 100_000_000)
    really_read, read = os.pread, []

    def spy(file: int, size: int, offset: int) -> bytes:
        data = really_read(file, size, offset)
        read.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", spy)
    assert reason_for(tmp_path) == "meta.json is larger than 64 KiB"
    assert 0 < sum(read) <= META_MAX_BYTES + 1


@pytest.mark.parametrize("meta", [b"[" * 60_000, b'{"a":' * 10_000, b"\0" * 1000, os.urandom(4096), b"\xef\xbb\xbf"])
def test_a_meta_json_that_is_deep_or_nonsense_makes_its_volume_bad_and_no_other(tmp_path: Path, meta: bytes) -> None:
    make_volume(tmp_path, ONE, meta=meta)
    make_volume(tmp_path, TWO)
    snapshot = scan(tmp_path)
    assert (set(snapshot.volumes), set(snapshot.bad)) == ({TWO}, {ONE})


@pytest.mark.parametrize("image", ["../data.img", "..", "/etc/passwd", "a/b", "a\0b"])
def test_an_image_that_is_no_plain_name_is_never_looked_for(tmp_path: Path, image: str) -> None:
    make_volume(tmp_path, ONE, meta=json.dumps({"size": 0.125, "image": image}).encode())
    assert "plain name of a file" in reason_for(tmp_path)


@pytest.mark.parametrize("name", ["meta.json", RECORD])
def test_a_file_that_becomes_a_link_between_the_check_and_its_opening_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = make_volume(tmp_path / "pool", ONE)
    right = Right(ONE, Epoch(7, "0" * 16), H1, H1, ALICE, vm_of(1), 1, held=True)
    (folder / RECORD).write_bytes(render_right(right))
    outside = make_volume(tmp_path / "outside", ONE, name="secret")
    (outside / RECORD).write_bytes(render_right(right))
    really_check = beneath.check_regular

    def check(checked: str, facts: os.stat_result) -> None:
        really_check(checked, facts)
        if checked == name and not (folder / name).is_symlink():
            (folder / name).unlink()
            (folder / name).symlink_to(outside / name)

    monkeypatch.setattr(beneath, "check_regular", check)
    assert "can't be read: Too many levels of symbolic links" in reason_for(tmp_path / "pool")


def test_a_record_that_is_replaced_while_it_is_read_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was opened has no name any more: that is no other name elsewhere."""
    folder = make_volume(tmp_path / "pool", ONE)
    rights = [Right(ONE, Epoch(counter, "0" * 16), H1, H1, ALICE, vm_of(1), 1, held=True) for counter in (1, 2, 3)]
    write_right(str(tmp_path / "pool"), str(folder), rights.pop(0))
    really_open = os.open

    def open_and_replace(name: str, *rest: int, **more: int) -> int:
        opened = really_open(name, *rest, **more)
        if name == RECORD and rights:
            write_right(str(tmp_path / "pool"), str(folder), rights.pop(0))
        return opened

    monkeypatch.setattr(beneath.os, "open", open_and_replace)
    found = scan(tmp_path / "pool").volumes[ONE].right
    assert found is not None
    assert found.epoch.counter == 3


@pytest.mark.parametrize("which", ["volume", "team"])
def test_a_folder_that_becomes_a_link_between_the_check_and_its_opening_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    volume = make_volume(tmp_path / "pool/team", ONE)
    make_volume(tmp_path / "outside/team", ONE, name="secret")
    swapped = volume if which == "volume" else volume.parent
    really_open = index.open_folder

    def swap_and_open(path: str, *, within: int | None = None) -> AbstractContextManager[int]:
        if path == swapped.name:
            swapped.rename(tmp_path / "aside")
            swapped.symlink_to(tmp_path / "outside" / swapped.relative_to(tmp_path / "pool"))
        return really_open(path, within=within)

    monkeypatch.setattr(index, "open_folder", swap_and_open)
    snapshot = scan(tmp_path / "pool")
    assert not snapshot.volumes
    if which == "volume":
        assert snapshot.bad[ONE].reason == "its folder can't be opened: Not a directory"
    else:
        assert snapshot.ignored.unreadable == 1


def test_nothing_from_outside_comes_in_however_names_are_exchanged_meanwhile(tmp_path: Path) -> None:
    """The folder, the metadata and a folder above are exchanged for links and back all the time by somebody."""
    inside = make_volume(tmp_path / "pool/team", ONE, name="inside")
    outside = make_volume(tmp_path / "outside/team", ONE, name="outside")
    ends = threading.Event()

    def exchange() -> None:
        exchanged = [(inside, outside), (inside / "meta.json", outside / "meta.json"), (inside.parent, outside.parent)]
        while not ends.is_set():
            for mine, theirs in exchanged:
                mine.rename(tmp_path / "aside")
                mine.symlink_to(theirs)
                mine.unlink()
                (tmp_path / "aside").rename(mine)

    scanner, told = Index(), set()
    somebody = threading.Thread(target=exchange)
    somebody.start()
    try:
        for _ in range(300):
            for snapshot in (scanner.scan([tmp_path / "pool"]), scanner.look([str(inside)])):
                told |= {volume.name for volume in snapshot.volumes.values()} if snapshot else set()
    finally:
        ends.set()
        somebody.join()
    assert told <= {"inside"}
    assert scanner.scan([tmp_path / "pool"]).volumes[ONE].name == "inside"


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("DEPTH_MAX", 2, "deeper than 2"),
        ("ENTRIES_MAX", 3, "more than 3 names"),
        ("VOLUMES_MAX", 1, "more than 1 volumes"),
        ("VOLUMES_MAX", 1, "more than 1 files and links"),
    ],
)
def test_every_limit_is_said_when_it_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, words: str
) -> None:
    monkeypatch.setattr(index, limit, value)
    make_volume(tmp_path / "a/b/c", ONE)
    for number in range(2, 6):
        make_volume(tmp_path / "many", vid_of(number))
        (tmp_path / f"{vid_of(number)}.elimg").write_text("")
    assert any(words in problem for problem in scan(tmp_path).problems)


def test_what_is_misplaced_in_nested_pools_is_listed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/web.elimg").write_text("")
    (tmp_path / f"a/{ONE}.elimg").write_text("")
    snapshot = scan(tmp_path, tmp_path / "a")
    assert len(snapshot.nameless) == 1
    assert set(snapshot.bad) == {ONE}
