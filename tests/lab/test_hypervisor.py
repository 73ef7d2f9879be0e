"""libvirt itself keeps the hypervisors' contract: on a host of the lab, with guests that run."""

import dataclasses
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

pytest.importorskip("libvirt", reason="the libvirt bindings are not installed: pip install atomos[host]")

from atomd.accelerator import find_qemu, guest_flags
from atomd.hypervisor.cells import Cell
from atomd.hypervisor.connection import EVENTS_MAX, KEEPALIVE_S, KEEPALIVES_MAX
from atomd.hypervisor.disk_xml import secret_usage, secret_xml
from atomd.hypervisor.domain_xml import DomainSpec, domain_name, domain_xml, enforced_flags
from atomd.hypervisor.domains import ConnectionLost, DomainEvent, Resync, StartFailed, Unknown, What
from atomd.hypervisor.hypervisor import Hypervisor
from matcher.wire.messages import Accelerator, Arch, ImageFormat
from matcher.wire.volumes import AttachedVolume
from specs.ids import UserId, VmId
from tests.fakes.hypervisor_contract import HypervisorContract, read_until, started, until
from tests.fakes.tiny_guest import DISK
from tests.lab.test_guest_cpu import TELLS, seen
from tests.lab.vms import BOOT_S

pytestmark = pytest.mark.lab

GUEST = Path(__file__).resolve().parents[2] / "packaging" / "guest"
HOST = "h1"
LIBVIRTS_FLAGS = Path("/usr/share/libvirt/cpu_map/x86_features.xml")
NAMED_MAX = 8  # flags that a sentence has room for
FOREIGN = """
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices><memballoon model='none'/></devices></domain>
"""


class LabWorld:
    """One VM of its own on a host of the lab."""

    def __init__(self, lab: Any, hypervisor: Hypervisor, spec: DomainSpec) -> None:
        self.lab, self.hypervisor, self.spec = lab, hypervisor, spec

    def more(self) -> AttachedVolume:
        image = self.lab.folder(HOST) / "srv" / f"{uuid.uuid4().hex}.img"
        image.write_bytes(bytes(1 << 20))
        image.chmod(0o644)
        return AttachedVolume("a" * 32, f"/srv/atomos/{image.name}", ImageFormat.RAW, True, False, False)

    async def in_thread(self, work: Callable[[], object]) -> None:
        await trio.to_thread.run_sync(work)

    async def virsh(self, *words: str) -> None:
        await self.in_thread(partial(self.lab.virsh, HOST, *words))

    async def virsh_destroy(self, vm_id: VmId) -> None:
        await self.virsh("destroy", domain_name(vm_id))

    async def kill_qemu(self, vm_id: VmId) -> None:
        await self.in_thread(partial(self.in_host, f"kill -9 $(cat /run/libvirt/qemu/{domain_name(vm_id)}.pid)"))

    def in_host(self, script: str) -> None:
        self.lab.exec(HOST, "sh", "-c", script)

    async def end_libvirt(self) -> None:
        await self.in_thread(partial(self.lab.stop, HOST, "libvirtd"))

    async def begin_libvirt(self) -> None:
        await self.in_thread(partial(self.lab.start, HOST, "libvirtd"))

    async def secrets(self) -> tuple[str, ...]:
        listed = await trio.to_thread.run_sync(partial(self.lab.virsh, HOST, "secret-list"))
        return tuple(line for line in listed.splitlines() if "atomos-" in line)

    async def leave_secret(self, usage: str) -> None:
        (self.lab.folder(HOST) / "lib" / "secret.xml").write_text(secret_xml(usage))
        await self.virsh("secret-define", "/var/lib/atomos/secret.xml")

    async def add_foreign(self, vm_id: VmId, name: str) -> None:
        xml = self.lab.folder(HOST) / "lib" / "foreign.xml"
        xml.write_text(FOREIGN.format(name=name, uuid=uuid.UUID(vm_id)))
        await self.virsh("create", "/var/lib/atomos/foreign.xml")


