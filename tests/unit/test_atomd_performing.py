"""What was decided, done: with a hypervisor and storage in memory, and a real journal."""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atomd import performing
from atomd.capacity.plugged import UsbKind
from atomd.hypervisor.disk_xml import NAME_PREFIX, secret_usage
from atomd.hypervisor.domains import DomainSecret, DomainState, ObservedDomain
from atomd.hypervisor.libvirt_words import TARGET_AWAY
from atomd.inventory.facts import UsbDevice
from atomd.journal import Journal
from atomd.performing import Performer
from atomd.vms.lifecycle import State, Vm
from atomd.vms.stopping import STOP_S
from atomd.volumes.answers import Answer, Silent
from atomd.volumes.shares import Life, NotMounted
from matcher.net.audit import Audit
from matcher.wire.messages import Address, Confirm, ConfirmVolume, Firmware, ImageFormat, Reason, Refused
from matcher.wire.volumes import Attached, AttachedVolume, NfsFolder
from specs.ids import HostId, VmId, dashed
from tests.fakes.hypervisor import PORT, FakeHypervisor
from tests.fakes.one_host import DATA, HOST, VID, OneHost, attached_all, attached_for
from tests.unit.test_atomd_capacity_fit import HOST as HARDWARE
from tests.unit.test_atomd_capacity_fit import token

H2 = HostId("2" * 64)
SECRET = "s1"
LOOK_S, LOOKS_MAX = 0.25, 400  # of the test's own clock
OVER = Refused("generation-over", (Reason("volume c", "to write", "generation 2 has it on h3", ""),))
BUSY = Refused("unavailable", (Reason("volume c", "to use it", "its pool is not mounted", ""),))
ROLLS_BACK = Refused("busy", (Reason("volume c", "to attach it", "it is being rolled back", "wait"),))
SILENT = Silent("h2, which has its volume, does not answer")


