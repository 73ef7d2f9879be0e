"""Makes volumes from images that somebody sends, all of them hostile until shown otherwise.

What comes is judged by its first bytes, then copied (with its checksum computed on the way), judged again as a file,
checked by qemu-img and converted into a new image, so that nothing of the old one survives but what a guest sees. A raw
disk has nothing to judge: it is copied, and never looked at again.
"""

import os
import re
from dataclasses import dataclass, replace

from matcher.wire.messages import ImageFormat
from specs.ids import Vid
from storaged.beneath import Unusable, read_start
from storaged.images import formats, qcow2, qemu_img
from storaged.images.copying import Copied, Progress, Stream, copy_stream, silent
from storaged.images.making import MIB, check_disk, check_metadata, check_size, empty_image, publish, steps
from storaged.images.qcow2 import Qcow2Facts
from storaged.images.sandbox import Sandbox
from storaged.images.staging import Stage, staged
from storaged.metadata import IMAGE_DEFAULT, STEP_MIB, Bad, Metadata

_SOURCE = "source"  # what came, as it came, in the stage
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Incoming:
    """An image from outside. `stated`: the format that its person named. `sha256`: the checksum that they expect.
    `size_bytes`: of what comes, 0 where that isn't known."""

    stream: Stream
    stated: ImageFormat | None = None
    sha256: str | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Imported:
    """`sha256`, 64 hex digits, is of what came, before it was converted."""

    metadata: Metadata
    sha256: str


def import_image(
    sandbox: Sandbox,
    pool: str,
    vid: Vid,
    wanted: Metadata,
    incoming: Incoming,
    *,
    most_mib: int,
    pool_id: str | None = None,
    progress: Progress = silent,
) -> Imported:
    """A new volume in the root of `pool`, stored in the format that `wanted` says, of at most `most_mib`.

    Its size is the image's, rounded up to the step of sizes, or `wanted.size_mib` where that is more.
    """
    wanted = replace(wanted, image=IMAGE_DEFAULT)
    for image_format in (wanted.format, incoming.stated):
        check_disk(image_format)
    check_metadata(wanted)
    check_size(wanted.size_mib, most_mib)
    expected = _digest(incoming.sha256)
    stream = _Ahead(incoming.stream)
    source_format = formats.decide_format(stream.start[: formats.START_BYTES], incoming.stated)
    if isinstance(source_format, Bad):
        raise Unusable(source_format.reason)
    work = _Import(sandbox, wanted, most_mib, incoming.size_bytes, expected, progress)
    if source_format is ImageFormat.QCOW2:
        # With no length known yet, any table may lie inside; the file is judged again when it is whole.
        facts = _judged(stream.start, incoming.size_bytes or qcow2.FILE_MAX_BYTES)
        check_size(work.size_mib(facts.size_bytes), most_mib)
    else:
        check_size(work.size_mib(max(incoming.size_bytes, len(stream.start))), most_mib)
    with staged(pool, pool_id) as stage:
        imported = work.take(stage, stream, source_format)
        publish(stage, vid, imported.metadata)
    return imported


@dataclass(frozen=True, slots=True)
class _Import:
    sandbox: Sandbox
    wanted: Metadata
    most_mib: int
    total_bytes: int
    expected: str | None
    progress: Progress

    def take(self, stage: Stage, stream: Stream, source_format: ImageFormat) -> Imported:
        as_it_is = source_format is ImageFormat.RAW and self.wanted.format is ImageFormat.RAW
        with stage.new_file(IMAGE_DEFAULT if as_it_is else _SOURCE) as source:
            copied = self._copied(stream, source, source_format)
            if source_format is ImageFormat.QCOW2:
                facts = _judged(read_start(source, qcow2.START_BYTES), copied.size_bytes)
                size_mib = self.size_mib(facts.size_bytes)
            else:
                size_mib = self.size_mib(copied.size_bytes)
                os.ftruncate(source, size_mib * MIB)
            check_size(size_mib, self.most_mib)  # of what was copied, whatever the first bytes said
            metadata = replace(self.wanted, size_mib=size_mib, sha256=copied.sha256)
            if not as_it_is:
                self._convert(stage, source, source_format, size_mib * MIB)
        if not as_it_is:
            os.unlink(_SOURCE, dir_fd=stage.folder)
        return Imported(metadata, copied.sha256)

    def size_mib(self, size_bytes: int) -> int:
        """Of the volume for an image of so many bytes."""
        step_bytes = STEP_MIB * MIB
        return max(self.wanted.size_mib, -(-size_bytes // step_bytes) * STEP_MIB)

    def _copied(self, stream: Stream, target: int, source_format: ImageFormat) -> Copied:
        most = self.most_mib * MIB if source_format is ImageFormat.RAW else source_max_bytes(self.most_mib)
        copied = copy_stream(stream, target, most_bytes=most, total=self.total_bytes, progress=self.progress)
        if copied.size_bytes == 0:
            raise Unusable("the image is empty")
        if self.total_bytes and copied.size_bytes != self.total_bytes:
            raise Unusable(f"{copied.size_bytes} bytes came, not {self.total_bytes}: the image is not whole")
        if self.expected is not None and copied.sha256 != self.expected:
            raise Unusable(f"the image's checksum is another: sha256:{copied.sha256}")
        return copied

    def _convert(self, stage: Stage, source: int, source_format: ImageFormat, size_bytes: int) -> None:
        if source_format is ImageFormat.QCOW2:
            qemu_img.check_qcow2(self.sandbox, source, steps(self.progress, "check", size_bytes))
        with stage.new_file(IMAGE_DEFAULT) as target:
            empty_image(self.sandbox, target, self.wanted.format, size_bytes, self.progress)
            tick = steps(self.progress, "convert", size_bytes)
            qemu_img.convert(self.sandbox, (source, source_format), (target, self.wanted.format), size_bytes, tick)


def source_max_bytes(most_mib: int) -> int:
    """How long a qcow2 file may be that holds a disk of `most_mib`: clusters of 512 bytes need the most for tables."""
    return most_mib * MIB + most_mib * MIB // 16 + 64 * MIB


def _judged(start: bytes, file_bytes: int) -> Qcow2Facts:
    facts = qcow2.judge_qcow2(start, file_bytes)
    if isinstance(facts, Bad):
        raise Unusable(facts.reason)
    return facts


def _digest(text: str | None) -> str | None:
    if text is None:
        return None
    found = _SHA256.fullmatch(text.strip().lower())
    if found is None:
        raise Unusable("a checksum is sha256: and 64 hex digits")
    return found.group(1)


class _Ahead:
    """A stream whose first bytes were read already."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        start = bytearray()
        while len(start) < qcow2.START_BYTES and (part := stream.read(qcow2.START_BYTES - len(start))):
            start += part
        self.start = bytes(start)
        self._unread = self.start

    def read(self, size: int) -> bytes:
        if not self._unread:
            return self._stream.read(size)
        part, self._unread = self._unread[:size], self._unread[size:]
        return part
