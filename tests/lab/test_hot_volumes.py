"""Volumes that come and go while a VM runs or is stopped, from its own host and from others, and CDs."""

import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pycdlib
import pytest
from lxml import etree

from tests.fakes.tiny_guest import BOOT_SECTOR
from tests.lab.test_volumes import names as names
from tests.lab.vms import HELIUM, Vms, booted, electros, login_as, plainly, serial_of

pytestmark = pytest.mark.lab

KILLS = 6
SEED = 48


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


def state_of(lab: Any, name: str) -> str:
    state: str = electros(lab, "volume", "inspect", name).document["volume"]["state"]
    return state


def vids_of(lab: Any, vm: str) -> list[str]:
    return [volume["vid"] for volume in electros(lab, "inspect", vm).document["vm"]["volumes"]]


def serials(lab: Any, vm: dict[str, Any]) -> list[str]:
    """Of the disks that libvirt has in the domain."""
    domain = etree.fromstring(lab.virsh(vm["host"], "dumpxml", vm["domain"]))
    full = (d for d in domain.iterfind("devices/disk") if d.xpath("source/@file | source/@name"))
    return [disk.findtext("serial") or "" for disk in full]


def bare(vid: str) -> str:
    return vid.replace("-", "")


def web(lab: Any, until: Callable[..., Any], vms: Vms) -> dict[str, Any]:
    """A Linux guest on h1 that has booted."""
    return booted(lab, until, vms.run("hot", HELIUM, volumes=[lab.volumes("h1")["h1-boot"]], host="h1"))


@pytest.mark.parametrize("where", ["h1", "h2"])
def test_a_running_guest_gets_a_volume_and_lets_go_of_it(
    lab: Any, until: Callable[..., Any], vms: Vms, where: str
) -> None:
    vm, name, vid = web(lab, until, vms), f"{where}-data", bare(lab.volumes(where)[f"{where}-data"])
    shown = electros(lab, "volume", "attach", "hot", name).document["vm"]
    assert [volume["vid"] for volume in shown["volumes"]][1:] == [vid]
    assert vid[:20] in serials(lab, vm)
    assert state_of(lab, name) == "attached"
    assert lab.virsh("h1", "secret-list").count("atomos-") == 0
    again = electros(lab, "volume", "attach", "hot", name, code=1).error
    assert again["code"] == "attached-already"
    shown = electros(lab, "volume", "detach", "hot", name).document["vm"]
    assert len(shown["volumes"]) == 1
    assert vid[:20] not in serials(lab, vm)
    assert state_of(lab, name) == "free"
    electros(lab, "volume", "attach", "hot", name, "--readonly")
    assert vids_of(lab, "hot")[1:] == [vid]
    electros(lab, "stop", "hot", "--force")
    assert state_of(lab, name) == "attached", "it is the VM's until it is detached or the VM removed"
    electros(lab, "rm", "hot")
    assert state_of(lab, name) == "free"


def test_what_a_stopped_vm_gets_and_gives_its_next_start_asks_for(lab: Any, vms: Vms) -> None:
    here, there = (bare(lab.volumes(host)[f"{host}-data"]) for host in ("h1", "h2"))
    vms.run("rest", host="h1")
    electros(lab, "stop", "rest", "--force")
    electros(lab, "volume", "attach", "rest", "h1-data", "--readonly")
    electros(lab, "volume", "attach", "rest", "h2-data")
    vm = electros(lab, "start", "rest").document["vm"]
    assert sorted(serials(lab, vm)) == sorted((here[:20], there[:20]))
    volumes = {v["vid"]: v for v in electros(lab, "inspect", "rest").document["vm"]["volumes"]}
    assert (volumes[here]["readonly"], volumes[there]["readonly"]) == (True, False)
    electros(lab, "stop", "rest", "--force")
    electros(lab, "volume", "detach", "rest", "h1-data")
    assert state_of(lab, "h1-data") == "free"
    vm = electros(lab, "start", "rest").document["vm"]
    assert serials(lab, vm) == [there[:20]]


def test_a_guest_that_does_not_let_go_keeps_its_volume_until_it_is_off(
    lab: Any, until: Callable[..., Any], vms: Vms
) -> None:
    """Nothing has booted in it that could hear."""
    vm, vid = vms.run("deaf", host="h1"), bare(lab.volumes("h1")["h1-data"])
    electros(lab, "volume", "attach", "deaf", "h1-data")
    error = electros(lab, "volume", "detach", "deaf", "h1-data", code=1).error
    assert error["code"] == "guest-keeps-it"
    assert "stays attached" in error["message"]
    assert vid[:20] in serials(lab, vm)
    assert state_of(lab, "h1-data") == "attached"
    (volume,) = electros(lab, "inspect", "deaf").document["vm"]["volumes"]
    assert volume["change"] == "detaching"
    assert volume["change_s"] > 0, "the guest had its time"
    (volume,) = electros(lab, "volume", "attach", "deaf", "h1-data").document["vm"]["volumes"]
    assert volume["change"] == "keeping"
    assert vid[:20] in serials(lab, vm)
    assert electros(lab, "volume", "detach", "deaf", "h1-data", code=1).error["code"] == "guest-keeps-it"
    electros(lab, "stop", "deaf", "--force")
    until(lambda: state_of(lab, "h1-data") == "free", within_s=45)
    until(lambda: vids_of(lab, "deaf") == [])


