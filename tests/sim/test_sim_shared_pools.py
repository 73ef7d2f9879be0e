"""One writer where two hosts serve one pool: leases, records and exporters, whatever dies, stands still or is cut off.

A watchdog resets what stands still for long; a person's word about a server that is not dead is in no run.
"""

from collections import Counter

import pytest

from storaged.keeper import Keeper
from tests.sim.storage import Leases, Storaged
from tests.sim.world import about_shared_pools

RUNS = 12
SEEDS_MAX = 70


def seen_in(seeds: range) -> Counter[str]:
    """What has happened in these runs, none of which violates anything."""
    seen = Counter[str]()
    for seed in seeds:
        world = about_shared_pools(seed)
        report = world.run()
        assert report.violation is None, (seed, str(report.violation), report.tail)
        seen += Counter(runs=1, writes=world.stamps.writes, takeovers=world.stamps.takeovers)
    return seen


def caught() -> set[str]:
    for seed in range(SEEDS_MAX):
        report = about_shared_pools(seed).run()
        if report.violation is not None:
            return {report.violation.invariant}
    return set()


def test_a_volume_of_two_servers_has_one_writer_whatever_happens_to_whom() -> None:
    seen = seen_in(range(RUNS))
    assert seen["writes"] > 20 * RUNS
    assert seen["takeovers"] > RUNS / 4


@pytest.mark.slow
def test_a_volume_of_two_servers_has_one_writer_in_three_hundred_runs() -> None:
    assert seen_in(range(1000, 1300))["runs"] == 300


def test_a_record_that_is_read_without_the_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keeper, "_lease", lambda *_, **__: None)
    assert caught() == {"I3"}


def test_leases_that_two_servers_may_have_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leases, "hold", lambda *_, **__: None)
    assert caught() & {"I3", "I4"}


def test_an_exporter_that_asks_for_no_lease_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again, it serves what another server has given away since."""
    monkeypatch.setattr(Storaged, "_why_not_served", lambda *_: None)
    assert caught()
