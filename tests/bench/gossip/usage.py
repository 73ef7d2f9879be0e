"""What processes take, and that they get it: time on a core to the nanosecond, and memory, each shared page divided by
its users."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

AUTOGROUP_NICE = -15


def come_first() -> None:
    """Before all other sessions of this machine. Where the kernel groups processes by session (sched(7), autogroups),
    fifty hosts would share what one shell beside them gets, and to be nice counts within a session alone."""
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(AUTOGROUP_NICE))


def cpu_s(pids: Iterable[int]) -> float:
    """On a core, of all their threads that live; ticks would miss most of what runs for microseconds."""
    return sum(_cpu_ns(pid) for pid in pids) / 1e9


def pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _cpu_ns(pid: int) -> int:
    """schedstat, first figure (the kernel's Documentation/scheduler/sched-stats.rst)."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
    return total