class FakeStorage:
    """Says what a test wants next, and else grants; `epoch` changes when a person has freed the volumes."""

    def __init__(self) -> None:
        self.next: list[Answer] = []
        self.epoch = 1
        self.attaches = self.detaches = 0
        self.gone: list[str] = []

    async def attach(self, vm: Vm) -> Answer:
        await trio.lowlevel.checkpoint()
        self.attaches += 1
        return self.next.pop(0) if self.next else attached_for(vm, self.epoch)

    async def detach(self, vm: Vm) -> bool:
        await trio.lowlevel.checkpoint()
        self.detaches += 1
        return True

    async def attach_one(self, vm: Vm, vid: str) -> Answer:
        await trio.lowlevel.checkpoint()
        if self.next:
            return self.next.pop(0)
        given = attached_all(vm, self.epoch)
        volumes = tuple(volume for volume in given.volumes if volume.vid == vid)
        return Attached(volumes, tuple(secret for secret in given.secrets if secret.vid == vid))

    async def detach_one(self, vm: Vm, vid: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.gone.append(vid)
        return True


class FakeShares:
    """Gives each folder a path of its own; `why` it can't."""

    def __init__(self) -> None:
        self.lives: set[Life] = set()
        self.why = ""

    async def mounted(self, life: Life, volumes: Collection[AttachedVolume]) -> tuple[AttachedVolume, ...]:
        await trio.lowlevel.checkpoint()
        if self.why:
            raise NotMounted(self.why)
        self.lives.add(life)
        is_folder = [volume.format is ImageFormat.FOLDER for volume in volumes]
        return tuple(replace(v, path="/mounted") if f else v for v, f in zip(volumes, is_folder, strict=True))

    async def unmount(self, life: Life) -> bool:
        await trio.lowlevel.checkpoint()
        self.lives.discard(life)
        return True

    async def sweep(self, lives: Callable[[], Collection[Life]]) -> bool:
        await trio.lowlevel.checkpoint()
        self.lives &= set(lives())
        return True


class FakeDevices:
    """Gives what is asked for; `why` it doesn't."""

    def __init__(self) -> None:
        self.lent: list[Collection[str]] = []
        self.why: str | None = None
        self.usb: tuple[UsbDevice, ...] | str = ()

    async def lend(self, addresses: Collection[str]) -> str | None:
        await trio.lowlevel.checkpoint()
        self.lent.append(addresses)
        return self.why

    async def plug(self, ports: Collection[str], wished: Counter[UsbKind]) -> tuple[UsbDevice, ...] | str:
        await trio.lowlevel.checkpoint()
        return self.usb


class Running:
    """An atomd, as far as it performs. A test that crashes it begins another on the same journal."""

    def __init__(self, folder: Path, nursery: trio.Nursery, host: OneHost, hypervisor: FakeHypervisor) -> None:
        self.folder, self.host, self.hypervisor = folder, host, hypervisor
        self.storage = FakeStorage()
        self.shares = FakeShares()
        self.devices = FakeDevices()
        self.journal = Journal(folder / "atomd.sqlite")
        self.audit = Audit(folder / "audit", "h1")
        self.performer = Performer(
            compute=host.compute,
            journal=self.journal,
            hypervisor=hypervisor,
            hardware=replace(HARDWARE),
            host_threads=frozenset(),
            storage=self.storage,
            shares=self.shares,
            devices=self.devices,
            console_folder=folder,
            network="default",
            nursery=nursery,
            audit=self.audit,
        )
        self._nursery = nursery

    def begin(self) -> None:
        for task in (self.performer.follow, self.performer.keep_reconciled, self.performer.keep_time):
            self._nursery.start_soon(task)

    def confirm(self, server: HostId = H2) -> Confirm:
        """A user takes an offer for a VM with a volume of `server`."""
        self.host.servers[DATA] = server
        confirm = self.host.offered(self.host.pledge(volumes=[DATA]), name="web")
        decided = self.host.compute.confirm(confirm, b"envelope", self.host.who(), self.host.moment())
        assert not isinstance(decided, Refused)
        assert self.performer.apply(decided) is None
        return confirm

    def vm(self, confirm: Confirm) -> Vm:
        return self.host.compute.vms[VmId(confirm.vm_id)]

    async def until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(LOOKS_MAX):
            if is_so():
                return
            await trio.sleep(LOOK_S)
        raise AssertionError("it never was so")


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(performing, "now_s", trio.current_time)
    async with trio.open_nursery() as nursery:
        running = Running(tmp_path, nursery, OneHost(), FakeHypervisor())
        running.begin()
        yield running
        nursery.cancel_scope.cancel()
    running.journal.close()
    running.audit.close()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def up(running: Running) -> Confirm:
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.RUNNING)
    return confirm


async def test_a_domain_starts_with_the_secret_of_its_volume(running: Running, autojump_clock: MockClock) -> None:
    confirm = await up(running)
    vm_id = VmId(confirm.vm_id)
    assert running.hypervisor.secrets[vm_id] == (DomainSecret(secret_usage(vm_id, DATA), SECRET),)
    assert running.storage.attaches == 1, "one question is enough"
    assert not running.performer._secrets


async def test_a_vm_that_spans_nodes_is_told_so_and_each_vcpu_stays_on_its_cells_node(
    running: Running, autojump_clock: MockClock
) -> None:
    vm = running.vm(running.confirm())
    first, second = HARDWARE.cores[:2]
    running.performer._hardware = replace(HARDWARE, cores=(replace(first, numa=1), replace(second, numa=0)))
    far, near = first.threads[0], second.threads[0]
    claim = replace(vm.claim, threads=(far, near), threads_per_core=1, numa=-1, ram_mib=((0, 1000), (1, 1000)))
    spec = running.performer._spec(replace(vm, claim=claim), Attached((), ()), ())
    half = vm.confirm.vm.ram_mib // 2
    assert spec.threads == (near, far)
    assert [(c.node, c.first, c.vcpus, c.ram_mib) for c in spec.cells] == [(0, 0, 1, half), (1, 1, 1, half)]