def new_spec(folder: Path) -> DomainSpec:
    """A guest with a disk of its own, in a folder that the host sees as /srv/atomos."""
    vm_id = uuid.uuid4().hex
    image = folder / "srv" / f"{vm_id}.img"
    image.write_bytes(DISK)
    image.chmod(0o666)
    volume = AttachedVolume(vm_id, f"/srv/atomos/{image.name}", ImageFormat.RAW, False, False, True)
    return DomainSpec(
        vm_id=VmId(vm_id),
        generation=3,
        title="--a,</title>\n<b>\u202etsal",
        user_id=UserId("a1" * 32),
        accelerator=Accelerator.TCG,
        arch=Arch.X86_64,
        vcpus=1,
        threads=tuple(sorted(os.sched_getaffinity(0)))[:2],
        exclusive=False,
        threads_per_core=1,
        ram_mib=64,
        console_log=f"/var/lib/atomos/{vm_id}.log",
        numa=0,
        volumes=(volume,),
    )


@pytest.fixture
def left_clean(bare_lab: Any) -> Iterator[None]:
    yield
    bare_lab.start(HOST, "libvirtd")
    for name in bare_lab.virsh(HOST, "list", "--name").split():
        bare_lab.virsh(HOST, "destroy", name, check=False)


def libvirts_flags() -> tuple[str, ...]:
    return tuple(re.findall(r"<feature name='([^']+)'", LIBVIRTS_FLAGS.read_text()))


def uri_of(lab: Any) -> str:
    return f"qemu+unix:///system?socket=/run/atomos-lab/{lab.name}/{HOST}.libvirt/libvirt-sock"


@pytest.fixture
async def world(bare_lab: Any, left_clean: None) -> AsyncIterator[LabWorld]:
    async with Hypervisor.open(uri_of(bare_lab)) as hypervisor:
        yield LabWorld(bare_lab, hypervisor, new_spec(bare_lab.folder(HOST)))


