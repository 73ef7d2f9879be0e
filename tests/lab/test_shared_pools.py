"""A folder that two servers see: one of them at a time gives a volume away, by a real sanlock on each, and no watchdog.

What the lab's hosts share is a folder of one machine: a filesystem that isn't known to show servers each other's
writes. So nothing is taken over here but on a person's word.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.sanlock_world import SHIM
from tests.lab.conftest import Lab, raised
from tests.lab.vms import HELIUM, TINY, Vms, booted, boots, electros, plainly

pytestmark = [
    pytest.mark.lab,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("sanlock") is None or shutil.which("tgtd") is None,
        reason="sanlock or tgtd is not installed: packaging/setup",
    ),
]

SERVERS = ("h1", "h2")
VID = "5a4ed000-0000-4000-8000-000000000001"
JOINED_S = 90.0
RUN_OUT_S = 240.0
FROZEN = "$(pidof sanlock) $(pgrep -f '[t]gtd.*:7770') $(pgrep -f '[b]in/storaged')"


class Shared:
    """A lab with a pool that h1 and h2 have joined; h3 has the VMs."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pool = lab.folder("h1").parents[1] / "shared"
        self.folder = self.pool / f"{VID}.elimg"

    def furnish(self) -> None:
        """Before it is shared: a pool of h1, with what h1 boots from."""
        source = self.lab.folder("h1") / "srv" / f"{self.lab.volumes('h1')['h1-boot']}.elimg"
        self.folder.mkdir(parents=True)
        subprocess.run(["cp", "--sparse=always", source / "data.img", self.folder], check=True)
        meta = json.loads((source / "meta.json").read_text())
        (self.folder / "meta.json").write_text(json.dumps({**meta, "name": "ours"}))
        for server in SERVERS:
            settings = self.lab.folder(server) / "etc" / "storaged.toml"
            pools = f'pools = ["/srv/atomos", "{self.pool}"]\nlease_io_s = 1\n'
            kept = [line for line in settings.read_text().splitlines() if not line.startswith("pools")]
            settings.write_text(pools + "\n".join(kept) + "\n")
            self.lab.restart(server, "storaged")

    def start_sanlock(self) -> None:
        shim, source = self.pool.parent / "shim.so", self.pool.parent / "shim.c"
        source.write_text(SHIM)
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", shim, source], check=True)
        words = ["sanlock", "daemon", "-w", "0", "-l", "0", "-h", "0", "-U", "root", "-G", "root", "-e"]
        for server in SERVERS:
            self.lab.exec(server, "env", "SANLOCK_PRIVILEGED=1", f"LD_PRELOAD={shim}", *words, server)

    def say(self, server: str, verb: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.lab.exec(server, "storaged", "pool", verb, str(self.pool), check=check)

    def row(self, server: str) -> str:
        """What the server says of the pool."""
        rows = self.lab.exec(server, "storaged", "pool", "ls").stdout.splitlines()
        return next(row for row in rows if row.startswith(f"{self.pool} "))

    def are_joined(self) -> bool:
        return all("given for writing" in self.row(server) for server in SERVERS)

    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "attachment.json").read_text()))

    def names(self) -> dict[str, str]:
        return {host["id"]: host["name"] for host in electros(self.lab, "hosts").document["hosts"]}

    def exporter(self, server: str) -> str:
        return str(self.lab.exec(server, "pgrep", "-f", "[t]gtd.*:7770", check=False).stdout.strip())

    def leases(self, server: str) -> list[str]:
        said = self.lab.exec(server, "sanlock", "client", "status").stdout.splitlines()
        return [line for line in said if line.startswith("r ")]

    def views(self) -> dict[str, dict[str, Any]]:
        """The volume, as each server shows it."""
        listed = electros(self.lab, "volume", "ls").document["volumes"]
        return {volume["host"]: volume for volume in listed if volume["vid"] == VID}

    def drain(self, *hosts: str) -> None:
        for host in ("h1", "h2", "h3"):
            self.lab.exec(host, "atomctl", "drain", *([] if host in hosts else ["--undo"]))


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    if os.geteuid() != 0:
        pytest.skip("lab tests need root")
    with raised("shared", "-n", "3") as lab:
        yield Shared(lab)


