"""A folder that VMs share, with real guests: they mount it by virtiofs, and have no other way to it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import Vms, booted, electros, serial_of

pytestmark = pytest.mark.lab

SPEC = {"slots": 1, "allowSMT": True, "ramsize": 128, "overprovision": 4}
TYPE_S = 60.0  # an emulated guest on a busy machine


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


@pytest.fixture
def common(lab: Any, vms: Vms) -> Iterator[dict[str, Any]]:
    """A new shareable volume of h1."""
    words = ("volume", "create", "--shareable", "--size", "1", "--name", "common", "--host", "h1")
    yield dict(electros(lab, *words).document["volume"])
    vms.remove_all()
    electros(lab, "volume", "rm", "--yes", "common")


def folder_of(lab: Any, volume: dict[str, Any]) -> Path:
    return Path(lab.folder("h1"), "srv", f"{volume['vid']}.elimg", "share")


class Guest:
    """One that has booted, at whose console commands are typed."""

    def __init__(self, lab: Any, until: Callable[..., Any], vm: dict[str, Any]) -> None:
        self._lab, self._until, self._typed = lab, until, 0
        self.vm = booted(lab, until, vm)

    def types(self, command: str) -> None:
        script = (
            f"(sleep 0.5; printf '%s\\n' {quoted(command)}; sleep 0.5) | timeout 20 electros console {self.vm['id']}"
        )
        self._lab.exec("client", "sh", "-c", script, check=False, timeout_s=40)

    def says(self, command: str) -> bool:
        """Whether it succeeds in the guest."""
        self._typed += 1
        mark = f"{self._typed}-of-it"
        self.types(f"{command} && echo GOOD-{mark} || echo BAD-{mark}")

        def answer() -> str:
            said = serial_of(self._lab, self.vm).replace("\r", "")
            return next((word for word in ("GOOD", "BAD") if f"\n{word}-{mark}\n" in said), "")

        return bool(self._until(answer, within_s=TYPE_S) == "GOOD")

    def mounts(self, volume: dict[str, Any]) -> None:
        assert self.says(f"mount -t virtiofs {volume['vid'].replace('-', '')} /mnt")


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def mounts(lab: Any, host: str) -> list[str]:
    """Of folders that are shared, as libvirtd's host has them."""
    table = lab.exec(host, "cat", "/proc/self/mountinfo").stdout.splitlines()
    return [line for line in table if " /run/atomos/shares/" in line]


def guest_on(lab: Any, until: Callable[..., Any], vms: Vms, host: str, volume: dict[str, Any]) -> Guest:
    vm = vms.run(f"of-{host}", SPEC, volumes=[lab.volumes(host)[f"{host}-boot"], volume["vid"]], host=host)
    assert vm["host"] == host
    return Guest(lab, until, vm)


def test_a_guest_on_the_volumes_host_writes_into_it_and_the_host_follows_nothing(
    lab: Any, until: Callable[..., Any], vms: Vms, common: dict[str, Any]
) -> None:
    one = guest_on(lab, until, vms, "h1", common)
    one.mounts(common)
    folder = folder_of(lab, common)
    (folder / "there").write_text("of the host\n")
    assert one.says("grep 'of the host' /mnt/there")
    assert one.says("echo of the guest > /mnt/new && ln -s /etc/passwd /mnt/link && mknod /mnt/dev b 254 0 && sync")
    assert (folder / "new").read_text() == "of the guest\n"
    (line,) = mounts(lab, "h1")
    path = line.split(" ")[4]
    assert {"nosuid", "nodev", "noexec", "nosymfollow"} <= set(line.split(" ")[5].split(","))
    assert lab.exec("h1", "cat", f"{path}/link", check=False).returncode
    assert lab.exec("h1", "head", "-c", "1", f"{path}/dev", check=False).returncode
    assert one.says("! head -c 1 /mnt/../dev/mem/x")  # the guest's own root is all that it has
    electros(lab, "stop", "--force", one.vm["id"])
    until(lambda: not mounts(lab, "h1"))


def test_an_atomd_that_is_killed_leaves_the_guest_its_folder_and_sweeps_what_has_ended(
    lab: Any, until: Callable[..., Any], vms: Vms, common: dict[str, Any]
) -> None:
    one = guest_on(lab, until, vms, "h1", common)
    one.mounts(common)
    lab.stop("h1", "atomd")
    stray = f"/run/atomos/shares/{'9' * 32}.1.{common['vid'].replace('-', '')}"
    lab.exec("h1", "sh", "-c", f"mkdir {stray} && mount -t tmpfs none {stray}")
    lab.start("h1", "atomd")
    until(lambda: len(mounts(lab, "h1")) == 1)
    assert one.says("echo still > /mnt/still && sync")
    assert (folder_of(lab, common) / "still").read_text() == "still\n"
