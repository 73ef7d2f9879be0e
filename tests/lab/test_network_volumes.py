"""A guest on h1 with a disk of h2: real libvirt, QEMU and tgt. The targets are made by hand here, as storaged would."""

import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("libvirt", reason="the libvirt bindings are not installed: pip install atomos[host]")

from atomd.hypervisor.disk_xml import domain_secrets
from atomd.hypervisor.domain_xml import DomainSpec, domain_name, domain_xml
from atomd.hypervisor.domains import DomainState, StartFailed
from atomd.hypervisor.hypervisor import Hypervisor
from matcher.wire.messages import Accelerator, Address, Arch, ImageFormat
from matcher.wire.volumes import AttachedVolume, ChapSecret, IscsiTarget
from specs.ids import UserId, Vid, VmId
from storaged.export.description import Image
from storaged.export.writers import Writers, writers_of
from tests.fakes.writing_guest import DISK, count_in

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("tgtd") is None, reason="tgt is not installed: apt-get install tgt"),
]

PORT = 3260
VID = "ab" * 16
SECRET = "0123456789abcdef"
INITIATOR = "iqn.2026-01.atomos:h1.7"
LOOK_S, LOOKS_MAX = 0.2, 300  # an emulated guest on a busy machine; libiscsi waits longer with each login that fails
QUIET_S = 3.0


def until_so(is_so: Callable[[], bool]) -> None:
    for _ in range(LOOKS_MAX):
        if is_so():
            return
        time.sleep(LOOK_S)
    pytest.fail("it never was so")


class Target:
    """h2's tgtd, with one image. `epoch` is in the target's name and its account, as storaged has it."""

    def __init__(self, lab: Any) -> None:
        self._lab = lab
        self.image = Path(lab.folder("h2") / "srv" / f"{uuid.uuid4().hex}.img")
        self.image.write_bytes(DISK)
        self.ip = lab.exec("h2", "hostname", "-I").stdout.split()[0]
        self._tgtd: Any = None

    def begin(self) -> None:
        run = f"echo $$ > /run/tgtd.pid; exec tgtd -f -C 1 --iscsi portal={self.ip}:{PORT}"
        self._tgtd = self._lab.popen("h2", "sh", "-c", run)
        for _ in range(100):
            if self._adm("sys", "show", check=False).returncode == 0:
                return
            time.sleep(0.05)
        pytest.fail("tgtd does not start")

    def kill(self) -> None:
        self._lab.exec("h2", "sh", "-c", "kill -9 $(cat /run/tgtd.pid)", check=False)
        self._tgtd.communicate()

    def export(self, epoch: int = 1) -> None:
        self._adm("target", "new", "-T", self.iqn(epoch))
        self._adm("logicalunit", "new", "--lun", "1", "-b", f"/srv/atomos/{self.image.name}")
        self._adm("account", "new", "--user", f"u{epoch}", "--password", SECRET, tid=False)
        self._adm("account", "bind", "--user", f"u{epoch}")
        self._adm("target", "bind", "-Q", INITIATOR)

    def cut(self, epoch: int = 1) -> None:
        """The credential, the session, the LUN; and what tgtd's threads have in hand yet is waited for."""
        self._adm("account", "delete", "--user", f"u{epoch}", tid=False)
        self._adm("target", "delete", "--force")
        pool = str(self.image.parent)
        image = Image(Vid(VID), pool, pool, self.image.name, ImageFormat.RAW, readonly=False)
        until_so(lambda: writers_of(image, None)[0] is Writers.NONE)

    def iqn(self, epoch: int = 1) -> str:
        return f"iqn.2026-01.atomos:{VID}.{epoch}"

    def volume(self) -> AttachedVolume:
        target = IscsiTarget(Address(self.ip, PORT), self.iqn(), 1, INITIATOR, "u1")
        return AttachedVolume(VID, "", ImageFormat.RAW, False, False, True, target)

    def count(self) -> int:
        return count_in(self.image.read_bytes())

    def _adm(self, mode: str, op: str, *words: str, tid: bool = True, check: bool = True) -> Any:
        whose = ("--tid", "1") if tid and mode != "sys" else ()
        command = ("tgtadm", "-C", "1", "--lld", "iscsi", "--mode", mode, "--op", op)
        return self._lab.exec("h2", *command, *whose, *words, check=check)


@pytest.fixture
def target(bare_lab: Any) -> Iterator[Target]:
    target = Target(bare_lab)
    target.begin()
    target.export()
    yield target
    target.kill()


