"""qcow2 images that would lead QEMU to other files are refused, by their header alone."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from storaged.export.qcow2_header import HEADER_BYTES, Qcow2Header, parse_qcow2_header
from storaged.metadata import Bad

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


def header_of(path: Path) -> Qcow2Header | Bad:
    return parse_qcow2_header(path.read_bytes()[:HEADER_BYTES])


def reason_of(path: Path) -> str:
    header = header_of(path)
    assert isinstance(header, Bad)
    return header.reason


@needs_qemu_img
@pytest.mark.parametrize(("options", "version"), [("compat=1.1", 3), ("compat=0.10", 2), ("extended_l2=on", 3)])
def test_an_image_that_stands_alone_is_read(tmp_path: Path, options: str, version: int) -> None:
    qemu_img("create", "-f", "qcow2", "-o", options, tmp_path / "a", "64M")
    assert header_of(tmp_path / "a") == Qcow2Header(version, 64 * 2**20)


@needs_qemu_img
def test_a_backing_file_is_refused(tmp_path: Path) -> None:
    qemu_img("create", "-f", "raw", tmp_path / "base", "64M")
    qemu_img("create", "-f", "qcow2", "-b", tmp_path / "base", "-F", "raw", tmp_path / "a")
    assert "backing file" in reason_of(tmp_path / "a")


@needs_qemu_img
def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", tmp_path / "a", "64M")
    assert "in another file" in reason_of(tmp_path / "a")


def header(
    version: int = 3, backing: int = 0, bits: int = 16, size: int = 2**30, crypt: int = 0, features: int = 0
) -> bytes:
    start = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 0, bits, size, crypt)
    return start.ljust(72, b"\0") + struct.pack(">Q", features).ljust(HEADER_BYTES - 72, b"\0")


def test_a_made_header_is_read() -> None:
    assert parse_qcow2_header(header()) == Qcow2Header(3, 2**30)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not qcow2"),
        (header()[:71], "not qcow2"),
        (b"\0" * 512, "not qcow2"),
        (header()[:80], "version"),
        (header(version=4), "version"),
        (header(version=1), "version"),
        (header(backing=1), "backing file"),
        (header(crypt=2), "encrypted"),
        (header(features=1 << 1), "corrupt"),
        (header(features=1 << 2), "in another file"),
        (header(features=1 << 40), "unknown"),
        (header(bits=63), "unknown"),
        (header(size=0), "no size"),
        (header(size=2**64 - 1), "no size"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(data: bytes, words: str) -> None:
    found = parse_qcow2_header(data)
    assert isinstance(found, Bad)
    assert words in found.reason
