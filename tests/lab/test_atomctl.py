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