async def test_a_vm_learns_of_its_cores_threads_as_this_hosts_cpu_has_it(
    running: Running, autojump_clock: MockClock
) -> None:
    vm = running.vm(running.confirm())
    assert not running.performer._spec(vm, Attached((), ()), ()).topoext
    running.performer._hardware = replace(HARDWARE, topoext=True)
    assert running.performer._spec(vm, Attached((), ()), ()).topoext


async def test_a_network_that_is_down_is_started_and_then_the_domain(
    running: Running, autojump_clock: MockClock
) -> None:
    """Debian leaves it down after a boot."""
    running.hypervisor.networks["default"] = False
    await up(running)
    assert running.hypervisor.networks["default"]
    assert len(running.hypervisor.starts) == 1


async def test_a_network_that_is_not_there_is_why_a_start_fails(running: Running, autojump_clock: MockClock) -> None:
    running.hypervisor.networks = {}
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    assert running.vm(confirm).why == "libvirt has no network 'default'"


async def test_a_device_that_the_host_needs_by_now_is_why_a_start_fails(
    running: Running, autojump_clock: MockClock
) -> None:
    running.devices.why = "device 0000:01:00.0 can't be given to the VM: it holds the host's own disk sda1"
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    assert running.vm(confirm).why == running.devices.why
    assert not running.hypervisor.starts


async def test_a_usb_device_that_was_pulled_out_is_why_a_start_fails(
    running: Running, autojump_clock: MockClock
) -> None:
    running.devices.usb = "the USB device at 3-1 is not plugged in any more"
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    assert running.vm(confirm).why == running.devices.usb
    assert not running.hypervisor.starts
    assert not running.devices.lent, "nothing else is noted as lent"


async def test_a_usb_device_is_in_the_domain_as_it_is_numbered_now(running: Running, autojump_clock: MockClock) -> None:
    running.devices.usb = (replace(token("3-1"), number=99),)
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.RUNNING)
    (vm_id,) = running.hypervisor.starts
    assert '<address bus="3" device="99"/>' in running.hypervisor.by_id[vm_id].xml


async def test_a_start_that_fails_with_its_network_up_is_not_tried_twice(
    running: Running, autojump_clock: MockClock
) -> None:
    running.hypervisor.networks = {"default": True}
    running.hypervisor.fail_next_start("no memory")
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    assert running.vm(confirm).why == "no memory"
    assert not running.hypervisor.starts


async def test_an_exporter_that_is_dead_for_a_moment_is_waited_for(running: Running, autojump_clock: MockClock) -> None:
    running.hypervisor.lose_targets(8)
    confirm = await up(running)
    assert running.hypervisor.starts == [VmId(confirm.vm_id)]


async def test_an_exporter_that_does_not_come_back_is_why_a_start_fails(
    running: Running, autojump_clock: MockClock
) -> None:
    running.hypervisor.lose_targets(1000)
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    assert running.vm(confirm).why == TARGET_AWAY


