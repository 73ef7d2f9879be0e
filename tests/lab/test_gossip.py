"""Real members on a network that carries no multicast: who leaves, who comes back, by what a newcomer finds the others,
and what becomes of two halves.

One lab is the module's alone; each test leaves all three hosts as it found them, and each knows of the others.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.conftest import ROOT, Lab, raised, until
from tests.lab.test_members import believed

pytestmark = pytest.mark.lab

HOSTS = ("h1", "h2", "h3")
ALL_ALIVE = dict.fromkeys(HOSTS, "alive")
DAEMONS = ("storaged", "atomd")  # in the order of stopping: storaged would speak for its host in atomd's place
SERVICE = "_atomos._udp.lab.test"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def quiet() -> Iterator[Lab]:
    """All know of each other from when there was multicast still."""
    with raised("gossip", "-n", "3") as lab:
        for host in HOSTS:
            until(lambda: states(lab, host) == ALL_ALIVE, within_s=WAIT_S)  # noqa: B023
            until(lambda: kept(lab, host) == {*HOSTS} - {host}, within_s=WAIT_S)  # noqa: B023
        for host in (*HOSTS, "client"):
            for command, groups in (("iptables", "224.0.0.0/4"), ("ip6tables", "ff00::/8")):
                namespace(lab, host, command, "-w", "-I", "INPUT", "-p", "udp", "-d", groups, "-j", "DROP")
        yield lab


def namespace(lab: Lab, name: str, *command: str) -> None:
    subprocess.run(["ip", "netns", "exec", f"atomos-{lab.name}-{name}", *command], check=True)


def states(lab: Lab, by: str) -> dict[str, str]:
    return {name: row["state"] for name, row in believed(lab, by).items()}


def address(lab: Lab, host: str) -> str:
    return next(each["address"] for each in lab.status()["hosts"] if each["name"] == host)


def peers(lab: Lab, host: str) -> Path:
    return lab.folder(host) / "lib" / "identity" / "gossip.peers"


def kept(lab: Lab, host: str) -> set[str]:
    """By whom it would look for the others after a restart."""
    if not peers(lab, host).exists():
        return set()
    ips = {ip for ip, _ in json.loads(peers(lab, host).read_text())["peers"]}
    return {each for each in HOSTS if address(lab, each) in ips}


def end(lab: Lab, host: str) -> None:
    for daemon in DAEMONS:
        lab.stop(host, daemon)


def begin(lab: Lab, host: str) -> None:
    for daemon in reversed(DAEMONS):
        lab.start(host, daemon)


@contextmanager
def a_stranger(lab: Lab, host: str, *seeds: str) -> Iterator[None]:
    """Its daemons begin with nobody to look for but these seeds; settings are again as before at the end."""
    files = [lab.folder(host) / "etc" / f"{daemon}.toml" for daemon in DAEMONS]
    before = [file.read_text() for file in files]
    end(lab, host)
    peers(lab, host).unlink()
    for file, text in zip(files, before, strict=True):
        file.write_text(f"seeds = {json.dumps(seeds)}\n{text}")
    try:
        begin(lab, host)
        yield
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)


@contextmanager
def name_server(lab: Lab, *named: str) -> Iterator["subprocess.Popen[str]"]:
    """At the client's; names and addresses of `named` alone."""
    words = [str(ROOT / ".venv/bin/python"), str(ROOT / "tests/lab/name_server.py"), address(lab, "client"), SERVICE]
    serving = lab.popen("client", *words, *(f"{each}.lab.test={address(lab, each)}" for each in named))
    assert serving.stdout is not None
    try:
        assert serving.stdout.readline() == "up\n"
        yield serving
    finally:
        serving.kill()
        serving.communicate()


def test_one_that_is_stopped_has_left_and_nothing_is_ever_held_against_it(quiet: Lab) -> None:
    end(quiet, "h3")
    for host in ("h1", "h2"):
        until(lambda: states(quiet, host)["h3"] != "alive", within_s=WAIT_S)  # noqa: B023
        row = believed(quiet, host)["h3"]
        assert (row["state"], row["accusations"]) == ("left", [])
    begin(quiet, "h3")
    for host in HOSTS:
        until(lambda: states(quiet, host) == ALL_ALIVE, within_s=WAIT_S)  # noqa: B023


