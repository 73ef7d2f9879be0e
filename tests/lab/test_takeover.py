"""A VM whose disk is on another host: it survives the deaths of all daemons, and has one writer whatever happens."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storaged.export.tgt import PORT
from tests.lab.vms import HELIUM, Vms, booted, boots, domains, electros, plainly

pytestmark = pytest.mark.lab


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    for host in ("h1", "h2", "h3"):
        lab.start(host, "atomd")
        lab.exec(host, "atomctl", "drain", "--undo")
    mine.remove_all()


def on_h1(lab: Any, vms: Vms, until: Callable[..., Any], name: str) -> dict[str, Any]:
    """A VM on h1 that has booted from h2's volume."""
    vid = boot(lab)
    for host in ("h2", "h3"):
        lab.exec(host, "atomctl", "drain")
    vm = booted(lab, until, vms.run(name, HELIUM, volumes=[vid]))
    for host in ("h2", "h3"):
        lab.exec(host, "atomctl", "drain", "--undo")
    assert vm["host"] == "h1"
    (volume,) = vm["volumes"]
    assert volume["from"] == host_id(lab, "h2")
    return vm


def boot(lab: Any) -> str:
    return str(lab.volumes("h2")["h2-boot"])


def host_id(lab: Any, name: str) -> str:
    return next(str(host["id"]) for host in electros(lab, "hosts").document["hosts"] if host["name"] == name)


def record(lab: Any) -> dict[str, Any]:
    """Who may write h2's boot volume, as the volume itself says."""
    folder = lab.folder("h2") / "srv" / f"{lab.volumes('h2')['h2-boot']}.elimg"
    return dict(json.loads((folder / "attachment.json").read_text()))


def tgtd(lab: Any) -> str:
    return str(lab.exec("h2", "pidof", "tgtd", check=False).stdout.strip())


def test_the_guest_lives_on_while_each_daemon_is_killed(lab: Any, vms: Vms, until: Callable[..., Any]) -> None:
    vm = on_h1(lab, vms, until, "afar")
    before = tgtd(lab)
    lab.exec("h2", "kill", "-9", before)
    until(lambda: tgtd(lab) not in ("", before))
    lab.kill("h2", "storaged")
    lab.kill("h1", "atomd")
    until(lambda: [vm for vm in electros(lab, "ps", code=None).document["vms"] if vm["state"] == "running"])
    assert lab.virsh("h1", "domstate", vm["domain"]).strip() == "running"
    count = boots(lab, vm)[-1]
    electros(lab, "reboot", "afar")  # the guest writes its count, and reads itself anew
    until(lambda: boots(lab, vm)[-1] == count + 1, within_s=120)
    assert record(lab)["epoch"]["counter"] >= 1


def test_a_vm_that_starts_while_its_exporter_is_away_starts_when_it_is_back(
    lab: Any, vms: Vms, until: Callable[..., Any]
) -> None:
    """A tgtd that is dead refuses, and one that has just begun has no target yet: QEMU ends on either."""
    away = ["iptables", "-I", "INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "REJECT", "--reject-with", "tcp-reset"]
    back = [word if word != "-I" else "-D" for word in away]
    lab.exec("h2", *away)
    try:
        starting = lab.popen("client", "electros", *vms.arguments("late", HELIUM, volumes=[boot(lab)], host="h1"))
        until(lambda: "late" in {vm["name"] for vm in electros(lab, "ps", code=None).document.get("vms", ())})
        time.sleep(3)  # QEMU has tried by then
    finally:
        lab.exec("h2", *back)
    _, err = starting.communicate(timeout=60)
    assert starting.returncode == 0, err
    (seen,) = electros(lab, "ps").document["vms"]
    assert (seen["name"], seen["state"], seen["host"]) == ("late", "running", "h1")


def test_a_vm_of_a_dead_host_is_started_elsewhere_and_the_old_one_never_writes_again(
    lab: Any, vms: Vms, until: Callable[..., Any]
) -> None:
    """The host is not dead at all: its VM still runs when the other one begins."""
    old = on_h1(lab, vms, until, "phoenix")
    before = record(lab)
    count = boots(lab, old)[-1]
    lab.stop("h1", "atomd")
    error = electros(lab, "start", "phoenix", code=6).error
    assert "h1, which does not answer" in error["message"]
    assert "--elsewhere" in error["hint"]
    assert lab.virsh("h1", "domstate", old["domain"]).strip() == "running"
    refused = electros(lab, "start", "phoenix", "--elsewhere", code=1).error
    assert re.search("h1 is alive, as h[23] has heard: phoenix may be running there", refused["message"])
    assert "--host-is-dead" in refused["hint"]
    new = electros(lab, "start", "phoenix", "--elsewhere", "--host-is-dead").document["vm"]
    assert (new["id"], new["generation"]) == (old["id"], 2)
    assert new["host"] != "h1"
    now = record(lab)
    assert now["epoch"]["counter"] == before["epoch"]["counter"] + 1
    assert (now["generation"], now["host_id"]) == (2, host_id(lab, new["host"]))
    assert boots(lab, booted(lab, until, new))[-1] == count + 1, "it has all that the old one has written"
    lab.start("h1", "atomd")
    until(lambda: domains(lab, "h1") == [], within_s=60)
    (failed,) = [vm for vm in electros(lab, "ps").document["vms"] if vm["host"] == "h1"]
    assert failed["state"] == "failed"
    assert "generation 2 has it" in failed["why"]
    assert record(lab) == now


def test_a_vm_that_stops_frees_its_volume_for_the_next_one_on_any_host(
    lab: Any, vms: Vms, until: Callable[..., Any]
) -> None:
    on_h1(lab, vms, until, "first")
    vid = lab.volumes("h2")["h2-boot"]
    refused = electros(lab, *vms.arguments("second", HELIUM, volumes=[vid], host="h3"), code=None)
    assert refused.code != 0
    assert 'in use by your VM \\"first\\"' in refused.err or "in use by your VM" in refused.err
    plainly(lab, "rm", "--force", "first")
    assert record(lab)["held"] is False
    assert vms.run("second", HELIUM, volumes=[vid], host="h3")["host"] == "h3"
    assert lab.exec("h1", "virsh", "-q", "secret-list").stdout.strip() == ""


def test_a_vm_whose_storage_host_is_gone_can_be_removed_and_its_volume_is_free_when_it_is_back(
    lab: Any, vms: Vms, until: Callable[..., Any]
) -> None:
    on_h1(lab, vms, until, "orphan")
    lab.stop("h2", "storaged")
    try:
        assert "orphan is removed from h1" in plainly(lab, "rm", "--force", "orphan").err
        assert "orphan" not in vms.ps()
        assert domains(lab, "h1") == []
        lab.kill("h1", "atomd")  # what is owed is remembered
        until(lambda: lab.daemon("h1", "atomd")["state"] == "up")
        assert record(lab)["held"] is True
    finally:
        lab.start("h2", "storaged")
    until(lambda: record(lab)["held"] is False, within_s=60)
    assert "orphan" not in vms.ps()
