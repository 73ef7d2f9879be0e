"""What a command leaves to be done once its result is out: upkeep, which may fail without a word.

Kept apart so that a command that leaves nothing imports nothing for it.
"""

from collections.abc import Callable
from contextlib import suppress

_left: list[Callable[[], None]] = []


def leave(task: Callable[[], None]) -> None:
    """Done when the command has succeeded; what goes wrong then is not the command's."""
    _left.append(task)


def run() -> None:
    while _left:
        task = _left.pop(0)
        with suppress(Exception, KeyboardInterrupt):
            task()
