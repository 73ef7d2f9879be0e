"""A guest's NUMA cells: its vCPUs and RAM as its claim has them on the host's nodes. Pure.

A guest that is told nothing takes all RAM for equally near, and its scheduler moves tasks away from their memory. What
it is told must be true, though: where the cells could not be (see `cells_of`), there are none, and the VM starts all
the same.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd


@dataclass(frozen=True, slots=True)
class Cell:
    """The vCPUs `first` to `first + vcpus - 1`, and RAM on the host's node `node`. Without vCPUs, it is RAM alone."""

    node: int
    first: int
    vcpus: int
    ram_mib: int


def by_node(threads: Sequence[int], node_of: Mapping[int, int]) -> tuple[int, ...]:
    """A cell's vCPUs must stand side by side, since guest sockets are runs of vCPUs. A core's threads are of one node:
    the sort is stable, so that they stay together."""
    return tuple(sorted(threads, key=lambda thread: node_of.get(thread, -1)))


def cells_of(
    threads: Sequence[int], node_of: Mapping[int, int], charged_mib: Sequence[tuple[int, int]], ram_mib: int
) -> tuple[Cell, ...]:
    """`threads` as `by_node` gave them, one for each vCPU; `charged_mib` by node, with QEMU's own; `ram_mib` is the
    guest's. A node with RAM alone becomes a cell without vCPUs.

    Nothing for one node, where there is nothing to tell; for a thread whose node isn't known; for vCPUs on a node that
    gives no RAM, as libvirt 9 makes a memory backend of 0 bytes for such a cell, which QEMU refuses; and for a share of
    RAM below one MiB, which would be the same.
    """
    vcpus = Counter(node_of.get(thread, -1) for thread in threads)
    shares = _shares(charged_mib, ram_mib)
    if len(shares) < 2 or not vcpus.keys() <= shares.keys() or not all(shares.values()):
        return ()
    cells, first = [], 0
    for node in sorted(shares, key=lambda node: (not vcpus[node], node)):
        cells.append(Cell(node, first, vcpus[node], shares[node]))
        first += vcpus[node]
    return tuple(cells)


def sockets(cells: Sequence[Cell], threads_per_core: int) -> int:
    """As few as keep each socket within one cell: guests take a socket's last-level cache for shared, and Linux warns
    where a cache lies in two. Sockets are all of one size; cells of 3 and 1 cores give 4 of one."""
    cores = [cell.vcpus // threads_per_core for cell in cells if cell.vcpus]
    return sum(cores) // gcd(*cores) if cores else 1


def _shares(charged_mib: Sequence[tuple[int, int]], ram_mib: int) -> dict[int, int]:
    """In the proportions that were charged; what rounding leaves goes to the largest share."""
    total = sum(mib for _, mib in charged_mib)
    shares = {node: ram_mib * mib // total for node, mib in charged_mib if mib}
    if shares:
        shares[max(shares, key=lambda node: (shares[node], -node))] += ram_mib - sum(shares.values())
    return shares
