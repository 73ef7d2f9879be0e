"""Changes to a volume that take more than one step, and are written down in a stage before the first.

An image takes another's place: meta.json has to change with it, and no rename does both. Whichever image meta.json
names in the end, stays. An image is lent to qemu-img's user: it has to come back to its owner. `settle` ends what a
crash interrupted.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TypeVar

from storaged.beneath import Unusable, open_beneath, open_file, read_file
from storaged.images.idle import Idle
from storaged.images.meta import NEW_META, metadata_in, write_meta
from storaged.images.sandbox import Sandbox
from storaged.images.staging import Stage
from storaged.metadata import OURS, Metadata
from storaged.reopening import is_still

NOTE_MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Replacement:
    """`path` is the volume's folder; `old` and `new` are names of images in it."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Loan:
    """The image of the volume at `path` is to come back from user `borrower` to `uid` and `gid`."""

    path: str
    image: str
    borrower: int
    uid: int
    gid: int


_Note = TypeVar("_Note", Replacement, Loan)
_FILES = {Replacement: "replaces.json", Loan: "lent.json"}


def replace_image(stage: Stage, path: str, metadata: Metadata, staged_name: str) -> None:
    """The volume at `path` has the staged image and `metadata`, which names it; where this raises, the old ones.

    The staged image is on the disk already.
    """
    with open_beneath(stage.pool, path, is_still(stage.pool_id)) as folder:
        replacement = Replacement(path, metadata_in(folder).image, metadata.image)
        assert replacement.old != replacement.new
        _note(stage, replacement)
        os.rename(staged_name, replacement.new, src_dir_fd=stage.folder, dst_dir_fd=folder)
        try:
            os.fsync(folder)
            write_meta(folder, metadata)
        except BaseException:
            # Where meta.json names the new image and nobody knows for how long, both stay.
            if metadata_in(folder).image == replacement.old:
                _end_replacement(folder, replacement)
            raise
        _end_replacement(folder, replacement)


@contextmanager
def lent_image(stage: Stage, sandbox: Sandbox, idle: Idle) -> Iterator[None]:
    """The sandbox's user may open the volume's image meanwhile."""
    facts = os.fstat(idle.image)
    _note(stage, Loan(idle.volume.path, idle.volume.image, sandbox.uid, facts.st_uid, facts.st_gid))
    with sandbox.lent(idle.image):
        yield


def settle(pool: str, stage: int) -> bool:
    """Ends what the open folder of a stage tells of; `False` where that can't be, now."""
    try:
        loan, replacement = _noted(stage, Loan), _noted(stage, Replacement)
        if loan is not None:
            with open_beneath(pool, loan.path) as folder:
                _end_loan(folder, loan)
        if replacement is not None:
            with open_beneath(pool, replacement.path) as folder:
                _end_replacement(folder, replacement)
    except FileNotFoundError:
        return True  # the volume was removed since
    except (OSError, Unusable):
        return False
    return True


def _end_replacement(folder: int, replacement: Replacement) -> None:
    """Where meta.json names neither image, a person was at it, and only ours goes."""
    named = metadata_in(folder).image
    os.fsync(folder)  # or a power cut could bring the old meta.json back, without its image
    loser = replacement.old if named == replacement.new else replacement.new
    for leftover in (loser, NEW_META):
        with suppress(FileNotFoundError):
            os.unlink(leftover, dir_fd=folder)
    os.fsync(folder)


def _end_loan(folder: int, loan: Loan) -> None:
    with suppress(FileNotFoundError), open_file(loan.image, folder) as (file, facts):
        if facts.st_uid == loan.borrower:  # else it came back, or a VM has it
            os.fchown(file, loan.uid, loan.gid)


def _note(stage: Stage, note: Replacement | Loan) -> None:
    stage.write(_FILES[type(note)], json.dumps(asdict(note)).encode())
    os.fsync(stage.folder)


def _noted(stage: int, kind: type[_Note]) -> _Note | None:
    """`None` where there is none, or one that was not written to its end: then nothing else was done either."""
    try:
        note = kind(**json.loads(read_file(_FILES[kind], stage, NOTE_MAX_BYTES)))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None
    names = (note.old, note.new) if isinstance(note, Replacement) else (note.image,)
    return note if isinstance(note.path, str) and all(_plain(name) for name in names) else None


def _plain(name: object) -> bool:
    """A file's own name, of an image."""
    return isinstance(name, str) and bool(name) and not {"/", "\0"} & {*name} and name[0] != "." and name not in OURS
