"""python -m tests.sim.figures WHAT [--hosts N …]: what a membership promises, in virtual time, beside its goal.

quiet   host-seconds simulated in a second, of a realm at rest
alarms  hosts called lost in an hour in which a fifth of them stands still for 1 to 3 s at random and 5 % gets lost
kill    how long until all others know of a daemon that was killed, and how that grows
"""

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median

from matcher.wire.gossip import HostState
from tests.sim.members import Host, World, grown
from tests.sim.quiet import settled

STOPS_S = (1.0, 3.0)
RUNS_S = 8.0  # on average between two stops, of 2 s on average
KILLS = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.figures", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["quiet", "alarms", "kill"])
    parser.add_argument("--hosts", type=int, nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0, help="for alarms; for quiet, a tenth of it")
    options = parser.parse_args()
    if options.what == "quiet":
        _quiet(options.hosts or [100, 1000, 10_000], options.seed, options.minutes * 6)
    elif options.what == "alarms":
        _alarms(options.hosts or [50], options.seed, options.minutes)
    else:
        _kill(options.hosts or [5, 20, 50, 100], options.seed)
    return 0


def _quiet(sizes: Sequence[int], seed: int, for_s: float) -> None:
    for hosts in sizes:
        world = settled(seed, hosts)
        world.run(60.0)
        begun_s, skipped = time.perf_counter(), world.skipped
        world.run(for_s)
        rate = hosts * for_s / (time.perf_counter() - begun_s)
        print(
            f"{hosts:6} hosts  {rate:9,.0f} host-seconds a second (goal: 100,000)  "
            f"not carried {world.skipped - skipped:,}"
        )


def _alarms(sizes: Sequence[int], seed: int, minutes: float) -> None:
    for hosts in sizes:
        world = grown(seed, hosts, loss=0.05)
        world.changes.clear()
        for host in world.hosts:
            stop_at_random(world, host)
        begun_s = time.perf_counter()
        world.run(minutes * 60)
        said = [state for *_, state in world.changes]
        lost = said.count(HostState.GONE) + said.count(HostState.DOWN)
        print(
            f"{hosts} hosts, {minutes:.0f} min: called lost {lost} times (goal: 0), suspected "
            f"{said.count(HostState.SUSPECT)} times  ({time.perf_counter() - begun_s:.0f} s)",
            flush=True,
        )


def stop_at_random(world: World, host: Host) -> None:
    """A fifth of the time."""

    def stop() -> None:
        pause_s = world.random.uniform(*STOPS_S)
        world.pause(host, pause_s)
        world.at(world.now_s + pause_s + world.random.expovariate(1 / RUNS_S), stop)

    world.at(world.now_s + world.random.uniform(0.0, STOPS_S[1] + RUNS_S), stop)


def _kill(sizes: Sequence[int], seed: int) -> None:
    took: dict[int, float] = {}
    for hosts in sizes:
        world = grown(seed, hosts)
        each = [_killed_s(world) for _ in range(KILLS)]
        took[hosts] = median(each)
        print(f"{hosts:4} hosts: a kill is known to all after {took[hosts]:.2f} s (p50), {max(each):.2f} s at the most")
    first, last = sizes[0], sizes[-1]
    print(f"{last} over {first} hosts: {took[last] / took[first]:.2f} (goal: 1.2)")


def _killed_s(world: World) -> float:
    """And back again."""
    world.run(world.random.uniform(3.0, 6.0))
    host = world.random.choice(world.living)
    world.kill(host)
    begun_s = world.now_s
    assert world.run(30.0, lambda: world.all_hold(host, HostState.DOWN))
    took_s = world.now_s - begun_s
    world.start(host)
    assert world.run(5.0, lambda: world.all_hold(host, HostState.ALIVE))
    return took_s


if __name__ == "__main__":
    sys.exit(main())
