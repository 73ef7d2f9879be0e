"""libvirt as a daemon meets it: slow, sometimes silent, and alive when the daemon is dead.

Calls are served in the order in which they came. A call that nobody waits for any more is done all the same.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TypeVar

from atomd.capacity.hardware import Claim
from atomd.vms.lifecycle import Vm
from atomd.vms.reconcile import Observed
from matcher.wire.volumes import Attached
from specs.ids import Vid, VmId
from tests.sim.faults import Faults
from tests.sim.timeline import Clock

CALL_S = 30.0  # as atomd.hypervisor.hypervisor has it
STALL_S = (1.0, 45.0)
START_S = (0.2, 0.5)
SLOW_START_S = (5.0, 45.0)
OLD_NEWS_S = (0.1, 10.0)
OBEYS_S = (0.5, 8.0)
LIVES_S = (2.0, 60.0)

Answer = TypeVar("Answer")


class Said(Enum):
    """What libvirt says of a call."""

    DONE = "done"
    EXISTS = "exists"
    NONE_THERE = "none there"
    FAILED = "failed"
    DOWN = "down"  # nothing was changed
    UNKNOWN = "unknown"  # no answer in time


class Server:
    def __init__(self, timeline: Clock, random: Random) -> None:
        self._timeline, self._random = timeline, random
        self._queue: deque[Callable[[], None]] = deque()
        self._stalled_until_s = 0.0

    def stall(self) -> None:
        self._stalled_until_s = self._timeline.now_s + self._random.uniform(*STALL_S)
        self._timeline.at(self._stalled_until_s, self._serve)

    def wake(self) -> None:
        self._stalled_until_s = 0.0
        self._serve()

    def ask(
        self,
        work: Callable[[Callable[[Answer], None]], None],
        told: Callable[[Answer], None],
        *,
        silence: Answer,
        timeout_s: float,
    ) -> None:
        """`work(answer)` is done in its turn; `told` hears the answer once, or `silence` after `timeout_s`."""
        open_calls = [told]

        def answer(value: Answer) -> None:
            if open_calls:
                told = open_calls.pop()
                self._timeline.after(0, lambda: told(value))  # what the caller does with it is no part of the work

        self._queue.append(lambda: work(answer))
        self._timeline.after(self._random.uniform(0.001, 0.01), self._serve)
        self._timeline.after(timeout_s, lambda: answer(silence))

    def _serve(self) -> None:
        while self._queue and self._timeline.now_s >= self._stalled_until_s:
            self._queue.popleft()()


@dataclass(slots=True)
class Domain:
    vm_id: VmId
    generation: int
    claim: Claim
    deaf: bool
    is_starting: bool = True
    stalled: bool = False  # paused by QEMU, which got an error of a volume
    held: bool = False  # started, and the guest has not begun
    files: frozenset[Vid] = frozenset()  # images of this host that QEMU has open and locked


class Libvirt:
    """One host's domains. `heard` is told of those that end, if a daemon is there to hear it."""

    def __init__(self, timeline: Clock, random: Random, faults: Faults) -> None:
        self.faults = faults
        self.domains: dict[VmId, Domain] = {}
        self.began: Callable[[Domain], None] = lambda domain: None
        self.heard: Callable[[VmId, bool], None] = lambda vm_id, crashed: None
        self.opens: Callable[[Domain, Attached], bool] = lambda domain, opened: True
        self.is_down = False
        self.server = Server(timeline, random)
        self._timeline, self._random = timeline, random

    def start(self, vm: Vm, opened: Attached, told: Callable[[Said], None], *, paused: bool) -> None:
        def work(answer: Callable[[Said], None]) -> None:
            if vm.vm_id in self.domains:
                answer(Said.EXISTS)
                return
            domain = Domain(vm.vm_id, vm.generation, vm.claim, self._happens(self.faults.deaf), held=paused)
            if not self.opens(domain, opened):
                answer(Said.FAILED)
                return
            self.domains[vm.vm_id] = domain
            self.began(domain)
            takes_s = self._random.uniform(*(SLOW_START_S if self._happens(self.faults.start_slow) else START_S))
            self._timeline.after(takes_s, lambda: self._started(domain, answer))

        self._call(work, told)

    def destroy(self, vm_id: VmId, told: Callable[[Said], None]) -> None:
        def work(answer: Callable[[Said], None]) -> None:
            domain = self.domains.get(vm_id)
            answer(Said.NONE_THERE if domain is None else Said.DONE)
            if domain is not None:
                self.end(domain)

        self._call(work, told)

    def shut_down(self, vm_id: VmId, told: Callable[[Said], None]) -> None:
        def work(answer: Callable[[Said], None]) -> None:
            domain = self.domains.get(vm_id)
            answer(Said.NONE_THERE if domain is None else Said.DONE)
            if domain is not None and not domain.deaf:
                self._timeline.after(self._random.uniform(*OBEYS_S), lambda: self.end(domain))

        self._call(work, told)

    def resume(self, vm_id: VmId, told: Callable[[Said], None]) -> None:
        def work(answer: Callable[[Said], None]) -> None:
            domain = self.domains.get(vm_id)
            answer(Said.NONE_THERE if domain is None else Said.DONE)
            if domain is not None:
                domain.stalled = domain.held = False

        self._call(work, told)

    def list_all(self, told: Callable[[tuple[Observed, ...] | None], None]) -> None:
        def work(answer: Callable[[tuple[Observed, ...] | None], None]) -> None:
            seen = tuple(Observed(d.vm_id, d.generation, d.stalled, d.held) for d in self.domains.values())
            late_s = self._random.uniform(*(OLD_NEWS_S if self._happens(self.faults.list_slow) else (0.001, 0.05)))
            self._timeline.after(late_s, lambda: answer(seen))

        if self.is_down:
            self._timeline.after(0.01, lambda: told(None))
        else:
            self.server.ask(work, told, silence=None, timeout_s=CALL_S)

    def end(self, domain: Domain, *, crashed: bool = False) -> None:
        """By whomever; an event tells of it, soon or late."""
        if self.domains.get(domain.vm_id) is domain:
            del self.domains[domain.vm_id]
            self._timeline.after(self._random.uniform(0.0005, 0.5), lambda: self.heard(domain.vm_id, crashed))

    def _started(self, domain: Domain, answer: Callable[[Said], None]) -> None:
        if self.domains.get(domain.vm_id) is not domain or self._happens(self.faults.start_fails):
            self.end(domain, crashed=True)
            answer(Said.FAILED)
            return
        domain.is_starting = False
        answer(Said.DONE)
        if self._happens(self.faults.power_off):
            self._timeline.after(self._random.uniform(*LIVES_S), lambda: self.end(domain))

    def _call(self, work: Callable[[Callable[[Said], None]], None], told: Callable[[Said], None]) -> None:
        if self.is_down:
            self._timeline.after(0.01, lambda: told(Said.DOWN))
        else:
            self.server.ask(work, told, silence=Said.UNKNOWN, timeout_s=CALL_S)

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance
