"""A plain file is handed out as it was checked, and a running writer is noticed by QEMU's own locks."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from storaged.export import file
from storaged.export.description import Access, Cut, Export, Image, Kind, Refused, Unknown
from storaged.index import Index
from storaged.testing import H1, make_volume, vid_of
from storaged.volume import Epoch, Volume

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


@contextmanager
def opened_by_qemu(image: Image, *options: str) -> Iterator[None]:
    command = ["qemu-io", "-f", "raw", *options, image.file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write(b"length\n")
        qemu.stdin.flush()
        os.read(qemu.stdout.fileno(), 64)
        yield
        qemu.stdin.close()


def image_in(pool: Path) -> Image:
    return Image(ONE, str(pool), str(make_volume(pool, ONE)), "data.img", ImageFormat.RAW)


def export_of(image: Image) -> Export:
    return Export(image, Epoch(1, "0" * 16), Kind.FILE, H1)


async def test_a_file_export_is_the_images_path(tmp_path: Path) -> None:
    export = export_of(image_in(tmp_path))
    files = file.Files()
    assert await files.export(export) == Access(Kind.FILE, export.image.file, ImageFormat.RAW, readonly=False)
    assert {seen.target for seen in await files.observe()} == {export.target}
    assert await files.cut(export.image) == Cut()
    assert await files.observe() == frozenset()


async def test_a_file_that_is_gone_or_a_link_is_refused(tmp_path: Path) -> None:
    export = export_of(image_in(tmp_path))
    os.rename(export.image.file, tmp_path / "elsewhere")
    assert isinstance(await file.Files().export(export), Refused)
    os.symlink(tmp_path / "elsewhere", export.image.file)
    assert isinstance(await file.Files().export(export), Refused)
    assert isinstance(await file.Files(call_s=0).cut(export.image), Unknown)


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")
async def test_a_file_is_cut_when_its_qemu_has_ended_and_not_before(tmp_path: Path) -> None:
    image = image_in(tmp_path)
    files = file.Files(call_s=0.1)
    with opened_by_qemu(image):
        answer = await files.cut(image)
        assert isinstance(answer, Unknown)
        assert "open for writing" in answer.why
    assert await files.cut(image) == Cut()
    with opened_by_qemu(image, "-r"):
        assert await files.cut(image) == Cut(), "who only reads writes nothing"


async def test_a_file_that_any_program_may_write_is_not_cut(tmp_path: Path) -> None:
    image = image_in(tmp_path)
    writer = os.open(image.file, os.O_RDWR)  # takes no lock
    assert isinstance(await file.Files(call_s=0.1).cut(image), Unknown)
    os.close(writer)
    assert await file.Files().cut(image) == Cut()