@pytest.fixture
def vms(shared: Shared, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(shared.lab, tmp_path)
    yield mine
    shared.drain()
    mine.remove_all()


def test_a_pool_is_shared_when_nothing_of_it_is_attached_and_both_servers_join(
    shared: Shared, vms: Vms, until: Callable[..., Any]
) -> None:
    shared.furnish()
    until(lambda: "its pool is that of host" in shared.row("h2"))
    assert "its own server can share it" in shared.say("h2", "share", check=False).stderr
    shared.drain("h1", "h2")  # QEMU's user can't come to that folder: it is to be exported
    vms.run("early", TINY, volumes=[VID])
    assert "a VM has its volume" in shared.say("h1", "share", check=False).stderr
    plainly(shared.lab, "rm", "--force", "early")
    assert "is shared by several servers" in shared.say("h1", "share").stdout
    assert "already" in shared.say("h1", "share").stdout
    until(lambda: "sanlock" in shared.row("h1"))  # there is none running yet
    view = until(lambda: (found := shared.views().get("h2")) and found["state"] == "bad" and found)
    assert "shared by several servers" in view["why"]
    refused = electros(shared.lab, *vms.arguments("none", TINY, volumes=[VID]), code=None)
    assert refused.code != 0
    assert "shared by several servers" in refused.err
    shared.start_sanlock()
    until(shared.are_joined, within_s=JOINED_S)
    assert {view["state"] for view in shared.views().values()} == {"free"}


def test_a_vm_on_the_server_itself_has_the_volume_through_the_exporter(
    shared: Shared, vms: Vms, until: Callable[..., Any]
) -> None:
    shared.drain("h2", "h3")
    vm = vms.run("near", TINY, volumes=[VID])
    assert vm["host"] == "h1"
    server = shared.names()[shared.record()["server"]]
    assert "127.0.0.1" in shared.lab.virsh("h1", "dumpxml", vm["domain"]) or server != "h1"
    (lease,) = shared.leases(server)
    assert VID.replace("-", "") in lease
    flags = "for f in /proc/$0/fd/*; do readlink $f | grep -q elimg && cat /proc/$0/fdinfo/${f##*/} || :; done"
    opened = shared.lab.exec(server, "sh", "-c", flags, shared.exporter(server)).stdout
    (flag,) = {int(line.split()[1], 8) for line in opened.splitlines() if line.startswith("flags:")}
    assert flag & os.O_DIRECT
    for words in (["resize", VID, "--size", "1"], ["snapshot", VID, "s1"], ["clone", VID, "--name", "copy"]):
        assert "shared by several servers" in electros(shared.lab, "volume", *words, code=None).err
    plainly(shared.lab, "rm", "--force", "near")
    assert shared.record()["held"] is False
    until(lambda: not shared.leases("h1") and not shared.leases("h2"))


def test_a_dead_servers_volume_goes_to_another_on_a_persons_word_and_the_old_one_never_writes_again(
    shared: Shared, vms: Vms, until: Callable[..., Any]
) -> None:
    lab = shared.lab
    shared.drain("h1", "h2")
    old = booted(lab, until, vms.run("old", HELIUM, volumes=[VID]))
    before, count = shared.record(), boots(lab, old)[-1]
    dead = shared.names()[before["server"]]
    (alive,) = set(SERVERS) - {dead}
    assert shared.views()[alive]["lent_by"] == before["server"]
    exporter = shared.exporter(dead)
    lab.exec(dead, "sh", "-c", f"kill -STOP {FROZEN}")
    try:
        error = electros(lab, "volume", "takeover", VID, code=None).err
        assert "no watchdog ends it" in error
        assert "is not known to show servers each other's writes" in error
        assert "only a person can say that it is dead" in error
        assert shared.record() == before
        ours = shared.exporter(alive)

        def is_free() -> bool:
            return electros(lab, "volume", "takeover", VID, "--host-is-dead", code=None).code == 0

        until(is_free, within_s=RUN_OUT_S, every_s=5)
        assert shared.exporter(alive) == ours, "who waits for one lease keeps the others"
        now = shared.record()
        assert (now["held"], now["epoch"]["counter"]) == (False, before["epoch"]["counter"] + 1)
        audit = (lab.folder(alive) / "lib" / "audit.jsonl").read_text()
        assert "said to be dead" in audit
        shared.drain(dead, "h3")
        heir = booted(lab, until, vms.run("heir", HELIUM, volumes=[VID]))
        assert boots(lab, heir)[-1] == count + 1, "it has all that the old one has written"
        assert shared.names()[shared.record()["server"]] == alive
    finally:
        lab.exec(dead, "sh", "-c", f"kill -CONT {FROZEN}")
    now = shared.record()
    until(lambda: exporter not in shared.exporter(dead).split(), within_s=60)
    until(shared.are_joined, within_s=JOINED_S)
    failed = until(lambda: (vm := vms.ps()["old"]) and vm["state"] == "failed" and vm, within_s=90)
    assert "taken over" in failed["why"]
    assert shared.record() == now
    electros(lab, "reboot", "heir")
    until(lambda: boots(lab, heir)[-1] == count + 2, within_s=120)


def test_a_pool_is_one_servers_again_on_its_word(shared: Shared, until: Callable[..., Any]) -> None:
    until(lambda: shared.record()["held"] is False)
    assert "this server's alone" in until(lambda: shared.say("h2", "unshare", check=False).stdout)
    until(lambda: "its pool is that of host" in shared.row("h1"), within_s=60)
    until(lambda: shared.exporter("h1") == shared.exporter("h2") == "", within_s=60)
    assert "given for writing" in shared.row("h2")
