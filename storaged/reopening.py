"""Opens again what a scan has found: only where the pool that was scanned still lies at its path.

What is mounted over a pool, or in its place, may hold an older copy of the same volume under the same name. The mark is
read through the very root from which all else is then reached, so that nothing can be exchanged between the two.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from storaged.beneath import Unusable, open_beneath
from storaged.pool import read_mark


class Lies(Protocol):
    """A volume, or its image. `path` is the volume's folder, beneath the root `pool`; `pool_id` is what the root's mark
    said when it was scanned, `None` where it had none: then nothing is known of it."""

    @property
    def pool(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def pool_id(self) -> str | None: ...


def is_still(pool_id: str | None) -> Callable[[int], None]:
    """A check of a pool's open root. It raises `Unusable` where another pool lies there by now."""

    def check(root: int) -> None:
        if pool_id is not None and ((mark := read_mark(root)) is None or mark.pool_id != pool_id):
            raise Unusable("another pool lies at its path than when it was scanned, or none: is it mounted?")

    return check


@contextmanager
def reopened(lies: Lies, below: str = "") -> Iterator[int]:
    """A descriptor of the volume's folder, or of the folder `below` in it. Raises `Unusable` or `OSError`."""
    path = f"{lies.path}/{below}" if below else lies.path
    with open_beneath(lies.pool, path, is_still(lies.pool_id)) as folder:
        yield folder
