"""Ctrl-C, only where the client waits: a step of the protocol is never left half taken."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """While entered, SIGINT raises `KeyboardInterrupt` inside `waiting()` alone; elsewhere it is kept for the next."""

    def __init__(self) -> None:
        self._asked = self._waiting = False

    def __enter__(self) -> "Interrupts":
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waiting = True
        try:
            if self._asked:
                self._raise()
            yield
        finally:
            self._waiting = False

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._waiting:
            self._raise()

    def _raise(self) -> None:
        self._asked = self._waiting = False
        raise KeyboardInterrupt