def test_one_that_was_away_while_others_were_looks_for_them_where_they_were(quiet: Lab) -> None:
    end(quiet, "h2")
    end(quiet, "h3")
    until(lambda: set(states(quiet, "h1").values()) == {"alive", "left"}, within_s=WAIT_S)
    quiet.restart("h1", "atomd")  # so that nobody is there who remembers any other
    assert kept(quiet, "h2") == {"h1", "h3"}
    begin(quiet, "h2")
    until(lambda: states(quiet, "h1").get("h2") == states(quiet, "h2").get("h1") == "alive", within_s=WAIT_S)
    begin(quiet, "h3")
    for host in HOSTS:
        until(lambda: states(quiet, host) == ALL_ALIVE, within_s=WAIT_S)  # noqa: B023


def test_a_stranger_is_alone_until_it_is_told_the_address_of_one_and_then_finds_all(quiet: Lab) -> None:
    with a_stranger(quiet, "h3"):
        for _ in range(5):
            until(lambda: states(quiet, "h3") == {"h3": "alive"}, within_s=WAIT_S)
            assert states(quiet, "h1")["h3"] == "left"
            quiet.exec("h3", "sleep", "1")
    with a_stranger(quiet, "h3", f"{address(quiet, 'h1')}:7766"):
        for host in HOSTS:
            until(lambda: states(quiet, host) == ALL_ALIVE, within_s=WAIT_S)  # noqa: B023
        until(lambda: kept(quiet, "h3") == {"h1", "h2"}, within_s=WAIT_S)


def test_a_stranger_finds_all_by_a_service_in_dns(quiet: Lab) -> None:
    quiet.exec("h3", "cp", "/etc/resolv.conf", "/run/resolv.conf")
    quiet.exec("h3", "sh", "-c", f"echo nameserver {address(quiet, 'client')} > /etc/resolv.conf")
    try:
        with name_server(quiet, "h2") as serving, a_stranger(quiet, "h3", f"srv:{SERVICE}"):
            for host in HOSTS:
                until(lambda: states(quiet, host) == ALL_ALIVE, within_s=WAIT_S)  # noqa: B023
            serving.kill()
            assert serving.stdout is not None
            assert {SERVICE, "h2.lab.test"} <= set(serving.stdout.read().split())
    finally:
        quiet.exec("h3", "cp", "/run/resolv.conf", "/etc/resolv.conf")
    until(lambda: kept(quiet, "h3") == {"h1", "h2"}, within_s=WAIT_S)


def test_two_halves_lose_each_other_go_on_and_are_one_again_with_what_each_has_done(quiet: Lab) -> None:
    namespace(quiet, "switch", "ip", "link", "set", "h1", "nomaster")
    try:
        until(lambda: states(quiet, "h1") == {"h1": "alive", "h2": "gone", "h3": "gone"}, within_s=WAIT_S)
        for host in ("h2", "h3"):
            until(lambda: states(quiet, host) == ALL_ALIVE | {"h1": "gone"}, within_s=WAIT_S)  # noqa: B023
        quiet.exec("h1", "atomctl", "drain")
        quiet.exec("h3", "atomctl", "drain")
        until(lambda: believed(quiet, "h2")["h3"]["digest"]["drained"], within_s=WAIT_S)
        assert not believed(quiet, "h2")["h1"]["digest"]["drained"]
    finally:
        namespace(quiet, "switch", "ip", "link", "set", "h1", "master", "br0")
    for host in HOSTS:
        until(lambda: states(quiet, host) == ALL_ALIVE, within_s=WAIT_S)  # noqa: B023
        until(
            lambda: {name for name, row in believed(quiet, host).items() if row["digest"]["drained"]} == {"h1", "h3"},  # noqa: B023
            within_s=WAIT_S,
        )
    for host in ("h1", "h3"):
        quiet.exec(host, "atomctl", "drain", "--undo")
    until(lambda: not any(row["digest"]["drained"] for row in believed(quiet, "h2").values()), within_s=WAIT_S)
