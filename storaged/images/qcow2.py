"""Judges a qcow2 image from outside before QEMU sees it: by the bytes of its first cluster and its length.

Stricter than what an index needs (`storaged.export.qcow2_header`), since that one sees images that were made here.
What the tables hold is for `qemu-img check`; that they lie inside the file, and are no larger than QEMU itself allows,
is settled here. Source: docs/interop/qcow2.txt of QEMU ("Header", "Header extensions"), limits of block/qcow2.h.
Pure.
"""

import struct
from dataclasses import dataclass

from storaged.export.qcow2_header import HEADER_BYTES, parse_qcow2_header
from storaged.metadata import SIZE_MAX_MIB, Bad

START_BYTES = 2**21  # the largest cluster: the header and its extensions end within the first

FILE_MAX_BYTES = 2**63 - 1
L1_MAX_BYTES = 32 * 2**20  # QCOW_MAX_L1_SIZE
REFCOUNT_TABLE_MAX_BYTES = 8 * 2**20  # QCOW_MAX_REFTABLE_SIZE
EXTENSIONS_MAX = 64
SECTOR_BYTES = 512

_MAGIC = b"QFI\xfb"
_FIXED = struct.Struct(">4sIQIIQIIQQIIQ")  # version 2, all of it
_V3 = struct.Struct(">QQQII")  # features: incompatible, compatible, auto-clear; refcount order; header length
_V3_AT, _V3_BYTES, _COMPRESSION_AT = 72, 104, 104
_COMPRESSED, _EXTENDED_L2 = 1 << 3, 1 << 4
_EXTENSION = struct.Struct(">II")
_END = 0
_FOREIGN = {
    0xE2792ACA: "names a backing format",
    0x44415441: "names an external data file",
    0x0537BE77: "is encrypted",
}


@dataclass(frozen=True, slots=True)
class Qcow2Facts:
    """An image that stands alone. `size_bytes` is what a guest sees, a multiple of 512."""

    version: int
    cluster_bits: int
    size_bytes: int


def judge_qcow2(start: bytes, file_bytes: int) -> Qcow2Facts | Bad:
    """`start` is the file's first `START_BYTES` bytes, or all where it is shorter; `file_bytes` its length."""
    if len(start) >= _FIXED.size and start.startswith(_MAGIC):
        size_bytes = _FIXED.unpack_from(start)[5]
        if size_bytes > SIZE_MAX_MIB * 2**20:
            return Bad(f"the qcow2 image says that it has {size_bytes / 2**50:.6g} PiB; at most 1 PiB is possible")
    header = parse_qcow2_header(start[:HEADER_BYTES])
    if isinstance(header, Bad):
        return Bad(header.reason.replace("as meta.json says it is", "as was said"))
    facts = Qcow2Facts(header.version, _FIXED.unpack_from(start)[4], header.size_bytes)
    if facts.size_bytes % SECTOR_BYTES:
        return Bad("the qcow2 image's size is not a multiple of 512 bytes")
    problem = _tables(start, facts, file_bytes) or _version_3(start, facts) or _extensions(start, facts)
    return facts if problem is None else Bad(problem)


def _tables(start: bytes, facts: Qcow2Facts, file_bytes: int) -> str | None:
    _, _, _, _, _, _, _, l1_entries, l1_at, refcounts_at, refcount_clusters, snapshots, _ = _FIXED.unpack_from(start)
    if snapshots:
        return "the qcow2 image holds internal snapshots; take a copy without them: qemu-img convert -O qcow2"
    if l1_entries * 8 > L1_MAX_BYTES or refcount_clusters << facts.cluster_bits > REFCOUNT_TABLE_MAX_BYTES:
        return "the qcow2 image's tables are larger than QEMU allows"
    if l1_entries < _l1_entries(start, facts):
        return "the qcow2 image's table is too small for its size"
    tables = ((l1_at, l1_entries * 8), (refcounts_at, refcount_clusters << facts.cluster_bits))
    if not all(_inside(offset, length, facts, file_bytes) for offset, length in tables):
        return "the qcow2 image's tables lie outside of the file"
    return None


def _inside(offset: int, length: int, facts: Qcow2Facts, file_bytes: int) -> bool:
    """In whole clusters, after the header's; the file's last cluster may be cut short."""
    cluster = 1 << facts.cluster_bits
    whole_bytes = -(-file_bytes // cluster) * cluster
    return length > 0 and offset % cluster == 0 and cluster <= offset and offset + length <= whole_bytes


def _l1_entries(start: bytes, facts: Qcow2Facts) -> int:
    """How many entries the size needs, one for each L2 table, a cluster of entries of 8 (or 16) bytes."""
    entry_bits = 4 if _incompatible(start, facts) & _EXTENDED_L2 else 3
    per_entry = 1 << (2 * facts.cluster_bits - entry_bits)
    return -(-facts.size_bytes // per_entry)


def _version_3(start: bytes, facts: Qcow2Facts) -> str | None:
    if facts.version == 2:
        return None
    _, _, _, refcount_order, header_bytes = _V3.unpack_from(start, _V3_AT)
    if refcount_order > 6:
        return "the qcow2 image counts references in a way that is unknown"
    if header_bytes % 8 or not _V3_BYTES <= header_bytes <= 1 << facts.cluster_bits:
        return "the qcow2 image's header has an impossible length"
    compression = start[_COMPRESSION_AT] if header_bytes > _COMPRESSION_AT and len(start) > _COMPRESSION_AT else 0
    if compression > 1 or bool(compression) != bool(_incompatible(start, facts) & _COMPRESSED):
        return "the qcow2 image is compressed in a way that is unknown"
    if _incompatible(start, facts) & _EXTENDED_L2 and facts.cluster_bits < 14:
        return "the qcow2 image's clusters are too small for what it says of them"
    return None


def _incompatible(start: bytes, facts: Qcow2Facts) -> int:
    return int(_V3.unpack_from(start, _V3_AT)[0]) if facts.version == 3 else 0


def _extensions(start: bytes, facts: Qcow2Facts) -> str | None:
    """Those that lead to other files or need a key are refused; the others are data that a conversion drops."""
    at = int(_V3.unpack_from(start, _V3_AT)[4]) if facts.version == 3 else _V3_AT
    end = min(1 << facts.cluster_bits, len(start))
    for _ in range(EXTENSIONS_MAX):
        if at + _EXTENSION.size > end:
            return None if at <= end else "the qcow2 image's header extensions leave its first cluster"
        kind, length = _EXTENSION.unpack_from(start, at)
        if kind == _END:
            return None
        if kind in _FOREIGN:
            return f"the qcow2 image {_FOREIGN[kind]}; take a copy that stands alone: qemu-img convert -O qcow2"
        at += _EXTENSION.size + -(-length // 8) * 8
    return f"the qcow2 image has more than {EXTENSIONS_MAX} header extensions"
