"""How well VMs are packed, and how that grows: python -m tests.bench.packing churn | crowd | scale

churn  rejected core-hours at 95 % load, through the protocol, beside who knows everything, over paired seeds
crowd  the same with 20 clients at a time, and with loss; conflicts at confirm
scale  offers a pledge and time to decide, from 100 to 10,000 hosts
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import fmean, median

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from matcher.scheduler.outcomes import Placed
from tests.bench.packing import central
from tests.bench.packing.realm import Realm, Told
from tests.bench.packing.workload import HOURS, Vm, arrivals, fleet, rate_h


def groups_of(seed: int, hosts: int, load: float, together: int, hours: float) -> tuple[list[tuple[int, int]], list[list[Vm]]]:
    random = Random(seed)
    shapes = fleet(hosts, random)
    return shapes, list(arrivals(rate_h(shapes, load, random), hours, together, random))


def through_the_protocol(shapes, groups, *, seed, loss=0.0, best_first=True, together=1):
    realm = Realm(shapes, seed=seed, loss=loss, best_first=best_first)
    told: list[Told] = []
    for group in groups:
        told += realm.place(group, 0.01 if together > 1 else 0.0)
    return told


def rejected(told: Sequence[Told]) -> float:
    counted = [each for each in told if each.vm.at_h > HOURS]
    return sum(each.vm.core_h for each in counted if not isinstance(each.outcome, Placed)) / sum(
        each.vm.core_h for each in counted
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--load", type=float, default=.95)
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--all", action="store_true")
    o = parser.parse_args()
    for seed in range(o.seeds):
        shapes, groups = groups_of(seed, o.hosts, o.load, o.together, 2 * HOURS)
        t = time.perf_counter()
        best = central.churn(shapes, groups)
        print("seed", seed, "n", sum(map(len, groups)), "omniscient", round(best, 4), "sample10", round(central.churn(shapes, groups, sample=10), 4), round(time.perf_counter() - t, 1), flush=True)
        t = time.perf_counter()
        told = through_the_protocol(shapes, groups, seed=seed, loss=o.loss, best_first=not o.all, together=o.together)
        print("   ours", round(rejected(told), 4), "offers", round(fmean(max(x.offers.values(), default=0) for x in told), 1),
              "max", max(max(x.offers.values(), default=0) for x in told),
              "decided ms", round(median(x.decided_s * 1000 for x in told if x.decided_s), 1), "conflicts", sum(x.conflicts for x in told), "/", sum(x.confirms for x in told), round(time.perf_counter() - t, 1), flush=True)


if __name__ == "__main__":
    main()