async def test_no_secret_is_in_journal_audit_or_log(
    running: Running, autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    running.storage.epoch = 987654321  # its secret is found nowhere by chance
    confirm = await up(running)
    assert running.hypervisor.secrets[VmId(confirm.vm_id)][0].value == "s987654321"
    written = contents(tmp_path)
    assert len(written) >= 2
    assert not [path for path, content in written.items() if b"s987654321" in content]
    assert "s987654321" not in caplog.text


async def test_a_start_that_was_not_answered_asks_storage_again_for_its_secret(
    running: Running, autojump_clock: MockClock
) -> None:
    """As after a restart of atomd, which has forgotten it."""
    confirm = running.confirm()
    running.hypervisor.lose()
    await running.until(lambda: running.vm(confirm).state is State.COMMITTED)
    await trio.sleep(1)
    assert not running.performer._secrets
    running.hypervisor.come_back()
    await running.until(lambda: running.vm(confirm).state is State.RUNNING)
    assert running.hypervisor.secrets[VmId(confirm.vm_id)][0].value == SECRET
    assert running.storage.attaches > 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (SILENT, SILENT.why),
        (BUSY, "volume c: its pool is not mounted"),
        (ROLLS_BACK, "volume c: it is being rolled back"),
    ],
)
async def test_a_start_waits_for_storage_that_does_not_say_and_tells_what_it_waits_for(
    running: Running, autojump_clock: MockClock, answer: Answer, why: str
) -> None:
    confirm = running.confirm()
    running.storage.next = [attached_for(running.vm(confirm)), answer, answer]
    running.hypervisor.lose()
    await running.until(lambda: running.vm(confirm).state is State.COMMITTED)
    await trio.sleep(1)
    running.hypervisor.come_back()
    await running.until(lambda: running.host.compute.why(running.vm(confirm)) == why)
    await running.until(lambda: running.vm(confirm).state is State.RUNNING)
    assert not running.storage.next
    assert not running.host.compute.why(running.vm(confirm))


