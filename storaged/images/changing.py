"""Changes volumes that nobody writes: larger, another name, another format; or gone.

After a crash at any moment a volume is as it was or as it should become, and never half of each. It only grows:
cutting an image short destroys what its filesystem keeps at the end, and nothing here can tell what that is.
The caller sees to it that nobody is given the volume meanwhile.
"""

import os
from dataclasses import replace
from secrets import token_hex

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable, open_beneath, read_start
from storaged.images import qcow2, qemu_img
from storaged.images.copying import Progress, silent
from storaged.images.idle import Idle, check_idle, open_idle
from storaged.images.making import MIB, check_disk, check_metadata, check_size, empty_image, gb, steps
from storaged.images.meta import metadata_in, write_meta
from storaged.images.replacing import lent_image, replace_image
from storaged.images.sandbox import Sandbox
from storaged.images.staging import discard, sentence, staged
from storaged.index import image_size_bytes
from storaged.metadata import Bad
from storaged.reopening import is_still, reopened
from storaged.volume import Volume

_IMAGE = "image"  # the new one, in its stage


def new_image_name() -> str:
    """For an image that takes another's place, beside it in the volume's folder."""
    return f"data-{token_hex(4)}.img"


def rename(volume: Volume, name: str) -> None:
    """Gives the volume another name; it may be in use."""
    try:
        with reopened(volume) as folder:
            metadata = replace(metadata_in(folder), name=name)
            check_metadata(metadata)
            write_meta(folder, metadata)
    except OSError as problem:
        raise Unusable(sentence(problem)) from problem


def resize(sandbox: Sandbox, volume: Volume, size_mib: int, *, most_mib: int, stopped: bool = False) -> None:
    """Makes the volume larger; it has `most_mib` at most afterwards. The guest's filesystem is the guest's to grow.

    A crash between image and meta.json leaves an image larger than is said, which is served all the same; repeat it.
    """
    check_size(size_mib, most_mib)
    try:
        with open_idle(volume, stopped=stopped) as idle:
            if size_mib < idle.volume.size_mib:
                has = gb(idle.volume.size_mib)
                raise Unusable(f"the volume has {has} and only grows; make a smaller one and copy the files in a VM")
            _grow(sandbox, idle, size_mib * MIB)
            write_meta(idle.folder, replace(metadata_in(idle.folder), size_mib=size_mib))
    except OSError as problem:
        raise Unusable(sentence(problem)) from problem


def _grow(sandbox: Sandbox, idle: Idle, size_bytes: int) -> None:
    volume = idle.volume
    if image_size_bytes(idle.folder, volume.image, volume.format) >= size_bytes:
        return
    file = os.open(
        f"/proc/self/fd/{idle.image}", os.O_RDWR | os.O_CLOEXEC
    )  # the same file, whatever its name means now
    try:
        if volume.format is ImageFormat.RAW:
            os.ftruncate(file, size_bytes)
        else:
            judge_own(idle)
            with staged(volume.pool, volume.pool_id) as stage, lent_image(stage, sandbox, idle):
                qemu_img.grow_qcow2(sandbox, file, size_bytes)
        os.fsync(file)
    finally:
        os.close(file)


def convert(
    sandbox: Sandbox, volume: Volume, image_format: ImageFormat, *, stopped: bool = False, progress: Progress = silent
) -> None:
    """Gives the volume a new image with the same content in another format."""
    check_disk(image_format)
    with open_idle(volume, stopped=stopped) as idle:
        if idle.volume.format is image_format:
            raise Unusable(f"the volume is {image_format.value} already")
        metadata = replace(metadata_in(idle.folder), format=image_format, image=new_image_name())
        check_metadata(metadata)
        judge_own(idle)
        size_bytes = _whole_sectors(image_size_bytes(idle.folder, idle.volume.image, idle.volume.format))
        size_bytes = max(size_bytes, metadata.size_mib * MIB)
        with staged(volume.pool, volume.pool_id) as stage:
            with stage.new_file(_IMAGE) as file:
                empty_image(sandbox, file, image_format, size_bytes, progress)
                source, target = (idle.image, idle.volume.format), (file, image_format)
                with lent_image(stage, sandbox, idle):
                    qemu_img.convert(sandbox, source, target, size_bytes, steps(progress, "convert", size_bytes))
            replace_image(stage, volume.path, metadata, _IMAGE)


def judge_own(idle: Idle) -> None:
    """Before qemu-img opens a volume's qcow2: somebody may have put it there by hand."""
    if idle.volume.format is ImageFormat.QCOW2:
        start = read_start(idle.image, qcow2.START_BYTES)
        facts = qcow2.judge_qcow2(start, os.fstat(idle.image).st_size)
        if isinstance(facts, Bad):
            raise Unusable(facts.reason)


def remove(volume: Volume) -> None:
    """Deletes the volume with its snapshots. The caller has made sure that no VM holds it; it is looked at again."""
    parent, name = os.path.split(volume.path)
    check_idle(volume)
    check = is_still(volume.pool_id)
    try:
        with (
            open_beneath(volume.pool, volume.pool, check) as root,
            open_beneath(volume.pool, parent, check) as within,
        ):
            discard(root, name, within)
    except OSError as problem:
        raise Unusable(sentence(problem)) from problem


def _whole_sectors(size_bytes: int) -> int:
    return -(-size_bytes // qcow2.SECTOR_BYTES) * qcow2.SECTOR_BYTES
