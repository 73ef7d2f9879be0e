"""qcow2 images written by hand, the wicked ones among them: what an honest qemu-img would never make."""

import struct
from dataclasses import dataclass

CLUSTER = 65536
BACKING_FORMAT, DATA_FILE, ENCRYPTION, BITMAPS = 0xE2792ACA, 0x44415441, 0x0537BE77, 0x23852875


@dataclass(frozen=True)
class Qcow2:
    """An empty image of four clusters: header, refcount table, refcount block, L1 table. Every field can be a lie."""

    version: int = 3
    size: int = 128 * 2**20
    cluster_bits: int = 16
    backing: bytes = b""
    backing_at: int | None = None
    encryption: int = 0
    l1_entries: int = 1
    l1_at: int = 3 * CLUSTER
    refcounts_at: int = CLUSTER
    refcount_clusters: int = 1
    snapshots: int = 0
    incompatible: int = 0
    refcount_order: int = 4
    header_bytes: int = 112
    compression: int = 0
    extensions: tuple[tuple[int, bytes], ...] = ()
    l1: tuple[int, ...] = (0,)
    magic: bytes = b"QFI\xfb"

    def header(self) -> bytes:
        extensions = b"".join(
            struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in self.extensions
        )
        tail = self._tail() + extensions + bytes(8)
        backing_at = 72 + len(tail) if self.backing and self.backing_at is None else self.backing_at or 0
        fixed = struct.pack(
            ">4sIQIIQIIQQIIQ",
            *(self.magic, self.version, backing_at, len(self.backing), self.cluster_bits, self.size, self.encryption),
            *(self.l1_entries, self.l1_at, self.refcounts_at, self.refcount_clusters, self.snapshots, 4 * CLUSTER),
        )
        return fixed + tail + self.backing

    def _tail(self) -> bytes:
        if self.version == 2:
            return b""
        tail = struct.pack(">QQQII", self.incompatible, 0, 0, self.refcount_order, self.header_bytes)
        return tail + bytes([self.compression]) + bytes(7) if self.header_bytes >= 112 else tail

    def image(self) -> bytes:
        counts = struct.pack(">4H", 1, 1, 1, 1)
        table = struct.pack(">Q", 2 * CLUSTER)
        l1 = struct.pack(f">{len(self.l1)}Q", *self.l1)
        return b"".join(part.ljust(CLUSTER, b"\0") for part in (self.header(), table, counts, l1))
