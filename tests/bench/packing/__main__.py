"""How well VMs are packed, and how that grows: python -m tests.bench.packing churn | crowd | scale [--seeds N] …

churn  rejected core-hours at 95 % load through the protocol, beside who knows everything, over paired seeds
crowd  the same with 20 clients at a time and 5 % loss; conflicts at confirm at 90 % load
scale  offers a pledge, time to decide and what is rejected, from 100 to 10,000 hosts, nearly full and nearly empty

Every figure stands beside its goal. A realm is filled by best fit, as it would be after days, before it is asked.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import chain
from math import log
from pathlib import Path
from random import Random
from statistics import fmean, median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from matcher.scheduler.outcomes import Placed
from tests.bench.packing.central import churn, tight
from tests.bench.packing.realm import Realm, Told
from tests.bench.packing.workload import HOURS, Vm, arrivals, fleet, rate_h

BEGIN_H = HOURS - 5  # the protocol takes over
CROWD = 20
WITHIN_S = 0.01  # a crowd comes within so long
BLOCK = 100  # hosts of which a large realm is filled, one such block after another
BLOCKS = 10  # different ones

Shapes = list[tuple[int, int]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.packing", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["churn", "crowd", "scale"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--hosts", type=int, nargs="*", default=[])
    parser.add_argument("--hours", type=float, default=40.0, help="counted")
    parser.add_argument("--pledges", type=int, default=300, help="for scale, at each size")
    parser.add_argument("--loss", type=float, default=0.0, help="for scale")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    if options.what == "churn":
        _churn(seeds, options.hosts or [100], options.hours)
    elif options.what == "crowd":
        _crowd(seeds, options.hosts or [100], options.hours)
    else:
        _scale(options.hosts or [100, 300, 1000, 3000, 10_000], options.pledges, options.loss)
    return 0


# ---- packing


def _churn(seeds: range, sizes: Sequence[int], hours: float) -> None:
    for hosts in sizes:
        rows = []
        for seed in seeds:
            shapes, groups = _asked(seed, hosts, 0.95, 1, HOURS + hours)
            best, sampled = _central(shapes, groups), _central(shapes, groups, sample=10)
            told = _through(shapes, groups, seed)
            rows.append((best, sampled, _rejected(told)))
            _row(seed, hosts, best, told)
        _sums(rows, "1.10")


def _crowd(seeds: range, sizes: Sequence[int], hours: float) -> None:
    for hosts in sizes:
        rows, confirms, conflicts = [], 0, 0
        for seed in seeds:
            shapes, groups = _asked(seed, hosts, 0.95, CROWD, HOURS + hours)
            best, sampled = _central(shapes, groups), _central(shapes, groups, sample=10)
            told = _through(shapes, groups, seed, loss=0.05)
            rows.append((best, sampled, _rejected(told)))
            _row(seed, hosts, best, told)
            shapes, groups = _asked(seed, hosts, 0.9, CROWD, HOURS + hours / 4)
            told = _through(shapes, groups, seed)
            confirms, conflicts = confirms + sum(t.confirms for t in told), conflicts + sum(t.conflicts for t in told)
        _sums(rows, "1.25")
        print(f"conflicts at confirm, 90 % load, {CROWD} clients: {conflicts} of {confirms} (goal: 2 %)")


def _asked(seed: int, hosts: int, load: float, together: int, hours: float) -> tuple[Shapes, list[list[Vm]]]:
    random = Random(seed)
    shapes = fleet(hosts, random)
    return shapes, list(arrivals(rate_h(shapes, load, random), hours, together, random))


def _central(shapes: Shapes, groups: list[list[Vm]], sample: int = 0) -> float:
    return churn(shapes, chain(*groups), from_h=HOURS, sample=sample).share


def _through(shapes: Shapes, groups: list[list[Vm]], seed: int, loss: float = 0.0) -> list[Told]:
    before = [group for group in groups if group[0].at_h <= BEGIN_H]
    realm = Realm(shapes, seed=seed, loss=loss)
    realm.settle(churn(shapes, chain(*before), from_h=HOURS).there, before[-1][0].at_h)
    told: list[Told] = []
    for group in groups[len(before) :]:
        told += realm.place(group, WITHIN_S if len(group) > 1 else 0.0)
    return told


def _rejected(told: Sequence[Told]) -> float:
    counted = [each for each in told if each.vm.at_h > HOURS]
    lost = sum(each.vm.core_h for each in counted if not isinstance(each.outcome, Placed))
    return lost / sum(each.vm.core_h for each in counted)


def _row(seed: int, hosts: int, best: float, told: Sequence[Told]) -> None:
    print(
        f"seed {seed:3}  {hosts} hosts  omniscient {best:.4f}  ours {_rejected(told):.4f}  {_figures(told)}", flush=True
    )


def _figures(told: Sequence[Told]) -> str:
    offers = [count for each in told for count in each.offers.values()]
    decided = [each.decided_s * 1000 for each in told if each.decided_s is not None]
    confirms, conflicts = sum(each.confirms for each in told), sum(each.conflicts for each in told)
    heard = f"offers mean {fmean(offers or [0]):5.1f} p99 {_p99(offers):5.1f} max {max(offers, default=0):4}"
    took = f"decided ms p50 {median(decided):6.1f} p99 {_p99(decided):6.1f}"
    return f"{heard}  {took}  conflicts {conflicts}/{confirms}"


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100)[98] if len(values) > 1 else float("nan")


def _sums(rows: Sequence[tuple[float, float, float]], goal: str) -> None:
    best, sampled, ours = (fmean(column) for column in zip(*rows, strict=True))
    shares = f"omniscient {best:.4f}  sample of 10 {sampled:.4f}  ours {ours:.4f}"
    print(f"rejected core-hours, mean of {len(rows)} seeds: {shares}")
    print(f"ours / omniscient {ours / best:.3f} (goal: {goal})   ours / sample of 10 {ours / sampled:.3f} (goal: 0.5)")


# ---- scale


def _scale(sizes: Sequence[int], pledges: int, loss: float) -> None:
    for load in (0.95, 0.05):
        times = []
        for hosts in sizes:
            begun_s = time.perf_counter()
            realm, vms, every = _large(hosts, load, pledges, loss)
            told = [each for vm in vms for each in realm.place([vm])]
            times.append((hosts, median(each.decided_s for each in told if each.decided_s is not None)))
            rejected = _lost(told) / sum(vm.core_h for vm in vms)
            print(
                f"load {load:.2f}  hosts {hosts:6}  {_figures(told)}  rejected {rejected:.4f}, "
                f"hearing every offer {every:.4f}  ({time.perf_counter() - begun_s:.0f} s)",
                flush=True,
            )
        print(f"goals: offers 64; decided grows with exponent {_exponent(times):.3f} (goal: 0.15)")


def _large(hosts: int, load: float, pledges: int, loss: float) -> tuple[Realm, list[Vm], float]:
    """A realm filled in blocks, the VMs that come next, and what is rejected where every offer is heard."""
    blocks = []
    for seed in range(min(BLOCKS, hosts // BLOCK)):
        shapes, groups = _asked(seed, BLOCK, load, 1, HOURS)
        blocks.append((shapes, churn(shapes, chain(*groups), from_h=HOURS).there))
    shapes, there = [], []
    for block in range(hosts // BLOCK):
        theirs, vms = blocks[block % len(blocks)]
        there += [(len(shapes) + number, vm) for number, vm in vms]
        shapes += theirs
    random = Random(hosts)
    coming = arrivals(rate_h(shapes, load, random), float("inf"), 1, random)
    next_vms = [_later(next(coming)[0]) for _ in range(pledges)]
    realm = Realm(shapes, seed=hosts, loss=loss)
    realm.settle(there, HOURS)
    return realm, next_vms, churn(shapes, next_vms, from_h=HOURS, waste=tight, there=there).share


def _later(vm: Vm) -> Vm:
    return Vm(HOURS + vm.at_h, vm.cores, vm.gib, vm.life_h)


def _lost(told: Sequence[Told]) -> float:
    return sum(each.vm.core_h for each in told if not isinstance(each.outcome, Placed))


def _exponent(points: Sequence[tuple[int, float]]) -> float:
    """Of the power law that fits best, by least squares of logarithms."""
    if len(points) < 2:
        return float("nan")
    x, y = [log(hosts) for hosts, _ in points], [log(seconds) for _, seconds in points]
    mean_x, mean_y = fmean(x), fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


if __name__ == "__main__":
    sys.exit(main())
