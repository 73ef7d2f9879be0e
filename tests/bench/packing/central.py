"""Who knows everything: a scheduler in the middle, with all hosts before it; and one that asks a sample of them."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.bench.packing.workload import Vm

Room = list[int]  # free cores, free GiB, all cores, all GiB
Waste = Callable[[Room, int, int], float]  # the least is best


def waste(room: Room, cores: int, gib: int) -> float:
    """Best fit: the least left over, a fee for imbalance, and for breaking into an empty host."""
    a, b = (room[0] - cores) / room[2], (room[1] - gib) / room[3]
    return a + b + abs(a - b) / 2 + (0.3 if room[0] == room[2] and room[1] == room[3] else 0)


def best_fit(rooms: list[Room], vm: Vm, waste: Waste) -> Room | None:
    fitting = [room for room in rooms if room[0] >= vm.cores and room[1] >= vm.gib]
    return min(fitting, key=lambda room: waste(room, vm.cores, vm.gib)) if fitting else None


@dataclass
class Seen:
    """`refused` of the core-hours `asked` for since counting began; `there` are (host, VM) at the end, where told."""

    asked: float = 0.0
    refused: float = 0.0
    there: list[tuple[int, Vm]] = field(default_factory=list)

    @property
    def share(self) -> float:
        return self.refused / self.asked if self.asked else 0.0


def churn(
    shapes: Sequence[tuple[int, int]], vms: Iterable[Vm], *, from_h: float, sample: int = 0, seed: int = 0,
    waste: Waste = waste,
) -> Seen:  # fmt: skip
    """VMs come and go, from empty hosts on. A sample that finds nothing falls back to all, to its favour."""
    rooms, random, seen = [[c, g, c, g] for c, g in shapes], Random(seed), Seen()
    ends: list[tuple[float, int, Room, Vm]] = []
    for number, vm in enumerate(vms):
        while ends and ends[0][0] <= vm.at_h:
            _, _, room, gone = heapq.heappop(ends)
            room[0] += gone.cores
            room[1] += gone.gib
        found = best_fit(random.sample(rooms, min(sample, len(rooms))), vm, waste) if sample else None
        found = found or best_fit(rooms, vm, waste)
        if vm.at_h > from_h:
            seen.asked += vm.core_h
            seen.refused += vm.core_h if found is None else 0.0
        if found is not None:
            found[0] -= vm.cores
            found[1] -= vm.gib
            heapq.heappush(ends, (vm.at_h + vm.life_h, number, found, vm))
    return seen
