"""python -m tests.sim --seed N: one run, told in a line; with a violation, the events before it, and exit code 1."""

import argparse
import sys
import time

from tests.sim.faults import parse_faults
from tests.sim.world import Report, World


def main() -> int:
    options = _options()
    begun_s = time.perf_counter()
    report = World(
        options.seed, hosts=options.hosts, clients=options.clients, pledges=options.pledges, faults=options.faults
    ).run()
    took_s = time.perf_counter() - begun_s
    _tell(report, took_s)
    return 0 if report.violation is None else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=_count, default=3)
    parser.add_argument("--clients", type=_count, default=4)
    parser.add_argument("--pledges", type=_count, default=3000)
    parser.add_argument("--faults", default="", help="such as loss=0.05,crash=0.01; none,loss=0.2 for loss alone")
    options = parser.parse_args()
    try:
        options.faults = parse_faults(options.faults)
    except ValueError as error:
        parser.error(str(error))
    return options


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _tell(report: Report, took_s: float) -> None:
    if report.violation is not None:
        print(f"after these events (seed {report.seed}):", *report.tail, sep="\n  ", file=sys.stderr)
        print(f"violated: {report.violation}", file=sys.stderr)
    print(
        f"seed {report.seed}  trace {report.trace_hash}  events {report.events}  pledges {report.pledges}  "
        f"placements {report.placements}  conflicts {report.conflicts}  {report.pledges / took_s:.0f} pledges/s"
    )


if __name__ == "__main__":
    sys.exit(main())
