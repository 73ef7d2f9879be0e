"""Which format an image from outside has: what its person said, or what is beyond doubt.

QEMU is never asked to guess, since a guest may write any header into its raw disk. Where nobody said, an image is
qcow2 if it begins as one, and raw if it begins as nothing that has a name. Whatever is stored as raw stays raw.
Pure.
"""

from matcher.wire.messages import ImageFormat
from storaged.metadata import Bad

START_BYTES = 512

_QCOW2 = b"QFI\xfb"
_VDI_AT, _VDI = 64, b"\x7f\x10\xda\xbe"  # behind a sentence that each program words as it likes
_OTHERS = {
    b"KDMV": "VMDK",
    b"COWD": "VMDK",
    b"# Disk DescriptorFile": "VMDK",
    b"vhdxfile": "VHDX",
    b"conectix": "VHD",
    b"WithoutFreeSpace": "Parallels",
    b"WithouFreSpacExt": "Parallels",
    b"QED\0": "QED",
    b"LUKS\xba\xbe": "LUKS",
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"json:": "a QEMU file name",
    b"nbd:": "a QEMU file name",
}


def decide_format(start: bytes, stated: ImageFormat | None) -> ImageFormat | Bad:
    """`start` is the image's first `START_BYTES` bytes, or all where it is shorter."""
    seen = _seen(start)
    if stated is ImageFormat.QCOW2 and seen != "qcow2":
        return Bad(f"the image is {_called(seen)}, not qcow2; raw and qcow2 alone are taken")
    if stated is not None:
        return stated
    if seen == "qcow2":
        return ImageFormat.QCOW2
    if seen is not None:
        return Bad(
            f"the image begins as {seen}; raw and qcow2 alone are taken. "
            "Say --image-format raw if it is a raw disk that begins so"
        )
    return ImageFormat.RAW


def _seen(start: bytes) -> str | None:
    """The name of the format that it begins as; `None` for a raw disk, an ISO image among them."""
    if start.startswith(_QCOW2):
        # QCOW2's predecessor has the same magic; it is told from it by its version.
        return "qcow2" if start[4:8] in (b"\0\0\0\2", b"\0\0\0\3") else "QCOW of another version"
    if start.startswith(_VDI, _VDI_AT):
        return "VDI"
    return next((name for magic, name in _OTHERS.items() if start.startswith(magic)), None)


def _called(seen: str | None) -> str:
    return "raw or unknown" if seen is None else seen
