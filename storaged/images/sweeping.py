"""Deletes what a crash left in the root of a pool, and ends what it interrupted."""

import os
from dataclasses import dataclass

from storaged.beneath import Unusable, open_folder
from storaged.images.replacing import settle
from storaged.images.staging import GONE, NEW, delete, exists, is_still, lock


@dataclass(frozen=True, slots=True)
class Swept:
    """How many leftovers were deleted, and how many not: work of others, or what can't be judged."""

    deleted: int
    left: int


def sweep(pool: str, *, alone: bool = False) -> Swept:
    """Harmless at any time and quick, so that it may come with each rescan: what is left today is gone tomorrow.

    `alone`: the caller knows that nothing is being made in this pool now, by this server or another. Without that word
    nothing is swept where folders can't be locked.
    """
    deleted = left = 0
    try:
        with open_folder(pool) as root:
            names = [name for name in os.listdir(root) if name.startswith((NEW, GONE))]
            for name in names:
                if _swept(pool, name, root, alone):
                    deleted += 1
                else:
                    left += 1
    except OSError as problem:
        raise Unusable(f"the pool can't be read: {problem.strerror}") from problem
    return Swept(deleted, left)


def _swept(pool: str, name: str, root: int, alone: bool) -> bool:
    try:
        with open_folder(name, within=root) as folder:
            mine = lock(folder, without=alone) and is_still(folder, name, root)
            if not (mine and settle(pool, folder)):
                return False
            delete(name, root)
    except OSError:
        return False  # not a folder
    return not exists(name, root)
