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
from matcher.scheduler.placing import PEERS
from matcher.wire.slots import CLASSES, FLOORS, TIMER_S, is_spread
from tests.bench.packing.central import Seen
from tests.bench.packing.workload import SHAPES, Vm

Scores = npt.NDArray[np.float64]
Choose = Callable[[Scores], int]

REACT_S = 0.004  # until *enough* is heard: there, read, and back
UNFIT = -1.0

_ASCENDING = np.array(FLOORS[::-1])


@lru_cache(maxsize=256)
def _scores_of(cores: int, gib: int) -> Scores:
    """Of a VM, by the free cores and GiB of the hole."""
    cores_max, gib_max = (max(shape[side] for shape in SHAPES) for side in (0, 1))
    table = np.full((cores_max + 1, gib_max + 1), UNFIT)
    for c in range(cores, cores_max + 1):
        for g in range(gib, gib_max + 1):
            table[c, g] = fill(cores, gib * 1024, c, g * 1024)
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
    cores, gib = (np.array([shape[side] for shape in shapes]) for side in (0, 1))
    ends: list[tuple[float, int, int, Vm]] = []
    seen = Seen()
    for number, vm in enumerate(vms):
        while ends and ends[0][0] <= vm.at_h:
            _, _, host, gone = heapq.heappop(ends)
            cores[host] += gone.cores
            gib[host] += gone.gib
        scores = _scores_of(vm.cores, vm.gib)[cores, gib]
        host = choose(scores)
        fits = scores[host] > UNFIT
        if vm.at_h > from_h:
            seen.asked += vm.core_h
            seen.refused += 0.0 if fits else vm.core_h
        if fits:
            cores[host] -= vm.cores
            gib[host] -= vm.gib
            heapq.heappush(ends, (vm.at_h + vm.life_h, number, host, vm))
    seen.there = [(host, vm) for _, _, host, vm in ends]
    return seen
