"""What the kernel says of changes becomes the names of volumes, or a word that everything may be different."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from storaged import hints as hints_module
from storaged.hints import PATHS_MAX, Hint, Hints

NAME = "0" * 31 + "1.elimg"
WHOLE = Hint(whole=True)


@pytest.fixture
def hints() -> Iterator[Hints]:
    queue = Hints()
    yield queue
    queue.close()


@pytest.fixture
def pool(tmp_path: Path, hints: Hints) -> Path:
    """A pool with one volume and one folder, all of it watched."""
    for folder in (NAME, "team"):
        (tmp_path / folder).mkdir()
    assert hints.watch([f"{tmp_path}", f"{tmp_path}/team", f"{tmp_path}/{NAME}"]).is_all
    return tmp_path


def paths(*found: Path) -> Hint:
    return Hint(frozenset(map(str, found)))


def test_without_a_change_there_is_nothing_to_take(pool: Path, hints: Hints) -> None:
    assert hints.take() == Hint()


def test_what_happens_inside_a_volume_names_it(pool: Path, hints: Hints) -> None:
    (pool / NAME / "meta.json").write_text("{}")
    assert hints.take() == paths(pool / NAME)
    (pool / NAME / "meta.json").chmod(0o600)
    assert hints.take() == paths(pool / NAME)
    (pool / NAME / "meta.json").unlink()
    assert hints.take() == paths(pool / NAME)
    assert hints.take() == Hint()


def test_reading_and_writing_an_open_image_is_no_change(pool: Path, hints: Hints) -> None:
    """A guest writes all the time; only that it has ended is worth a look."""
    with (pool / NAME / "data.img").open("wb") as image:
        hints.take()
        image.write(b"x")
        image.flush()
        assert hints.take() == Hint()
    assert hints.take() == paths(pool / NAME)


def test_volumes_that_come_and_go_are_named(pool: Path, hints: Hints) -> None:
    new = pool / "team" / NAME
    new.mkdir()
    assert hints.take() == paths(new)
    new.rename(pool / f"vid.{NAME}")
    assert hints.take() == paths(new, pool / f"vid.{NAME}")
    (pool / NAME).rmdir()
    assert hints.take() == paths(pool / NAME)


def test_a_folder_that_comes_or_goes_may_hold_anything(pool: Path, hints: Hints) -> None:
    (pool / "more").mkdir()
    assert hints.take() == WHOLE
    (pool / "more").rmdir()
    assert hints.take() == WHOLE
    (pool / "team").rename(pool / "squad")
    assert hints.take() == WHOLE


def test_a_pools_own_mark_matters_and_other_files_do_not(pool: Path, hints: Hints) -> None:
    (pool / "README").write_text("hello")
    (pool / ".trash").mkdir()
    assert hints.take() == Hint()
    (pool / "pool.json").write_text("{}")
    assert hints.take() == WHOLE


def test_too_many_names_at_once_are_everything(pool: Path, hints: Hints) -> None:
    for number in range(PATHS_MAX + 1):
        (pool / f"{number}.elimg").mkdir()
    assert hints.take() == WHOLE


def test_a_queue_that_ran_over_is_everything(pool: Path, hints: Hints) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most // 2 + 10):  # two events each, and no two alike in a row
        os.close(os.open(pool / NAME / str(number % 2), os.O_WRONLY | os.O_CREAT))
        os.chmod(pool / NAME / str(number % 2), 0o600)
    taken = []
    while hint := hints.take() if not taken or taken[-1] != Hint() else None:
        taken.append(hint)
    assert WHOLE in taken


def test_a_flood_is_taken_in_bounded_gulps(pool: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints_module, "READS_MAX", 1)
    monkeypatch.setattr(hints_module, "READ_BYTES", 32)  # one event
    for number in range(3):
        (pool / f"{number}.elimg").mkdir()
    assert [hints.take() for _ in range(4)] == [*(paths(pool / f"{number}.elimg") for number in range(3)), Hint()]


def test_beyond_the_limit_the_first_folders_are_watched_and_it_is_said(
    tmp_path: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints_module, "WATCHES_MAX", 2)
    folders = [tmp_path / f"{number}.elimg" for number in range(3)]
    for folder in folders:
        folder.mkdir()
    watched = hints.watch(map(str, folders))
    assert (sorted(watched.new), watched.is_all) == (sorted(map(str, folders[:2])), False)
    for folder in folders:
        (folder / "x").touch()
    assert hints.take() == paths(*folders[:2])


def test_where_the_kernel_has_no_watch_left_the_rest_goes_unwatched(
    tmp_path: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Hints, path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Hints, "_begin", full)
    assert hints.watch([str(tmp_path)]) == hints_module.Watched((), is_all=False)


def test_a_folder_that_is_gone_and_a_link_are_passed_over(tmp_path: Path, hints: Hints) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    watched = hints.watch([f"{tmp_path}/gone", f"{tmp_path}/link", str(tmp_path)])
    assert watched == hints_module.Watched((str(tmp_path),), is_all=True)


def test_what_is_wanted_no_more_is_heard_no_more_and_new_folders_are_told(pool: Path, hints: Hints) -> None:
    assert hints.watch([str(pool), str(pool / "team")]).new == ()
    assert Path(f"/proc/self/fdinfo/{hints._queue}").read_text().count("inotify wd:") == 2
    (pool / NAME / "meta.json").touch()
    assert hints.take() == Hint()
    assert hints.watch([str(pool), str(pool / NAME)]).new == (str(pool / NAME),)
    (pool / NAME / "meta.json").touch()
    assert hints.take() == paths(pool / NAME)


def test_a_volume_that_was_moved_is_heard_under_its_new_name(pool: Path, hints: Hints) -> None:
    moved = pool / "team" / NAME
    (pool / NAME).rename(moved)
    hints.take()
    hints.watch([str(pool), str(pool / "team"), str(moved)])
    (moved / "meta.json").touch()
    assert hints.take() == paths(moved)
    hints.watch([str(pool), str(pool / "team"), str(moved)])
    (moved / "data.img").touch()
    assert hints.take() == paths(moved)


def test_one_folder_under_two_names_is_new_once_alone(pool: Path, hints: Hints) -> None:
    both = [str(pool / NAME), f"{pool}/./{NAME}"]
    assert hints.watch(both).new == (both[1],)
    assert hints.watch(both).new == ()


def test_a_folder_that_is_made_again_is_watched_again(pool: Path, hints: Hints) -> None:
    (pool / NAME).rmdir()
    (pool / NAME).mkdir()
    hints.take()
    assert hints.watch([str(pool), str(pool / NAME)]).new == (str(pool / NAME),)
    (pool / NAME / "meta.json").touch()
    assert hints.take() == paths(pool / NAME)


async def test_who_waits_is_woken(pool: Path, hints: Hints) -> None:
    woken = trio.Event()

    async def wait() -> None:
        await hints.heard()
        woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not woken.is_set()
        os.mkdir(pool / "more.elimg")
        with trio.fail_after(20):
            await woken.wait()


def test_a_name_that_is_no_text_is_handed_on_as_the_filesystem_has_it(pool: Path, hints: Hints) -> None:
    name = os.fsdecode(b"\xff.elimg")
    (pool / name).mkdir()
    assert hints.take() == paths(pool / name)
