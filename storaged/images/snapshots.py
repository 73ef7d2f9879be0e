"""Earlier states of a volume: copies of its image, kept inside its `.elimg` in hidden folders.

    <uuid>.elimg/.snapshot-<name>/   meta.json as it was, data.img

One way for raw and qcow2 alike: a copy whose blocks the filesystem shares where it can, and a full sparse copy where
it can't. It is taken while nobody writes, appears whole, and no scan takes it for a volume. Going back gives the volume
a copy of the snapshot, with the size and format of then; the snapshot stays.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from storaged.beneath import Unusable, open_beneath, open_file, open_folder
from storaged.images.changing import new_image_name
from storaged.images.copying import Progress, copy_file, silent
from storaged.images.idle import open_idle
from storaged.images.meta import metadata_in
from storaged.images.replacing import replace_image
from storaged.images.staging import discard, sentence, staged
from storaged.index import META
from storaged.metadata import IMAGE_DEFAULT, write_metadata
from storaged.reopening import is_still, reopened
from storaged.volume import Volume

SNAPSHOTS_MAX = 32  # of one volume

_PREFIX = ".snapshot-"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True)
class VolumeSnapshot:
    """`taken_s`: seconds since 1970, by the clock of whoever took it."""

    name: str
    size_mib: int
    taken_s: int


def snapshots_of(volume: Volume) -> tuple[VolumeSnapshot, ...]:
    """The oldest first; one that can't be read is left out."""
    try:
        with reopened(volume) as folder:
            names = _names(folder)
            found = [snapshot for name in names if (snapshot := _read(folder, name)) is not None]
    except OSError as problem:
        raise Unusable(f"the volume can't be read: {problem.strerror}") from problem
    return tuple(sorted(found, key=lambda snapshot: (snapshot.taken_s, snapshot.name)))


def take(volume: Volume, name: str, *, stopped: bool = False, progress: Progress = silent) -> None:
    """Keeps the volume's state of now under `name`."""
    _check_name(name)
    with open_idle(volume, stopped=stopped) as idle:
        names = _names(idle.folder)
        if name in names:
            raise Unusable(f"the volume has a snapshot {name} already")
        if len(names) >= SNAPSHOTS_MAX:
            raise Unusable(f"the volume has {SNAPSHOTS_MAX} snapshots, the most there may be; drop one first")
        with staged(volume.pool, volume.pool_id) as stage:
            with stage.new_file(IMAGE_DEFAULT) as file:
                copy_file(idle.image, file, progress)
            stage.write(META, write_metadata(replace(metadata_in(idle.folder), image=IMAGE_DEFAULT)))
            stage.publish(_PREFIX + name, idle.folder)


def rollback(volume: Volume, name: str, *, stopped: bool = False, progress: Progress = silent) -> None:
    """Gives the volume the state that the snapshot kept; what was written since is lost. Its name and flags stay."""
    _check_name(name)
    with open_idle(volume, stopped=stopped) as idle, _opened(idle.folder, name) as kept:
        then = metadata_in(kept)
        now = metadata_in(idle.folder)
        metadata = replace(now, size_mib=then.size_mib, format=then.format, image=new_image_name())
        with open_file(then.image, kept) as (source, _), staged(volume.pool, volume.pool_id) as stage:
            with stage.new_file(IMAGE_DEFAULT) as file:
                copy_file(source, file, progress)
            replace_image(stage, volume.path, metadata, IMAGE_DEFAULT)


def drop(volume: Volume, name: str) -> None:
    """Deletes a snapshot; the volume may be in use."""
    _check_name(name)
    try:
        with (
            open_beneath(volume.pool, volume.pool, is_still(volume.pool_id)) as root,
            reopened(volume) as folder,
        ):
            if name not in _names(folder):
                raise Unusable(f"the volume has no snapshot {name}")
            discard(root, _PREFIX + name, folder)
    except OSError as problem:
        raise Unusable(sentence(problem)) from problem


@contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    if name not in _names(folder):
        raise Unusable(f"the volume has no snapshot {name}")
    with open_folder(_PREFIX + name, within=folder) as kept:
        yield kept


def _names(folder: int) -> list[str]:
    names = [name.removeprefix(_PREFIX) for name in os.listdir(folder) if name.startswith(_PREFIX)]
    return [name for name in names if _NAME.fullmatch(name)]


def _read(folder: int, name: str) -> VolumeSnapshot | None:
    try:
        with open_folder(_PREFIX + name, within=folder) as kept:
            metadata = metadata_in(kept)
            taken_s = int(os.stat(META, dir_fd=kept, follow_symlinks=False).st_mtime)
    except (OSError, Unusable):
        return None
    return VolumeSnapshot(name, metadata.size_mib, taken_s)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Unusable(
            "a snapshot's name has 1 to 40 of a-z, 0-9, dot, dash and underscore, and begins with a-z or 0-9"
        )
