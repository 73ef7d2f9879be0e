"""Online threads that no VM may have: isolated at boot, or kept from VMs by cgroups.

Sources: Documentation/ABI/testing/sysfs-devices-system-cpu (`isolated`), Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/cpusets.rst. libvirt puts VMs below `machine.slice`, or `machine` where there is no systemd; what a parent may
not use, none of them may. A container sees its own limits at the root.
"""

from collections.abc import Collection

from atomd.inventory import cpuset
from atomd.inventory.facts import Withheld
from atomd.inventory.tree import Tree

ISOLATED = "sys/devices/system/cpu/isolated"
_CGROUP = "sys/fs/cgroup"
_ALLOWED = (
    f"{_CGROUP}/machine.slice/cpuset.cpus.effective",
    f"{_CGROUP}/cpuset.cpus.effective",
    f"{_CGROUP}/cpuset/machine.slice/cpuset.effective_cpus",
    f"{_CGROUP}/cpuset/machine/cpuset.effective_cpus",
    f"{_CGROUP}/cpuset/cpuset.effective_cpus",
)


def read_withheld(tree: Tree, online: Collection[int]) -> tuple[Withheld, ...]:
    """Each thread once, by the first reason."""
    isolated = cpuset.parse_list(tree.text(ISOLATED) or "") or frozenset()
    allowed, source = _allowed(tree)
    forbidden = frozenset(online) - allowed if allowed else frozenset()
    found = (
        (isolated & frozenset(online), f"isolated at boot ({ISOLATED})"),
        (forbidden - isolated, f"kept from VMs by cgroups ({source})"),
    )
    return tuple(Withheld(tuple(sorted(threads)), why) for threads, why in found if threads)


def _allowed(tree: Tree) -> tuple[frozenset[int], str]:
    """What VMs may use at the most, and who says so; empty where nobody does."""
    for path in _ALLOWED:
        if listed := cpuset.parse_list(tree.text(path) or ""):
            return listed, path
    return frozenset(), ""
