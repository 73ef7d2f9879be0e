"""What is said of a membership's figures: a goal is met or it is not, and what came too late is not forgotten."""

import pytest

from tests.bench.gossip.goals import Row, Times, exponent, table


def row(what: str, hosts: int = 5, **seen: Times) -> Row:
    return Row(hosts, what, dict(seen), 0.5)


def line(rows: list[Row], what: str) -> str:
    return next(line for line in table(rows).splitlines() if what in line)


def test_a_goal_beside_serf_is_met_by_the_ratio_of_the_medians() -> None:
    assert "p50 by Serf's 0.05 ≤ 0.05 met" in line([row("change, ms", ours=[5.0, 5.0], serf=[100.0])], "change")
    assert "p50 by Serf's 0.06 > 0.05 **NOT met**" in line([row("change, ms", ours=[6.0], serf=[100.0])], "change")


def test_without_serf_nothing_is_said_to_be_met() -> None:
    said = line([row("kill -9, ms", ours=[900.0], serf=[])], "kill")
    assert "p50 by Serf's: not measured" in said


def test_one_that_was_not_known_to_all_in_time_is_counted_and_the_goal_not_met() -> None:
    said = line([row("change, ms", ours=[5.0, None, 5.0], serf=[500.0])], "change")
    assert "1 of 3" in said
    assert "missed 1 > 0 **NOT met**" in said


def test_one_host_that_was_wronged_is_one_too_many() -> None:
    assert "**NOT met**" in line([row("wrongly lost in 10 min", ours=[1.0], serf=[0.0])], "wrongly")
    assert "**NOT met**" not in line([row("wrongly lost in 10 min", ours=[0.0], serf=[9.0])], "wrongly")


def test_growth_is_that_of_the_largest_realm_by_the_smallest() -> None:
    rows = [row("kill -9, ms", hosts, ours=[ms]) for hosts, ms in ((5, 100.0), (100, 130.0), (20, 500.0))]
    assert line(rows, "5 to 100 hosts").endswith("1.3 > 1.2 **NOT met**")
    assert "5 to 20 hosts" not in table(rows)


def test_traffic_grows_by_a_power_of_the_hosts_that_is_told_from_twenty_on() -> None:
    small, large = row("at rest, sent, bytes/s", 20, ours=[100.0]), row("at rest, sent, bytes/s", 80, ours=[400.0])
    assert exponent(small, large) == pytest.approx(1.0)
    tiny = row("at rest, sent, bytes/s", 5, ours=[1.0])
    assert "20 to 80 hosts: exponent 1 > 0.1 **NOT met**" in table([tiny, large, small])


def test_of_two_runs_at_one_size_the_last_counts() -> None:
    said = table([row("newcomer, ms", ours=[300.0]), row("newcomer, ms", ours=[20.0])])
    assert said.count("newcomer") == 1
    assert "p99 20 ≤ 250 met" in said
