"""Attacks by datagram and at the front door, on real hosts: silence or a typed no, and nothing changes."""

import json
import os
import statistics
import time
from typing import Any

import pytest

from tests.attacks.conftest import HOSTS, Enemy, memory_stays, nothing_changes
from tests.attacks.forge import counted, statuses
from tests.lab.conftest import Lab, until
from tests.lab.vms import electros, login_as

pytestmark = pytest.mark.lab

ANSWERS = 4  # compute and storage of each host


def identity_of(lab: Lab) -> str:
    return str(lab.folder("client") / "config/atomos/default")


@pytest.fixture
def me(target: Lab) -> str:
    return identity_of(target)


def test_an_honest_question_of_the_same_making_is_answered(target: Lab, enemy: Enemy, me: str) -> None:
    """Else all the silence below would prove nothing."""
    assert enemy.does(do="forge", way="honest", identity=me)["heard"] == ANSWERS


@pytest.mark.parametrize(
    "way",
    [
        "random",
        "truncated",
        "truncated-tagged",
        "too-long",
        "flipped",
        "flipped-outside",
        "no-key",
        "other-kind",
        "unsigned",
        "other-audience",
        "spoofed-reply",
    ],
)
def test_a_forged_datagram_meets_silence(target: Lab, enemy: Enemy, me: str, way: str) -> None:
    with nothing_changes(target):
        assert enemy.does(do="forge", way=way, identity=me)["heard"] == 0


def test_a_stale_question_is_told_the_clock_and_no_more(target: Lab, enemy: Enemy, me: str) -> None:
    with nothing_changes(target):
        assert 1 <= enemy.does(do="forge", way="stale", identity=me)["heard"] <= ANSWERS


def test_a_replayed_question_is_not_answered_again(target: Lab, enemy: Enemy, me: str) -> None:
    with nothing_changes(target):
        said = enemy.does(do="replay", identity=me)
        assert said == {"first": ANSWERS, "again": 0}


def test_a_revoked_member_meets_silence_at_once(target: Lab, enemy: Enemy, tmp_path: Any) -> None:
    login_as(target, "mallory", tmp_path)
    stolen = str(tmp_path / "mallory/config/atomos/default")
    assert enemy.does(do="forge", way="honest", identity=stolen)["heard"] == ANSWERS
    electros(target, "user", "revoke", "mallory", code=None)
    with nothing_changes(target):
        assert enemy.does(do="forge", way="honest", identity=stolen)["heard"] == 0
        said = enemy.does(do="knock", way="own-leaf", host="10.98.0.1", identity=stolen)["said"]
        assert " 403 " in said.splitlines()[0]
        assert "revoked" in said


@pytest.mark.parametrize("way", ["plaintext", "tls-1.2", "no-certificate", "join-without-token"])
def test_who_has_no_certificate_gets_nothing_of_http(target: Lab, enemy: Enemy, way: str) -> None:
    with nothing_changes(target):
        said = enemy.does(do="knock", way=way, host="10.98.0.1")["said"]
        assert "HTTP" not in said


CHEAP = {"no-key": "tag", "honest": "its certificate was revoked"}  # looked up, before any signature is checked
GOAL_S = 1.0  # for whoever asks meanwhile, on a machine that has time
ASKED_MAX = 10


def answered(target: Lab) -> int:
    """How often an honest user has to ask until both hosts have answered one question: datagrams may be lost."""
    for asked in range(1, ASKED_MAX + 1):
        if "silent" not in electros(target, "ps").err:  # which asks by multicast
            return asked
    pytest.fail(f"not all hosts answer, asked {ASKED_MAX} times")


@pytest.mark.parametrize("way", CHEAP)
def test_a_flood_does_not_silence_the_hosts(
    target: Lab, enemy: Enemy, me: str, tmp_path: Any, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`honest`: one right datagram again and again, by a member who was revoked. How fast the answers come is the
    machine's affair; that they come, at what end the flood is dropped, and that it takes no memory, is ours."""
    identity = me
    if way == "honest":
        login_as(target, "flooder", tmp_path)
        identity = str(tmp_path / "flooder/config/atomos/default")
        electros(target, "user", "revoke", "flooder", code=None)
    target.exec("client", "ip", "address", "replace", "10.98.0.201/24", "dev", "eth0")
    asked, took = [], []
    with nothing_changes(target), memory_stays(target):
        before = statuses(target)
        flooding = enemy.popen(do="flood", way=way, identity=identity, source="10.98.0.201", per_s=20_000, for_s=10)
        until(lambda: counted(statuses(target)["h1"])[CHEAP[way]] > counted(before["h1"])[CHEAP[way]])
        while flooding.poll() is None or not took:
            begun_s = time.monotonic()
            asked.append(answered(target))
            took.append(time.monotonic() - begun_s)
        out, _ = flooding.communicate(timeout=60)
        after = statuses(target)
    for host in HOSTS:
        dropped = counted(after[host]) - counted(before[host])
        assert dropped[CHEAP[way]] > 1000
        assert not [reason for reason in dropped if reason.endswith("rate")], "it has cost others their share"
    with capsys.disabled():
        print(
            f"\nflood ({way}): {json.loads(out)['per_s']:.0f}/s;"
            f" {len(took)} questions under it, asked {sum(asked)} times;"
            f" `electros ps`: median {statistics.median(took):.2f} s, worst {max(took):.2f} s"
            f" (goal {GOAL_S:g} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)"
        )


def test_ten_thousand_silent_connections_do_not_keep_members_out(target: Lab, enemy: Enemy) -> None:
    sources = [f"10.98.0.{number}" for number in range(202, 222)]
    for source in sources:
        target.exec("client", "ip", "address", "replace", f"{source}/24", "dev", "eth0")
    with nothing_changes(target):
        holding = enemy.popen(do="idle", host="10.98.0.1", count=10_000, sources=sources, for_s=8)
        assert holding.stdout is not None
        held = json.loads(holding.stdout.readline())["held"]
        assert held > 9_000
        for _ in range(5):
            assert electros(target, "whoami").document
        holding.communicate(timeout=60)
    until(lambda: target.daemon("h1", "atomd")["state"] == "up")
