"""What is kept of the pools: changes are heard of and looked at, and nothing depends on hearing them."""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from specs.ids import dashed
from storaged import catalogue as catalogue_module
from storaged import hints
from storaged.catalogue import COMPLAINTS_MAX, Catalogue, complaints
from storaged.config import Config, PoolSettings
from storaged.hints import Hints
from storaged.testing import H1, make_volume, vid_of
from storaged.volume import BadVolume, Snapshot

ONE, TWO = vid_of(1), vid_of(2)
NEVER_S = 86_400.0


@pytest.fixture(autouse=True)
def _restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "SETTLE_S", 0.01)
    monkeypatch.setattr(catalogue_module, "RESCAN_MIN_S", 0.05)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    (tmp_path / "pool/team").mkdir(parents=True)
    return tmp_path / "pool"


def a_catalogue(pool: Path, *, rescan_s: float = NEVER_S) -> Catalogue:
    return Catalogue(Config(state=pool.parent, pools=(PoolSettings(path=pool),), rescan_s=rescan_s), H1)


@pytest.fixture
async def kept(pool: Path, nursery: trio.Nursery) -> Catalogue:
    """A catalogue that never scans by itself once it has settled, so that what it learns it has heard."""
    catalogue = a_catalogue(pool)
    await settled(catalogue, nursery)
    return catalogue


async def settled(catalogue: Catalogue, nursery: trio.Nursery) -> None:
    """What is watched anew is looked at once more; from here on only what is heard leads to anything."""
    await catalogue.scan()
    first = catalogue.snapshot()
    nursery.start_soon(catalogue.keep_scanned)
    await until(lambda: catalogue.snapshot() is not first and catalogue._due_s > trio.current_time() + NEVER_S / 2)


def unmount(pool: Path) -> Path:
    """What is left at the path of a pool that is unmounted: the empty folder. Returns where the pool is now."""
    elsewhere = pool.rename(pool.with_name("unmounted"))
    pool.mkdir()
    return elsewhere


def mount_again(pool: Path) -> None:
    pool.rmdir()  # fails where anything was made in it
    pool.with_name("unmounted").rename(pool)


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not holds():  # noqa: ASYNC110 - what is waited for is in a thread, or in the kernel
            await trio.sleep(0.01)


async def test_a_volume_that_is_made_is_heard_of_and_one_that_is_removed(kept: Catalogue, pool: Path) -> None:
    folder = make_volume(pool / "team", ONE)
    await until(lambda: ONE in kept.snapshot().volumes)
    shutil.rmtree(folder)
    await until(lambda: ONE not in {*kept.snapshot().volumes, *kept.snapshot().bad})


async def test_a_volume_in_a_new_folder_is_heard_of(kept: Catalogue, pool: Path) -> None:
    make_volume(pool / "new/deep", ONE)
    await until(lambda: ONE in kept.snapshot().volumes)


async def test_a_volume_that_is_moved_is_known_at_its_new_place_alone(kept: Catalogue, pool: Path) -> None:
    folder = make_volume(pool, ONE)
    await until(lambda: ONE in kept.snapshot().volumes)
    folder.rename(pool / "team" / folder.name)
    await until(
        lambda: ONE in kept.snapshot().volumes and kept.snapshot().volumes[ONE].path == f"{pool}/team/{folder.name}"
    )


async def test_metadata_that_is_changed_inside_a_volume_is_heard_of(kept: Catalogue, pool: Path) -> None:
    folder = make_volume(pool, ONE)
    await until(lambda: ONE in kept.snapshot().volumes)
    (folder / "meta.json").write_text("{size: .125, name: new}")
    await until(lambda: kept.snapshot().volumes[ONE].name == "new")


async def test_a_hint_that_is_lost_only_delays_until_the_rescan(
    pool: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hints, "take", lambda self: hints.Hint())
    monkeypatch.setattr(Hints, "watch", lambda self, folders: hints.Watched())
    catalogue = a_catalogue(pool, rescan_s=1)
    await catalogue.scan()
    nursery.start_soon(catalogue.keep_scanned)
    make_volume(pool, ONE)
    await until(lambda: ONE in catalogue.snapshot().volumes)


