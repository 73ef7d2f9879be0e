"""Online threads that no VM may have: isolated at boot, or kept from VMs by cgroups.

Sources: Documentation/ABI/testing/sysfs-devices-system-cpu (`isolated`), Documentation/admin-guide/cgroup-v2.rst and
cgroup-v1/cpusets.rst. libvirt puts VMs below `machine.slice`, or `machine` where there is no systemd; what a parent may
not use, none of them may. A container sees its own limits at the root.
"""

import re
from collections.abc import Collection

from atomd.inventory import cpuset
from atomd.inventory.facts import Withheld
from atomd.inventory.tree import Tree

CMDLINE = "proc/cmdline"
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
    isolated, isolating = _isolated(tree)
    allowed, source = _allowed(tree)
    forbidden = frozenset(online) - allowed if allowed else frozenset()
    found = (
        (isolated & frozenset(online), f"isolated at boot ({isolating})"),
        (forbidden - isolated, f"kept from VMs by cgroups ({source})"),
    )
    return tuple(Withheld(tuple(sorted(threads)), why) for threads, why in found if threads)


def _isolated(tree: Tree) -> tuple[frozenset[int], str]:
    """The kernel's list, else what it was told at boot: old kernels have no list."""
    text = tree.text(ISOLATED)
    listed = None if text is None else cpuset.parse_list(text)
    return (_at_boot(tree), CMDLINE) if listed is None else (listed, ISOLATED)


def _at_boot(tree: Tree) -> frozenset[int]:
    """`isolcpus=[flags,]list` (Documentation/admin-guide/kernel-parameters.txt): only "domain" among flags isolates."""
    found = re.search(r"(?:^|\s)isolcpus=((?:[a-z_]+,)*)([0-9,-]+)(?:\s|$)", tree.text(CMDLINE) or "")
    if not found or (found[1] and "domain" not in found[1].split(",")):
        return frozenset()
    return cpuset.parse_list(found[2]) or frozenset()


def _allowed(tree: Tree) -> tuple[frozenset[int], str]:
    """What VMs may use at the most, and who says so; empty where nobody does."""
    for path in _ALLOWED:
        if listed := cpuset.parse_list(tree.text(path) or ""):
            return listed, path
    return frozenset(), ""
