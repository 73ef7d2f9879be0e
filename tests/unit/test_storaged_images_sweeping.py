"""What a crash left in a pool is cleared away, and nothing else."""

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from storaged.beneath import Unusable
from storaged.images.staging import staged
from storaged.images.sweeping import Swept, sweep
from storaged.index import Index
from storaged.testing import make_volume, vid_of

ONE = vid_of(1)
FOLDER = "00000000-0000-0000-0000-000000000001.elimg"


def left_behind(pool: Path, notes: dict[str, object], name: str = ".new-00") -> Path:
    stage = pool / name
    stage.mkdir(parents=True)
    for file, note in notes.items():
        (stage / file).write_text(note if isinstance(note, str) else json.dumps(note))
    return stage


def test_leftovers_go_and_volumes_stay(tmp_path: Path) -> None:
    make_volume(tmp_path, ONE)
    (tmp_path / ".snapshots").mkdir()
    left_behind(tmp_path, {"data.img": "half"})
    left_behind(tmp_path, {"data.img": "half"}, ".gone-00")
    assert sweep(str(tmp_path)) == Swept(deleted=2, left=0)
    assert sorted(os.listdir(tmp_path)) == sorted([".snapshots", FOLDER])


def test_what_is_being_made_stays(tmp_path: Path) -> None:
    with staged(str(tmp_path)) as stage:
        assert sweep(str(tmp_path)) == Swept(deleted=0, left=1)
        assert os.listdir(tmp_path) == [stage.name]


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / ".new-link").symlink_to("elsewhere")
    (tmp_path / ".new-file").touch()
    os.mkfifo(tmp_path / ".gone-fifo")
    assert sweep(str(tmp_path)) == Swept(deleted=0, left=3)
    assert (tmp_path / "elsewhere" / "file").exists()


def test_a_pool_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="No such file"):
        sweep(str(tmp_path / "gone"))


@pytest.mark.parametrize(("named", "stays"), [("data.img", "data.img"), ("data-00.img", "data-00.img")])
def test_of_two_images_the_one_that_the_metadata_names_stays(tmp_path: Path, named: str, stays: str) -> None:
    folder = make_volume(tmp_path, ONE, meta=json.dumps({"size": 0.125, "image": named}).encode())
    (folder / "data-00.img").write_bytes(b"new")
    (folder / ".meta.json.new").touch()
    left_behind(tmp_path, {"replaces.json": {"path": str(folder), "old": "data.img", "new": "data-00.img"}})
    assert sweep(str(tmp_path)).deleted == 1
    assert sorted(os.listdir(folder)) == sorted(["meta.json", stays])
    assert Index().scan([tmp_path]).volumes[ONE].image == named


def test_where_a_person_was_at_it_only_our_own_image_goes(tmp_path: Path) -> None:
    folder = make_volume(tmp_path, ONE, meta=b'{"size": 0.125, "image": "theirs.img"}')
    for name in ("theirs.img", "data-00.img"):
        (folder / name).write_bytes(b"x")
    left_behind(tmp_path, {"replaces.json": {"path": str(folder), "old": "data.img", "new": "data-00.img"}})
    sweep(str(tmp_path))
    assert sorted(os.listdir(folder)) == ["data.img", "meta.json", "theirs.img"]


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        {"path": 7, "old": "data.img", "new": "b"},
        {"path": "P", "old": "data.img", "new": "../outside"},
        {"path": "P", "old": "data.img", "new": "attachment.json"},
        {"path": "P", "old": "data.img", "new": ".hidden"},
        {"path": "P", "old": "data.img"},
        {"path": "P", "old": ["data.img"], "new": "b"},
    ],
)
def test_a_note_that_was_not_written_to_its_end_changes_nothing(tmp_path: Path, note: object) -> None:
    folder = make_volume(tmp_path, ONE)
    others = [tmp_path / "outside", folder / "attachment.json", folder / ".hidden"]
    for other in others:
        other.touch()
    text = (note if isinstance(note, str) else json.dumps(note)).replace("P", str(folder))
    left_behind(tmp_path, {"replaces.json": text})
    assert sweep(str(tmp_path)) == Swept(deleted=1, left=0)
    assert all(other.exists() for other in others)
    assert sorted(os.listdir(folder)) == [".hidden", "attachment.json", "data.img", "meta.json"]


def test_a_note_never_leads_out_of_the_pool(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    outside = make_volume(tmp_path / "outside", ONE)
    (outside / "data-00.img").touch()
    note = {"path": str(outside), "old": "data.img", "new": "data-00.img"}
    left_behind(pool, {"replaces.json": note})
    assert sweep(str(pool)) == Swept(deleted=0, left=1)
    assert len(os.listdir(outside)) == 3


def test_a_note_on_a_volume_that_is_bad_now_waits(tmp_path: Path) -> None:
    folder = make_volume(tmp_path, ONE, meta=b"nonsense")
    (folder / "data-00.img").touch()
    left_behind(tmp_path, {"replaces.json": {"path": str(folder), "old": "data.img", "new": "data-00.img"}})
    assert sweep(str(tmp_path)) == Swept(deleted=0, left=1)
    assert len(os.listdir(folder)) == 3


def test_a_note_on_a_volume_that_was_removed_goes(tmp_path: Path) -> None:
    note = {"path": str(tmp_path / FOLDER), "old": "data.img", "new": "data-00.img"}
    left_behind(tmp_path, {"replaces.json": note})
    assert sweep(str(tmp_path)) == Swept(deleted=1, left=0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("has", "gets"), [(65534, 0), (4242, 4242)])
def test_an_image_comes_back_from_qemu_img_and_from_nobody_else(tmp_path: Path, has: int, gets: int) -> None:
    folder = make_volume(tmp_path, ONE)
    os.chown(folder / "data.img", has, has)
    note = {"path": str(folder), "image": "data.img", "borrower": 65534, "uid": 0, "gid": 0}
    left_behind(tmp_path, {"lent.json": note})
    sweep(str(tmp_path))
    assert (folder / "data.img").stat().st_uid == gets


def test_two_sweeps_at_once_do_each_other_no_harm(tmp_path: Path) -> None:
    stage = left_behind(tmp_path, {"data.img": "half"})
    other = os.open(stage, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    assert sweep(str(tmp_path)) == Swept(deleted=0, left=1)
    os.close(other)
    assert sweep(str(tmp_path)) == Swept(deleted=1, left=0)


def test_where_folders_can_not_be_locked_a_sweep_needs_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS; making something goes on all the same."""

    def unlockable(_file: int, _how: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", unlockable)
    with staged(str(tmp_path)):
        assert len(os.listdir(tmp_path)) == 1
    left_behind(tmp_path, {"data.img": "half"})
    assert sweep(str(tmp_path)) == Swept(deleted=0, left=1)
    assert sweep(str(tmp_path), alone=True) == Swept(deleted=1, left=0)


def test_a_word_is_not_enough_against_a_lock(tmp_path: Path) -> None:
    with staged(str(tmp_path)):
        assert sweep(str(tmp_path), alone=True) == Swept(deleted=0, left=1)
