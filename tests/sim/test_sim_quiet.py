"""What a quiet realm leaves out changes nothing: a run that carries all of it ends in the same, to the last bit."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from matcher.gossip.probing import Prober
from matcher.wire.gossip import HostState
from tests.sim.members import DIGEST, changed, nowhere
from tests.sim.quiet import QuietWorld, settled

Happens = Callable[[QuietWorld], None]


def all_of(world: QuietWorld) -> list[Any]:
    """The state of every object, what was seen, and what was counted."""
    found: list[Any] = [world.changes, world.now_s]
    for host in world.hosts:
        found += [{k: v for k, v in host.sent.items() if v}, {k: v for k, v in host.heard.items() if v}]
        if (member := host.member) is None:
            continue
        prober, voice, roster = member._prober, member._voice, member.roster
        found += [roster.records, roster.ring, roster.mark, roster._marks, roster.lost, roster.troubles]
        found += [prober._round, prober.due_s, prober.health.score, prober.probe, prober.errands]
        found += [voice.far, voice.unheard, voice._answered_s, voice._said_s, member._lost_pings, member._sync_s]
        found += [[entry[0] for entry in sorted(member._agenda._heap)], member._random.getstate()]
    return found


def nothing(world: QuietWorld) -> None:
    world.run(300.0)


def one_is_killed_and_comes_back(world: QuietWorld) -> None:
    world.run(60.0)
    world.kill(world.hosts[3])
    world.run(20.0)
    assert world.all_hold(world.hosts[3], HostState.DOWN)
    world.start(world.hosts[3])
    world.run(200.0)


def one_loses_power(world: QuietWorld) -> None:
    world.run(60.0)
    world.cut_power(world.hosts[2])
    world.run(30.0)
    assert world.all_hold(world.hosts[2], HostState.GONE)


def some_change_and_stand_still(world: QuietWorld) -> None:
    random = Random(5)
    for number in (1, 4, 1):
        world.at(world.now_s + 41.0, lambda number=number: world.tell(world.hosts[number], changed(DIGEST, random)))  # type: ignore[misc]
        world.at(world.now_s + 43.7, lambda: world.pause(world.hosts[2], 2.5))
        before = world.skipped
        world.run(120.0)
        assert not world.skips or world.skipped > before, "it is quiet again"


def the_link_is_parted(world: QuietWorld) -> None:
    world.run(30.0)
    world.parted = lambda a, b: (a < 3) != (b < 3)
    world.run(40.0)
    world.parted = nowhere
    world.run(150.0)


def one_is_added(world: QuietWorld) -> None:
    world.run(30.0)
    world.add()
    world.run(200.0)


@pytest.mark.parametrize(
    "happens",
    [
        nothing,
        one_is_killed_and_comes_back,
        one_loses_power,
        some_change_and_stand_still,
        the_link_is_parted,
        one_is_added,
    ],
)
@pytest.mark.parametrize("hosts", [5, 7, 12])
def test_a_run_that_skips_ends_as_one_that_carries_all(hosts: int, happens: Happens) -> None:
    worlds = [
        settled(hosts, max(hosts, 6) if happens is not nothing else hosts, skips=skips) for skips in (True, False)
    ]
    for world in worlds:
        happens(world)
    skipping, carrying = worlds
    assert skipping.skipped > 10
    assert carrying.skipped == 0
    assert all_of(skipping) == all_of(carrying)


def test_what_skips_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nonce too many where it is skipped."""
    skipping, carrying = settled(1, 6), settled(1, 6, skips=False)
    carrying.run(100.0)
    acks = Prober.acked
    monkeypatch.setattr(Prober, "acked", lambda self, nonce, now_s: bool(self.nonce()) and acks(self, nonce, now_s))
    skipping.run(100.0)
    assert all_of(skipping) != all_of(carrying)


def test_nothing_is_skipped_while_datagrams_get_lost_or_a_host_stands_still() -> None:
    world = settled(2, 6)
    world.loss = 0.1
    world.run(30.0)
    assert world.skipped == 0
    world = settled(2, 6)
    world.kill(world.hosts[0])
    world.run(60.0)
    assert world.skipped == 0


def test_it_is_not_quiet_while_one_holds_something_against_another_though_all_marks_are_the_same() -> None:
    world = settled(4, 6)
    world.run(20.0)
    assert world._is_quiet()
    first, second = world.hosts[:2]
    assert first.member is not None
    first.member.roster.trouble(second.short, world.now_s)
    assert world.agree()
    assert not world._is_quiet()


def test_a_view_that_is_shared_becomes_a_hosts_own_when_something_reaches_it() -> None:
    world = settled(3, 8)
    world.run(50.0)
    first = world.hosts[0].member
    assert first is not None
    world.tell(world.hosts[0], changed(DIGEST, Random(1)))
    others = [host.member.roster.records for host in world.hosts[1:] if host.member is not None]
    assert all(records is not first.roster.records for records in others)
    assert all(records[world.hosts[0].short].alive.digest == DIGEST for records in others)
    world.run(5.0)
    assert world.agree()
