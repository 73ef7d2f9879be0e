"""Killed at whatever moment, storaged leaves whole volumes, as they were or as they should become, and no rubbish."""

import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from matcher.wire.messages import ImageFormat
from storaged.images import changing, importing, making, snapshots
from storaged.images.sandbox import Sandbox
from storaged.images.sweeping import sweep
from storaged.index import Index
from storaged.metadata import Metadata
from storaged.testing import vid_of
from storaged.volume import Volume

ONE, TWO = vid_of(1), vid_of(2)
RAW, QCOW2 = ImageFormat.RAW, ImageFormat.QCOW2
SANDBOX = Sandbox.of()
NEXT_TO_IT = 7 * 2**20

Act = Callable[[Path], None]


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("incoming") / "in.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "128M"], check=True)
    pattern(path, QCOW2, "write")
    return path.read_bytes()


def pattern(image: Path, image_format: ImageFormat, verb: str) -> str:
    commands = [word for at in ("1M", "100M") for word in ("-c", f"{verb} -P 5 {at} 4M")]
    alone = ["-r"] if verb == "read" else []
    command = ["qemu-io", *alone, "-f", image_format.value, *commands, image]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def is_whole(volume: Volume) -> bool:
    return not volume.note and "failed" not in pattern(Path(volume.path) / volume.image, volume.format, "read")


def volumes_in(pool: Path) -> dict[str, Volume]:
    found = Index().scan([pool])
    assert not found.bad
    assert not found.nameless
    assert not found.problems
    return {str(vid): volume for vid, volume in found.volumes.items()}


def make_one(pool: Path) -> Volume:
    making.create(SANDBOX, str(pool), ONE, Metadata(128, "one"), most_mib=128)
    volume = Index().scan([pool]).volumes[ONE]
    pattern(Path(volume.path) / volume.image, RAW, "write")
    return volume


def import_as(stored: ImageFormat, data: bytes) -> Act:
    def act(pool: Path) -> None:
        wanted = Metadata(128, "two", format=stored)
        importing.import_image(SANDBOX, str(pool), TWO, wanted, importing.Incoming(io.BytesIO(data)), most_mib=128)

    return act


def create(pool: Path) -> None:
    making.create(SANDBOX, str(pool), TWO, Metadata(128, "two", format=QCOW2), most_mib=128)


def clone(pool: Path) -> None:
    making.clone(str(pool), volumes_in(pool)[ONE], TWO, Metadata(128, "two"), most_mib=128)


def convert(pool: Path) -> None:
    changing.convert(SANDBOX, volumes_in(pool)[ONE], QCOW2)


def roll_back(pool: Path) -> None:
    snapshots.rollback(volumes_in(pool)[ONE], "kept")


def snapshot(pool: Path) -> None:
    snapshots.take(volumes_in(pool)[ONE], "another")


def remove(pool: Path) -> None:
    changing.remove(volumes_in(pool)[ONE])


def rename(pool: Path) -> None:
    changing.rename(volumes_in(pool)[ONE], "renamed")


def killed(act: Act, pool: Path, after_s: float) -> None:
    """Runs it in a process of its own, which is killed `after_s` after it began."""
    child = os.fork()
    if child == 0:
        try:
            act(pool)
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def leftovers(pool: Path) -> int:
    """After a sweep. A child that was about to become qemu-img may hold the stage's lock for an instant longer."""
    for _ in range(200):
        if (left := sweep(str(pool)).left) == 0:
            break
        time.sleep(0.01)
    return left


@contextmanager
def a_pool(folder: Path, after_s: float) -> Iterator[Path]:
    """Of its own for each moment; it stays if something is wrong with it, or two hundred would fill a disk."""
    pool = folder / f"{after_s}"
    pool.mkdir()
    yield pool
    shutil.rmtree(pool)


RUNS = [pytest.param(12), pytest.param(200, marks=pytest.mark.slow)]


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("name", ["create", "import raw", "import qcow2", "clone"])
def test_a_volume_that_is_being_made_is_whole_or_not_there(
    tmp_path: Path, incoming: bytes, name: str, runs: int
) -> None:
    acts = {"create": create, "clone": clone}
    act = acts.get(name) or import_as(RAW if name == "import raw" else QCOW2, incoming)
    for after_s in moments(act, tmp_path, runs):
        with a_pool(tmp_path, after_s) as pool:
            make_one(pool)
            killed(act, pool, after_s)
            assert leftovers(pool) == 0
            found = volumes_in(pool)
            assert is_whole(found[ONE])
            made = found.get(TWO)
            assert made is None or name == "create" or is_whole(made)
            assert len(os.listdir(pool)) == len(found)


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("act", [convert, roll_back, snapshot, rename])
def test_a_volume_that_is_being_changed_is_the_old_or_the_new(tmp_path: Path, act: Act, runs: int) -> None:
    for after_s in moments(act, tmp_path, runs):
        with a_pool(tmp_path, after_s) as pool:
            snapshots.take(make_one(pool), "kept")
            killed(act, pool, after_s)
            assert leftovers(pool) == 0
            volume = volumes_in(pool)[ONE]
            assert is_whole(volume)
            assert os.stat(f"{volume.path}/{volume.image}").st_uid == os.geteuid()
            names = {name for name in os.listdir(volume.path) if not name.startswith(".snapshot-")}
            assert names - {".meta.json.new"} == {volume.image, "meta.json"}
            assert len(os.listdir(pool)) == 1
            assert all(is_whole_snapshot(volume, kept.name) for kept in snapshots.snapshots_of(volume))


def is_whole_snapshot(volume: Volume, name: str) -> bool:
    return "failed" not in pattern(Path(volume.path) / f".snapshot-{name}" / "data.img", RAW, "read")


@pytest.mark.parametrize("runs", RUNS)
def test_a_volume_that_is_being_removed_is_whole_or_gone(tmp_path: Path, runs: int) -> None:
    for after_s in moments(remove, tmp_path, runs):
        with a_pool(tmp_path, after_s) as pool:
            make_one(pool)
            killed(remove, pool, after_s)
            assert leftovers(pool) == 0
            found = volumes_in(pool)
            assert all(is_whole(volume) for volume in found.values())
            assert len(os.listdir(pool)) == len(found)


def moments(act: Act, tmp_path: Path, runs: int) -> list[float]:
    """From the first instant to a little after it would have ended, as it goes on this machine now."""
    pool = tmp_path / "measured"
    pool.mkdir()
    snapshots.take(make_one(pool), "kept")
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            act(pool)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    took_s = time.perf_counter() - began
    random = Random(runs)
    return [random.uniform(0, took_s * 1.1) for _ in range(runs)]
