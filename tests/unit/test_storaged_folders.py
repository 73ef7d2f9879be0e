"""Shareable volumes that are folders: made whole, found, given to many VMs, never followed through a link, removed."""

import os
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.export import file
from storaged.images import changing, importing, making, snapshots
from storaged.images.sandbox import Sandbox
from storaged.index import Index
from storaged.metadata import Bad, Metadata, parse_metadata
from storaged.testing import ALICE, vid_of
from storaged.volume import Snapshot, Volume

ONE, TWO = vid_of(1), vid_of(2)
SANDBOX = Sandbox.of()
COMMON = Metadata(1024, "common", shareable=True, owner=ALICE, format=ImageFormat.FOLDER)


class Nothing:
    def read(self, _: int) -> bytes:
        return b""


def scanned(pool: Path) -> Snapshot:
    return Index().scan([pool])


@pytest.fixture
def common(tmp_path: Path) -> Volume:
    making.create(SANDBOX, str(tmp_path), ONE, COMMON, most_mib=1024)
    return scanned(tmp_path).volumes[ONE]


def share_of(volume: Volume) -> Path:
    return Path(volume.path, volume.image)


def test_a_new_folder_is_found_and_nobody_else_on_the_host_may_come_by_it(common: Volume) -> None:
    assert (common.name, common.size_mib, common.format, common.note) == ("common", 1024, ImageFormat.FOLDER, "")
    assert common.shareable
    assert not common.exclusive
    assert share_of(common).is_dir()
    assert Path(common.path).stat().st_mode & 0o777 == 0o700


def test_it_is_given_as_a_folder(common: Volume) -> None:
    given = file.attach(common)
    assert (given.path, given.format, given.shareable) == (str(share_of(common)), ImageFormat.FOLDER, True)


def test_what_guests_write_leaves_it_in_order(tmp_path: Path, common: Volume) -> None:
    (share_of(common) / "a file").write_text("of a guest")
    (share_of(common) / "meta.json").write_text("{}")
    (share_of(common) / f"{TWO}.elimg").mkdir()
    assert scanned(tmp_path).volumes == {ONE: common}
    file.attach(common)


@pytest.mark.parametrize("instead", ["link", "file", "nothing"])
def test_what_is_no_folder_is_not_given(tmp_path: Path, common: Volume, instead: str) -> None:
    share_of(common).rmdir()
    if instead == "link":
        share_of(common).symlink_to("/etc")
    elif instead == "file":
        share_of(common).write_bytes(b"x")
    found = scanned(tmp_path)
    assert found.volumes == {}
    assert "share" in found.bad[ONE].reason
    with pytest.raises(Unusable):
        file.attach(common)


def test_it_is_removed_whole_with_links_unfollowed_and_folders_however_deep(tmp_path: Path, common: Volume) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "precious").write_text("still here")
    (share_of(common) / "away").symlink_to(outside)
    at = os.open(share_of(common), os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    changing.remove(common)
    assert os.listdir(tmp_path) == []
    assert (outside / "precious").read_text() == "still here"


def test_a_folder_is_renamed(tmp_path: Path, common: Volume) -> None:
    changing.rename(common, "ours")
    assert scanned(tmp_path).volumes[ONE].name == "ours"


def test_what_needs_a_disk_is_refused_in_a_sentence(tmp_path: Path, common: Volume) -> None:
    wanted = Metadata(1024, "copy", shareable=True, owner=ALICE)
    with pytest.raises(Unusable, match="a folder"):
        making.clone(str(tmp_path), common, TWO, wanted, most_mib=2048)
    with pytest.raises(Unusable, match="a folder"):
        changing.resize(SANDBOX, common, 2048, most_mib=4096)
    with pytest.raises(Unusable, match="a folder"):
        changing.convert(SANDBOX, common, ImageFormat.RAW)
    with pytest.raises(Unusable, match="a folder"):
        snapshots.take(common, "before")
    assert scanned(tmp_path).volumes == {ONE: common}


def test_no_disk_becomes_a_folder(tmp_path: Path) -> None:
    making.create(SANDBOX, str(tmp_path), ONE, Metadata(128, shareable=True), most_mib=128)
    disk = scanned(tmp_path).volumes[ONE]
    with pytest.raises(Unusable, match="no disk image"):
        changing.convert(SANDBOX, disk, ImageFormat.FOLDER)
    assert scanned(tmp_path).volumes == {ONE: disk}


@pytest.mark.parametrize(
    ("wanted", "stated"), [(COMMON, None), (Metadata(1024, shareable=True, owner=ALICE), ImageFormat.FOLDER)]
)
def test_no_image_is_imported_as_a_folder(tmp_path: Path, wanted: Metadata, stated: ImageFormat | None) -> None:
    incoming = importing.Incoming(Nothing(), stated, None, 0)
    with pytest.raises(Unusable, match="no disk image"):
        importing.import_image(SANDBOX, str(tmp_path), ONE, wanted, incoming, most_mib=1024)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{size: 1, format: folder}", 'must be "shareable"'),
        ("{size: 1, format: folder, shareable: true, bootable: true}", "can't be bootable"),
        ("{size: 1, format: folder, shareable: true, image: '../etc'}", "plain name"),
    ],
)
def test_metadata_of_a_folder_that_can_not_be_is_bad(text: str, words: str) -> None:
    answer = parse_metadata(text.encode())
    assert isinstance(answer, Bad)
    assert words in answer.reason


def test_a_folder_made_by_hand_needs_no_name() -> None:
    metadata = parse_metadata(b"{size: 1, format: folder, shareable: true}")
    assert isinstance(metadata, Metadata)
    assert metadata.image == "share"
