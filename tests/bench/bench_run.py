"""What AtomOS adds to libvirt: `electros run --wait running` against `virsh create` of the same XML, in turns.

    sudo .venv/bin/python -m tests.bench.bench_run [-n 10]

The XML is what libvirt made of a VM of ours, with its volume, and it is created on the host that had been chosen for
it. Both are typed the same way, through `lab exec`, whose own cost is shown as well and counts on both sides. What is
created is removed again after each turn, and that is not timed. Prints a table and judges nothing.
"""

import argparse
import json
import subprocess
from collections.abc import Callable
from statistics import median
from time import perf_counter, sleep

from tests.bench.lab import EXAMPLES, LAB, lab, machine, raised

GOAL = 1.8
NAME = "bench"
SETTLE_S = 0.3  # after a removal: libvirt's own clean-up is nobody's start
Side = tuple[Callable[[], object], Callable[[], object]]  # what is timed, and what undoes it
RUN = ("electros", "run", str(EXAMPLES / "helium.json"), "--volumes", str(EXAMPLES / "volumes.json"))


def run() -> dict[str, str]:
    done = lab("exec", "client", "--", *RUN, "--name", NAME, "--allow-emulation", "--wait", "running", "-o", "json")
    vm: dict[str, str] = json.loads(done.stdout)["vm"]
    return vm


def remove() -> None:
    lab("exec", "client", "--", "electros", "rm", "--force", NAME)


def create(host: str, xml: bytes) -> None:
    """By standard input: a host of the lab has folders of its own."""
    words = [str(LAB), "exec", host, "--", "virsh", "create", "/dev/stdin"]
    subprocess.run(words, input=xml, check=True, stdout=subprocess.DEVNULL)


def timed(work: Callable[[], object], undo: Callable[[], object]) -> float:
    begun_s = perf_counter()
    work()
    took_s = perf_counter() - begun_s
    undo()
    sleep(SETTLE_S)
    return took_s


def measure(rounds: int) -> dict[str, list[float]]:
    vm = run()
    host, domain = vm["host"], vm["domain"]
    xml = lab("exec", host, "--", "virsh", "dumpxml", "--inactive", domain).stdout
    remove()
    sides: dict[str, Side] = {
        "electros run": (run, remove),
        "virsh create": (lambda: create(host, xml), lambda: lab("exec", host, "--", "virsh", "destroy", domain)),
        "lab exec true": (lambda: lab("exec", "client", "--", "true"), lambda: None),
    }
    took: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in (*sides,) if number % 2 == 0 else reversed((*sides,)):
            took[side].append(timed(*sides[side]))
    return took


def show(took: dict[str, list[float]]) -> None:
    print(f"{'':<15} {'median':>8} {'min':>8} {'max':>8}   seconds, {len(took['electros run'])} turns; {machine()}")
    for side, times in took.items():
        print(f"{side:<15} {median(times):8.3f} {min(times):8.3f} {max(times):8.3f}")
    ours, theirs, entering = (median(times) for times in took.values())
    ratio, inside = ours / theirs, (ours - entering) / (theirs - entering)
    print(f"ratio {ratio:.2f} (goal: {GOAL} at most); {inside:.2f} without `lab exec`")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=10, metavar="TURNS", help="how often each side has its turn (10)")
    options = parser.parse_args()
    with raised(3):
        show(measure(options.n))


if __name__ == "__main__":
    main()
