"""What is tried of a membership: who comes, changes, is killed, falls silent, is stopped for a while; and how soon all
others know, or that nobody is wronged.

Ours, Serf and the floor are up in the same places and are tried in turns; who is killed, cut off or stopped is so in
ours and in Serf at once. The floor has no membership: what it shows is how soon all can have heard, and answered, one
signed datagram.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matcher.gossip.probing import ROUND_S
from tests.bench.gossip.floor import FloorWay
from tests.bench.gossip.goals import Times
from tests.bench.gossip.members import Members, go_on, stop
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.serf import Serf
from tests.bench.gossip.system import Hub

PAUSE_S = 0.3  # between two trials
PACE_PER_HOST_S = 0.005  # hosts say what changes at a pace, and it is not that which is measured
SERF_EVERY = 2  # changes
CHANGE_S = 5.0  # after that it counts as lost
JOIN_S = 40.0
KNOWN_S = 60.0
BACK_S = 90.0
STOPPED_S = (1.0, 3.0)
BETWEEN_S = 8.0  # stops of one host, on average: a fifth of the time
AFTER_S = 15.0  # what was suspected last is decided by then


@dataclass
class Alarms:
    """Who was called lost and was not: (observer, subject). `suspected` were cleared in time."""

    stops: int = 0
    pairs: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    suspected: int = 0


@dataclass
class Trio:
    """Ours, Serf and the floor, in the places of one lab. Serf may be missing."""

    lab: NetLab
    hub: Hub
    ours: Members
    serf: Serf | None
    floor: FloorWay

    @property
    def members(self) -> Sequence[Members | Serf]:
        return (self.ours,) if self.serf is None else (self.ours, self.serf)

    def seen(self) -> dict[str, Times]:
        return {"ours": [], "serf": [], "floor": []}

    def forget(self) -> None:
        self.lab.make_room()
        self.hub.rest(PAUSE_S)
        self.ours.forget()
        if self.serf is not None:
            self.serf.up.clear()
            self.serf.failed.clear()

    def ask_floor(self, seen: dict[str, Times]) -> None:
        took_s = self.floor.ask()
        seen["floor"].append(took_s and took_s * 1000)


def changes(trio: Trio, count: int, loss_percent: float) -> dict[str, Times]:
    """What is free on a host changes: until all others know. The floor says nothing twice, and is asked where nothing
    gets lost."""
    took = trio.seen()
    trio.lab.lose(loss_percent)
    for number in range(count):
        if not loss_percent:
            trio.ask_floor(took)
        for system in trio.members if number % SERF_EVERY == 0 else (trio.ours,):
            source = random.choice([*system.daemons])
            trio.lab.make_room()
            trio.hub.rest(PAUSE_S + PACE_PER_HOST_S * system.hosts)
            others = system.daemons.keys() - {source}
            begun_s = time.monotonic()
            heard = system.events[system.change(source)]
            known = trio.hub.run(lambda: others <= heard.keys(), CHANGE_S)  # noqa: B023
            took[system.name].append((max(heard[each] for each in others) - begun_s) * 1000 if known else None)
    trio.lab.lose(0)
    return took


def newcomers(trio: Trio, count: int) -> tuple[dict[str, Times], dict[str, Times]]:
    """A host that nobody knows: until all see it; and until all know that it has left again. Serf is told of a seed."""
    took, left = trio.seen(), trio.seen()
    for number in range(count):
        trio.ask_floor(took)
        for system in trio.members:
            place, others = system.hosts + number, [*system.daemons]
            trio.forget()
            system.start(place)
            if isinstance(system, Serf):
                system.ready()
                begun_s = time.monotonic()
                system.join(place, random.choice(others))
            else:
                assert trio.hub.run(lambda: place in trio.ours.spoke, JOIN_S), "a newcomer says nothing"  # noqa: B023
                begun_s = system.spoke[place]
            took[system.name].append(_known_ms(trio, system.up, others, place, begun_s, JOIN_S))
            if isinstance(system, Members):
                system.ready()
            begun_s = system.leave(place)
            left[system.name].append(_known_ms(trio, system.left, others, place, begun_s, KNOWN_S))
    return took, left


def kills(trio: Trio, count: int, serf_count: int) -> dict[str, Times]:
    """SIGKILL: until all others know. Ours is killed more often, since it is sooner over."""
    took = trio.seen()
    for number, share in enumerate(random.sample(range(count), count)):
        systems = trio.members if number < serf_count else (trio.ours,)
        place = random.choice([place for place in trio.ours.daemons if place])
        trio.forget()
        _wait_for_part(trio, place, (share + random.random()) / count)
        begun_s = {system.name: system.kill(place) for system in systems}
        for system in systems:
            others = [*system.daemons]
            took[system.name].append(_known_ms(trio, system.failed, others, place, begun_s[system.name], KNOWN_S))
        _come_back(trio, systems, place)
    return took


def silences(trio: Trio, count: int) -> tuple[dict[str, Times], dict[str, Times]]:
    """All of a host, as when it loses power: until all others call it gone; and its return, by itself, until all see
    it again."""
    took, back = trio.seen(), trio.seen()
    for _ in range(count):
        place = random.choice([place for place in trio.ours.daemons if place])
        trio.forget()
        trio.lab.cut(place)
        begun_s = time.monotonic()
        for system in trio.members:
            others = [other for other in system.daemons if other != place]
            took[system.name].append(_known_ms(trio, system.gone, others, place, begun_s, KNOWN_S))
        trio.forget()
        trio.lab.cut(place, is_cut=False)
        begun_s = time.monotonic()
        for system in trio.members:
            others = [other for other in system.daemons if other != place]
            back[system.name].append(_known_ms(trio, system.up, others, place, begun_s, BACK_S))
    return took, back


def alarms(trio: Trio, minutes: float, loss_percent: float) -> Alarms:
    """Hosts are stopped for 1 to 3 s, a fifth of the time, all at random, and datagrams get lost."""
    seen = Alarms()
    trio.lab.lose(loss_percent)
    trio.forget()
    end_s = time.monotonic() + 60.0 * minutes
    due = [(time.monotonic() + random.uniform(0.0, BETWEEN_S), place, False) for place in trio.ours.daemons]
    while due:
        due.sort()
        at_s, place, is_stopped = due.pop(0)
        trio.lab.make_room()
        trio.hub.rest(at_s - time.monotonic())
        for system in trio.members:
            (go_on if is_stopped else stop)(system.daemons[place])
        if not is_stopped:
            seen.stops += 1
            due.append((time.monotonic() + random.uniform(*STOPPED_S), place, True))
        elif time.monotonic() < end_s:
            due.append((time.monotonic() + random.expovariate(1 / BETWEEN_S), place, False))
    trio.hub.rest(AFTER_S)
    trio.lab.lose(0)
    for system in trio.members:
        seen.pairs[system.name] = sorted(system.failed)
    seen.suspected = len(trio.ours.suspected)
    return seen


def _wait_for_part(trio: Trio, place: int, part: float) -> None:
    """Of the round, since the turn at which this host is pinged: a median tells more of so few kills where they are
    spread evenly over it. Serf's rounds are at no such moment."""
    turn_s = int.from_bytes(trio.ours.short(place)[-4:], "big") / 2**32 * ROUND_S
    trio.hub.rest((turn_s + part * ROUND_S - time.time()) % ROUND_S)


def _come_back(trio: Trio, systems: Sequence[Members | Serf], place: int) -> None:
    trio.forget()
    for system in systems:
        others = [*system.daemons]
        system.start(place)
        system.ready()
        if isinstance(system, Serf):
            system.join(place, random.choice(others))
        back = _known_ms(trio, system.up, others, place, time.monotonic(), BACK_S)
        assert back is not None, f"{system.name}: not all see place {place} again"


def _known_ms(
    trio: Trio, seen: dict[tuple[int, int], float], others: Sequence[int], place: int, begun_s: float, within_s: float
) -> float | None:
    is_known: Callable[[], bool] = lambda: all((other, place) in seen for other in others)  # noqa: E731
    if not trio.hub.run(is_known, within_s):
        return None
    return (max(seen[other, place] for other in others) - begun_s) * 1000
