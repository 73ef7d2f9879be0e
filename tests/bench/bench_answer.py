"""What one question costs one host on a core, ours beside the signed floor: CPU, and no waiting for anybody.

    sudo .venv/bin/python -m tests.bench.bench_answer [-n 12] [--questions 100] [--rounds 7]

Real daemons in namespaces, as in `tests.bench.gossip`, asked in turns, and each question only once the last one was
answered by all: so a daemon has slept, and others have used the caches meanwhile, as in life. What they take at rest is
measured between the rounds and not counted. Prints microseconds, medians over rounds, and the ratio; judges nothing.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.bench.gossip.floor import Floor
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.ours import CLIENT_PLACES, Ours
from tests.bench.gossip.system import Hub, System
from tests.bench.gossip.usage import come_first, cpu_s
from tests.bench.gossip.way import Way

SETTLE_S = 3.0
WARM_UP = 50
PAUSE_S = 0.02
REST_S = 3.0


def resting_share(system: System) -> float:
    before_s, begun_s = cpu_s(system.pids), time.monotonic()
    time.sleep(REST_S)
    return (cpu_s(system.pids) - before_s) / (time.monotonic() - begun_s)


def cost_us(system: System, way: Way, questions: int) -> float:
    """Of one question, at one host."""
    at_rest = resting_share(system)
    before_s, begun_s = cpu_s(system.pids), time.monotonic()
    for _ in range(questions):
        way.ask()
        time.sleep(PAUSE_S)
    used_s = cpu_s(system.pids) - before_s - at_rest * (time.monotonic() - begun_s)
    return used_s / questions / system.hosts * 1e6


def measure(hosts: int, questions: int, rounds: int) -> dict[str, list[float]]:
    costs: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="answer-bench-", dir="/var/tmp") as folder,
        NetLab(hosts + CLIENT_PLACES) as lab,
    ):
        systems: list[System] = [Ours(lab, Hub(), hosts, Path(folder)), Floor(lab, Hub(), hosts)]
        for system in systems:
            system.raise_all()
        time.sleep(SETTLE_S)
        asked = [(system, way) for system in systems for way in system.ways()]
        for _ in range(WARM_UP):
            for _, way in asked:
                way.ask()
                time.sleep(PAUSE_S)
        for _ in range(rounds):
            for system, way in asked:
                costs.setdefault(way.name, []).append(cost_us(system, way, questions))
        for _, way in asked:
            way.close()
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=12, metavar="HOSTS")
    parser.add_argument("--questions", type=int, default=100, help="in a round, to each")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    come_first()
    costs = measure(options.n, options.questions, options.rounds)
    for name, each in costs.items():
        ratio = median(each) / median(costs["signed floor"])
        print(f"{name:14} {median(each):7.0f} us   ({min(each):.0f} to {max(each):.0f})   {ratio:5.2f} signed floors")


if __name__ == "__main__":
    main()
