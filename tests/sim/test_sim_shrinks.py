"""What a violation is shrunk to still violates the same, is smaller, and comes again by the command that is told."""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from matcher.offers.ledger import Ledger
from tests.sim.faults import NONE, Faults, parse_faults
from tests.sim.shrinking import Plan, shrunk
from tests.sim.world import violated

ROOT = Path(__file__).parents[2]
PLAN = Plan(7, 8, 20, 5000, Faults())


def by_crash_on_two_hosts(plan: Plan) -> str | None:
    """Wants two hosts, three clients, 40 pledges and two kinds of faults; and violates something else with but one."""
    if plan.hosts < 2:
        return "I2"
    enough = plan.clients >= 3 and plan.pledges >= 40 and plan.faults.crash > 0 and plan.faults.loss > 0
    return "I9" if enough else None


def test_all_that_is_not_needed_is_left_out() -> None:
    small = shrunk(PLAN, by_crash_on_two_hosts)
    assert small.size == (2, 2, 3, 40)
    assert small.faults == replace(NONE, crash=Faults().crash, loss=Faults().loss)


def test_a_smaller_run_that_violates_something_else_is_not_taken() -> None:
    assert by_crash_on_two_hosts(shrunk(PLAN, by_crash_on_two_hosts)) == "I9"


def test_no_more_is_tried_than_is_allowed() -> None:
    tried: list[Plan] = []

    def count(plan: Plan) -> str:
        tried.append(plan)
        return "I1"

    shrunk(PLAN, count, trials_max=5)
    assert len(tried) == 1 + 5


def test_a_run_that_needs_another_seed_to_be_small_is_found() -> None:
    small = shrunk(PLAN, lambda plan: "I1" if plan.pledges == 5000 or plan.seed > 7 else None)
    assert small.seed > 7
    assert small.pledges == 1


def test_a_planted_bug_is_shrunk_to_one_host_without_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "lapse", lambda self, now_s: None)
    plan = Plan(0, 3, 4, 400, parse_faults("loss=0.5,duplication=0.15,crash=0.01"))
    small = shrunk(plan, violated, trials_max=60)
    assert violated(small) == "I7"
    assert small.hosts == 1
    assert small.pledges < 100
    assert len(small.kinds) <= 2


def test_the_command_that_is_told_violates_the_same() -> None:
    planted = "import sys, runpy; from matcher.offers.ledger import Ledger; Ledger.lapse = lambda self, now_s: None; "
    planted += "sys.argv = ['sim', *sys.argv[1:]]; runpy.run_module('tests.sim', run_name='__main__')"

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, "-c", planted, *arguments], cwd=ROOT, capture_output=True, text=True)

    told = run("--seed", "2", "--pledges", "400", "--shrink", "30")
    assert told.returncode == 1
    command = told.stderr.rpartition("smallest found: python -m tests.sim ")[2].strip()
    again = run(*shlex.split(command))
    assert again.returncode == 1
    assert "violated: I7" in again.stderr
