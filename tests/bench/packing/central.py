"""Who knows everything: a scheduler in the middle, with all hosts before it; and one that asks a sample of them."""

import heapq
from random import Random

from tests.bench.packing.workload import HOURS, Vm

Room = list[int]  # free cores, free GiB, all cores, all GiB


def waste(room: Room, cores: int, gib: int) -> float:
    """Best fit: the least left over, a fee for imbalance, and for breaking into an empty host."""
    a, b = (room[0] - cores) / room[2], (room[1] - gib) / room[3]
    return a + b + abs(a - b) / 2 + (0.3 if room[0] == room[2] and room[1] == room[3] else 0)


def best_fit(rooms: list[Room], vm: Vm) -> Room | None:
    fitting = [room for room in rooms if room[0] >= vm.cores and room[1] >= vm.gib]
    return min(fitting, key=lambda room: waste(room, vm.cores, vm.gib)) if fitting else None


def churn(hosts: list[tuple[int, int]], groups: list[list[Vm]], *, sample: int = 0, seed: int = 0) -> float:
    """The share of core-hours that found no place, of all that came after the first `HOURS`."""
    rooms, random = [[c, g, c, g] for c, g in hosts], Random(seed)
    ends: list[tuple[float, int, Room, Vm]] = []
    asked = refused = 0.0
    for number, vm in enumerate(vm for group in groups for vm in group):
        while ends and ends[0][0] <= vm.at_h:
            _, _, room, gone = heapq.heappop(ends)
            room[0] += gone.cores
            room[1] += gone.gib
        room = best_fit(random.sample(rooms, min(sample, len(rooms))), vm) if sample else None
        room = room or best_fit(rooms, vm)
        if vm.at_h > HOURS:
            asked += vm.core_h
            refused += vm.core_h if room is None else 0.0
        if room is not None:
            room[0] -= vm.cores
            room[1] -= vm.gib
            heapq.heappush(ends, (vm.at_h + vm.life_h, number, room, vm))
    return refused / asked
