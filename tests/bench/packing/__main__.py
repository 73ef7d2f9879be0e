"""How well VMs are packed, and how that grows: python -m tests.bench.packing churn | crowd | few | many | scale …

churn  rejected core-hours at 95 % load through the protocol, over paired seeds, beside who knows everything (best fit),
       who asks a sample of ten, and who hears every offer
crowd  the same with 20 clients at a time and 5 % loss; conflicts at confirm at 90 % load
few    at most 12 hosts: cores placed of a batch, beside the most that can be; and cores in use hour by hour
many   more seeds or hosts than the protocol has time for, by a model of best-first offers, beside who hears them all
scale  offers a pledge and time to decide through the protocol, from 100 to 10,000 hosts, nearly full and nearly empty

Every figure stands beside its goal. Each contender fills its realm by its own choices, from empty hosts on, for 60
hours before counting begins: no VM lives longer, so that none stands where somebody else has put it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import chain
from math import log
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np

from matcher.scheduler.outcomes import Placed
from tests.bench.packing import central, model
from tests.bench.packing.exact import most_cores
from tests.bench.packing.figures import Report, column, mean, p99, told
from tests.bench.packing.realm import Realm, Told
from tests.bench.packing.workload import HOURS, Vm, arrivals, batch, fleet, rate_h

CROWD = 20
CROWD_H = HOURS - 10  # when it comes, to a realm that hosts have filled by their scores
WITHIN_S = 0.01  # a crowd comes within so long
CONFLICT_SEEDS = 5  # each has a thousand confirms
BLOCK = 100  # hosts of which a large realm is filled, one such block after another
BLOCKS = 10  # different ones
RIVALS_HOSTS = 300  # up to here who knows everything is quick enough to be asked as well
DEMANDS = (0.8, 1.0, 1.2)  # of a batch, of the scarcer of cores and RAM

Shapes = list[tuple[int, int]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.packing", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["churn", "crowd", "few", "many", "scale"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--hosts", type=int, nargs="*", default=[])
    parser.add_argument("--hours", type=float, default=60.0, help="counted")
    parser.add_argument("--load", type=float, default=0.95)
    parser.add_argument("--pledges", type=int, default=300, help="for scale, at each size")
    parser.add_argument("--loss", type=float, default=0.0, help="for scale")
    parser.add_argument("--out", type=Path, help="a file for all figures, JSON")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    report = Report(options.out, **{key: str(value) for key, value in vars(options).items()})
    match options.what:
        case "churn":
            _churn(report, seeds, options.hosts or [100], options.load, options.hours)
        case "crowd":
            _crowd(report, seeds, options.hosts or [100], options.hours)
        case "few":
            _few(report, seeds, options.hosts or [12], options.hours)
        case "many":
            _many(report, seeds, options.hosts or [10_000], options.load, options.hours)
        case "scale":
            _scale(report, options.hosts or [100, 300, 1000, 3000, 10_000], options.pledges, options.loss)
    return 0


# ---- packing


def _churn(report: Report, seeds: range, sizes: Sequence[int], load: float, hours: float) -> None:
    for hosts in sizes:
        rows = []
        for seed in seeds:
            shapes, groups = _asked(seed, hosts, load, 1, HOURS + hours)
            rows.append(
                {"seed": seed, "hosts": hosts, **_beside(shapes, groups, seed), **_through(shapes, groups, seed)}
            )
            report.row(rows[-1])
        _sums(report, rows, "1.10")
        ours = column(rows, "ours")
        report.sums(told("ours / every offer heard", ours, column(rows, "every"), "1.10"),
                    told("ours / the model's", ours, column(rows, "model"), "near to 1"))  # fmt: skip


def _crowd(report: Report, seeds: range, sizes: Sequence[int], hours: float) -> None:
    for hosts in sizes:
        rows, calm = list[dict[str, Any]](), list[dict[str, Any]]()
        for seed in seeds:
            shapes, groups = _asked(seed, hosts, 0.95, CROWD, HOURS + hours)
            crowded = _through(shapes, groups, seed, loss=0.05, begin_h=CROWD_H)
            rows.append({"seed": seed, "hosts": hosts, **_beside(shapes, groups, seed), **crowded})
            report.row(rows[-1])
            if len(calm) >= CONFLICT_SEEDS:
                continue
            shapes, groups = _asked(seed, hosts, 0.9, CROWD, HOURS + hours / 4)
            calm.append({"seed": seed, "load": 0.9, **_through(shapes, groups, seed, begin_h=CROWD_H)})
            report.row(calm[-1])
        _sums(report, rows, "1.25")
        conflicts, confirms = sum(column(calm, "conflicts")), sum(column(calm, "confirms"))
        print(f"conflicts at confirm, 90 % load, {CROWD} clients: {conflicts} of {confirms} (goal: 2 %)", flush=True)


def _asked(seed: int, hosts: int, load: float, together: int, hours: float) -> tuple[Shapes, list[list[Vm]]]:
    random = Random(seed)
    shapes = fleet(hosts, random)
    return shapes, list(arrivals(rate_h(shapes, load, random), hours, together, random))


def _beside(shapes: Shapes, groups: list[list[Vm]], seed: int) -> dict[str, float]:
    vms = list(chain(*groups))
    return {
        "omniscient": central.churn(shapes, vms, from_h=HOURS).share,
        "sample": central.churn(shapes, vms, from_h=HOURS, sample=10, seed=seed).share,
        **_modelled(shapes, vms, seed),
    }


def _modelled(shapes: Shapes, vms: list[Vm], seed: int) -> dict[str, float]:
    return {
        "every": model.churn(shapes, vms, model.all_heard, from_h=HOURS).share,
        "model": model.churn(shapes, vms, model.best_first(np.random.default_rng(seed)), from_h=HOURS).share,
    }


def _through(
    shapes: Shapes, groups: list[list[Vm]], seed: int, *, loss: float = 0.0, begin_h: float = 0.0
) -> dict[str, Any]:
    """Until `begin_h` the model fills the realm, which takes a hundredth of the time."""
    before = [group for group in groups if group[-1].at_h < begin_h]
    realm = Realm(shapes, seed=seed, loss=loss)
    if before:
        choose = model.best_first(np.random.default_rng(seed))
        realm.settle(model.churn(shapes, chain(*before), choose, from_h=HOURS).there, before[-1][-1].at_h)
    counted = []
    for group in groups[len(before) :]:
        one_by_one = realm.place(group, WITHIN_S if len(group) > 1 else 0.0)
        counted += [each for each in one_by_one if each.vm.at_h > HOURS]
    return {"ours": _lost(counted) / sum(each.vm.core_h for each in counted), **_figures(counted)}


def _lost(counted: Sequence[Told]) -> float:
    return sum(each.vm.core_h for each in counted if not isinstance(each.outcome, Placed))


def _figures(counted: Sequence[Told]) -> dict[str, Any]:
    offers = [count for each in counted for count in each.offers.values()]
    decided = [each.decided_s * 1000 for each in counted if each.decided_s is not None]
    return {
        "offers": fmean(offers or [0]),
        "offers_p99": p99(offers),
        "offers_max": max(offers, default=0),
        "decided_ms": median(decided),
        "decided_p99_ms": p99(decided),
        "confirms": sum(each.confirms for each in counted),
        "conflicts": sum(each.conflicts for each in counted),
    }


def _sums(report: Report, rows: Sequence[dict[str, Any]], goal: str) -> None:
    names = ("omniscient", "sample", "every", "ours")
    means = "  ".join(f"{name} {mean(rows, name):.4f}" for name in names)
    print(f"rejected core-hours, mean of {len(rows)} seeds: {means}")
    ours = column(rows, "ours")
    report.sums(told("ours / omniscient", ours, column(rows, "omniscient"), goal),
                told("ours / sample of 10", ours, column(rows, "sample"), "0.5"))  # fmt: skip


# ---- few hosts, exactly


def _few(report: Report, seeds: range, sizes: Sequence[int], hours: float) -> None:
    """A batch: what is placed of it one by one, in the order in which it came, beside the most of it that could be.
    Hour by hour: the cores in use beside the most that could be, of all VMs whose time it is, the rejected ones as
    well, if all could be moved each hour; no scheduler that knew the future could do better than that."""
    for hosts in sizes:
        for demand in DEMANDS:
            rows = [_batch(seed, hosts, demand) for seed in seeds]
            for row in rows:
                report.row(row)
            name = f"cores placed of a batch of {demand:.0%} of the scarcer resource, {hosts} hosts / the most"
            report.sums(told(name, column(rows, "ours"), column(rows, "most"), "at least 0.95"))
        rows = [_hourly(seed, hosts, hours) for seed in seeds]
        for row in rows:
            report.row(row)
        report.sums(told(f"core-hours in use, {hosts} hosts / the most, all moved each hour",
                         column(rows, "ours"), column(rows, "most"), "none"))  # fmt: skip


def _batch(seed: int, hosts: int, demand: float) -> dict[str, Any]:
    random = Random(seed)
    shapes = fleet(hosts, random)
    vms = batch(shapes, demand, random)
    realm = Realm(shapes, seed=seed)
    placed = [each.vm for vm in vms for each in realm.place([vm]) if isinstance(each.outcome, Placed)]
    most = most_cores(shapes, [(vm.cores, vm.gib) for vm in vms])
    ours = sum(vm.cores for vm in placed)
    return {"seed": seed, "vms": len(vms), "ours": ours, "most": most.bound, "is_proven": most.is_proven}


def _hourly(seed: int, hosts: int, hours: float) -> dict[str, Any]:
    shapes, groups = _asked(seed, hosts, 0.95, 1, HOURS + hours)
    realm = Realm(shapes, seed=seed)
    told = [each for group in groups for each in realm.place(group)]
    ours, most, proven, moments = 0.0, 0.0, 0, range(int(HOURS), int(HOURS + hours))
    for hour in moments:
        there = [each for each in told if each.vm.at_h <= hour < each.vm.at_h + each.vm.life_h]
        bound = most_cores(shapes, [(each.vm.cores, each.vm.gib) for each in there], limit_s=5.0)
        ours += sum(each.vm.cores for each in there if isinstance(each.outcome, Placed))
        most += bound.bound
        proven += bound.is_proven
    return {"seed": seed, "ours": ours, "most": most, "proven": proven, "moments": len(moments)}


# ---- scale


def _many(report: Report, seeds: range, sizes: Sequence[int], load: float, hours: float) -> None:
    for hosts in sizes:
        rows = []
        for seed in seeds:
            shapes, groups = _asked(seed, hosts, load, 1, HOURS + hours)
            with_rivals = hosts <= RIVALS_HOSTS
            figures = _beside(shapes, groups, seed) if with_rivals else _modelled(shapes, list(chain(*groups)), seed)
            rows.append({"seed": seed, "hosts": hosts, "load": load, **figures})
            report.row(rows[-1])
        about = f"{hosts} hosts, load {load:.2f}: the model of best-first offers /"
        rivals = {"every": ("every offer heard", "1.10")}
        if hosts <= RIVALS_HOSTS:
            rivals |= {"omniscient": ("omniscient", "1.10"), "sample": ("sample of 10", "0.5")}
        for key, (rival, goal) in rivals.items():
            report.sums(told(f"{about} {rival}", column(rows, "model"), column(rows, key), goal))


def _scale(report: Report, sizes: Sequence[int], pledges: int, loss: float) -> None:
    for load in (0.95, 0.05):
        times = []
        for hosts in sizes:
            begun_s = time.perf_counter()
            realm, vms = _large(hosts, load, pledges, loss)
            placed = [each for vm in vms for each in realm.place([vm])]
            times.append((hosts, median(each.decided_s for each in placed if each.decided_s is not None)))
            rejected = _lost(placed) / sum(vm.core_h for vm in vms)
            report.row({"load": load, "hosts": hosts, **_figures(placed), "rejected": rejected,
                        "took_s": time.perf_counter() - begun_s})  # fmt: skip
        exponent = _exponent(times)
        print(f"goals: offers 64; decided grows with exponent {exponent:.3f} (goal: 0.15)", flush=True)
        report.sums({"load": load, "exponent": exponent})


def _large(hosts: int, load: float, pledges: int, loss: float) -> tuple[Realm, list[Vm]]:
    """A realm filled in blocks by the hosts' own scores, and the VMs that come next."""
    blocks = []
    for seed in range(min(BLOCKS, hosts // BLOCK)):
        shapes, groups = _asked(seed, BLOCK, load, 1, HOURS)
        blocks.append((shapes, model.churn(shapes, chain(*groups), model.all_heard, from_h=HOURS).there))
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
    return realm, next_vms


def _later(vm: Vm) -> Vm:
    return Vm(HOURS + vm.at_h, vm.cores, vm.gib, vm.life_h)


def _exponent(points: Sequence[tuple[int, float]]) -> float:
    """Of the power law that fits best, by least squares of logarithms."""
    if len(points) < 2:
        return float("nan")
    x, y = [log(hosts) for hosts, _ in points], [log(seconds) for _, seconds in points]
    mean_x, mean_y = fmean(x), fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


if __name__ == "__main__":
    sys.exit(main())
