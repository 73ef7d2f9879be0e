"""The format of an image is what its person said, or what is beyond doubt; a raw disk stays raw."""

import pytest

from matcher.wire.messages import ImageFormat
from storaged.images.formats import decide_format
from storaged.metadata import Bad
from tests.fakes.qcow2 import Qcow2

VMDK = b"KDMV\1\0\0\0".ljust(512, b"\0")
DISK = b"\xeb\x63\x90".ljust(510, b"\0") + b"\x55\xaa"
ISO = bytes(512)


@pytest.mark.parametrize(
    ("start", "stated", "decided"),
    [
        (DISK, None, ImageFormat.RAW),
        (ISO, None, ImageFormat.RAW),
        (b"", None, ImageFormat.RAW),
        (Qcow2().header(), None, ImageFormat.QCOW2),
        (Qcow2().header(), ImageFormat.QCOW2, ImageFormat.QCOW2),
        (Qcow2().header(), ImageFormat.RAW, ImageFormat.RAW),  # a guest may write this into its raw disk
        (VMDK, ImageFormat.RAW, ImageFormat.RAW),
    ],
)
def test_a_word_counts_and_without_one_only_what_is_plain(
    start: bytes, stated: ImageFormat | None, decided: ImageFormat
) -> None:
    assert decide_format(start, stated) is decided


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (VMDK, "VMDK"),
        (b"# Disk DescriptorFile\nversion=1\n", "VMDK"),
        (b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe", "VDI"),
        (b"<<< QEMU VM Virtual Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe\1\0\1\0", "VDI"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"QED\0", "QED"),
        (b"QFI\xfb\0\0\0\1", "QCOW of another version"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b'json:{"driver":"nbd"}', "a QEMU file name"),
        (b"nbd:10.0.0.1:10809", "a QEMU file name"),
    ],
)
def test_what_has_another_name_needs_a_word(start: bytes, name: str) -> None:
    found = decide_format(start, None)
    assert isinstance(found, Bad)
    assert name in found.reason
    assert "--image-format raw" in found.reason
    as_qcow2 = decide_format(start, ImageFormat.QCOW2)
    assert isinstance(as_qcow2, Bad)
    assert name in as_qcow2.reason


def test_what_is_called_qcow2_and_is_not_is_refused() -> None:
    found = decide_format(DISK, ImageFormat.QCOW2)
    assert isinstance(found, Bad)
    assert "not qcow2" in found.reason
