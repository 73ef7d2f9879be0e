"""What hosts know of each other, as people see it: a change at once, a dead daemon as such, a dead host as gone.

One lab is the module's alone, as hosts vanish in it; each test leaves all three as they were.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import Lab, raised, until
from tests.lab.vms import Vms, electros, plainly

pytestmark = pytest.mark.lab

HOSTS = ("h1", "h2", "h3")
WAIT_S = 40.0


@pytest.fixture(scope="module")
def three() -> Iterator[Lab]:
    with raised("members", "-n", "3") as lab:
        until(lambda: states(lab, "h1") == states(lab, "h2") == dict.fromkeys(HOSTS, "alive"), within_s=WAIT_S)
        yield lab


def seen(lab: Lab, by: str) -> dict[str, dict[str, Any]]:
    """All hosts, as this one sees them."""
    return {host["name"]: host for host in electros(lab, "hosts", "--as-seen-by", by).document["hosts"]}


def states(lab: Lab, by: str) -> dict[str, str]:
    return {name: host["state"] for name, host in seen(lab, by).items()}


def believed(lab: Lab, host: str) -> dict[str, dict[str, Any]]:
    """By the daemon of this host, as its sysadmin sees it."""
    rows = json.loads(lab.exec(host, "atomctl", "members", "-o", "json").stdout)["members"]
    return {row["name"]: row for row in rows}


@contextmanager
def without_network(lab: Lab, host: str) -> Iterator[None]:
    lab.exec(host, "ip", "link", "set", "eth0", "down")
    try:
        yield
    finally:
        lab.exec(host, "ip", "link", "set", "eth0", "up")


@contextmanager
def killed_for_good(lab: Lab, host: str) -> Iterator[None]:
    """Both daemons: storaged would speak for its host in atomd's place. Neither can start again meanwhile."""
    settings = lab.folder(host) / "etc" / "atomd.toml"
    before = settings.read_text()
    lab.stop(host, "storaged")
    settings.write_text("this is no setting")
    try:
        lab.kill(host, "atomd", "KILL")
        yield
    finally:
        settings.write_text(before)
        lab.stop(host, "atomd")
        lab.start(host, "atomd")
        lab.start(host, "storaged")


def test_a_vm_takes_from_what_other_hosts_say_is_free_and_gives_it_back(three: Lab, tmp_path: Path) -> None:
    before = seen(three, "h2")["h1"]
    vms = Vms(three, tmp_path)
    vm = vms.run("guest", host="h1")
    try:
        assert vm["host"] == "h1"
        now = until(lambda: (host := seen(three, "h2")["h1"])["vms"] == 1 and host, within_s=5)
        assert now["slots"] == {"total": before["slots"]["total"], "free": before["slots"]["free"] - 1}
        assert now["ram_mib"]["free"] < before["ram_mib"]["free"]
        assert now["told_s"] <= 5
        top = plainly(three, "top", "--once", "--sort", "vms").out.splitlines()
        assert "3 hosts: 3 alive" in top[0]
        assert next(line for line in top if line.startswith("h")).split()[0] == "h1"
    finally:
        vms.remove_all()
    until(lambda: seen(three, "h2")["h1"]["slots"] == before["slots"], within_s=5)


def test_a_drained_host_is_seen_to_be_from_another(three: Lab) -> None:
    three.exec("h1", "atomctl", "drain")
    try:
        until(lambda: seen(three, "h3")["h1"]["drained"], within_s=5)
        assert "h1 takes no new VMs" in plainly(three, "hosts").out
    finally:
        three.exec("h1", "atomctl", "drain", "--undo")
    until(lambda: not seen(three, "h3")["h1"]["drained"], within_s=5)


def test_a_daemon_that_was_killed_is_down_and_never_gone_while_its_machine_answers(three: Lab) -> None:
    with killed_for_good(three, "h3"):
        until(lambda: states(three, "h1")["h3"] == "daemon-down", within_s=WAIT_S)
        until(lambda: states(three, "h2")["h3"] == "daemon-down", within_s=WAIT_S)
        row = believed(three, "h1")["h3"]
        assert {said["says"] for said in row["accusations"]} == {"refused"}
        assert {said["by"] for said in row["accusations"]} <= {"h1", "h2"}
        for _ in range(10):  # as long as a silent host would have lived
            assert states(three, "h1")["h3"] == "daemon-down"
            three.exec("h1", "sleep", "1")
        shown = plainly(three, "hosts", "--state", "daemon-down").out
        assert shown.splitlines()[1].split()[:2] == ["h3", "daemon-down"]
    until(lambda: states(three, "h1")["h3"] == states(three, "h2")["h3"] == "alive", within_s=WAIT_S)
    assert believed(three, "h1")["h3"]["accusations"] == []
    until(lambda: seen(three, "h1")["h3"]["roles"] == ["compute", "storage"], within_s=WAIT_S)


def test_a_host_that_falls_silent_is_suspect_then_gone_and_comes_back(three: Lab) -> None:
    passed = list[str]()

    def is_gone() -> bool:
        state = states(three, "h1")["h3"]
        if state not in passed:
            passed.append(state)
        if state == "suspect":
            row = believed(three, "h1")["h3"]
            assert row["state"] != "suspect" or row["gone_in_s"] is not None
        return state == "gone"

    with without_network(three, "h3"):
        until(is_gone, within_s=WAIT_S)
        assert [state for state in passed if state != "alive"] == ["suspect", "gone"]
        gone = next(host for host in electros(three, "hosts", "h3").document["hosts"])
        assert gone["state"] == "gone"
        assert gone["state_s"] is not None
        held = believed(three, "h2")["h3"]["accusations"]
        assert {said["says"] for said in held} <= {"suspect", "gone"}
        assert "1 gone" in plainly(three, "top", "--once").out
    until(lambda: states(three, "h1") == states(three, "h3") == dict.fromkeys(HOSTS, "alive"), within_s=WAIT_S)


def test_another_host_is_asked_where_the_first_is_stopped(three: Lab) -> None:
    for host in ("h1", "h2"):
        three.kill(host, "atomd", "STOP")
    try:
        for _ in range(3):
            done = electros(three, "hosts")
            assert done.document["asked"] == "h3"
            assert {each["name"] for each in done.document["hosts"]} == {*HOSTS}
    finally:
        for host in ("h1", "h2"):
            three.kill(host, "atomd", "CONT")
    until(lambda: states(three, "h3") == dict.fromkeys(HOSTS, "alive"), within_s=WAIT_S)


def test_who_has_just_started_gives_a_list_that_is_whole_all_the_same(three: Lab) -> None:
    for host in HOSTS:
        three.restart(host, "atomd")
    done = electros(three, "hosts", code=None)
    assert done.code == 0, done.err
    assert {each["name"] for each in done.document["hosts"]} == {*HOSTS}
