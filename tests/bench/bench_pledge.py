"""How long until every host of a link has offered, against the least that any daemon would need, in turns.

    sudo .venv/bin/python -m tests.bench.bench_pledge [-n 3 -n 20] [-r 100]

Real hosts of the lab: each with its own network, libvirtd and atomd. Beside each atomd stands a floor daemon
(gossip/floor_daemon.py) that answers anything, signed or not. One process asks all of them in turns, until all have
answered; a turn in which one stays silent for a second is counted as missed. Prints a table and judges nothing.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from time import sleep

from tests.bench.lab import EXAMPLES, LAB, ROOT, lab, machine, raised

HERE = Path(__file__).resolve().parent
GOAL = 3.0
PYTHON = str(ROOT / ".venv/bin/python")
SETTLE_S = 5.0


@contextmanager
def floor_beside(hosts: list[dict[str, str]]) -> Iterator[None]:
    """A floor daemon in every host, for the time of one measurement."""
    started = []
    try:
        for host in hosts:
            words = [PYTHON, str(HERE / "gossip/floor_daemon.py"), "--name", host["name"], "--ip", host["address"]]
            started.append(subprocess.Popen([LAB, "exec", host["name"], "--", *words], stdout=subprocess.PIPE))
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def measure(count: int, rounds: int) -> dict[str, list[float | None]]:
    os.environ["ATOMOS_LAB"] = f"bench{count}"
    with raised(count):
        status = json.loads(lab("status", "--json").stdout)["hosts"]
        hosts = [host for host in status if host["name"] != "client"]
        client = next(host["address"] for host in status if host["name"] == "client")
        with floor_beside(hosts):
            sleep(SETTLE_S)
            specfile = str(EXAMPLES / "helium.json")
            words = ["--hosts", str(len(hosts)), "--rounds", str(rounds), "--ip", client, "--specfile", specfile]
            asked = lab("exec", "client", "--", PYTHON, str(HERE / "gossip/asker.py"), *words)
        took: dict[str, list[float | None]] = json.loads(asked.stdout)
        return took


def show(count: int, took: dict[str, list[float | None]]) -> None:
    print(f"{f'{count} hosts':<15} {'p50':>7} {'p99':>7} {'max':>7} {'missed':>7}   milliseconds, {machine()}")
    middle = {}
    for kind, every in took.items():
        times = sorted(time_ms for time_ms in every if time_ms is not None)
        cuts = quantiles(times, n=100, method="inclusive")
        middle[kind] = cuts[49]
        print(f"{kind:<15} {cuts[49]:7.2f} {cuts[98]:7.2f} {times[-1]:7.2f} {len(every) - len(times):7}")
    for kind in ("pledge, dry", "pledge, wet"):
        print(f"{kind}: {middle[kind] / middle['floor, signed']:.2f} x the signed floor (goal: {GOAL:g} at most)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, action="append", metavar="HOSTS", help="how many hosts (3, then 20)")
    parser.add_argument("-r", type=int, default=100, metavar="ROUNDS", help="turns of each kind (100)")
    options = parser.parse_args()
    for count in options.n or (3, 20):
        show(count, measure(count, options.r))


if __name__ == "__main__":
    main()
