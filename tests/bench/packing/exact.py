"""The most cores of a batch that these hosts could hold, by a mixed-integer program that HiGHS solves.

A knapsack with many bins and two dimensions. VMs of one size are counted and not named, and hosts of one shape have
their order, or a proof would take for ever.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import highspy

LIMIT_S = 30.0  # for one batch


@dataclass(frozen=True, slots=True)
class Most:
    """No packing has more than `bound` cores; one with `found` is known. Both are one where it `is_proven`."""

    found: float
    bound: float

    @property
    def is_proven(self) -> bool:
        return self.bound - self.found < 0.5  # cores are whole


def most_cores(shapes: Sequence[tuple[int, int]], vms: Sequence[tuple[int, int]], limit_s: float = LIMIT_S) -> Most:
    sizes, hosts = Counter(vms), sorted(shapes)
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("time_limit", limit_s)
    solver.setOptionValue("mip_abs_gap", 0.5)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("threads", 1)
    of = {(size, number): solver.addIntegral(0, count) for size, count in sizes.items() for number in range(len(hosts))}
    for size, count in sizes.items():
        solver.addConstr(solver.qsum(of[size, number] for number in range(len(hosts))) <= count)
    cores_on = [solver.qsum(size[0] * of[size, number] for size in sizes) for number in range(len(hosts))]
    for number, (cores, gib) in enumerate(hosts):
        solver.addConstr(cores_on[number] <= cores)
        solver.addConstr(solver.qsum(size[1] * of[size, number] for size in sizes) <= gib)
        if number and hosts[number - 1] == hosts[number]:
            solver.addConstr(cores_on[number - 1] >= cores_on[number])
    solver.maximize(solver.qsum(size[0] * of[size, number] for size, number in of))
    info = solver.getInfo()
    return Most(info.objective_function_value, min(info.mip_dual_bound, sum(cores for cores, _ in vms)))
