"""How long a machine's inventory takes, printed and never asserted: `python -m tests.bench.bench_inventory`.

A machine as large as any that was ever recorded: 256 threads on 64 nodes,
with four caches for each thread and 128 devices. The floor reads the same files and makes nothing of them.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from atomd.inventory.reading import read_inventory, read_inventory_of
from atomd.inventory.recording import Watched
from atomd.inventory.tree import Tree
from tests.bench.lab import machine

THREADS, NODES, DEVICES = 256, 64, 128
ROUNDS = 7
CPU, NODE, PCI = "sys/devices/system/cpu", "sys/devices/system/node", "sys/devices/pci0000:00"


def large(root: Path) -> Path:
    """Two threads a core, four threads a node."""
    files = {f"{CPU}/online": f"0-{THREADS - 1}", "proc/meminfo": f"MemTotal: {NODES << 24} kB\n"}
    files["proc/cpuinfo"] = "".join(
        f"processor\t: {cpu}\nmodel name\t: CPU\nflags\t\t: lm {' '.join(f'flag{n}' for n in range(120))}\n\n"
        for cpu in range(THREADS)
    )
    for cpu in range(THREADS):
        core, node = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}", f"{cpu // 4 * 4}-{cpu // 4 * 4 + 3}"
        topology = {
            "core_cpus_list": core,
            "package_cpus_list": node,
            "physical_package_id": str(cpu // 4),
            "die_id": "0",
        }
        files |= {f"{CPU}/cpu{cpu}/topology/{name}": text for name, text in topology.items()}
        files[f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq"] = "3000000"
        for index, (level, kind, shared) in enumerate(
            (("1", "Data", core), ("1", "Instruction", core), ("2", "Unified", core), ("3", "Unified", node))
        ):
            cache = {"level": level, "type": kind, "shared_cpu_list": shared, "size": "1024K"}
            files |= {f"{CPU}/cpu{cpu}/cache/index{index}/{name}": text for name, text in cache.items()}
    for number in range(NODES):
        files[f"{NODE}/node{number}/cpulist"] = f"{number * 4}-{number * 4 + 3}"
        files[f"{NODE}/node{number}/meminfo"] = f"Node {number} MemTotal: {1 << 24} kB\n"
        files[f"{NODE}/node{number}/distance"] = " ".join("10" if n == number else "21" for n in range(NODES))
    for number in range(DEVICES):
        device = f"{PCI}/0000:00:{number // 8:02x}.{number % 8}"
        files |= {
            f"{device}/{name}": text
            for name, text in (("vendor", "0x8086"), ("device", "0x1572"), ("class", "0x020000"))
        }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def took_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        begun_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun_s)
    return statistics.median(times) * 1e3


def read_all(root: Path, paths: list[str]) -> None:
    tree = Tree(root)
    for path in paths:
        tree.data(path)


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        root = large(Path(folder))
        watched = Watched(root)
        read_inventory_of(watched, is_this_machine=False)
        ours_ms, floor_ms = took_ms(lambda: read_inventory(root)), took_ms(lambda: read_all(root, list(watched.files)))
    print(f"{THREADS} threads, {NODES} nodes, {DEVICES} devices: {ours_ms:.0f} ms, goal 1000 ms")
    print(f"its {len(watched.files)} files read and no more: {floor_ms:.0f} ms, ratio {ours_ms / floor_ms:.1f}")


if __name__ == "__main__":
    main()