async def test_where_the_kernel_gives_no_hints_the_rescan_finds_all(
    pool: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(self: Hints) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Hints, "__init__", refused)
    catalogue = a_catalogue(pool, rescan_s=1)
    await catalogue.scan()
    nursery.start_soon(catalogue.keep_scanned)
    make_volume(pool, ONE)
    await until(lambda: ONE in catalogue.snapshot().volumes)
    assert "changes are seen every 1 s, as the kernel gives no hints: Too many open files" in caplog.text


async def test_beyond_the_limit_of_watches_volumes_still_come_and_go_at_once_and_it_is_said(
    pool: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(hints, "WATCHES_MAX", 2)  # the pool, and the folder in it
    catalogue = a_catalogue(pool)
    await settled(catalogue, nursery)
    for number in (1, 2):
        make_volume(pool, vid_of(number))
    await until(lambda: {ONE, TWO} <= set(catalogue.snapshot().volumes))
    assert "not all folders can be watched" in caplog.text


async def test_asking_for_a_volume_that_is_not_known_looks_again(
    pool: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hints, "take", lambda self: hints.Hint())
    catalogue = a_catalogue(pool)
    await settled(catalogue, nursery)
    make_volume(pool, ONE)
    catalogue.missed()
    await until(lambda: ONE in catalogue.snapshot().volumes)


async def test_a_pool_that_is_unmounted_under_way_takes_its_volumes_along_with_a_sentence_and_brings_them_back(
    pool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for a scan as for a look: an empty mount point lies where the pool was."""
    make_volume(pool, ONE)
    catalogue = a_catalogue(pool)
    await catalogue.scan()
    unmount(pool)
    await catalogue.scan()
    assert catalogue.snapshot() == Snapshot(problems=catalogue.snapshot().problems)
    assert "there is no pool.json here, and this host has used pool" in caplog.text
    mount_again(pool)
    await catalogue.scan()
    assert set(catalogue.snapshot().volumes) == {ONE}


async def test_a_pool_that_is_unmounted_is_noticed_by_a_look_as_well(kept: Catalogue, pool: Path) -> None:
    folder = make_volume(pool / "team", ONE)
    await until(lambda: ONE in kept.snapshot().volumes)
    (unmount(pool) / "team" / folder.name / "meta.json").write_text("{size: .125, name: gone}")
    await until(lambda: not kept.snapshot().volumes)
    assert "used pool" in kept.snapshot().problems[0]


async def test_a_pool_that_does_not_answer_is_told_of_and_holds_up_neither_answers_nor_the_end(
    pool: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_volume(pool, ONE)
    catalogue = a_catalogue(pool)
    await catalogue.scan()
    answers, was_waited_for = threading.Event(), []

    def dead(self: object, pools: object) -> None:
        answers.wait(10)
        was_waited_for.append(True)

    monkeypatch.setattr(catalogue_module, "SLOW_S", 0.01)
    monkeypatch.setattr(catalogue_module.Index, "scan", dead)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalogue.scan)
        await until(lambda: "looking through the pools takes long" in caplog.text)
        assert set(catalogue.snapshot().volumes) == {ONE}
        nursery.cancel_scope.cancel()
    assert not was_waited_for
    answers.set()


async def test_what_is_wrong_is_told_once_and_again_when_it_comes_back(
    pool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = a_catalogue(pool)
    folders = [make_volume(pool, vid, meta=b"{") for vid in (ONE, TWO)]
    told = []
    for meta in (b"{", b"{", b"{size: .125}", b"{"):
        (folders[0] / "meta.json").write_bytes(meta)
        caplog.clear()
        await catalogue.scan()
        told.append([dashed(vid) in caplog.text for vid in (ONE, TWO)])
    assert told == [[True, True], [False, False], [False, False], [True, False]]


def test_of_very_many_complaints_the_first_are_told_and_the_rest_counted() -> None:
    bad = {vid_of(n): BadVolume(f"/p/{n}", "it is bad", vid_of(n)) for n in range(COMPLAINTS_MAX + 7)}
    told = list(complaints(Snapshot(bad=bad)))
    assert len(told) == COMPLAINTS_MAX + 1
    assert told[-1] == "and 7 more like this"
