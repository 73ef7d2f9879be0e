"""What qemu-img is asked to do: always with the format of each image said, and no file but those handed to it."""

import json

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.images.sandbox import Failed, Sandbox, Tick

CLUSTER_BYTES = 64 * 1024
# No lazy reference counts: after a crash they would have to be rebuilt by reading all tables before the VM starts.
_NEW_QCOW2 = f"compat=1.1,cluster_size={CLUSTER_BYTES},lazy_refcounts=off,preallocation=off"
_CORRUPT, _LEAKS = 2, 3  # exit codes of `qemu-img check`


def make_qcow2(sandbox: Sandbox, file: int, size_bytes: int, tick: Tick | None = None) -> None:
    """A new, empty qcow2 in the open, empty file."""
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", _NEW_QCOW2, _path(file), str(size_bytes)]
    with sandbox.lent(file):
        sandbox.run(words, files=[file], file_max_bytes=file_max_bytes(size_bytes), tick=tick)


def check_qcow2(sandbox: Sandbox, file: int, tick: Tick | None = None) -> None:
    """Raises `Unusable` unless all of its tables are in order; lost space alone is no harm."""
    with sandbox.lent(file):
        try:
            sandbox.run(
                ["qemu-img", "check", _image(file, ImageFormat.QCOW2)], files=[file], file_max_bytes=0, tick=tick
            )
        except Failed as problem:
            if problem.code == _CORRUPT:
                raise Unusable("the qcow2 image is damaged: qemu-img check finds errors in its tables") from problem
            if problem.code != _LEAKS:
                raise


def convert(
    sandbox: Sandbox, source: tuple[int, ImageFormat], target: tuple[int, ImageFormat], size_bytes: int, tick: Tick
) -> None:
    """Copies what a guest sees into `target`, a new and empty image of `size_bytes`, no less than the source's."""
    (read, read_format), (written, written_format) = source, target
    words = ["qemu-img", "convert", "-p", "-n", "--target-is-zero", "--target-image-opts"]
    words += [_image(read, read_format), _options(written, written_format)]
    with sandbox.lent(read), sandbox.lent(written):
        sandbox.run(words, files=[read, written], file_max_bytes=file_max_bytes(size_bytes), tick=tick)


def grow_qcow2(sandbox: Sandbox, file: int, size_bytes: int) -> None:
    words = ["qemu-img", "resize", "-q", "--image-opts", _options(file, ImageFormat.QCOW2), str(size_bytes)]
    with sandbox.lent(file):
        sandbox.run(words, files=[file], file_max_bytes=file_max_bytes(size_bytes))


def file_max_bytes(size_bytes: int) -> int:
    """How long an image's file may become. A qcow2 of ours has 8 bytes of table and 2 of counts for each cluster, each
    in whole clusters, and some clusters besides; four times as much is allowed."""
    return size_bytes + size_bytes // 1024 + 64 * CLUSTER_BYTES


def _path(file: int) -> str:
    return f"/proc/self/fd/{file}"


def _image(file: int, image_format: ImageFormat) -> str:
    """For reading: `backing` is null, so that even a header that names a backing file leads nowhere."""
    nodes: dict[str, object] = {"driver": image_format.value, "file": {"driver": "file", "filename": _path(file)}}
    if image_format is ImageFormat.QCOW2:
        nodes["backing"] = None
    return "json:" + json.dumps(nodes)


def _options(file: int, image_format: ImageFormat) -> str:
    return f"driver={image_format.value},file.driver=file,file.filename={_path(file)}"
