"""A plain file is handed out as it was checked, and a running writer is noticed by QEMU's own locks."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from storaged.export import file
from storaged.index import Index
from storaged.testing import make_volume, vid_of
from storaged.volume import Volume

ONE = vid_of(1)


def volume_in(pool: Path) -> Volume:
    return Index().scan([pool]).volumes[ONE]


def test_the_path_is_absolute_and_the_format_is_what_the_metadata_says(tmp_path: Path) -> None:
    folder = make_volume(tmp_path, ONE, bootable=True)
    given = file.attach(volume_in(tmp_path))
    assert (given.path, given.format) == (str(folder / "data.img"), ImageFormat.RAW)
    assert (given.bootable, given.readonly, given.shareable) == (True, False, False)


def test_an_image_that_nobody_has_open_has_no_writer(tmp_path: Path) -> None:
    make_volume(tmp_path, ONE)
    assert file.writer_of(volume_in(tmp_path)) is None


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")
@pytest.mark.parametrize(("options", "writes"), [((), True), (("-r",), False)])
def test_qemu_is_seen_while_it_may_write(tmp_path: Path, options: tuple[str, ...], writes: bool) -> None:
    folder = make_volume(tmp_path, ONE)
    volume = volume_in(tmp_path)
    command = ["qemu-io", "-f", "raw", *options, str(folder / "data.img")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write(b"length\n")
        qemu.stdin.flush()
        os.read(qemu.stdout.fileno(), 64)  # it has answered: the image is open
        assert (file.writer_of(volume) is not None) is writes
        qemu.stdin.close()
    assert file.writer_of(volume) is None


def test_a_folder_that_qemus_user_may_not_pass_is_named(tmp_path: Path) -> None:
    folder = make_volume(tmp_path / "closed/pool", ONE)
    image = str(folder / "data.img")
    (tmp_path / "closed").chmod(0o700)
    blocked = file.blocked_at(image, 64055, (64055,))
    assert blocked is not None
    assert str(tmp_path / "closed").startswith(blocked)
    assert file.blocked_at(image, 0, (0,)) is None
