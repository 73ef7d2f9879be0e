"""Looks whether anybody writes a volume, before it is copied or changed.

The caller sees to it that nobody is given the volume meanwhile, and knows of exports that this can't see; what the
volume's own record and QEMU's locks tell is looked at once more here.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable, open_file
from storaged.export.file import writer_of
from storaged.index import read_volume
from storaged.reopening import reopened
from storaged.volume import Volume

_IS_FOLDER = (
    "the volume is a folder, and only disks can be copied or changed so; make another, and copy the files in a VM"
)


@dataclass(frozen=True, slots=True)
class Idle:
    """A volume as it is now, with descriptors of its folder and of its image (for reading)."""

    volume: Volume
    folder: int
    image: int


@contextmanager
def open_idle(volume: Volume, *, stopped: bool = False) -> Iterator[Idle]:
    """Raises `Unusable` for a volume that is in use, or no longer what the scan saw. `stopped`: the caller knows that
    the VM which holds it is stopped, and stays so."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(reopened(volume))
            fresh = _fresh(folder, volume, stopped)
            if fresh.format is ImageFormat.FOLDER:
                raise Unusable(_IS_FOLDER)
            image, _ = stack.enter_context(open_file(fresh.image, folder))
        except FileNotFoundError as problem:
            raise Unusable("the volume is gone") from problem
        except OSError as problem:
            raise Unusable(f"the volume can't be opened: {problem.strerror}") from problem
        yield Idle(fresh, folder, image)


def check_idle(volume: Volume) -> None:
    """As `open_idle`, where the content does not matter: of a folder too."""
    if volume.format is not ImageFormat.FOLDER:
        with open_idle(volume):
            return
    try:
        with reopened(volume) as folder:
            _fresh(folder, volume, stopped=False)
    except FileNotFoundError as problem:
        raise Unusable("the volume is gone") from problem
    except OSError as problem:
        raise Unusable(f"the volume can't be opened: {problem.strerror}") from problem


def _fresh(folder: int, volume: Volume, stopped: bool) -> Volume:
    fresh = read_volume(folder, volume.pool, volume.pool_id, volume.path, volume.vid)
    if (fresh.format, fresh.image, fresh.size_mib) != (volume.format, volume.image, volume.size_mib):
        raise Unusable("its metadata has changed since the last scan; try again")
    if fresh.right is not None and fresh.right.held and not stopped:
        raise Unusable("the volume is in use; detach it, or remove its VM first: electros rm")
    if fresh.format is not ImageFormat.FOLDER and writer_of(fresh) is not None:
        raise Unusable("the volume's image is open for writing in another program")
    return fresh
