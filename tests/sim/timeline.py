"""Virtual time: events on a heap, and a running hash of all that happened, by which two runs are compared."""

import heapq
from collections import deque
from collections.abc import Callable
from hashlib import blake2s

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
