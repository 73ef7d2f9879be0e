"""What is tried of a membership: who comes, changes, is killed, falls silent, is stopped for a while; and how soon all
others know, or that nobody is wronged.

Ours and Serf are up in the same places and are tried in turns; who is killed, cut off or stopped is so in both at once.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench.gossip.members import Members, go_on, stop
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.serf import Serf
from tests.bench.gossip.system import Hub, System

PAUSE_S = 0.3  # between two trials; hosts say what changes at a pace, and it is not that which is measured
CHANGE_S = 5.0  # after that it counts as lost
JOIN_S = 40.0
KNOWN_S = 60.0
BACK_S = 90.0
STOPPED_S = (1.0, 3.0)
BETWEEN_S = 8.0  # stops of one host, on average: a fifth of the time
AFTER_S = 15.0  # what was suspected last is decided by then

Times = list[float | None]  # milliseconds; `None`: not known to all in time


@dataclass
class Alarms:
    """Who was called lost and was not: (observer, subject)."""

    minutes: float
    stops: int = 0
    pairs: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    suspected: int = 0


@dataclass
class Pair:
    """Ours and Serf, in the places of one lab. Serf may be missing."""

    lab: NetLab
    hub: Hub
    ours: Members
    serf: Serf | None

    @property
    def both(self) -> Sequence[Members | Serf]:
        return (self.ours,) if self.serf is None else (self.ours, self.serf)

    def forget(self) -> None:
        self.hub.rest(PAUSE_S)
        self.ours.forget()
        if self.serf is not None:
            self.serf.up.clear()
            self.serf.failed.clear()


def changes(pair: Pair, count: int, loss_percent: float) -> dict[str, Times]:
    """What is free on a host changes: until all others know."""
    took: dict[str, Times] = {system.name: [] for system in pair.both}
    pair.lab.lose(loss_percent)
    for _ in range(count):
        for system in pair.both:
            source = random.choice([*system.daemons])
            pair.hub.rest(PAUSE_S + _pace_s(system))
            others = system.daemons.keys() - {source}
            begun_s = time.monotonic()
            heard = system.events[system.change(source)]
            known = pair.hub.run(lambda: others <= heard.keys(), CHANGE_S)  # noqa: B023
            took[system.name].append((max(heard[each] for each in others) - begun_s) * 1000 if known else None)
    pair.lab.lose(0)
    return took


def newcomers(pair: Pair, count: int) -> tuple[dict[str, Times], Times]:
    """A host that nobody knows: until all see it; and until all know that it has left again. Serf is told of a seed."""
    took: dict[str, Times] = {system.name: [] for system in pair.both}
    left: Times = []
    for number in range(count):
        for system in pair.both:
            place = system.hosts + number
            others = [*system.daemons]
            pair.forget()
            system.start(place)
            if isinstance(system, Serf):
                system.ready()
                begun_s = time.monotonic()
                system.join(place, random.choice(others))
                took[system.name].append(_known_ms(pair, system.up, others, place, begun_s, JOIN_S))
                system.leave(place)
            else:
                pair.hub.run(lambda: place in pair.ours.spoke, JOIN_S)  # noqa: B023
                took[system.name].append(_known_ms(pair, system.up, others, place, system.spoke[place], JOIN_S))
                system.ready()
                begun_s = system.leave(place)
                left.append(_known_ms(pair, system.left, others, place, begun_s, KNOWN_S))
    return took, left


def kills(pair: Pair, count: int, serf_count: int) -> dict[str, Times]:
    """SIGKILL: until all others know. Ours is killed more often, since it is sooner over."""
    took: dict[str, Times] = {system.name: [] for system in pair.both}
    for number in range(count):
        pair.hub.rest(random.uniform(0.0, 2.0))
        systems = pair.both if number < serf_count else (pair.ours,)
        place = random.choice([place for place in pair.ours.daemons if place])
        pair.forget()
        begun_s = {system.name: system.kill(place) for system in systems}
        for system in systems:
            others = [*system.daemons]
            took[system.name].append(_known_ms(pair, system.failed, others, place, begun_s[system.name], KNOWN_S))
        _come_back(pair, systems, place)
    return took


def silences(pair: Pair, count: int) -> tuple[dict[str, Times], Times]:
    """All of a host, as when it loses power: until all others call it gone; and its return, by itself, until all see
    each other again."""
    took: dict[str, Times] = {system.name: [] for system in pair.both}
    back: Times = []
    for _ in range(count):
        place = random.choice([place for place in pair.ours.daemons if place])
        pair.forget()
        pair.lab.cut(place)
        begun_s = time.monotonic()
        for system in pair.both:
            others = [other for other in system.daemons if other != place]
            took[system.name].append(_known_ms(pair, system.gone, others, place, begun_s, KNOWN_S))
        pair.forget()
        pair.lab.cut(place, is_cut=False)
        others = [other for other in pair.ours.daemons if other != place]
        back.append(_known_ms(pair, pair.ours.up, others, place, time.monotonic(), BACK_S))
        if pair.serf is not None:
            pair.serf.kill(place)
            _come_back(pair, (pair.serf,), place)
    return took, back


def alarms(pair: Pair, minutes: float, loss_percent: float) -> Alarms:
    """Hosts are stopped for 1 to 3 s, a fifth of the time, all at random, and datagrams get lost."""
    seen = Alarms(minutes)
    pair.lab.lose(loss_percent)
    pair.forget()
    end_s = time.monotonic() + 60.0 * minutes
    due = [(time.monotonic() + random.uniform(0.0, BETWEEN_S), place, False) for place in pair.ours.daemons]
    while due:
        due.sort()
        at_s, place, is_stopped = due.pop(0)
        pair.hub.rest(at_s - time.monotonic())
        for system in pair.both:
            (go_on if is_stopped else stop)(system.daemons[place])
        if not is_stopped:
            seen.stops += 1
            due.append((time.monotonic() + random.uniform(*STOPPED_S), place, True))
        elif time.monotonic() < end_s:
            due.append((time.monotonic() + random.expovariate(1 / BETWEEN_S), place, False))
    pair.hub.rest(AFTER_S)
    pair.lab.lose(0)
    for system in pair.both:
        seen.pairs[system.name] = sorted(system.failed)
    seen.suspected = len(pair.ours.suspected)
    return seen


def _come_back(pair: Pair, systems: Sequence[Members | Serf], place: int) -> None:
    pair.forget()
    for system in systems:
        others = [*system.daemons]
        system.start(place)
        system.ready()
        if isinstance(system, Serf):
            system.join(place, random.choice(others))
        back = _known_ms(pair, system.up, others, place, time.monotonic(), BACK_S)
        assert back is not None, f"{system.name}: not all see place {place} again"


def _known_ms(
    pair: Pair, seen: dict[tuple[int, int], float], others: Sequence[int], place: int, begun_s: float, within_s: float
) -> float | None:
    is_known: Callable[[], bool] = lambda: all((other, place) in seen for other in others)  # noqa: E731
    if not pair.hub.run(is_known, within_s):
        return None
    return (max(seen[other, place] for other in others) - begun_s) * 1000


def _pace_s(system: System) -> float:
    """A host says at most so often what has changed."""
    return 0.005 * system.hosts


def exponent(small: float, large: float, times: float) -> float:
    """By which power a figure has grown while the realm grew so many times."""
    return math.log(large / small) / math.log(times)
