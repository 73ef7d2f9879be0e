"""Looks at what lies in pools, with a deadline: a filesystem whose server is away answers nobody, for as long as that
takes, and neither the daemon's loop nor the volumes of other pools may wait for it.

A look that is given up goes on in its thread, and does nothing but look. Each pool has its own few threads, so that one
that hangs takes none from the others.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from storaged.beneath import Unusable
from storaged.reopening import Lies, reopened

LOOK_S = 3.0  # whoever asked waits for it, and for a server's answer beside it
AT_ONCE = 4  # of one pool: those that hang are never more

T = TypeVar("T")


class Hangs(Unusable):
    """Nothing is known: the pool did not answer in time."""


class Looks:
    def __init__(self, *, look_s: float = LOOK_S) -> None:
        self._look_s = look_s
        self._threads: dict[str, trio.CapacityLimiter] = {}  # by pool; the settings have few

    async def at(self, pool: str, look: Callable[[], T]) -> T:
        """What `look` finds in the pool whose root is at `pool`. Raises `Hangs`, and what `look` raises."""
        threads = self._threads.setdefault(pool, trio.CapacityLimiter(AT_ONCE))
        with trio.move_on_after(self._look_s):
            return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=threads)
        raise Hangs("its pool does not answer: is the server of its filesystem there?")

    async def see(self, lies: Lies) -> None:
        """Return when its pool answers at all. Raises `Hangs`."""
        await self.at(lies.pool, partial(_see, lies))


def _see(lies: Lies) -> None:
    """What is wrong with it is for others to tell."""
    with suppress(Unusable, OSError), reopened(lies):
        pass
