"""Hosts that score themselves, as arrays: who hears every offer, and a model of who hears the best first.

Not the protocol: no messages, no holds, no losses. It is here because 10,000 hosts over days are 800,000 pledges, of
which each would be heard by each host; what it says is printed beside the protocol's own where both can run.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import exp, log

import numpy as np
import numpy.typing as npt

from atomd.capacity.score import fill
from matcher.scheduler.listening import PEERS
from matcher.wire.slots import CLASSES, FLOORS, TIMER_S, is_spread
from tests.bench.packing.central import Seen
from tests.bench.packing.workload import SHAPES, Vm

Scores = npt.NDArray[np.float64]
Choose = Callable[[Scores], int]

REACT_S = 0.004  # until *enough* is heard: there, read, and back
UNFIT = -1.0
CORES_MAX = max(cores for cores, _ in SHAPES)
STRIDE = max(gib for _, gib in SHAPES) + 1

_ASCENDING = np.array(FLOORS[::-1])


@lru_cache(maxsize=256)
def _scores_of(cores: int, gib: int) -> Scores:
    """Of a VM, by the number of the hole: its free cores * `STRIDE` + its free GiB."""
    table = np.full((CORES_MAX + 1) * STRIDE, UNFIT)
    for c in range(cores, CORES_MAX + 1):
        for g in range(gib, STRIDE):
            table[c * STRIDE + g] = fill(cores, gib * 1024, c, g * 1024)
    return table


def all_heard(scores: Scores) -> int:
    return int(scores.argmax())


def best_first(random: np.random.Generator) -> Choose:
    """The best of those who have answered when enough of the best class have; `matcher.offers.feedback`'s timers."""

    def choose(scores: Scores) -> int:
        best = int(scores.argmax())
        if not is_spread(len(scores)):
            return best
        number = CLASSES - 1 - int(np.searchsorted(_ASCENDING, scores[best], side="right"))
        low = FLOORS[number] if number < len(FLOORS) else 0.0
        (peers,) = np.nonzero(scores >= low)
        if len(peers) <= PEERS:
            return best
        steepness = 1.1 * log(len(scores)) + 0.8
        waits = TIMER_S / steepness * np.log1p(random.random(len(peers)) * (exp(steepness) - 1))
        until_s = np.partition(waits, PEERS - 1)[PEERS - 1] + REACT_S
        heard = peers[waits <= until_s]
        return int(heard[scores[heard].argmax()])

    return choose


def churn(shapes: Sequence[tuple[int, int]], vms: Iterable[Vm], choose: Choose, *, from_h: float) -> Seen:
    holes = np.array([cores * STRIDE + gib for cores, gib in shapes])
    ends: list[tuple[float, int, int, Vm]] = []
    seen = Seen()
    for number, vm in enumerate(vms):
        while ends and ends[0][0] <= vm.at_h:
            _, _, host, gone = heapq.heappop(ends)
            holes[host] += gone.cores * STRIDE + gone.gib
        scores = _scores_of(vm.cores, vm.gib).take(holes)
        host = choose(scores)
        fits = scores[host] > UNFIT
        if vm.at_h > from_h:
            seen.asked += vm.core_h
            seen.refused += 0.0 if fits else vm.core_h
        if fits:
            holes[host] -= vm.cores * STRIDE + vm.gib
            heapq.heappush(ends, (vm.at_h + vm.life_h, number, host, vm))
    seen.there = [(host, vm) for _, _, host, vm in ends]
    return seen
