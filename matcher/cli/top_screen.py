"""A terminal that is drawn on and given back as it was, whatever ends the drawing; short of SIGKILL.

The other screen is used, so that what stood there comes back. A picture is written as one piece over the one before,
each line cleared behind its end and never the whole screen: nothing flickers. Ctrl-Z gives the terminal back as well.
"""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, no wrapping of lines
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"  # shown at once, by terminals that know of it
READ_BYTES = 1024
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
Handler = Callable[[int, FrameType | None], None]
SIZE_FALLBACK = os.terminal_size((80, 24))


class Ended(Exception):
    """By a signal, which is to have its usual effect once the terminal is given back."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def is_terminal() -> bool:
    """One that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def size() -> os.terminal_size:
    """Terminals that do not know theirs say 0."""
    with suppress(OSError):
        found = os.get_terminal_size(sys.stdout.fileno())
        if found.columns > 0 and found.lines > 0:
            return found
    return SIZE_FALLBACK


class Screen:
    def __init__(self) -> None:
        self._typing = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] | None = None
        self._wakes = os.pipe()
        for end in self._wakes:
            os.set_blocking(end, False)

    def draw(self, lines: Sequence[str]) -> None:
        body = "\r\n".join(f"{line}{CLEAR_LINE}" for line in lines)
        _write(f"{BEGIN}{HOME}{body}{CLEAR_BELOW}{END}")

    def wait(self, seconds: float) -> str:
        """Until a key is pressed, the size changes or the time is over; the keys."""
        awaited = [self._wakes[0]] + ([self._typing] if self._typing is not None else [])
        ready, _, _ = select.select(awaited, [], [], max(0.0, seconds))
        if self._wakes[0] in ready:
            with suppress(BlockingIOError):
                os.read(self._wakes[0], READ_BYTES)
        if self._typing is None or self._typing not in ready:
            return ""
        keys = os.read(self._typing, READ_BYTES)
        if not keys:  # the keyboard is gone
            self._typing = None
        return keys.decode(errors="replace")

    # ---- inside

    def enter(self) -> None:
        if self._typing is not None and os.tcgetpgrp(self._typing) == os.getpgrp():
            self._before = termios.tcgetattr(self._typing)
            tty.setcbreak(self._typing, termios.TCSADRAIN)
        _write(ENTER)

    def leave(self) -> None:
        """Raises nothing: the terminal may be gone."""
        with suppress(OSError):
            _write(LEAVE)
        if self._typing is not None and self._before is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(self._typing, termios.TCSADRAIN, self._before)

    def close(self) -> None:
        for end in self._wakes:
            os.close(end)

    def wake(self, *_: object) -> None:
        with suppress(BlockingIOError):
            os.write(self._wakes[1], b"w")

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: give it back, stop, and go on when the shell says so."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()
        self.wake()


@contextmanager
def drawn_on() -> Iterator[Screen]:
    """Raises `Ended` where a signal ends it."""
    screen = Screen()
    handlers: dict[signal.Signals, Handler] = {signal.SIGWINCH: screen.wake, signal.SIGTSTP: screen.stop}
    handlers |= dict.fromkeys(ENDING, _end)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        screen.enter()
        yield screen
    finally:
        screen.leave()
        for number, handler in before.items():
            signal.signal(number, handler)
        screen.close()


def _end(number: int, _frame: FrameType | None) -> None:
    raise Ended(number)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
