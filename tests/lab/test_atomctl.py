"""A sysadmin at a host's back door: sees all, closes it to new VMs, ends those that are there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import Vms, electros

pytestmark = pytest.mark.lab


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


def atomctl(lab: Any, *words: str) -> Any:
    return json.loads(lab.exec("h1", "atomctl", *words, "-o", "json").stdout)


def test_a_sysadmin_sees_a_users_vm_evicts_it_and_removes_it(lab: Any, vms: Vms) -> None:
    vm = vms.run("guest", host="h1")
    shown = {row["name"]: row for row in atomctl(lab, "ps")["vms"]}
    assert shown["guest"]["user"] == "lab"
    evicted = atomctl(lab, "evict", vm["id"], "--force", "--why", "a fan is broken")
    assert evicted["vm"]["why"] == "its sysadmin ended it: a fan is broken"
    assert vms.ps()["guest"]["state"] == "stopped"
    assert atomctl(lab, "rm", vm["id"], "--yes")["gone"]
    audit = lab.exec("h1", "atomctl", "audit", "-n", "50").stdout
    assert "vm.evict" in audit
    assert "sysadmin uid 0 (root)" in audit


def test_a_drained_host_says_so_also_after_a_restart_until_that_is_undone(lab: Any, vms: Vms) -> None:
    def said() -> str:
        return json.dumps(electros(lab, "pledge", vms.specfile(), code=None).document)

    atomctl(lab, "drain")
    try:
        assert "drained by its sysadmin" in said()
        assert {h["name"]: h["drained"] for h in electros(lab, "hosts").document["hosts"]}["h1"]
        lab.restart("h1", "atomd")
        assert atomctl(lab, "status")["status"]["drained"]
        assert "drained by its sysadmin" in said()
    finally:
        atomctl(lab, "drain", "--undo")
    assert "drained by its sysadmin" not in said()


def test_a_sysadmin_sees_each_device_of_the_host_and_lets_none_out_that_is_not_in_quarantine(lab: Any) -> None:
    here = sorted(path.name for path in Path("/sys/bus/pci/devices").glob("*"))
    rows = atomctl(lab, "devices")["devices"]
    assert [row["address"] for row in rows] == here
    assert not [row for row in rows if row["is_quarantined"] or row["vm_id"]]
    refused = lab.exec("h1", "atomctl", "readmit", "0000:ff:1f.7", check=False)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "it is not in quarantine" in refused.stderr
    misspelled = lab.exec("h1", "atomctl", "readmit", "eth0", check=False)
    assert (misspelled.returncode, '"eth0" is no PCI address' in misspelled.stderr) == (2, True)
