"""A way to ask all hosts of a system something, and to hear them: the same clock and the same code for every system.

An answer's time is that of the read that brought it into this process. `ask` goes on until all answers are also
understood, and verified where the system signs them; under load (`measure.load`) that is done when the load is over, so
that it is the hosts that are measured and not the one process that stands for all their clients.
"""

import gc
import time
from abc import ABC, abstractmethod
from collections import defaultdict

ANSWERS_S = 3.0  # Serf's queries are given as long


class Way(ABC):
    """`name` as the table has it; `hosts` must answer until a question counts as answered."""

    def __init__(self, name: str, hosts: int) -> None:
        self.name, self.hosts = name, hosts
        self.answers: dict[str, dict[str, float]] = defaultdict(dict)  # by question: when who answered

    @abstractmethod
    def send(self) -> str:
        """Ask; what the question is called in `answers`."""

    @abstractmethod
    def receive(self, until_s: float) -> None:
        """Wait until something comes, or until then, and keep it with its time."""

    @property
    @abstractmethod
    def kept(self) -> int:
        """How many answers were received and are not understood yet."""

    @abstractmethod
    def understand(self) -> None:
        """Enter into `answers` what was received."""

    @abstractmethod
    def close(self) -> None: ...

    def ask(self) -> float | None:
        """Seconds until all have answered; `None` where some did not."""
        gc.disable()
        try:
            return self._ask()
        finally:
            gc.enable()

    def _ask(self) -> float | None:
        begun_s = time.monotonic()
        question = self.send()
        while len(self.answers[question]) < self.hosts:
            if time.monotonic() >= begun_s + ANSWERS_S:
                return None
            self.receive(begun_s + ANSWERS_S)
            self.understand()
        del self.answers[question]
        return time.monotonic() - begun_s
