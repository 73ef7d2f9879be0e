"""`electros top`: how full the realm's hosts are, again and again."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated

from cyclopts import Parameter

from matcher.cli import hosts_views as views
from matcher.cli import top_picture, top_screen
from matcher.cli.failures import Exit, Failure
from matcher.cli.hosts_asking import look, look_again
from matcher.cli.hosts_seen import SETTLED_S, Looked
from matcher.cli.session import Session, session
from matcher.cli.top_picture import Look
from matcher.wire.hosts import HostViews

INTERVAL_S = 2.0
INTERVAL_MIN_S, INTERVAL_MAX_S = 0.5, 3600.0
PIPE_WIDTH = 140
QUIT = frozenset("qQ")
BLOCKS = ("█", "░")
ASCII = ("#", ".")

Interval = Annotated[float, Parameter(name=["--interval", "-n"], help="seconds between two looks")]
Once = Annotated[bool, Parameter(help="print all hosts once, and end; so does a pipe", negative="")]
Sort = Annotated[views.Sort, Parameter(help="by name, or the fullest first")]
AsSeenBy = Annotated[str | None, Parameter(help="ask this host, by name; each has a view of its own")]


def top(
    *, interval: Interval = INTERVAL_S, once: Once = False, sort: Sort = "slots", as_seen_by: AsSeenBy = None
) -> None:
    """Watch how full the realm's hosts are: slots, RAM, devices and disks in use; q or Ctrl-C ends it."""
    if not INTERVAL_MIN_S <= interval <= INTERVAL_MAX_S:
        said = f"--interval is {INTERVAL_MIN_S:g} to {INTERVAL_MAX_S:g} seconds"
        raise Failure(Exit.USAGE, said, helps=f"electros top -n {INTERVAL_S:g}")
    with session(HostViews) as mine:
        looked = look(mine, as_seen_by=as_seen_by)
        if once or not top_screen.is_terminal():
            _print(mine, looked, sort)
            return
        gc.enable()  # people stay for hours
        try:
            with top_screen.drawn_on() as screen:
                again = look_again if as_seen_by is None else lambda mine, _: look(mine, as_seen_by=as_seen_by)
                _watch(mine, looked, screen, sort, interval, again)
        except top_screen.Ended as ended:
            signal.signal(ended.number, signal.SIG_DFL)
            os.kill(os.getpid(), ended.number)
        except KeyboardInterrupt:
            return  # as q


def _print(mine: Session, looked: Looked, sort: views.Sort) -> None:
    width = top_screen.size().columns if sys.stdout.isatty() else PIPE_WIDTH
    fill, rest = _bars()
    lines = top_picture.picture(looked, mine.client.identity.realm_name, Look(width, 0, sort, fill, rest))
    sys.stdout.write("".join(f"{top_picture.plain(line)}\n" for line in lines))
    sys.stdout.flush()


def _watch(
    mine: Session,
    looked: Looked,
    screen: top_screen.Screen,
    sort: views.Sort,
    interval: float,
    again: Callable[[Session, Looked], Looked],
) -> None:
    """Until q is pressed. Where nobody answers, what was seen last stays, with how old it is."""
    seen_s = time.monotonic()
    due_s, why = seen_s + interval, ""
    while True:
        screen.draw(_lines(mine, looked, sort, why))
        with mine.client.interrupts.waiting():
            keys = screen.wait(due_s - time.monotonic())
        if QUIT & set(keys):
            return
        if time.monotonic() < due_s:
            continue
        try:
            looked, why = again(mine, looked), ""
            seen_s = time.monotonic()
        except Failure as failure:
            why = f"{views.age(int(time.monotonic() - seen_s))} old: {failure.message}"
        due_s = time.monotonic() + interval


def _lines(mine: Session, looked: Looked, sort: views.Sort, why: str) -> list[str]:
    size = top_screen.size()
    fill, rest = _bars()
    if not why and looked.asked and looked.listens_s < SETTLED_S:
        why = f"{looked.asked} has just started to listen"
    look = Look(size.columns, size.lines, sort, fill, rest)
    show = top_picture.plain if os.environ.get("NO_COLOR") else top_picture.coloured
    return [show(line) for line in top_picture.picture(looked, mine.client.identity.realm_name, look, why)]


def _bars() -> tuple[str, str]:
    """Blocks, where they can be written."""
    try:
        "".join(BLOCKS).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS
