"""Which qcow2 images may be served: read from the header's own fields, and never by asking QEMU to probe.

QEMU follows a backing file or an external data file to whatever path of the host the header names, so that an image
which has either is refused. Source: docs/interop/qcow2.txt of QEMU ("Header", "Header extensions").
Pure.
"""

import struct
from dataclasses import dataclass

from storaged.metadata import Bad

HEADER_BYTES = 112  # the fields of version 3, up to and with the compression type

_MAGIC = b"QFI\xfb"
_V2 = struct.Struct(">4sIQIIQI")  # magic, version, backing offset and size, cluster bits, size, encryption
_V2_BYTES = 72
_V3_BYTES = 104
_INCOMPATIBLE = struct.Struct(">Q")
_CORRUPT, _DATA_FILE = 1 << 1, 1 << 2
_KNOWN = 0b11111  # dirty, corrupt, external data file, compression type, extended L2 entries
_SIZE_MAX_BYTES = 2**60


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """What matters of the header of an image that stands alone: its version and the size that the guest sees."""

    version: int
    size_bytes: int


def parse_qcow2_header(data: bytes) -> Qcow2Header | Bad:
    """`data` is the image's first `HEADER_BYTES` bytes, or fewer where the file is shorter."""
    if len(data) < _V2_BYTES or not data.startswith(_MAGIC):
        return Bad("the image is not qcow2, as meta.json says it is")
    _, version, backing_offset, backing_bytes, cluster_bits, size_bytes, encryption = _V2.unpack_from(data)
    if version not in (2, 3) or (version == 3 and len(data) < _V3_BYTES):
        return Bad("the image is qcow2 of a version other than 2 and 3")
    features = _INCOMPATIBLE.unpack_from(data, _V2_BYTES)[0] if version == 3 else 0
    if backing_offset or backing_bytes:
        return Bad("the qcow2 image has a backing file; flatten it first: qemu-img convert -O qcow2")
    if features & _DATA_FILE:
        return Bad("the qcow2 image keeps its data in another file; flatten it first: qemu-img convert -O qcow2")
    if encryption:
        return Bad("the qcow2 image is encrypted, and no key can be given")
    if features & _CORRUPT:
        return Bad("the qcow2 image is marked corrupt; qemu-img check -r all may repair it")
    if features & ~_KNOWN or not 9 <= cluster_bits <= 21:
        return Bad("the qcow2 image needs features that are unknown here")
    if not 0 < size_bytes <= _SIZE_MAX_BYTES:
        return Bad("the qcow2 image has no size")
    return Qcow2Header(version, size_bytes)
