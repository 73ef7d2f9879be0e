"""A realm of many hosts: what makes it affordable changes nothing of what happens."""

import pytest

from tests.sim.faults import parse_faults
from tests.sim.test_sim_runs import ROUGH
from tests.sim.world import Report, World


def run(seed: int, faults: str, *, hosts: int, shares_words: bool) -> Report:
    world = World(seed, hosts=hosts, clients=6, pledges=60, faults=parse_faults(faults), shares_words=shares_words)
    return world.run()


@pytest.mark.parametrize(("seed", "faults", "hosts"), [(1, "", 64), (2, ROUGH, 12)])
def test_what_is_judged_once_for_all_comes_to_the_same_as_by_each_host_for_itself(
    seed: int, faults: str, hosts: int
) -> None:
    together, alone = [run(seed, faults, hosts=hosts, shares_words=shares) for shares in (True, False)]
    assert together == alone
    assert together.violation is None
    assert together.placements > 0


def test_what_must_hold_holds_where_the_best_answer_first_and_hosts_tell_in_turns() -> None:
    report = World(1, hosts=150, clients=10, pledges=60, faults=parse_faults(""), shares_words=True).run()
    assert report.violation is None, report.tail
    assert report.placements > 0
