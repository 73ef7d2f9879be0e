"""What could not be read of a machine, and the file that would have told it. Pure."""

from collections.abc import Iterator

from atomd.inventory.cpuinfo import UNKNOWN
from atomd.inventory.facts import Cpu, Memory, Unknown
from atomd.inventory.paths import CPU_DIR, EDAC_DIR, NODE_DIR


def unknown_facts(arch: str, cpu: Cpu, memory: Memory) -> tuple[Unknown, ...]:
    """The first file alone where each thread has one of its own."""
    known = (
        (arch != UNKNOWN, "arch", "proc/sys/kernel/arch"),
        (cpu.model != UNKNOWN, "cpu.model", "proc/cpuinfo"),
        (bool(cpu.flags), "cpu.flags", "proc/cpuinfo"),
        (bool(cpu.cores), "cpu.cores", f"{CPU_DIR}/online"),
        (bool(cpu.caches), "cpu.caches", f"{CPU_DIR}/cpu{_first(cpu)}/cache"),
        (memory.total_mib > 0, "memory.total_mib", "proc/meminfo"),
        (memory.ecc is not None, "memory.ecc", EDAC_DIR),
    )
    missing = (Unknown(fact, path) for is_known, fact, path in known if not is_known)
    return (*missing, *_frequencies(cpu), *_shares(memory))


def _first(cpu: Cpu) -> int:
    return cpu.cores[0].threads[0] if cpu.cores else 0


def _frequencies(cpu: Cpu) -> Iterator[Unknown]:
    untold = next((core.threads[0] for core in cpu.cores if core.max_mhz is None), None)
    if untold is not None:
        yield Unknown("cpu.cores.max_mhz", f"{CPU_DIR}/cpu{untold}/cpufreq/cpuinfo_max_freq")


def _shares(memory: Memory) -> Iterator[Unknown]:
    for node in memory.numa if len(memory.numa) > 1 else ():
        if node.total_mib == 0:
            yield Unknown(f"memory.numa.{node.number}.total_mib", f"{NODE_DIR}/node{node.number}/meminfo")
