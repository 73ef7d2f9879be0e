"""Makes volumes out of nothing, and copies of those that are there.

A volume is staged in its pool's root (see `staging`) and appears whole. Its virtual size is judged before anything is
written. The caller owns the vid: nobody else makes a volume of it meanwhile.
"""

import os
from dataclasses import replace

from matcher.wire.messages import ImageFormat
from specs.ids import Vid, dashed
from storaged.beneath import Unusable
from storaged.images import qemu_img
from storaged.images.copying import Progress, copy_file, silent
from storaged.images.idle import open_idle
from storaged.images.sandbox import Sandbox, Tick
from storaged.images.staging import FOLDER_MODE, SHARE_MODE, Stage, staged
from storaged.index import META
from storaged.metadata import (
    FOLDER_DEFAULT,
    IMAGE_DEFAULT,
    SIZE_MAX_MIB,
    STEP_MIB,
    Bad,
    Metadata,
    parse_metadata,
    write_metadata,
)
from storaged.volume import Volume

MIB = 2**20


def create(
    sandbox: Sandbox,
    pool: str,
    vid: Vid,
    metadata: Metadata,
    *,
    most_mib: int,
    pool_id: str | None = None,
    progress: Progress = silent,
) -> None:
    """A new, empty, thin volume in the root of `pool`, of at most `most_mib`: what its person may still have.
    `pool_id`: what the pool's mark has to say."""
    is_folder = metadata.format is ImageFormat.FOLDER
    metadata = replace(metadata, image=FOLDER_DEFAULT if is_folder else IMAGE_DEFAULT)
    check_metadata(metadata)
    check_size(metadata.size_mib, most_mib)
    with staged(pool, pool_id) as stage:
        if is_folder:
            stage.new_folder(FOLDER_DEFAULT)
            publish(stage, vid, metadata)
            return
        with stage.new_file(IMAGE_DEFAULT) as file:
            empty_image(sandbox, file, metadata.format, metadata.size_mib * MIB, progress)
        publish(stage, vid, metadata)


def clone(pool: str, volume: Volume, vid: Vid, wanted: Metadata, *, most_mib: int, progress: Progress = silent) -> None:
    """A copy of a volume that nobody writes, under the name and flags of `wanted`; its format and size are the
    volume's. It is thin: blocks are shared where the filesystem can, and holes stay holes where it can't."""
    if volume.format is ImageFormat.FOLDER:
        raise Unusable("the volume is a folder, and only disks can be copied; copy its files in a VM")
    metadata = replace(wanted, size_mib=volume.size_mib, format=volume.format, image=IMAGE_DEFAULT)
    check_metadata(metadata)
    check_size(metadata.size_mib, most_mib)
    with open_idle(volume) as idle, staged(pool, volume.pool_id) as stage:
        with stage.new_file(IMAGE_DEFAULT) as file:
            copy_file(idle.image, file, progress)
        publish(stage, vid, metadata)


def check_disk(image_format: ImageFormat | None) -> None:
    """Raises `Unusable` where a disk image is meant and a folder is named."""
    if image_format is ImageFormat.FOLDER:
        raise Unusable("a folder is no disk image: make one with electros volume create --shareable")


def check_metadata(metadata: Metadata) -> None:
    """Raises `Unusable` for what could be written and not be read again, such as a shareable volume to boot from."""
    checked = parse_metadata(write_metadata(metadata))
    if isinstance(checked, Bad):
        raise Unusable(checked.reason.removeprefix("in meta.json, "))


def check_size(size_mib: int, most_mib: int) -> None:
    if not 0 < size_mib <= SIZE_MAX_MIB or size_mib % STEP_MIB:
        raise Unusable(f"a size must be a multiple of 0.125 GB, more than 0 and at most {SIZE_MAX_MIB // 1024} GB")
    if size_mib > most_mib:
        raise Unusable(f"the volume would have {gb(size_mib)}; you may have {gb(max(0, most_mib))} more here")


def empty_image(
    sandbox: Sandbox, file: int, image_format: ImageFormat, size_bytes: int, progress: Progress = silent
) -> None:
    """Makes the open, empty file an image that takes no space yet."""
    if image_format is ImageFormat.RAW:
        os.ftruncate(file, size_bytes)
    else:
        qemu_img.make_qcow2(sandbox, file, size_bytes, steps(progress, "make", size_bytes))


def publish(stage: Stage, vid: Vid, metadata: Metadata) -> None:
    """What is staged, with its meta.json, is a volume from now on."""
    stage.write(META, write_metadata(metadata))
    mode = SHARE_MODE if metadata.format is ImageFormat.FOLDER else FOLDER_MODE
    stage.publish(f"{dashed(vid)}.elimg", stage.root, mode)


def steps(progress: Progress, step: str, size_bytes: int) -> Tick:
    """A program's percents, as bytes of what a guest sees."""
    return lambda percent: progress(step, size_bytes * percent // 100, size_bytes)


def gb(size_mib: int) -> str:
    return f"{size_mib / 1024:.3f}".rstrip("0").rstrip(".") + " GB"
