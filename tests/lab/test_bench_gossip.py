"""The bench of gossip takes along all that it made, however it is ended; and its trials of memberships can be run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench.gossip import membership, trials
from tests.bench.gossip.goals import GOALS, table

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
HOSTS = 2
GONE_S = 10.0
BENCH = f"""
import sys
from tests.bench.gossip.floor import Floor
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.system import Hub
with NetLab({HOSTS}) as lab:
    floor = Floor(lab, Hub(), {HOSTS})
    floor.raise_all()
    print(*floor.pids, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("ends_by", [None, signal.SIGTERM, signal.SIGKILL])
def test_no_host_outlives_the_bench(ends_by: signal.Signals | None) -> None:
    words = [sys.executable, "-c", BENCH]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        hosts = [Path(f"/proc/{pid}") for pid in bench.stdout.readline().split()]
        assert [host.exists() for host in hosts] == [True] * HOSTS
        if ends_by is not None:
            bench.send_signal(ends_by)
        bench.communicate()
    until_s = time.monotonic() + GONE_S
    while any(host.exists() for host in hosts) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert [host.exists() for host in hosts] == [False] * HOSTS


def test_every_trial_of_a_membership_gives_rows_that_its_goals_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hosts and the floor; Serf is not among what tests may rely on."""
    monkeypatch.setattr(membership, "SETTLE_S", 0.5)
    monkeypatch.setattr(trials, "AFTER_S", 1.0)
    few = "--changes 2 --newcomers 1 --kills 1 --silences 1 --rest 0.5 --minutes 0.05"
    rows = [*membership.measured(membership.parsed(["--without-serf", *few.split()]), 3)]
    for goal in GOALS:
        assert any(row.what.startswith(goal.what) for row in rows), goal.what
    assert [row.what for row in rows if not row.known("ours")] == []
    assert [row.what for row in rows if row.missed()] == []
    assert table(rows).count("\n") > len(rows)