@pytest.fixture
async def hypervisor(bare_lab: Any) -> AsyncIterator[Hypervisor]:
    uri = f"qemu+unix:///system?socket=/run/atomos-lab/{bare_lab.name}/h1.libvirt/libvirt-sock"
    async with Hypervisor.open(uri) as hypervisor:
        yield hypervisor
    for name in bare_lab.virsh("h1", "list", "--name").split():
        # A QEMU that waits for its disk does not hear libvirt's polite word, for ten seconds.
        bare_lab.exec("h1", "sh", "-c", f"kill -9 $(cat /run/libvirt/qemu/{name}.pid)", check=False)
        bare_lab.virsh("h1", "destroy", name, check=False)


def spec_with(volume: AttachedVolume) -> DomainSpec:
    vm_id = VmId(uuid.uuid4().hex)
    return DomainSpec(
        vm_id=vm_id,
        generation=1,
        title="writer",
        user_id=UserId("a1" * 32),
        accelerator=Accelerator.TCG,
        arch=Arch.X86_64,
        vcpus=1,
        threads=(0,),
        exclusive=False,
        threads_per_core=1,
        ram_mib=64,
        console_log=f"/var/lib/atomos/{vm_id}.log",
        volumes=(volume,),
    )


async def started(hypervisor: Hypervisor, target: Target, secret: str = SECRET) -> DomainSpec:
    spec = spec_with(target.volume())
    await hypervisor.ensure_network(spec.network)
    await hypervisor.start(domain_xml(spec), domain_secrets(spec.vm_id, [ChapSecret(VID, secret)]))
    return spec


async def writes_beyond(target: Target, count: int) -> None:
    await trio.to_thread.run_sync(until_so, lambda: target.count() > count)


async def state_of(hypervisor: Hypervisor, spec: DomainSpec) -> DomainState:
    (seen,) = [domain for domain in await hypervisor.domains() if domain.vm_id == spec.vm_id]
    return seen.state


async def test_a_guest_boots_from_another_hosts_volume_and_writes_and_its_secret_is_nowhere(
    bare_lab: Any, hypervisor: Hypervisor, target: Target
) -> None:
    spec = await started(hypervisor, target)
    await writes_beyond(target, 2)
    assert "atomos-" not in bare_lab.virsh("h1", "secret-list")
    look = f"tr '\\0' ' ' < /proc/$(cat /run/libvirt/qemu/{domain_name(spec.vm_id)}.pid)/cmdline"
    arguments = bare_lab.exec("h1", "sh", "-c", look).stdout
    assert target.iqn() in arguments
    assert SECRET not in arguments
    assert SECRET not in bare_lab.virsh("h1", "dumpxml", "--security-info", domain_name(spec.vm_id))
    where = "/run/libvirt /var/lib/libvirt /var/log/libvirt /etc/libvirt"
    assert bare_lab.exec("h1", "grep", "-rlI", SECRET, *where.split(), check=False).stdout == ""


async def test_a_target_that_dies_and_comes_back_is_a_stall_and_no_error(
    bare_lab: Any, hypervisor: Hypervisor, target: Target
) -> None:
    spec = await started(hypervisor, target)
    await writes_beyond(target, 2)
    await trio.to_thread.run_sync(target.kill)
    stood_at = target.count()
    bare_lab.restart("h1", "libvirtd")  # QEMU has the secret by itself
    await trio.sleep(QUIET_S)
    await trio.to_thread.run_sync(target.begin)
    await trio.to_thread.run_sync(target.export)
    await writes_beyond(target, stood_at + 2)
    log = (bare_lab.folder("h1") / "lib" / Path(spec.console_log).name).read_bytes()
    assert b"E\r\n" not in log


async def test_a_writer_that_was_cut_writes_no_more_whatever_is_exported_after_it(
    hypervisor: Hypervisor, target: Target
) -> None:
    spec = await started(hypervisor, target)
    await writes_beyond(target, 2)
    await trio.to_thread.run_sync(target.cut)
    stood_at = target.count()
    await trio.to_thread.run_sync(partial(target.export, 2))
    await trio.sleep(2 * QUIET_S)
    assert target.count() == stood_at
    assert await state_of(hypervisor, spec) is DomainState.RUNNING, "it does not even notice: see atomd.volumes.away"


async def test_a_wrong_secret_is_told_in_a_sentence(hypervisor: Hypervisor, target: Target) -> None:
    with pytest.raises(StartFailed, match="a volume's host does not take this host's word any more"):
        await started(hypervisor, target, secret="another one, too")


async def test_a_target_that_is_not_there_is_told_in_a_sentence(hypervisor: Hypervisor, target: Target) -> None:
    await trio.to_thread.run_sync(target.kill)
    with pytest.raises(StartFailed, match="can't be reached for iSCSI"):
        await started(hypervisor, target)
    target.begin()  # for the fixture's end
