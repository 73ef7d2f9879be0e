"""What the daemons cost a host that has nothing to do: CPU, memory, wake-ups. Goal: under 1 % and 60 MiB.

    sudo .venv/bin/python -m tests.bench.bench_idle [-s 30]

Memory is PSS: what a process has for itself, and its share of what it has in common with others. Hosts on one machine
share much, so a host alone would be between its PSS and its RSS here. Prints a table and judges nothing.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

from tests.bench.lab import lab, machine, raised

CPU_GOAL_PERCENT = 1.0
PSS_GOAL_MIB = 60
SETTLE_S = 5.0  # a daemon that has just started is not idle yet
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    at_s: float
    cpu_s: float
    switches: dict[str, int]  # voluntary, of each thread: each one is a wake-up


def daemons() -> dict[str, int]:
    """Their processes as this machine numbers them."""
    found = {}
    for host in json.loads(lab("status", "--json").stdout)["hosts"]:
        children = Path(f"/proc/{host['pid']}/task/{host['pid']}/children").read_text().split()
        for pid in map(int, children):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            name = next(
                (Path(word.decode()).name for word in words[:2] if word.endswith((b"/atomd", b"/storaged"))), ""
            )
            if name:
                found[f"{host['name']} {name}"] = pid
    return found


def read(pid: int) -> Reading:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    switches = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        switches[task.name] = int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return Reading(perf_counter(), (int(fields[11]) + int(fields[12])) * TICK_S, switches)


def memory_mib(pid: int) -> tuple[float, float]:
    """PSS, and RSS."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return kib["Pss"] / 1024, kib["Rss"] / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-s", type=float, default=30.0, metavar="SECONDS", help="how long to watch (30)")
    options = parser.parse_args()
    with raised(1):
        sleep(SETTLE_S)
        pids = daemons()
        before = {name: read(pid) for name, pid in pids.items()}
        sleep(options.s)
        print(f"{'':<12} {'CPU %':>6} {'wake-ups/s':>10} {'PSS MiB':>8} {'RSS MiB':>8}   {machine()}")
        for name, pid in sorted(pids.items()):
            now, then = read(pid), before[name]
            took_s = now.at_s - then.at_s
            cpu = 100 * (now.cpu_s - then.cpu_s) / took_s
            woken = sum(count - then.switches.get(thread, 0) for thread, count in now.switches.items()) / took_s
            pss_mib, rss_mib = memory_mib(pid)
            print(f"{name:<12} {cpu:6.2f} {woken:10.1f} {pss_mib:8.1f} {rss_mib:8.1f}")
        print(f"goal: under {CPU_GOAL_PERCENT} % CPU and {PSS_GOAL_MIB} MiB PSS for atomd")


if __name__ == "__main__":
    main()
