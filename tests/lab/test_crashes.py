"""Daemons, libvirt, QEMU and clients die at bad moments: what was promised is kept, once, and nothing else is."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import HELIUM, Vms, booted, domains, electros, free_threads, plainly

pytestmark = pytest.mark.lab

HOSTS = ("h1", "h2", "h3")
THREADS_OF_A_HOST = 2
HOLDS_LAPSE_S = 3.5
KILLS = 8
SHARED = {"slots": 1, "overprovision": 8, "ramsize": 64}


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


@contextmanager
def frozen(lab: Any, host: str, daemon: str) -> Iterator[None]:
    lab.kill(host, daemon, "STOP")
    try:
        yield
    finally:
        lab.kill(host, daemon, "CONT")


def killed(lab: Any, until: Callable[..., Any], host: str, daemon: str) -> None:
    """kill -9, and wait until it is there again."""
    before = lab.daemon(host, daemon)["restarts"]
    lab.kill(host, daemon)
    until(lambda: (now := lab.daemon(host, daemon))["restarts"] > before and now["state"] == "up")


def offers_again(lab: Any, until: Callable[..., Any], vms: Vms, host: str) -> None:
    spec = vms.specfile({"slots": 1, "overprovision": 64, "ramsize": 16}, "probe")
    until(lambda: any(o["host"] == host for o in electros(lab, "pledge", spec).document["offers"]))


def running(vms: Vms, name: str) -> dict[str, Any] | None:
    vm = vms.ps().get(name)
    return vm if vm is not None and vm["state"] == "running" else None


def test_atomd_killed_between_confirm_and_start_has_the_vm_after_its_restart_once(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    restarts = lab.daemon("h1", "atomd")["restarts"]
    with frozen(lab, "h1", "libvirtd"):  # the start hangs
        promised = vms.run("once", None, "--wait", "committed", host="h1")
        assert (promised["host"], promised["state"]) == ("h1", "committed")
        lab.kill("h1", "atomd")
        until(lambda: lab.daemon("h1", "atomd")["restarts"] > restarts)
    vm = until(lambda: running(vms, "once"))
    assert (vm["id"], vm["generation"], vm["host"]) == (promised["id"], 1, "h1")
    assert free_threads(lab)["h1"] == THREADS_OF_A_HOST - 1
    time.sleep(3)  # whatever hung might come late
    assert domains(lab, "h1") == [vm["domain"]]
    assert [domains(lab, host) for host in ("h2", "h3")] == [[], []]
    assert running(vms, "once") == vm


def test_a_vm_lives_on_while_atomd_is_killed(lab: Any, until: Callable[..., Any], vms: Vms) -> None:
    vm = vms.run("steady", host="h2")
    before = lab.virsh("h2", "domid", vm["domain"])
    killed(lab, until, "h2", "atomd")
    assert until(lambda: running(vms, "steady")) == vm
    assert lab.virsh("h2", "domid", vm["domain"]) == before, "the same QEMU"
    assert free_threads(lab)["h2"] == THREADS_OF_A_HOST - 1
    electros(lab, "rm", "--force", "steady")
    assert domains(lab, "h2") == []


def test_a_vm_that_ended_while_atomd_was_away_is_stopped_and_says_so(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    vm = vms.run("unseen", host="h2")
    lab.stop("h2", "atomd")
    try:
        lab.virsh("h2", "destroy", vm["domain"])
    finally:
        lab.start("h2", "atomd")
    now = until(lambda: (now := vms.ps().get("unseen")) and now["state"] != "running" and now)
    assert now["state"] == "stopped"
    assert now["why"]
    assert free_threads(lab)["h2"] == THREADS_OF_A_HOST


def test_a_volume_stays_its_vms_while_storaged_is_killed(lab: Any, until: Callable[..., Any], vms: Vms) -> None:
    vid = lab.volumes("h1")["h1-data"]
    vms.run("keeper", volumes=[vid])
    killed(lab, until, "h1", "storaged")
    error = electros(lab, *vms.arguments("thief", volumes=[vid]), code=3).error
    assert "keeper" in str(error["refusals"])
    assert running(vms, "keeper")
    electros(lab, "rm", "--force", "keeper")
    assert vms.run("next", volumes=[vid])["host"] == "h1"


def test_rm_does_not_wait_for_a_storaged_that_is_away_and_the_volume_is_free_when_it_is_back(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    vid = lab.volumes("h1")["h1-data"]
    vms.run("last", volumes=[vid])
    lab.stop("h1", "storaged")
    try:
        assert "last is removed from h1" in plainly(lab, "rm", "--force", "last").err
        assert vms.ps() == {}
    finally:
        lab.start("h1", "storaged")
    until(lambda: electros(lab, "volume", "inspect", vid).document["volume"]["state"] == "free")
    assert vms.run("next", volumes=[vid])["host"] == "h1"


def test_libvirtd_restarts_under_a_vm_and_its_end_is_noticed_all_the_same(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    vm = booted(lab, until, vms.run("guest", HELIUM, volumes=[lab.volumes("h3")["h3-boot"]]))
    killed(lab, until, "h3", "libvirtd")
    offers_again(lab, until, vms, "h3")
    assert running(vms, "guest") is not None
    script = "(sleep 1; echo; sleep 1; echo poweroff -f; sleep 5) | timeout 20 electros console guest"
    lab.exec("client", "sh", "-c", script, check=False, timeout_s=40)
    now = until(lambda: (now := vms.ps()["guest"])["state"] == "stopped" and now, within_s=10)
    assert now["why"] == "the guest powered itself off"
    assert now["id"] == vm["id"]


def test_a_killed_qemu_is_a_failed_vm_that_says_so_and_starts_again(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    vm = vms.run("shot", host="h1")
    lab.exec("h1", "sh", "-c", f"kill -9 $(cat /run/libvirt/qemu/{vm['domain']}.pid)")
    now = until(lambda: (now := vms.ps()["shot"])["state"] == "failed" and now)
    assert "QEMU" in now["why"]
    assert free_threads(lab)["h1"] == THREADS_OF_A_HOST
    again = electros(lab, "start", "shot").document["vm"]
    assert (again["generation"], again["state"], again["host"]) == (2, "running", "h1")


def test_a_client_killed_at_any_moment_leaves_a_whole_vm_or_nothing(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    begun_s = time.monotonic()
    vms.run("timed", SHARED)
    takes_s = time.monotonic() - begun_s
    names = {f"dead-{number}" for number in range(KILLS)}
    for number, name in enumerate(sorted(names)):
        client = lab.popen("client", "electros", *vms.arguments(name, SHARED))
        time.sleep(takes_s * (0.3 + 0.7 * number / KILLS))
        client.send_signal(signal.SIGKILL)  # the command dies with it
        client.communicate(timeout=10)
    time.sleep(HOLDS_LAPSE_S)
    alive = vms.ps()
    assert set(alive) - {"timed"} <= names
    assert {vm["state"] for vm in alive.values()} == {"running"}
    there = sorted(domain for host in HOSTS for domain in domains(lab, host))
    assert there == sorted(vm["domain"] for vm in alive.values())
    vms.remove_all()
    whole = vms.specfile({"slots": 2, "ramsize": 64}, "whole")
    assert len(electros(lab, "pledge", whole).document["offers"]) == len(HOSTS), "nothing is held"


def test_a_host_whose_front_door_is_shut_is_passed_over(lab: Any, vms: Vms) -> None:
    rule = ["OUTPUT", "-p", "tcp", "-d", "10.98.0.1", "--dport", "7766", "-j", "DROP"]
    rule_6 = ["OUTPUT", "-p", "tcp", "-d", mac_address(lab, "h1"), "--dport", "7766", "-j", "DROP"]
    lab.exec("client", "iptables", "-I", *rule)
    lab.exec("client", "ip6tables", "-I", *rule_6)
    try:
        assert vms.run("detour", host="h1")["host"] in ("h2", "h3")
        ended = electros(lab, *vms.arguments("bound", volumes=[lab.volumes("h1")["h1-qcow2"]]), code=None)
        assert ended.code in (1, 6)
        assert "no connection" in ended.err
    finally:
        lab.exec("client", "iptables", "-D", *rule)
        lab.exec("client", "ip6tables", "-D", *rule_6)
    assert set(vms.ps()) == {"detour"}


def mac_address(lab: Any, host: str) -> str:
    """Its link-local address."""
    shown = lab.exec(host, "ip", "-6", "-br", "address", "show", "dev", "eth0", "scope", "link").stdout
    return str(shown.split()[2].split("/")[0])


def test_a_corrupt_journal_stops_the_daemon_with_a_sentence_and_the_vms_live_on(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    vm = vms.run("survivor", host="h1")
    lab.stop("h1", "atomd")
    journal = lab.folder("h1") / "lib" / "atomd.sqlite"
    before = journal.read_bytes()
    try:
        journal.write_bytes(b"\xff" * len(before))
        refused = lab.command("start", "h1", "atomd", check=False)
        assert refused.returncode == 1
        assert "damaged" in refused.stderr
        assert "The VMs go on running" in lab.logs("h1", "atomd")
        assert "Traceback" not in lab.logs("h1", "atomd").split("damaged")[-1]
        assert domains(lab, "h1") == [vm["domain"]]
    finally:
        lab.stop("h1", "atomd")
        journal.write_bytes(before)
        lab.command("start", "h1", "atomd", check=False)  # it counts the failures from before
        until(lambda: lab.daemon("h1", "atomd")["state"] == "up")
    assert until(lambda: running(vms, "survivor")) == vm
    assert "survivor" in plainly(lab, "ps").out
