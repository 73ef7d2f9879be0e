"""python -m tests.sim --seed N: one run, told in a line; with a violation, the events before it, the command of the
smallest run found that has it as well (--shrink TRIALS), and exit code 1.

--seeds M: so many runs, from seed N on, until one has a violation. --volumes: runs about who writes a volume.
"""

import argparse
import sys
import time

from tests.sim.faults import ABOUT_VOLUMES, parse_faults
from tests.sim.images import Stamps
from tests.sim.shrinking import Plan, shrunk
from tests.sim.world import Report, World, about_volumes, planned, violated


def main() -> int:
    options = _options()
    for seed in range(options.seed, options.seed + options.seeds):
        begun_s = time.perf_counter()
        world = _world(options, seed)
        report = world.run()
        _tell(report, time.perf_counter() - begun_s, world.stamps if options.volumes else None)
        if report.violation is not None:
            if options.shrink and not options.volumes:
                _shrink(_plan(options, seed), options.shrink)
            return 1
    return 0


def _plan(options: argparse.Namespace, seed: int) -> Plan:
    return Plan(seed, options.hosts, options.clients, options.pledges, parse_faults(options.faults))


def _shrink(plan: Plan, trials_max: int) -> None:
    print(f"smallest found: {shrunk(plan, violated, trials_max=trials_max).command()}", file=sys.stderr)


def _world(options: argparse.Namespace, seed: int) -> World:
    if options.volumes:
        return about_volumes(seed, f"{ABOUT_VOLUMES},{options.faults}")
    return planned(_plan(options, seed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=_count, default=1)
    parser.add_argument("--volumes", action="store_true", help="hosts, clients and pledges are then given")
    parser.add_argument("--hosts", type=_count, default=3)
    parser.add_argument("--clients", type=_count, default=4)
    parser.add_argument("--pledges", type=_count, default=3000)
    parser.add_argument("--faults", default="", help="such as loss=0.05,crash=0.01; none,loss=0.2 for loss alone")
    parser.add_argument("--shrink", type=int, default=60, help="runs to try, with a violation, for a smaller one")
    options = parser.parse_args()
    try:
        parse_faults(options.faults)
    except ValueError as error:
        parser.error(str(error))
    return options


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _tell(report: Report, took_s: float, stamps: Stamps | None) -> None:
    if report.violation is not None:
        print(f"after these events (seed {report.seed}):", *report.tail, sep="\n  ", file=sys.stderr)
        print(f"violated: {report.violation}", file=sys.stderr)
    written = "" if stamps is None else f"writes {stamps.writes}  takeovers {stamps.takeovers}  "
    print(
        f"seed {report.seed}  trace {report.trace_hash}  events {report.events}  pledges {report.pledges}  "
        f"placements {report.placements}  conflicts {report.conflicts}  {written}"
        f"{report.pledges / took_s:.0f} pledges/s"
    )


if __name__ == "__main__":
    sys.exit(main())
