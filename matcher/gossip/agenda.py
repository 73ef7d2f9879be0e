"""What is to be done later, by time. Nothing is taken off again: whoever is called looks whether it is still wanted."""

from collections.abc import Callable
from heapq import heappop, heappush

Do = Callable[[float], None]


class Agenda:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Do]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, at_s: float, do: Do) -> None:
        self._count += 1  # in the order of asking, where times are the same
        heappush(self._heap, (at_s, self._count, do))

    @property
    def next_s(self) -> float:
        return self._heap[0][0] if self._heap else float("inf")

    def run(self, now_s: float) -> None:
        """Do what is due; what that asks for now is done in the next run."""
        due: list[Do] = []
        while self._heap and self._heap[0][0] <= now_s:
            due.append(heappop(self._heap)[2])
        for do in due:
            do(now_s)