async def test_a_held_guest_whose_volume_is_being_changed_begins_when_that_is_over(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = running.confirm(server=HOST)
    vm_id = VmId(confirm.vm_id)
    running.storage.next = [attached_for(running.vm(confirm)), ROLLS_BACK]
    await running.until(lambda: vm_id in running.hypervisor.by_id and not running.storage.next)
    assert running.hypervisor.by_id[vm_id].seen.state is DomainState.PAUSED
    await running.until(lambda: running.vm(confirm).state is State.RUNNING)
    assert running.hypervisor.by_id[vm_id].seen.state is DomainState.RUNNING


async def test_a_domain_that_hangs_is_ended_when_it_can_be_by_one_forced_stop(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    running.hypervisor.by_id[VmId(confirm.vm_id)].obeys = False
    running.hypervisor.hang_next_destroys(3)
    decided = running.host.compute.stop(running.vm(confirm), trio.current_time(), force=True)
    assert not isinstance(decided, Refused)
    running.performer.apply(decided)
    await trio.sleep(2 * STOP_S)
    assert running.vm(confirm).state is not State.RUNNING, "nobody has taken it back"
    await running.until(lambda: running.vm(confirm).state is State.STOPPED)
    assert VmId(confirm.vm_id) not in running.hypervisor.by_id


async def test_a_domain_that_hangs_is_removed_when_it_can_be_by_one_word(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    running.hypervisor.hang_next_destroys(3)
    decided = running.host.compute.remove(running.vm(confirm))
    assert not isinstance(decided, Refused)
    running.performer.apply(decided)
    await running.until(lambda: VmId(confirm.vm_id) not in running.host.compute.vms)
    assert VmId(confirm.vm_id) not in running.hypervisor.by_id


async def test_a_domain_that_no_vm_explains_is_told_of_until_virsh_ends_it(
    running: Running, autojump_clock: MockClock
) -> None:
    stranger = VmId("9" * 32)
    running.hypervisor.add(
        ObservedDomain(stranger, f"{NAME_PREFIX}{dashed(stranger)}", 1, None, DomainState.RUNNING, ours=True)
    )
    await running.until(lambda: stranger in running.performer.quarantined)
    await trio.sleep(performing.RECONCILE_S)
    assert stranger in running.hypervisor.by_id, "it may be somebody's"
    running.hypervisor.virsh_destroy(stranger)
    await running.until(lambda: not running.performer.quarantined)
    assert running.folder.joinpath("audit").read_text().count("vm.quarantined") == 1


async def test_a_start_whose_volumes_are_anothers_by_now_fails_in_a_sentence(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = running.confirm()
    running.storage.next = [attached_for(running.vm(confirm)), OVER]
    running.hypervisor.lose()
    await running.until(lambda: running.vm(confirm).state is State.COMMITTED)
    await trio.sleep(1)
    running.hypervisor.come_back()
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    why = "its volumes could not be attached: volume c: generation 2 has it on h3"
    assert running.vm(confirm).why == why
    assert not running.hypervisor.starts


async def test_a_guest_with_an_image_of_this_host_begins_when_storage_has_said_again_that_it_is_its_own(
    running: Running, autojump_clock: MockClock
) -> None:
    """QEMU has it locked by then; before that, its next life may have been given it, on another host."""
    confirm = running.confirm(HOST)
    running.storage.next = [attached_for(running.vm(confirm)), SILENT, BUSY]
    await running.until(lambda: not running.storage.next)
    held = running.hypervisor.by_id[VmId(confirm.vm_id)]
    assert held.seen.state is DomainState.PAUSED
    assert running.vm(confirm).state is State.COMMITTED
    await running.until(lambda: running.vm(confirm).state is State.RUNNING)
    assert running.hypervisor.by_id[VmId(confirm.vm_id)].seen.state is DomainState.RUNNING
    assert len(running.hypervisor.starts) == 1


async def test_a_guest_whose_image_went_to_its_next_life_meanwhile_never_begins(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = running.confirm(HOST)
    running.storage.next = [attached_for(running.vm(confirm)), OVER]
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    assert running.vm(confirm).why == "its volumes were taken over: volume c: generation 2 has it on h3"
    assert not running.hypervisor.by_id
    assert running.hypervisor.starts


async def test_a_guest_that_waits_for_storage_is_found_held_and_begun_later(
    running: Running, autojump_clock: MockClock
) -> None:
    """Nothing of it is in memory, so that another atomd does the same."""
    confirm = running.confirm(HOST)
    running.storage.next = [attached_for(running.vm(confirm)), *[SILENT] * 3]
    await running.until(lambda: running.vm(confirm).state is State.RUNNING)
    assert len(running.hypervisor.starts) == 1
    assert running.storage.attaches == 5


async def test_a_held_guest_whose_volumes_are_anothers_when_it_is_found_is_ended(
    running: Running, autojump_clock: MockClock
) -> None:
    """It has one of each kind, so that what opens the second has to be asked for anew."""
    running.host.servers[DATA] = H2
    offered = running.host.offered(running.host.pledge(volumes=[VID, DATA]))
    decided = running.host.compute.confirm(offered, b"", running.host.who(), running.host.moment())
    assert not isinstance(decided, Refused)
    running.performer.apply(decided)
    running.storage.next = [attached_for(running.vm(offered)), SILENT, OVER]
    await running.until(lambda: running.vm(offered).state is State.FAILED)
    assert running.hypervisor.starts
    assert not running.hypervisor.by_id


async def test_a_guest_that_was_paused_by_an_export_goes_on_when_it_is_back(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    vm_id = VmId(confirm.vm_id)
    running.storage.next = [SILENT, BUSY]
    running.hypervisor.fail_io(vm_id)
    await running.until(lambda: running.host.compute.away.why(vm_id) == f"paused: {SILENT.why}")
    await running.until(lambda: not running.storage.next)
    await running.until(lambda: running.hypervisor.by_id[vm_id].seen.state.value == "running")
    await running.until(lambda: not running.host.compute.away.why(vm_id))
    assert running.vm(confirm).state is State.RUNNING


async def test_qemus_word_that_it_has_paused_a_guest_is_followed_at_once(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    running.hypervisor.fail_io(VmId(confirm.vm_id))
    await trio.sleep(performing.RECONCILE_S / 10)
    assert running.storage.attaches == 2


async def test_a_guest_whose_volume_was_taken_over_is_destroyed_and_failed(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    vm_id = VmId(confirm.vm_id)
    running.storage.next = [SILENT, OVER]
    running.hypervisor.fail_io(vm_id)
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    assert vm_id not in running.hypervisor.by_id
    assert running.vm(confirm).why == "its volumes were taken over: volume c: generation 2 has it on h3"


async def test_a_guest_never_goes_on_with_a_volume_of_another_epoch(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    running.storage.epoch = 2
    running.hypervisor.fail_io(VmId(confirm.vm_id))
    await running.until(lambda: running.vm(confirm).state is State.FAILED)


async def test_what_a_sysadmin_has_paused_is_left_alone(running: Running, autojump_clock: MockClock) -> None:
    confirm = await up(running)
    vm_id = VmId(confirm.vm_id)
    running.hypervisor.pause(vm_id)
    await trio.sleep(120)
    assert running.hypervisor.by_id[vm_id].seen.state.value == "paused"


async def test_a_guest_whose_volume_was_taken_over_is_found_out_though_it_does_not_stop(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    running.storage.next = [OVER]
    await running.until(lambda: running.vm(confirm).state is State.FAILED)


async def test_storage_that_stays_silent_is_asked_now_and_then(running: Running, autojump_clock: MockClock) -> None:
    confirm = await up(running)
    running.storage.next = [SILENT] * 1000
    running.hypervisor.fail_io(VmId(confirm.vm_id))
    await trio.sleep(60)
    asked = running.storage.attaches - 1
    assert 10 <= asked <= 60 / performing.RETRY_S + 2


# ---- volumes that come and go


MORE = "1" * 32


async def more(running: Running, confirm: Confirm) -> ConfirmVolume:
    """A running VM gets one of h2's."""
    running.host.servers[MORE] = H2
    words = running.host.confirm_volume(confirm, MORE)
    decided = running.host.compute.plugging.attach(words, b"words", running.host.who(), confirm.host_id)
    assert not isinstance(decided, Refused)
    assert running.performer.apply(decided) is None
    return words


def disks(running: Running, confirm: Confirm) -> set[str]:
    return running.hypervisor.by_id[VmId(confirm.vm_id)].disks


async def test_a_volume_more_is_plugged_with_its_secret_which_nobody_keeps(
    running: Running, autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    confirm = await up(running)
    running.storage.epoch = 987654321
    await more(running, confirm)
    await running.until(lambda: running.vm(confirm).change is None)
    assert [volume.vid for volume in running.vm(confirm).volumes] == [DATA, MORE]
    assert MORE[:20] in disks(running, confirm)
    assert not running.performer._plugger._secrets
    assert not [path for path, content in contents(tmp_path).items() if b"s987654321" in content]
    assert "s987654321" not in caplog.text
    (row,) = running.journal.load()[0]
    assert row == running.vm(confirm)


async def test_a_plug_that_was_not_answered_is_looked_at(running: Running, autojump_clock: MockClock) -> None:
    confirm = await up(running)
    running.hypervisor.swallow_next_answer()
    await more(running, confirm)
    await running.until(lambda: running.vm(confirm).change is None)
    assert [volume.vid for volume in running.vm(confirm).volumes] == [DATA, MORE]
    assert running.storage.gone == []


async def test_what_the_domain_does_not_take_is_given_back(running: Running, autojump_clock: MockClock) -> None:
    confirm = await up(running)
    running.hypervisor.fail_next_plug("no free slot")
    await more(running, confirm)
    await running.until(lambda: running.storage.gone == [MORE] and running.vm(confirm).change is None)
    assert [volume.vid for volume in running.vm(confirm).volumes] == [DATA]


async def test_a_vm_from_before_there_were_spare_slots_is_told_to_be_started_anew(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    domain = running.hypervisor.by_id[VmId(confirm.vm_id)]
    domain.xml = domain.xml.replace(PORT, "")
    words = await more(running, confirm)
    await running.until(lambda: running.storage.gone == [MORE] and running.vm(confirm).change is None)
    refusal = running.host.compute.plugging.attach_outcome(words)
    assert isinstance(refusal, Refused)
    (reason,) = refusal.reasons
    assert reason.has.startswith("this VM has no free slot for a disk: it was started before")
    assert reason.hint == "stop the VM (electros stop), attach it then, and start the VM again"


async def test_a_deaf_guest_keeps_it_and_storage_hears_when_it_has_let_go(
    running: Running, autojump_clock: MockClock
) -> None:
    confirm = await up(running)
    await more(running, confirm)
    await running.until(lambda: running.vm(confirm).change is None)
    domain = running.hypervisor.by_id[VmId(confirm.vm_id)]
    domain.lets_go = False
    plugging, vm = running.host.compute.plugging, running.vm(confirm)
    decided = plugging.detach(vm, MORE, 1_000_000.0)
    assert not isinstance(decided, Refused)
    running.performer.apply(decided)
    await running.until(lambda: plugging.detach_outcome(vm.vm_id, vm.generation, MORE) is not None)
    assert running.storage.gone == []
    domain.disks.discard(MORE[:20])
    await running.until(lambda: running.storage.gone == [MORE])
    await running.until(lambda: [volume.vid for volume in running.vm(confirm).volumes] == [DATA])


# ---- folders that VMs share

FOLDER = NfsFolder(Address("10.0.0.2", 7769), f"/vol.{DATA}.1.{'0' * 16}")
SHARED = Attached((AttachedVolume(DATA, "", ImageFormat.FOLDER, False, True, False, None, FOLDER),))


async def test_a_folder_of_another_host_is_mounted_for_the_domain_and_unmounted_at_its_end(
    running: Running, autojump_clock: MockClock
) -> None:
    running.storage.next = [SHARED]
    confirm = await up(running)
    vm_id = VmId(confirm.vm_id)
    assert running.shares.lives == {(vm_id, 1)}
    assert '<source dir="/mounted"/>' in running.hypervisor.by_id[vm_id].xml
    assert running.vm(confirm).volumes == SHARED.volumes, "what is written down is the server's word"
    running.hypervisor.power_off(vm_id)
    await running.until(lambda: running.vm(confirm).state is State.STOPPED)
    await running.until(lambda: running.shares.lives == set())


async def test_a_folder_that_can_not_be_mounted_fails_the_vm_with_the_reason(
    running: Running, autojump_clock: MockClock
) -> None:
    running.shares.why = "the folder of volume c can't be mounted: no route"
    running.storage.next = [SHARED]
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.FAILED)
    assert "no route" in running.vm(confirm).why


async def test_a_mount_that_no_vm_explains_is_swept_at_the_start(running: Running, autojump_clock: MockClock) -> None:
    running.shares.lives = {(VmId("9" * 32), 3)}
    confirm = await up(running)
    await running.until(lambda: running.shares.lives == {(VmId(confirm.vm_id), 1)})


@pytest.mark.parametrize("asked", [{"firmware": Firmware.UEFI}, {"tpm": True}])
async def test_what_is_kept_of_a_vm_stays_when_it_stops_and_is_erased_when_it_is_removed(
    running: Running, autojump_clock: MockClock, asked: dict[str, object]
) -> None:
    running.host.ask = replace(running.host.ask, **asked)
    confirm = running.confirm()
    await running.until(lambda: running.vm(confirm).state is State.RUNNING)
    running.performer.apply(running.host.compute.stop(running.vm(confirm), trio.current_time(), force=True))
    await running.until(lambda: running.vm(confirm).state is State.STOPPED)
    assert running.hypervisor.states == {confirm.vm_id}
    running.hypervisor.lose()
    running.performer.apply(running.host.compute.remove(running.vm(confirm)))
    await trio.sleep(60)
    assert running.vm(confirm).state is State.REMOVING, "libvirt is away, and keeps it still"
    running.hypervisor.come_back()
    await running.until(lambda: confirm.vm_id not in running.host.compute.vms)
    assert not running.hypervisor.states