class TestLibvirt(HypervisorContract):
    async def test_what_the_spec_says_is_what_libvirt_runs(self, world: LabWorld) -> None:
        threads = tuple(sorted(os.sched_getaffinity(0)))[:2]
        if len(threads) < 2:
            pytest.skip("one hardware thread is too few to pin two vCPUs")
        world.spec = dataclasses.replace(
            world.spec, vcpus=2, threads=threads, exclusive=True, threads_per_core=2, emulator_threads=threads[:1]
        )
        await started(world)
        name = domain_name(world.spec.vm_id)
        pins = world.lab.virsh(HOST, "vcpupin", name).split()
        assert pins == ["0", str(threads[0]), "1", str(threads[1])]
        assert world.lab.virsh(HOST, "emulatorpin", name).split()[-1] == str(threads[0])
        assert "--a,</title> <b>\ufffdtsal" in world.lab.virsh(HOST, "list", "--title")
        assert world.lab.virsh(HOST, "list", "--autostart", "--name").split() == []
        assert world.lab.virsh(HOST, "list", "--persistent", "--name").split() == []

    async def test_a_guest_boots_on_a_machine_with_its_cells_one_of_them_without_vcpus(self, world: LabWorld) -> None:
        threads = tuple(sorted(os.sched_getaffinity(0)))[:2]
        if len(threads) < 2:
            pytest.skip("one hardware thread is too few to pin two vCPUs")
        # One host node stands for all three: what is tried is the machine that QEMU makes, not the distance.
        cells = (Cell(0, 0, 1, 40), Cell(0, 1, 1, 16), Cell(0, 2, 0, 8))
        world.spec = dataclasses.replace(world.spec, vcpus=2, threads=threads, exclusive=True, cells=cells)
        await started(world)
        name = domain_name(world.spec.vm_id)
        said = world.lab.virsh(HOST, "qemu-monitor-command", name, "--hmp", "info numa").split("\n")
        shown = [line.strip() for line in said if "cpus:" in line or "size:" in line]
        assert shown == [
            "node 0 cpus: 0", "node 0 size: 40 MB",
            "node 1 cpus: 1", "node 1 size: 16 MB",
            "node 2 cpus:", "node 2 size: 8 MB",
        ]  # fmt: skip

    async def test_linux_in_a_guest_sees_its_cells_and_a_package_in_each_that_has_vcpus(self, world: LabWorld) -> None:
        threads = tuple(sorted(os.sched_getaffinity(0)))[:2]
        if len(threads) < 2:
            pytest.skip("one hardware thread is too few to pin two vCPUs")
        built = await trio.run_process([GUEST], capture_stdout=True)
        image = world.lab.folder(HOST) / "srv" / Path(world.spec.volumes[0].path).name
        await world.in_thread(partial(shutil.copy, built.stdout.decode().strip(), image))
        cells = (Cell(0, 0, 1, 112), Cell(0, 1, 1, 64), Cell(0, 2, 0, 48))
        many = {"vcpus": 2, "threads": threads, "exclusive": True, "cells": cells, "ram_mib": 224}
        world.spec = dataclasses.replace(world.spec, **many)
        await world.hypervisor.start(domain_xml(world.spec))
        console = await world.hypervisor.open_console(world.spec.vm_id)
        await read_until(console, b"ATOMOS-GUEST-UP", BOOT_S)
        await console.send(TELLS.encode())
        told = seen((await read_until(console, b"\nITS-ALL\r\n", BOOT_S)).decode(errors="replace").replace("\r", ""))
        await console.aclose()
        assert told.cpus == ((0, 0, 0), (1, 0, 1))
        assert told.ram_mib == {number: cell.ram_mib for number, cell in enumerate(cells)}

    async def test_secrets_of_a_start_that_was_cut_short_go_with_the_next_connection(self, world: LabWorld) -> None:
        await world.leave_secret(secret_usage(world.spec.vm_id, "a" * 32))
        assert await world.secrets() != ()
        async with Hypervisor.open(uri_of(world.lab)):
            assert await world.secrets() == ()

    async def test_the_console_log_has_what_the_guest_said(self, world: LabWorld) -> None:
        await started(world)
        log = world.lab.folder(HOST) / "lib" / Path(world.spec.console_log).name
        with trio.fail_after(BOOT_S):
            while b"ATOMOS-READY" not in log.read_bytes():  # noqa: ASYNC110  virtlogd writes it
                await trio.sleep(0.1)

    async def test_a_start_that_fails_says_why_and_leaves_nothing(self, world: LabWorld) -> None:
        volume = world.spec.volumes[0]
        gone = dataclasses.replace(volume, path="/srv/atomos/nothing.img")
        lie = dataclasses.replace(volume, format=ImageFormat.QCOW2)
        for wrong, sentence in (
            ({"volumes": (gone,)}, "the volume at /srv/atomos/nothing.img can't be opened: No such file or directory"),
            ({"volumes": (lie,)}, "a volume's meta.json says qcow2, but its image is no such thing"),
            ({"flags": ("avx512f",)}, "guests on this host do not get the CPU flags avx512f"),
            ({"network": "nowhere"}, "libvirt has no network 'nowhere' on this host"),
            ({"console_log": "/nowhere/log"}, "the console's log /nowhere/log can't be written"),
        ):
            with pytest.raises(StartFailed) as caught:
                await world.hypervisor.start(domain_xml(dataclasses.replace(world.spec, **wrong)))
            assert str(caught.value).startswith(sentence)
        assert await world.hypervisor.domains() == ()

    async def test_a_guest_gets_every_flag_that_its_host_offers_or_does_not_start(self, world: LabWorld) -> None:
        offered = await guest_flags(await find_qemu(), Accelerator.TCG)
        lacking = sorted({*enforced_flags(libvirts_flags())} - {*enforced_flags(tuple(offered or ()))})
        assert {"avx512f", "rdseed", "topoext", "x2apic"} <= {*lacking}
        for some in (tuple(lacking[n : n + NAMED_MAX]) for n in range(0, len(lacking), NAMED_MAX)):
            with pytest.raises(StartFailed) as caught:
                await world.hypervisor.start(domain_xml(dataclasses.replace(world.spec, flags=some)))
            named = re.match("guests on this host do not get the CPU flags (.+): ", str(caught.value))
            assert named is not None, caught.value
            assert sorted(named[1].split(",")) == sorted(some)
        world.spec = dataclasses.replace(world.spec, flags=tuple(offered or ()))
        await started(world)

    async def test_a_volume_is_one_domains_at_a_time(self, world: LabWorld) -> None:
        await started(world)
        other = dataclasses.replace(world.spec, vm_id=VmId(uuid.uuid4().hex), console_log="/var/lib/atomos/other.log")
        with pytest.raises(StartFailed, match="in use by another process on this host"):
            await world.hypervisor.start(domain_xml(other))

    async def test_a_header_that_names_a_backing_file_is_not_followed(self, world: LabWorld) -> None:
        folder = world.lab.folder(HOST) / "srv"
        (folder / "secret.img").write_bytes(b"secret" * 1000)
        image = folder / "overlay.qcow2"
        backing = ("-F", "raw", "-b", str(folder / "secret.img"))
        command = ("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(image), "1M")
        await world.in_thread(partial(subprocess.run, command, check=True))
        image.chmod(0o666)
        volume = dataclasses.replace(world.spec.volumes[0], path="/srv/atomos/overlay.qcow2", format=ImageFormat.QCOW2)
        world.spec = dataclasses.replace(world.spec, volumes=(volume,))
        await started(world)
        opened = world.lab.exec(HOST, "sh", "-c", "ls -l /proc/$(cat /run/libvirt/qemu/atomos-*.pid)/fd").stdout
        assert "overlay.qcow2" in opened
        assert "secret.img" not in opened

    async def test_a_frozen_libvirtd_makes_a_change_unknown_and_is_left_for_a_new_connection(
        self, world: LabWorld
    ) -> None:
        await started(world)
        await world.in_thread(partial(world.lab.kill, HOST, "libvirtd", "STOP"))
        try:
            begun_s = time.monotonic()
            with pytest.raises(Unknown):
                await world.hypervisor.destroy(world.spec.vm_id)
            assert time.monotonic() - begun_s < KEEPALIVE_S * (KEEPALIVES_MAX + 2)
            await until(world.hypervisor, lambda event: isinstance(event, ConnectionLost))
        finally:
            await world.in_thread(partial(world.lab.kill, HOST, "libvirtd", "CONT"))
        await until(world.hypervisor, lambda event: event == Resync())
        assert world.hypervisor.down is None

    async def test_eight_starts_at_once_all_succeed(self, world: LabWorld) -> None:
        await world.hypervisor.ensure_network("default")
        specs = [new_spec(world.lab.folder(HOST)) for _ in range(8)]
        async with trio.open_nursery() as nursery:
            for spec in specs:
                nursery.start_soon(world.hypervisor.start, domain_xml(spec))
        assert {domain.vm_id for domain in await world.hypervisor.domains()} == {spec.vm_id for spec in specs}

    async def test_consoles_opened_and_closed_leave_no_thread_behind(self, world: LabWorld) -> None:
        await started(world)
        before = threading.active_count()
        for _ in range(20):
            console = await world.hypervisor.open_console(world.spec.vm_id)
            await console.aclose()
        assert threading.active_count() <= before + 2  # trio's own idle workers
        assert not world.hypervisor._consoles


async def test_a_hypervisor_opens_without_libvirt_and_says_what_to_do(tmp_path: Path) -> None:
    async with Hypervisor.open(f"qemu+unix:///system?socket={tmp_path}/nothing") as hypervisor:
        lost = await hypervisor.events.receive()
        assert isinstance(lost, ConnectionLost)
        assert hypervisor.down == lost.reason
        assert "is libvirtd (or virtqemud) running on this host?" in lost.reason
        with trio.move_on_after(0.5):  # the retries are silent
            raise AssertionError(f"a second word: {await hypervisor.events.receive()}")


async def test_events_that_nobody_reads_become_one_resync(tmp_path: Path) -> None:
    async with Hypervisor.open(f"qemu+unix:///system?socket={tmp_path}/nothing") as hypervisor:
        for _ in range(EVENTS_MAX + 10):
            hypervisor._connection.deliver(DomainEvent(VmId("5a" * 16), What.STARTED))
        got = [await hypervisor.events.receive() for _ in range(EVENTS_MAX + 1)]
        assert got[-1] == Resync()
        assert hypervisor.events.statistics().current_buffer_used == 0


async def test_the_event_thread_sleeps_and_ends(tmp_path: Path) -> None:
    async with Hypervisor.open(f"qemu+unix:///system?socket={tmp_path}/nothing"):
        assert "libvirt-events" in {thread.name for thread in threading.enumerate()}
        begun_s = time.process_time()
        await trio.sleep(1)
        assert time.process_time() - begun_s < 0.1
    assert "libvirt-events" not in {thread.name for thread in threading.enumerate()}
