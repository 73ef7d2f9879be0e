"""New volumes appear whole or not at all, and what can't be is said before anything is written."""

import os
import subprocess
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from specs.ids import HostId, UserId, Vid, VmId
from storaged.beneath import Unusable
from storaged.images import making
from storaged.images.sandbox import Sandbox
from storaged.images.staging import staged
from storaged.index import Index
from storaged.metadata import Metadata
from storaged.record import write_right
from storaged.testing import ALICE, make_volume, vid_of
from storaged.volume import Epoch, Right, Volume

ONE, TWO = vid_of(1), vid_of(2)
MIB = 2**20
SANDBOX = Sandbox.of()


def volume_in(pool: Path, vid: Vid = ONE) -> Volume:
    return Index().scan([pool]).volumes[vid]


def hold(volume: Volume) -> None:
    host, user = HostId("a" * 64), UserId("b" * 64)
    right = Right(volume.vid, Epoch(1, "0" * 16), host, host, user, VmId("c" * 32), 1, held=True)
    write_right(volume.pool, volume.path, right)


@pytest.mark.parametrize("image_format", [ImageFormat.RAW, ImageFormat.QCOW2])
def test_a_new_volume_is_found_and_takes_no_space(tmp_path: Path, image_format: ImageFormat) -> None:
    wanted = Metadata(10 * 1024, "data", private=True, owner=ALICE, format=image_format)
    making.create(SANDBOX, str(tmp_path), ONE, wanted, most_mib=10 * 1024)
    volume = volume_in(tmp_path)
    assert (volume.name, volume.size_mib, volume.format, volume.owner) == ("data", 10 * 1024, image_format, ALICE)
    assert volume.note == ""
    image = tmp_path / volume.path / volume.image
    assert image.stat().st_blocks * 512 < MIB
    assert image.stat().st_mode & 0o777 == 0o600
    assert image.stat().st_uid == os.geteuid()
    assert os.listdir(tmp_path) == [f"{volume.path.split('/')[-1]}"]


@pytest.mark.parametrize("size_mib", [0, -128, 100, 127, 129, 2**30 + 128, 2**43, 2**63])
def test_a_size_that_can_not_be_is_refused(tmp_path: Path, size_mib: int) -> None:
    """0, negative, no multiple of 0.125 GB, 8 EiB (2**43 MiB)."""
    with pytest.raises(Unusable, match="size"):
        making.create(SANDBOX, str(tmp_path), ONE, Metadata(size_mib), most_mib=2**70)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Metadata(1024), "would have 1 GB; you may have 0.875 GB more here"),
        (Metadata(128, shareable=True, bootable=True), "can't be bootable"),
        (Metadata(128, shareable=True, format=ImageFormat.QCOW2), "must be raw"),
        (Metadata(128, private=True), "owner"),
        (Metadata(128, "a\nb"), "invisible"),
    ],
)
def test_what_can_not_be_made_is_said_and_leaves_nothing(tmp_path: Path, wanted: Metadata, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        making.create(SANDBOX, str(tmp_path), ONE, wanted, most_mib=896)
    assert os.listdir(tmp_path) == []


def test_a_volume_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    make_volume(tmp_path, ONE, name="first")
    with pytest.raises(Unusable, match="there already"):
        making.create(SANDBOX, str(tmp_path), ONE, Metadata(128, "second"), most_mib=128)
    assert volume_in(tmp_path).name == "first"
    assert len(os.listdir(tmp_path)) == 1


def test_a_pool_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="No such file"):
        making.create(SANDBOX, str(tmp_path / "gone"), ONE, Metadata(128), most_mib=128)


def test_what_is_staged_is_no_volume_yet(tmp_path: Path) -> None:
    with staged(str(tmp_path)) as stage:
        (tmp_path / stage.name / "00000000-0000-0000-0000-000000000001.elimg").mkdir()
        found = Index().scan([tmp_path])
    assert not found.volumes
    assert found.ignored.hidden == 1
    assert os.listdir(tmp_path) == []


@pytest.fixture
def source(tmp_path: Path) -> Volume:
    folder = make_volume(tmp_path, ONE, name="source", size_mib=256)
    with (folder / "data.img").open("r+b") as image:
        image.seek(3 * MIB + 17)
        image.write(b"here")
        image.seek(256 * MIB - 4)
        image.write(b"end!")
    return volume_in(tmp_path)


def test_a_clone_has_the_same_bytes_and_the_same_holes(tmp_path: Path, source: Volume) -> None:
    making.clone(str(tmp_path), source, TWO, Metadata(128, "copy", bootable=True), most_mib=256)
    copy = volume_in(tmp_path, TWO)
    assert (copy.name, copy.size_mib, copy.bootable, copy.note) == ("copy", 256, True, "")
    subprocess.run(["cmp", f"{source.path}/data.img", f"{copy.path}/data.img"], check=True)
    assert os.stat(f"{copy.path}/data.img").st_blocks * 512 < MIB
    assert os.stat(f"{copy.path}/data.img").st_mode & 0o777 == 0o600


def test_a_clone_says_how_far_it_is_and_can_be_stopped(tmp_path: Path, source: Volume) -> None:
    told: list[tuple[str, int, int]] = []
    making.clone(str(tmp_path), source, TWO, Metadata(128), most_mib=256, progress=lambda *now: told.append(now))
    assert told[-1][0] in ("copy", "share")

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        making.clone(str(tmp_path), source, vid_of(3), Metadata(128), most_mib=256, progress=stop)
    assert len(os.listdir(tmp_path)) == 2


def test_a_clone_over_the_quota_is_refused(tmp_path: Path, source: Volume) -> None:
    with pytest.raises(Unusable, match=r"would have 0\.25 GB; you may have 0\.125 GB more"):
        making.clone(str(tmp_path), source, TWO, Metadata(128), most_mib=128)


def test_a_volume_that_a_vm_holds_is_not_cloned(tmp_path: Path, source: Volume) -> None:
    hold(source)
    with pytest.raises(Unusable, match="in use"):
        making.clone(str(tmp_path), source, TWO, Metadata(128), most_mib=256)
    assert len(os.listdir(tmp_path)) == 1


def test_a_volume_that_a_program_writes_is_not_cloned(tmp_path: Path, source: Volume) -> None:
    """Whatever the records say: QEMU's own lock tells."""
    qemu = subprocess.Popen(
        ["qemu-io", "-f", "raw", f"{source.path}/data.img"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert qemu.stdin is not None
    assert qemu.stdout is not None
    qemu.stdin.write(b"length\n")
    qemu.stdin.flush()
    qemu.stdout.read(1)
    try:
        with pytest.raises(Unusable, match="open for writing"):
            making.clone(str(tmp_path), source, TWO, Metadata(128), most_mib=256)
    finally:
        qemu.communicate(b"quit\n")


def test_a_volume_that_has_changed_since_the_scan_is_not_cloned(tmp_path: Path, source: Volume) -> None:
    (Path(source.path) / "meta.json").write_text('{"size": 0.125}')
    with pytest.raises(Unusable, match="changed"):
        making.clone(str(tmp_path), source, TWO, Metadata(128), most_mib=256)
