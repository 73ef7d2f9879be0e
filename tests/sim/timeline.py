"""Virtual time: events on a heap, and a running hash of all that happened, by which two runs are compared."""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from hashlib import blake2s
from typing import Protocol

BEGIN_S = 1000.0
TAIL_EVENTS = 60


class Crashed(Exception):
    """A daemon died in the middle of something; nothing that it meant to do next is done."""


class Timeline:
    """Two events of one moment come in the order in which they were planned."""

    def __init__(self) -> None:
        self.now_s = BEGIN_S
        self.events = 0
        self.tail: deque[str] = deque(maxlen=TAIL_EVENTS)
        self.touched: dict[str, None] = {}  # whose processes did something, until somebody has looked
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._hash = blake2s(digest_size=16)

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (when_s, self._number, what))

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, what)

    def note(self, said: str) -> None:
        """One line of the trace."""
        line = f"{self.now_s:.6f} {said}"
        self.tail.append(line)
        self._hash.update(line.encode())

    def step(self) -> bool:
        """The next event; `False` when there is none."""
        if not self._heap:
            return False
        self.now_s, _, what = heapq.heappop(self._heap)
        self.events += 1
        try:
            what()
        except Crashed:
            self.note("crashed")
        return True

    def trace_hash(self) -> str:
        return self._hash.hexdigest()


class Clock(Protocol):
    """A `Timeline`, or a process's part of one."""

    @property
    def now_s(self) -> float: ...

    def at(self, when_s: float, what: Callable[[], None]) -> None: ...

    def after(self, delay_s: float, what: Callable[[], None]) -> None: ...

    def note(self, said: str) -> None: ...


class Process:
    """A `Clock` of what runs on a host. Stopped (SIGSTOP, a machine that hangs), it does nothing; when it goes on, it
    does what was due meanwhile, as if nothing had happened.

    What is `put_in` waits in its socket until it does something: read before that, it comes to the same as at once, and
    thousands of hosts need no event for a word that changes nothing for most of them."""

    def __init__(self, timeline: Timeline, host: str = "") -> None:
        self._timeline, self._host = timeline, host
        self._unread: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._stopped_until_s = 0.0
        self._missed: list[Callable[[], None]] = []

    @property
    def now_s(self) -> float:
        return self._timeline.now_s

    @property
    def is_stopped(self) -> bool:
        return self._timeline.now_s < self._stopped_until_s

    def at(self, when_s: float, what: Callable[[], None]) -> None:
        self._timeline.at(when_s, lambda: self.do(what))

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        self._timeline.at(self._timeline.now_s + delay_s, lambda: self.do(what))

    def note(self, said: str) -> None:
        self._timeline.note(said)

    def do(self, what: Callable[[], None]) -> None:
        """Now, or as soon as it goes on."""
        if self._unread:
            self._read()
        self._do(what)

    def put_in(self, when_s: float, what: Callable[[], None]) -> None:
        """For what plans nothing, and what nobody but this process can tell from having been done at `when_s`."""
        self._number += 1
        heapq.heappush(self._unread, (when_s, self._number, what))

    def _read(self) -> None:
        for what in self._unread_now():
            self._do(what)

    def _unread_now(self) -> Iterator[Callable[[], None]]:
        while self._unread and self._unread[0][0] <= self.now_s:
            yield heapq.heappop(self._unread)[2]

    def _do(self, what: Callable[[], None]) -> None:
        if self.is_stopped:
            self._missed.append(what)
        else:
            self._timeline.touched[self._host] = None
            what()

    def stop(self, for_s: float) -> None:
        self._read()
        self._stopped_until_s = max(self._stopped_until_s, self.now_s + for_s)
        self._timeline.at(self._stopped_until_s, self._catch_up)

    def go_on(self) -> None:
        self._stopped_until_s = 0.0
        self._catch_up()

    def _catch_up(self) -> None:
        if not self.is_stopped:
            missed, self._missed = [*self._missed, *self._unread_now()], []
            for what in missed:
                self.after(0.0, what)