def test_what_may_not_be_attached_is_told(lab: Any, names: list[str], vms: Vms, tmp_path: Path) -> None:
    names += ["hotsecret"]
    vms.run("one", {"slots": 1, "ramsize": 64, "overprovision": 4}, volumes=[lab.volumes("h1")["h1-data"]], host="h1")
    vms.run("two", {"slots": 1, "ramsize": 64, "overprovision": 4}, host="h1")
    taken = electros(lab, "volume", "attach", "two", "h1-data", code=3).error
    assert 'in use by your VM "one"' in str(taken)
    assert electros(lab, "volume", "attach", "two", "no-such", code=4).error["code"] == "not-found"
    assert electros(lab, "volume", "detach", "two", "h2-data", code=4).error["code"] == "not-found"
    local = electros(lab, "volume", "create", "--name", "hotsecret", "--size", "0.125", "--format", "qcow2",
                     "--host", "h2", "--private")  # fmt: skip
    assert local.code == 0
    away = electros(lab, "volume", "attach", "two", "hotsecret", code=3).error
    assert "can't reach h1" in away["message"]
    bob = login_as(lab, "hotbob", tmp_path)
    for words in (["attach", "two", "h2-data"], ["detach", "one", "h1-data"]):
        done = lab.exec("client", *bob, "volume", *words, check=False)
        assert done.returncode == 4, "another user's VM is not there"
    spec = vms.specfile({"slots": 1, "ramsize": 64, "overprovision": 4}, "bobs")
    lab.exec("client", *bob, "run", spec, "--name", "bobs")
    done = lab.exec("client", *bob, "volume", "attach", "bobs", "hotsecret", check=False)
    assert (done.returncode, "no volume in reach" in done.stderr) == (4, True), "nor is a private volume"
    lab.exec("client", *bob, "rm", "--force", "bobs")
    plainly(lab, "user", "revoke", "hotbob", "--yes")
    grow = electros(lab, "volume", "resize", "h1-data", "--size", "1", code=1).error
    assert "electros volume detach" in grow["hint"]


def cd(path: Path) -> Path:
    """An image that boots, and says so."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3)
    iso.add_fp(io.BytesIO(BOOT_SECTOR.ljust(2048, b"\0")), 2048, "/BOOT.;1")
    iso.add_eltorito("/BOOT.;1", bootcatfile="/BOOT.CAT;1")
    iso.write(str(path))
    iso.close()
    return path


def test_a_cd_is_booted_until_a_disk_can_be_and_is_taken_out_then(
    lab: Any, until: Callable[..., Any], names: list[str], vms: Vms, tmp_path: Path
) -> None:
    names += ["cd", "blank"]
    electros(lab, "volume", "import", str(cd(tmp_path / "boot.iso")), "--name", "cd", "--readonly")
    electros(lab, "volume", "create", "--name", "blank", "--size", "0.125", "--bootable")
    blank = electros(lab, "volume", "inspect", "blank").document["volume"]["vid"]
    vm = vms.run("install", None, "--iso", "cd", volumes=[blank])
    until(lambda: "ATOMOS-READY bs" in serial_of(lab, vm), within_s=60)
    volumes = electros(lab, "inspect", "install").document["vm"]["volumes"]
    assert [volume.get("cdrom", False) for volume in volumes] == [False, True]
    electros(lab, "volume", "detach", "install", "cd")
    assert len(serials(lab, vm)) == 1
    assert state_of(lab, "cd") == "free"
    installed = vms.run("installed", HELIUM, "--iso", "cd", volumes=[lab.volumes("h1")["h1-boot"]], host="h1")
    booted(lab, until, installed)
    assert "ATOMOS-READY bs" not in serial_of(lab, installed), "the disk comes first"
    error = electros(lab, "run", vms.specfile(), "--iso", "blank", code=2).error
    assert "--readonly" in error["hint"]


@pytest.mark.parametrize("name", [pytest.param("h1-data", marks=pytest.mark.slow), "h2-data"])
def test_atomd_killed_at_any_moment_leaves_it_attached_or_not(
    lab: Any, until: Callable[..., Any], vms: Vms, name: str
) -> None:
    """What libvirt, storage and the VM's own host say is the same again, soon."""
    vm, vid = web(lab, until, vms), bare(lab.volumes(name[:2])[name])
    chance = random.Random(SEED)
    asking = ["env", "electros", "volume"]
    has = False
    for _ in range(KILLS):
        restarts = lab.daemon("h1", "atomd")["restarts"]
        client = lab.popen("client", *asking, "detach" if has else "attach", "hot", name)
        time.sleep(0.4 + chance.random())  # it takes a second, most of which is asking around
        lab.kill("h1", "atomd")
        client.communicate()
        until(lambda before=restarts: (now := lab.daemon("h1", "atomd"))["restarts"] > before and now["state"] == "up")

        def agrees() -> bool:
            shown = electros(lab, "inspect", "hot", code=None)
            if shown.code:
                return False
            volumes = shown.document["vm"]["volumes"]
            told = vid in [volume["vid"] for volume in volumes]
            settled = not any("change" in volume for volume in volumes)
            return settled and told == (vid[:20] in serials(lab, vm)) == (state_of(lab, name) == "attached")

        until(agrees, within_s=60)
        has = vid in vids_of(lab, "hot")
    if has:
        electros(lab, "volume", "detach", "hot", name)
    assert state_of(lab, name) == "free"
