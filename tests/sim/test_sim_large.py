"""A realm of many hosts: what makes it affordable changes nothing of what happens."""

from dataclasses import replace

import pytest

from tests.sim.faults import parse_faults
from tests.sim.test_sim_runs import ROUGH
from tests.sim.timeline import Process, Timeline
from tests.sim.world import Report, World


def run(seed: int, faults: str, *, hosts: int, shares_words: bool) -> Report:
    world = World(seed, hosts=hosts, clients=6, pledges=60, faults=parse_faults(faults), shares_words=shares_words)
    return world.run()


@pytest.mark.parametrize(("seed", "faults", "hosts"), [(1, "", 64), (2, ROUGH, 12)])
def test_what_is_judged_once_for_all_comes_to_the_same_as_by_each_host_for_itself(
    seed: int, faults: str, hosts: int
) -> None:
    """What is revealed is read then, too, and is no event of its own."""
    together, alone = [run(seed, faults, hosts=hosts, shares_words=shares) for shares in (True, False)]
    assert together.events < alone.events
    assert replace(together, events=alone.events) == alone
    assert together.violation is None
    assert together.placements > 0


def test_what_is_put_into_a_socket_is_read_in_its_order_and_before_what_comes_later() -> None:
    timeline, did = Timeline(), list[str]()
    process = Process(timeline, "h1")
    begun_s = timeline.now_s
    for name, after_s in (("second", 0.2), ("first", 0.1), ("third", 0.4)):
        process.put_in(begun_s + after_s, lambda name=name: did.append(name))  # type: ignore[misc]
    process.after(0.3, lambda: did.append("asked"))
    while timeline.step():
        pass
    assert did == ["first", "second", "asked"]


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_comes_to_a_process_that_stands_still_is_read_in_its_turn_when_it_goes_on(goes_on: bool) -> None:
    timeline, did = Timeline(), list[str]()
    process = Process(timeline, "h1")
    for name, after_s in (("before", 0.05), ("second", 0.2), ("fourth", 0.4)):
        process.put_in(timeline.now_s + after_s, lambda name=name: did.append(name))  # type: ignore[misc]
    timeline.after(0.1, lambda: process.stop(1.0))
    timeline.after(0.11, lambda: did.append("stopped"))
    process.after(0.15, lambda: did.append("first"))
    process.after(0.3, lambda: did.append("third"))
    if goes_on:
        timeline.after(0.5, process.go_on)
    while timeline.step():
        pass
    assert did == ["before", "stopped", "first", "second", "third", "fourth"]


def test_what_must_hold_holds_where_the_best_answer_first_and_hosts_tell_in_turns() -> None:
    report = World(1, hosts=150, clients=10, pledges=60, faults=parse_faults(""), shares_words=True).run()
    assert report.violation is None, report.tail
    assert report.placements > 0
