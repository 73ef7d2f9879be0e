"""Volumes grow, change their name and format, and go; what could lose data is refused."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.images import changing, making
from storaged.images.sandbox import Sandbox
from storaged.index import Index
from storaged.metadata import Metadata
from storaged.record import write_right
from storaged.testing import ALICE, H1, make_volume, vid_of, vm_of
from storaged.volume import Epoch, Right, Volume
from tests.fakes.qcow2 import Qcow2

ONE = vid_of(1)
MIB = 2**20
RAW, QCOW2 = ImageFormat.RAW, ImageFormat.QCOW2
SANDBOX = Sandbox.of()


def volume_in(pool: Path) -> Volume:
    return Index().scan([pool]).volumes[ONE]


def made(pool: Path, image_format: ImageFormat = RAW, *, size_mib: int = 128) -> Volume:
    making.create(SANDBOX, str(pool), ONE, Metadata(size_mib, "data", format=image_format), most_mib=size_mib)
    volume = volume_in(pool)
    image = f"{volume.path}/{volume.image}"
    write = ["qemu-io", "-f", image_format.value, "-c", "write -P 9 5M 64k", image]
    subprocess.run(write, check=True, capture_output=True)
    return volume


def has_the_data(volume: Volume) -> bool:
    image = f"{volume.path}/{volume.image}"
    command = ["qemu-io", "-r", "-f", volume.format.value, "-c", "read -P 9 5M 64k", "-c", "read -P 0 6M 1M", image]
    read = subprocess.run(command, check=True, capture_output=True, text=True)
    return "failed" not in read.stdout


def hold(volume: Volume) -> None:
    write_right(volume.pool, volume.path, Right(ONE, Epoch(1, "0" * 16), H1, H1, ALICE, vm_of(1), 1, held=True))


@pytest.mark.parametrize("image_format", [RAW, QCOW2])
def test_a_volume_grows_and_keeps_what_it_holds(tmp_path: Path, image_format: ImageFormat) -> None:
    changing.resize(SANDBOX, made(tmp_path, image_format), 512, most_mib=512)
    volume = volume_in(tmp_path)
    assert (volume.size_mib, volume.note, volume.name) == (512, "", "data")
    assert has_the_data(volume)
    assert os.stat(f"{volume.path}/{volume.image}").st_uid == os.geteuid()


@pytest.mark.parametrize(
    ("size_mib", "words"),
    [
        (256, r"would have 0\.25 GB; you may have 0\.1"),
        (0, "size"),
        (-128, "size"),
        (200, r"0\.125"),
        (2**43, "at most"),
    ],
)
def test_a_size_that_may_not_be_changes_nothing(tmp_path: Path, size_mib: int, words: str) -> None:
    volume = made(tmp_path)
    with pytest.raises(Unusable, match=words):
        changing.resize(SANDBOX, volume, size_mib, most_mib=128 if size_mib == 256 else 2**50)
    assert volume_in(tmp_path) == volume


def test_a_volume_never_shrinks(tmp_path: Path) -> None:
    volume = made(tmp_path, size_mib=256)
    with pytest.raises(Unusable, match="only grows"):
        changing.resize(SANDBOX, volume, 128, most_mib=1024)
    assert volume_in(tmp_path) == volume


def test_a_crash_between_image_and_metadata_is_mended_by_asking_again(tmp_path: Path) -> None:
    volume = made(tmp_path)
    os.truncate(f"{volume.path}/data.img", 256 * MIB)
    changing.resize(SANDBOX, volume_in(tmp_path), 256, most_mib=256)
    assert (volume_in(tmp_path).size_mib, volume_in(tmp_path).note) == (256, "")


def test_an_image_larger_than_is_said_is_not_cut_off(tmp_path: Path) -> None:
    volume = made(tmp_path)
    os.truncate(f"{volume.path}/data.img", 512 * MIB)
    changing.resize(SANDBOX, volume_in(tmp_path), 256, most_mib=256)
    assert os.stat(f"{volume.path}/data.img").st_size == 512 * MIB


@pytest.mark.parametrize(("old", "new"), [(RAW, QCOW2), (QCOW2, RAW)])
def test_a_volume_changes_its_format_and_nothing_else(tmp_path: Path, old: ImageFormat, new: ImageFormat) -> None:
    before = made(tmp_path, old)
    changing.convert(SANDBOX, before, new)
    after = volume_in(tmp_path)
    assert (after.format, after.size_mib, after.name, after.note) == (new, 128, "data", "")
    assert has_the_data(after)
    assert sorted(os.listdir(after.path)) == sorted([after.image, "meta.json"])
    assert os.listdir(tmp_path) == [Path(after.path).name]
    assert os.stat(f"{after.path}/{after.image}").st_mode & 0o777 == 0o600


def test_a_volume_keeps_the_record_of_its_last_writer(tmp_path: Path) -> None:
    volume = made(tmp_path)
    hold(volume)
    changing.convert(SANDBOX, volume, QCOW2, stopped=True)
    right = volume_in(tmp_path).right
    assert right is not None
    assert right.epoch.counter == 1


def test_a_format_that_it_has_or_may_not_have_is_refused(tmp_path: Path) -> None:
    volume = made(tmp_path)
    with pytest.raises(Unusable, match="raw already"):
        changing.convert(SANDBOX, volume, RAW)
    make_volume(tmp_path, vid_of(2), shareable=True)
    shared = Index().scan([tmp_path]).volumes[vid_of(2)]
    with pytest.raises(Unusable, match="must be raw"):
        changing.convert(SANDBOX, shared, QCOW2)


@pytest.mark.parametrize("wicked", [Qcow2(l1_at=2**40), Qcow2(snapshots=1), Qcow2(extensions=((0x44415441, b"/x"),))])
def test_a_wicked_image_in_the_pool_is_never_opened_by_qemu_img(tmp_path: Path, wicked: Qcow2) -> None:
    """Somebody put it there by hand; the scan looks at less than we do."""
    make_volume(tmp_path, ONE, meta=b'{"size": 0.125, "format": "qcow2"}')
    (tmp_path / "00000000-0000-0000-0000-000000000001.elimg" / "data.img").write_bytes(wicked.image())
    volume = volume_in(tmp_path)
    with pytest.raises(Unusable, match="the qcow2 image"):
        changing.convert(SANDBOX, volume, RAW)
    with pytest.raises(Unusable, match="the qcow2 image"):
        changing.resize(SANDBOX, volume, 256, most_mib=256)


def test_a_raw_disk_into_which_a_guest_wrote_a_qcow2_header_stays_raw(tmp_path: Path) -> None:
    volume = made(tmp_path)
    header = Qcow2(backing=b"/etc/passwd").image()
    with Path(f"{volume.path}/data.img").open("r+b") as image:
        image.write(header)
    volume = volume_in(tmp_path)
    assert (volume.format, volume.note) == (RAW, "")
    changing.resize(SANDBOX, volume, 256, most_mib=256)
    changing.convert(SANDBOX, volume_in(tmp_path), QCOW2)
    changing.convert(SANDBOX, volume_in(tmp_path), RAW)
    volume = volume_in(tmp_path)
    assert volume.size_mib == 256
    with Path(f"{volume.path}/{volume.image}").open("rb") as image:
        assert image.read(len(header)) == header


def test_a_volume_gets_another_name_even_in_use_and_keeps_fields_that_are_not_ours(tmp_path: Path) -> None:
    make_volume(tmp_path, ONE, meta=b"{size: 0.125, name: old, team: [blue, 7]}")
    hold(volume_in(tmp_path))
    changing.rename(volume_in(tmp_path), "new ünïcode")
    volume = volume_in(tmp_path)
    assert (volume.name, volume.size_mib) == ("new ünïcode", 128)
    assert json.loads(Path(f"{volume.path}/meta.json").read_text())["team"] == ["blue", 7]


@pytest.mark.parametrize("name", ["x" * 65, "a\nb", "a\0b", "\u202e"])
def test_a_name_that_may_not_be_changes_nothing(tmp_path: Path, name: str) -> None:
    volume = made(tmp_path)
    with pytest.raises(Unusable, match="name"):
        changing.rename(volume, name)
    assert volume_in(tmp_path) == volume


def test_a_volume_that_is_removed_is_gone_with_all_it_had(tmp_path: Path) -> None:
    folder = tmp_path / "team"
    folder.mkdir()
    make_volume(folder, ONE)
    changing.remove(volume_in(tmp_path))
    assert not Index().scan([tmp_path]).volumes
    assert os.listdir(tmp_path) == ["team"]
    assert os.listdir(folder) == []


def test_a_link_in_a_volume_that_is_removed_leads_nowhere(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    make_volume(pool, ONE)
    (pool / "00000000-0000-0000-0000-000000000001.elimg" / "link").symlink_to(tmp_path / "other")
    changing.remove(volume_in(pool))
    assert os.listdir(pool) == []
    assert (tmp_path / "other" / "file").exists()


def test_a_volume_in_use_is_not_changed(tmp_path: Path) -> None:
    volume = made(tmp_path)
    hold(volume)
    for change in (
        lambda: changing.remove(volume),
        lambda: changing.resize(SANDBOX, volume, 256, most_mib=256),
        lambda: changing.convert(SANDBOX, volume, QCOW2),
    ):
        with pytest.raises(Unusable, match="in use"):
            change()
    assert os.listdir(tmp_path) == [Path(volume.path).name]
    assert has_the_data(volume_in(tmp_path))


def test_a_volume_that_is_gone_is_said(tmp_path: Path) -> None:
    volume = made(tmp_path)
    changing.remove(volume)
    with pytest.raises(Unusable, match="gone"):
        changing.remove(volume)
    with pytest.raises(Unusable, match="No such file"):
        changing.rename(volume, "new")
