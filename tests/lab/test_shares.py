"""A folder that VMs share, with real guests: they mount it by virtiofs, and have no other way to it.

Between hosts it goes by real NFSv4 to a real ganesha. Where this machine's kernel has no NFS client, a helper of
mount(8) stands in for it: see `tests/fakes/mount_nfs4.c`. All that the daemons do is the same.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import Vms, booted, electros, plainly, serial_of

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
            f"(sleep 0.5; printf '%s\\n' {quoted(command)}; sleep 0.5) | timeout 5 electros console {self.vm['id']}"
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


def has_nfs() -> bool:
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "nfsv4"], capture_output=True)
    return "nfs4" in Path("/proc/filesystems").read_text().split()


@pytest.fixture(scope="session")
def helper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("nfs") / "mount.nfs4"
    libraries = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3", "libnfs"], capture_output=True, text=True)
    if libraries.returncode or shutil.which("cc") is None:
        pytest.skip("no NFS client: neither has the kernel one, nor are cc, libfuse3-dev and libnfs-dev installed")
    source = Path(__file__).resolve().parents[1] / "fakes" / "mount_nfs4.c"
    subprocess.run(["cc", "-O1", str(source), "-o", str(built), *libraries.stdout.split()], check=True)
    built.parent.chmod(0o755)
    return built


@pytest.fixture
def nfs_client(lab: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """h2 and the client can mount by NFS."""
    if has_nfs():
        yield
        return
    built = request.getfixturevalue("helper")
    for host in ("h2", "client"):
        lab.exec(host, "mount", "--bind", str(built), "/usr/sbin/mount.nfs")
    yield
    for host in ("h2", "client"):
        lab.exec(host, "umount", "--lazy", "/usr/sbin/mount.nfs")  # one that still waits ends with the lab


def exports(lab: Any) -> list[str]:
    """Paths that h1's ganesha exports."""
    words = ("--print-reply", "--dest=org.ganesha.nfsd", "/org/ganesha/nfsd/ExportMgr")
    ask = ("dbus-send", "--bus=unix:path=/run/atomos/exports/nfs/bus", *words, "org.ganesha.nfsd.exportmgr.ShowExports")
    said = lab.exec("h1", *ask, check=False).stdout
    return [word for word in said.split('"') if word.startswith("/vol.")]


def is_admitted(lab: Any, host: str, path: str) -> bool:
    options = "vers=4.2,proto=tcp,port=7769,retry=0,soft"
    mount = f"mount -t nfs4 -o {options} h1:{path} /mnt && ls /mnt && umount /mnt"
    return bool(lab.exec(host, "timeout", "15", "sh", "-c", mount, check=False).returncode == 0)


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


def test_two_vms_on_two_hosts_share_a_folder_and_nobody_else_may_mount_it(
    lab: Any, until: Callable[..., Any], vms: Vms, common: dict[str, Any], nfs_client: None
) -> None:
    one, two = (guest_on(lab, until, vms, host, common) for host in ("h1", "h2"))
    for guest in (one, two):
        guest.mounts(common)
    assert one.says("echo from one > /mnt/one && sync")
    assert two.says("grep 'from one' /mnt/one && echo from two > /mnt/two && mkdir /mnt/d && mv /mnt/two /mnt/d/")
    assert one.says("grep 'from two' /mnt/d/two")
    assert (folder_of(lab, common) / "d" / "two").read_text() == "from two\n"
    assert electros(lab, "volume", "inspect", "common").document["volume"]["state"] == "attached"
    (path,) = exports(lab)
    assert is_admitted(lab, "h2", path)
    assert not is_admitted(lab, "client", path)
    electros(lab, "rm", "--force", two.vm["id"])
    assert exports(lab) == []
    assert mounts(lab, "h2") == []
    assert not is_admitted(lab, "h2", path)
    assert one.says("grep 'from two' /mnt/d/two")


def test_a_killed_ganesha_is_a_pause_for_the_guest_and_no_error(
    lab: Any, until: Callable[..., Any], vms: Vms, common: dict[str, Any], nfs_client: None
) -> None:
    two = guest_on(lab, until, vms, "h2", common)
    two.mounts(common)
    two.types("(n=0; while echo $n >> /mnt/count; do n=$((n + 1)); usleep 100000; done; echo IT-HAS-FAILED) &")
    count = folder_of(lab, common) / "count"

    def counts_on() -> None:
        before = counted()
        until(lambda: counted() > before + 5, within_s=TYPE_S)

    def counted() -> int:
        return len(count.read_text().split()) if count.exists() else 0

    (path,) = exports(lab)
    for _ in range(2):
        counts_on()
        lab.exec("h1", "sh", "-c", "kill -9 $(pidof ganesha.nfsd)")
        until(lambda: exports(lab) == [path], within_s=5)
        counts_on()
    assert "\nIT-HAS-FAILED" not in serial_of(lab, two.vm)
    numbers = [int(number) for number in count.read_text().split()]
    assert numbers == list(range(len(numbers))), "nothing is lost, and nothing is there twice"


@pytest.mark.slow
def test_a_storaged_that_is_killed_leaves_guests_their_folder_and_knows_whose_it_is(
    lab: Any, until: Callable[..., Any], vms: Vms, common: dict[str, Any], nfs_client: None
) -> None:
    two = guest_on(lab, until, vms, "h2", common)
    two.mounts(common)
    (path,) = exports(lab)
    restarts = lab.daemon("h1", "storaged")["restarts"]
    lab.kill("h1", "storaged")
    until(lambda: (now := lab.daemon("h1", "storaged"))["restarts"] > restarts and now["state"] == "up")
    assert two.says("echo still > /mnt/still && sync")
    assert exports(lab) == [path]
    until(lambda: electros(lab, "rm", "--force", two.vm["id"], code=None).code == 0)
    until(lambda: exports(lab) == [])


def test_a_folder_is_for_several_vms_and_a_disk_may_be_shareable_still(lab: Any) -> None:
    words = ("volume", "create", "--size", "0.125", "--name", "disk", "--format")
    assert "--shareable" in plainly(lab, *words, "folder", code=2).err
    disk = electros(lab, *words, "raw", "--shareable").document["volume"]
    assert (disk["format"], disk["shareable"]) == ("raw", True)
    electros(lab, "volume", "rm", "--yes", disk["vid"])
