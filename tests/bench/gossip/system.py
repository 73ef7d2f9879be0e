"""A system under test: N daemons in N places of a lab, what they tell of each other, and what they can be asked.

`up`, `failed`, `gone`, `left` and `events` are filled by systems that have a membership, with the time at which an
observer said so for the first time since they were cleared.
"""

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from selectors import EVENT_READ, DefaultSelector
from subprocess import Popen
from typing import Any

from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.way import Way

READY_S = 300.0
END_S = 20.0
POLL_S = 0.02


class Hub:
    """One selector; every observation has the time at which its file became readable."""

    def __init__(self) -> None:
        self._selector = DefaultSelector()

    def add(self, file: Any, hears: Callable[[float], None]) -> None:
        self._selector.register(file, EVENT_READ, hears)

    def drop(self, file: Any) -> None:
        self._selector.unregister(file)

    def turn(self, until_s: float) -> None:
        """Wait until something can be heard, or until then, and let it be heard."""
        for key, _ in self._selector.select(max(0.0, until_s - time.monotonic())):
            key.data(time.monotonic())

    def run(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it came true in time."""
        end_s = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() >= end_s:
                return False
            self.turn(end_s)
        return True

    def rest(self, seconds: float) -> None:
        self.run(lambda: False, seconds)


class System(ABC):
    """`hosts` daemons in the places 0 to `hosts` - 1; clients have the places after these."""

    name: str

    def __init__(self, lab: NetLab, hub: Hub, hosts: int) -> None:
        self.lab, self.hub, self.hosts = lab, hub, hosts
        self.daemons: dict[int, Popen[bytes]] = {}
        self.up: dict[tuple[int, int], float] = {}  # (observer, subject)
        self.failed: dict[tuple[int, int], float] = {}  # its daemon, or all of it
        self.gone: dict[tuple[int, int], float] = {}  # all of it
        self.left: dict[tuple[int, int], float] = {}
        self.events: dict[bytes, dict[int, float]] = defaultdict(dict)  # payload: observer

    @abstractmethod
    def start(self, place: int) -> None: ...

    @abstractmethod
    def ready(self) -> None:
        """Return once all that were started can be asked."""

    @abstractmethod
    def ways(self) -> list[Way]:
        """What all hosts can be asked; opened here, closed by who asked for it."""

    def raise_all(self) -> None:
        for place in range(self.hosts):
            self.start(place)
        self.ready()

    @property
    def pids(self) -> list[int]:
        return [daemon.pid for daemon in self.daemons.values()]

    def kill(self, place: int) -> float:
        """SIGKILL; when."""
        daemon = self.daemons.pop(place)
        at_s = time.monotonic()
        daemon.kill()
        daemon.wait()
        return at_s

    def await_end(self, daemon: "Popen[bytes]") -> None:
        end_s = time.monotonic() + END_S
        while daemon.poll() is None:
            assert time.monotonic() < end_s, f"{self.name}: a host does not end"
            self.hub.rest(POLL_S)
