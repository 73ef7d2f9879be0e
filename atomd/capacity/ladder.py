"""What a hole is worth to those who are still to come: a *ladder* of VMs, counted. Pure.

A VM that sits down takes more than its own size: what is left beside it may be too narrow for a large VM, or have cores
and no RAM. So a hole of free units and MiB is judged by the VMs of usual sizes that it could take, one size at a time:

    worth = sum over the rungs (cores, MiB) of  cores * min(units // cores, mib // MiB)

and a VM by what of that it takes away. The best hole loses the VM's own worth and nothing more. This is the descent of
fragmentation of Weng et al., "Beware of Fragmentation", USENIX ATC 2023, who take the sizes and how often each comes
from the tasks that they have seen; hosts that never met have seen none, so every rung counts alike but for its cores.

The rungs are powers of two, 1 to 32 cores with 1 to 8 GiB for each, as clouds sell them, and charged as ours are.
Nothing above: a hole kept for a size that nobody asks for is a hole wasted.
"""

from functools import lru_cache

from atomd.capacity.occupancy import charged_mib

CORES = (1, 2, 4, 8, 16, 32)
GIB_PER_CORE = (1, 2, 4, 8)
HOLES_MAX = 4096  # of which the worth is kept

_RUNGS = tuple((cores, tuple(charged_mib(cores * gib * 1024) for gib in GIB_PER_CORE)) for cores in CORES)


@lru_cache(maxsize=HOLES_MAX)
def worth(units: int, mib: int) -> int:
    """Of a hole, in cores of whole VMs; a larger hole is worth no less, and two are worth no more than both as one."""
    total = 0
    for cores, sizes in _RUNGS:
        if (by_units := units // cores) == 0:
            break
        total += cores * sum(min(by_units, mib // size) for size in sizes)
    return total


def kept(slots: int, mib: int, open_units: int, free_mib: int) -> float:
    """In (0, 1]: the VM's own worth as a share of what its hole loses. 1: nobody else is worse off for it."""
    own = max(1, worth(slots, mib))  # the least that any VM on the ladder is worth
    return own / max(own, worth(open_units, free_mib) - worth(open_units - slots, free_mib - mib))
