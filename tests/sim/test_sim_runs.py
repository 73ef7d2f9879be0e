"""The simulator itself: what must hold does hold under faults, and a seed tells a run again, event for event."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.faults import NONE, Faults, parse_faults
from tests.sim.world import Report, World

ROOT = Path(__file__).parents[2]
ROUGH = (
    "loss=0.2,duplication=0.2,delay=0.2,crash=0.02,disk_full=0.02,libvirt_stall=0.02,storage_stall=0.02,"
    "storage_lost=0.2,partition=0.02,reboot=0.005,interrupt=0.1,client_crash=0.1,other_terminal=0.05,"
    "start_slow=0.2,list_slow=0.2,virsh=0.02,clock=0.02,revoked=0.005,narrowed=0.005,restore=0.002,split=0.005,"
    "removed=0.003,anchor=0.005"
)
RACE = "none,loss=0.02,interrupt=0.02"


def run(seed: int, faults: str = "", *, hosts: int = 3, clients: int = 4, pledges: int = 500) -> Report:
    return World(seed, hosts=hosts, clients=clients, pledges=pledges, faults=parse_faults(faults)).run()


def command(*arguments: str, hash_seed: str = "0") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-m", "tests.sim", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_must_hold_holds_under_faults(seed: int) -> None:
    report = run(seed)
    assert report.violation is None, (report.seed, report.tail)


@pytest.mark.parametrize("seed", range(4))
def test_what_must_hold_holds_in_a_storm(seed: int) -> None:
    report = run(seed, ROUGH, hosts=4, clients=6, pledges=400)
    assert report.violation is None, (report.seed, report.tail)


def test_of_many_who_race_for_the_last_slots_none_is_promised_what_another_has() -> None:
    reports = [run(seed, RACE, hosts=2, clients=12, pledges=800) for seed in range(3)]
    assert [report.tail for report in reports if report.violation is not None] == []
    assert sum(report.conflicts for report in reports) > 0
    assert all(report.placements > 0 for report in reports)


def test_in_a_perfect_world_nobody_ends_in_doubt() -> None:
    report = run(1, "none")
    assert report.violation is None
    assert report.outcomes["Placed"] == report.placements > 0
    assert report.outcomes["Unknown"] == 0


def test_the_same_seed_gives_the_same_trace() -> None:
    assert run(3, pledges=150).trace_hash == run(3, pledges=150).trace_hash
    assert run(3, pledges=150).trace_hash != run(4, pledges=150).trace_hash


def test_the_trace_does_not_hang_on_how_python_hashes_text() -> None:
    said = {command("--seed", "5", "--pledges", "80", hash_seed=seed).stdout.rpartition("  ")[0] for seed in "123"}
    assert len(said) == 1
    assert said.pop().startswith("seed 5  trace ")


def test_a_violation_is_told_with_the_events_before_it_and_exit_code_1() -> None:
    planted = "import sys, runpy; from matcher.offers.ledger import Ledger; Ledger.lapse = lambda self, now_s: None; "
    planted += "sys.argv = ['sim', *'--seed 2 --pledges 400 --shrink 0'.split()]; "
    planted += "runpy.run_module('tests.sim', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", planted], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "violated: I7" in done.stderr
    assert "(seed 2)" in done.stderr
    assert "pledge" in done.stderr


@pytest.mark.parametrize("faults", ["los=0.1", "loss=2", "loss=much", "loss"])
def test_a_fault_that_makes_no_sense_is_a_usage_error(faults: str) -> None:
    done = command("--faults", faults)
    assert done.returncode == 2
    assert faults.partition("=")[0] in done.stderr


def test_faults_are_told_over_the_defaults() -> None:
    assert parse_faults("") == Faults()
    assert parse_faults("loss=0.5").loss == 0.5
    assert parse_faults("loss=0.5").crash == Faults().crash
    assert parse_faults("none") == NONE


@pytest.mark.slow
def test_a_hundred_thousand_pledges_without_a_violation() -> None:
    pledged = 0
    for seed in range(100_000):
        report = run(seed, (ROUGH, "", RACE)[seed % 3], hosts=3 + seed % 3, clients=4 + seed % 5, pledges=2000)
        assert report.violation is None, (report.seed, report.tail)
        pledged += report.pledges
        if pledged > 100_000:
            return
