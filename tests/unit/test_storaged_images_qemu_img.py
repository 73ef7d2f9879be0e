"""The second wall: even what should have been refused before leads qemu-img nowhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.images import qemu_img
from storaged.images.sandbox import Sandbox
from tests.fakes.qcow2 import Qcow2

RAW, QCOW2 = ImageFormat.RAW, ImageFormat.QCOW2
MIB = 2**20
SIZE = 128 * MIB
SANDBOX = Sandbox.of()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, SIZE)
    yield file
    os.close(file)


def opened(tmp_path: Path, image: Qcow2) -> int:
    (tmp_path / "source").write_bytes(image.image())
    return os.open(tmp_path / "source", os.O_RDWR)


def ignore(_percent: int) -> None:
    pass


def test_a_backing_file_is_not_followed(tmp_path: Path, target: int) -> None:
    (tmp_path / "secret").write_bytes(b"swordfish".ljust(MIB, b"!"))
    (tmp_path / "secret").chmod(0o644)
    source = opened(tmp_path, Qcow2(backing=str(tmp_path / "secret").encode()))
    qemu_img.convert(SANDBOX, (source, QCOW2), (target, RAW), SIZE, ignore)
    os.close(source)
    assert os.pread(target, MIB, 0) == bytes(MIB)


def test_a_check_looks_for_no_other_file(tmp_path: Path) -> None:
    source = opened(tmp_path, Qcow2(backing=b"/nowhere"))
    qemu_img.check_qcow2(SANDBOX, source)
    os.close(source)


def test_what_is_not_qcow2_is_not_taken_for_something_else(tmp_path: Path) -> None:
    source = opened(tmp_path, Qcow2(magic=b"KDMV"))
    with pytest.raises(Unusable, match="not in qcow2 format"):
        qemu_img.check_qcow2(SANDBOX, source)
    os.close(source)


def test_an_external_data_file_is_not_opened(tmp_path: Path, target: int) -> None:
    """Its name is QEMU's to follow; who it runs as may not."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"swordfish".ljust(SIZE, b"\0"))
    secret.chmod(0o600)
    source = opened(tmp_path, Qcow2(incompatible=4, extensions=((0x44415441, str(secret).encode()),)))
    if os.geteuid() == 0:
        with pytest.raises(Unusable, match="Permission denied"):
            qemu_img.convert(SANDBOX, (source, QCOW2), (target, RAW), SIZE, ignore)
    os.close(source)
    assert os.pread(target, MIB, 0) == bytes(MIB)


def test_a_raw_source_is_copied_as_it_is(tmp_path: Path, target: int) -> None:
    source = opened(tmp_path, Qcow2(backing=b"/etc/passwd"))
    qemu_img.convert(SANDBOX, (source, RAW), (target, RAW), SIZE, ignore)
    data = (tmp_path / "source").read_bytes()
    os.close(source)
    assert os.pread(target, len(data), 0) == data


@pytest.mark.parametrize("size", [64 * 1024, 128 * MIB, 2**40, 2**50])
def test_a_new_image_has_room_for_its_tables(tmp_path: Path, size: int) -> None:
    file = os.open(tmp_path / "new", os.O_RDWR | os.O_CREAT)
    qemu_img.make_qcow2(SANDBOX, file, size)
    qemu_img.check_qcow2(SANDBOX, file)
    os.close(file)
