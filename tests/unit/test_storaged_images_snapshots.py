"""A volume can go back to what it was, raw or qcow2; a snapshot is no volume."""

import os
import subprocess
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.images import changing, making, snapshots
from storaged.images.sandbox import Sandbox
from storaged.index import Index
from storaged.metadata import Metadata
from storaged.record import write_right
from storaged.testing import ALICE, H1, vid_of, vm_of
from storaged.volume import Epoch, Right, Volume

ONE = vid_of(1)
RAW, QCOW2 = ImageFormat.RAW, ImageFormat.QCOW2
SANDBOX = Sandbox.of()


def volume_in(pool: Path) -> Volume:
    found = Index().scan([pool])
    assert set(found.volumes) == {ONE}
    assert not found.bad
    assert not found.nameless
    return found.volumes[ONE]


def io(volume: Volume, command: str) -> str:
    image = f"{volume.path}/{volume.image}"
    words = ["qemu-io", "-f", volume.format.value, "-c", command, image]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=[RAW, QCOW2])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Volume:
    making.create(SANDBOX, str(tmp_path), ONE, Metadata(128, "data", format=request.param), most_mib=128)
    made = volume_in(tmp_path)
    io(made, "write -P 1 1M 64k")
    return made


def test_a_volume_goes_back_and_can_go_back_again(tmp_path: Path, volume: Volume) -> None:
    snapshots.take(volume, "before")
    for _ in range(2):
        io(volume_in(tmp_path), "write -P 2 1M 64k")
        snapshots.rollback(volume_in(tmp_path), "before")
        now = volume_in(tmp_path)
        assert "failed" not in io(now, "read -P 1 1M 64k")
        assert sorted(os.listdir(now.path)) == sorted([".snapshot-before", "meta.json", now.image])
    assert os.listdir(tmp_path) == [Path(volume.path).name]


def test_size_and_format_go_back_too_and_the_name_stays(tmp_path: Path, volume: Volume) -> None:
    snapshots.take(volume, "before")
    other = QCOW2 if volume.format is RAW else RAW
    changing.resize(SANDBOX, volume, 256, most_mib=256)
    changing.convert(SANDBOX, volume_in(tmp_path), other)
    changing.rename(volume_in(tmp_path), "renamed")
    snapshots.rollback(volume_in(tmp_path), "before")
    now = volume_in(tmp_path)
    assert (now.size_mib, now.format, now.name, now.note) == (128, volume.format, "renamed", "")


def test_snapshots_are_listed_and_dropped(volume: Volume) -> None:
    assert snapshots.snapshots_of(volume) == ()
    snapshots.take(volume, "a")
    snapshots.take(volume, "b.2026-11_x")
    assert {snapshot.name: snapshot.size_mib for snapshot in snapshots.snapshots_of(volume)} == {
        "a": 128,
        "b.2026-11_x": 128,
    }
    snapshots.drop(volume, "a")
    assert [snapshot.name for snapshot in snapshots.snapshots_of(volume)] == ["b.2026-11_x"]
    assert len(os.listdir(volume.pool)) == 1


def test_a_name_is_used_once_and_may_lead_nowhere(volume: Volume) -> None:
    snapshots.take(volume, "a")
    with pytest.raises(Unusable, match="already"):
        snapshots.take(volume, "a")
    for name in ("", "..", "../x", "A", "a/b", "a\0", ".hidden", "x" * 41):
        for act in (snapshots.take, snapshots.rollback, snapshots.drop):
            with pytest.raises(Unusable, match="name"):
                act(volume, name)
    for act in (snapshots.rollback, snapshots.drop):
        with pytest.raises(Unusable, match="no snapshot b"):
            act(volume, "b")


def test_there_is_a_most_of_snapshots(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOTS_MAX", 2)
    snapshots.take(volume, "a")
    snapshots.take(volume, "b")
    with pytest.raises(Unusable, match="has 2 snapshots"):
        snapshots.take(volume, "c")


def test_a_volume_in_use_is_neither_kept_nor_put_back_unless_its_vm_is_stopped(volume: Volume) -> None:
    snapshots.take(volume, "a")
    write_right(volume.pool, volume.path, Right(ONE, Epoch(1, "0" * 16), H1, H1, ALICE, vm_of(1), 1, held=True))
    with pytest.raises(Unusable, match="in use"):
        snapshots.take(volume, "b")
    with pytest.raises(Unusable, match="in use"):
        snapshots.rollback(volume, "a")
    snapshots.take(volume, "b", stopped=True)
    snapshots.rollback(volume, "a", stopped=True)
