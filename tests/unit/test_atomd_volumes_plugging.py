"""A VM's volumes that come and go while it is there: each refusal, each silence, and a crash between any two steps."""

from dataclasses import replace

import pytest

from atomd import effects as wanted
from atomd.vms.lifecycle import Stage, State, Vm
from atomd.volumes.answers import HOT_MAX, Silent
from matcher.wire.messages import Confirm, Reason, Refused
from matcher.wire.volumes import Attached
from specs.ids import HostId, OfferId, VmId, dashed
from tests.fakes.one_host import BOB, DATA, VID, OneHost, attached_for

H2 = HostId("2" * 64)
ISO = "a" * 32
IN_USE = Refused("volume-in-use", (Reason("volume", "it", "taken", "wait"),))


@pytest.fixture
def host() -> OneHost:
    host = OneHost()
    host.servers[DATA] = H2
    return host


def code(answer: object) -> str | None:
    return answer.code if isinstance(answer, Refused) else None


def vids(host: OneHost, confirm: Confirm) -> list[str]:
    vm = host.vm(confirm)
    assert vm is not None
    return [volume.vid for volume in vm.volumes]


def row(host: OneHost, confirm: Confirm) -> Vm:
    return host.rows[VmId(confirm.vm_id), confirm.generation]


def plugged(host: OneHost, confirm: Confirm, vid: str) -> None:
    words = host.confirm_volume(confirm, vid)
    assert host.plug(words) is None
    host.attach_one()
    if host.vm(confirm) and any(isinstance(effect, wanted.PlugVolume) for effect in host.slow):
        host.plug_one()
    assert isinstance(host.plug(words), Vm)


def settle(host: OneHost) -> None:
    """Until nothing is left to do."""
    for _ in range(5):
        host.reconcile()
        while host.slow:
            match host.slow[0]:
                case wanted.UnplugVolume():
                    host.unplug_one()
                case wanted.DetachVolume():
                    host.detach_one()
                case wanted.AttachVolumes():
                    host.attach()
                case wanted.DetachVolumes():
                    host.detach()
                case wanted.StartDomain():
                    host.start()
                case wanted.ReachVolumes():
                    vm = host.take(wanted.ReachVolumes)
                    host.apply(host.compute.reached(vm, attached_for(vm), host.now_s))
                case other:
                    raise AssertionError(other)


def deaf(host: OneHost) -> Confirm:
    """A VM that is to give back DATA, which came with it, and whose guest does not hear."""
    confirm = host.running(volumes=[VID, DATA])
    host.deaf.add(VmId(confirm.vm_id))
    host.unplug(confirm, DATA)
    host.unplug_one()
    assert code(host.unplug(confirm, DATA)) is None, "asked again, so is the guest"
    host.unplug_one()
    return confirm


def stage(host: OneHost, confirm: Confirm) -> Stage | None:
    change = row(host, confirm).change
    return None if change is None else change.stage


def test_a_deaf_guest_is_told_of_with_what_ends_it_and_since_when(host: OneHost) -> None:
    confirm = deaf(host)
    vm, change = row(host, confirm), row(host, confirm).change
    assert change is not None
    assert (change.stage, change.asked_s) == (Stage.DETACHING, host.wall_s)
    host.wall_s += 600
    host.unplug(confirm, DATA)
    assert row(host, confirm).change == change, "it is as old as the first time"
    host.unplug_one()
    told = host.compute.plugging.detach_outcome(vm.vm_id, vm.generation, DATA)
    assert isinstance(told, Refused)
    assert "electros stop" in told.reasons[0].hint
    assert "electros volume attach" in told.reasons[0].hint


def test_what_a_deaf_guest_has_is_taken_back_by_attaching_it_again(host: OneHost) -> None:
    confirm = deaf(host)
    words = host.confirm_volume(confirm, DATA)
    vm = host.plug(words)
    assert isinstance(vm, Vm)
    assert vids(host, confirm) == [VID, DATA]
    assert vm.standing.words == host.plug(words).words  # type: ignore[union-attr]
    assert [claim.vid for claim in vm.standing.claims] == [VID, DATA], "a start has it"
    host.unplug_one()
    host.reconcile()
    assert host.asked is False, "nobody asks the guest any more"
    assert stage(host, confirm) is Stage.KEEPING
    host.unplug_one()
    host.unplug(confirm, DATA)
    assert stage(host, confirm) is Stage.DETACHING, "and may be told to go again"


def test_what_a_guest_lets_go_of_after_all_is_plugged_in_anew_where_its_user_wants_it(host: OneHost) -> None:
    confirm = deaf(host)
    host.plug(host.confirm_volume(confirm, DATA))
    host.unplug_one()
    host.disks[VmId(confirm.vm_id)].discard(DATA)  # at its reboot, say
    host.reconcile()
    host.unplug_one()
    host.attach_one(Silent("h2 is silent"))
    assert stage(host, confirm) is Stage.KEEPING
    host.reconcile()
    host.unplug_one()
    host.attach_one()
    host.plug_one("QEMU is out of sorts")
    assert vids(host, confirm) == [VID, DATA], "storage was not told that it is free"
    settle_kept(host)
    assert DATA in host.disks[VmId(confirm.vm_id)]
    assert stage(host, confirm) is None
    assert vids(host, confirm) == [VID, DATA]
    assert isinstance(host.compute.outcome(OfferId(confirm.offer_id)), Vm), "it has its VM, as promised"


def settle_kept(host: OneHost) -> None:
    host.reconcile()
    host.unplug_one()
    host.attach_one()
    host.plug_one()


def test_what_was_taken_back_and_let_go_of_is_gone_where_another_has_it_by_now(host: OneHost) -> None:
    confirm = deaf(host)
    host.plug(host.confirm_volume(confirm, DATA))
    host.unplug_one()
    host.disks[VmId(confirm.vm_id)].discard(DATA)
    host.reconcile()
    host.unplug_one()
    host.attach_one(IN_USE)
    assert vids(host, confirm) == [VID]
    assert isinstance(host.compute.outcome(OfferId(confirm.offer_id)), Vm)


@pytest.mark.parametrize("taken_back", [False, True])
def test_a_stop_ends_what_a_deaf_guest_holds(host: OneHost, taken_back: bool) -> None:
    confirm = deaf(host)
    if taken_back:
        host.plug(host.confirm_volume(confirm, DATA))
        host.unplug_one()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.stop(vm, host.now_s, force=True))
    host.destroy()
    settle(host)
    assert stage(host, confirm) is None
    assert vids(host, confirm) == ([VID, DATA] if taken_back else [VID])


def test_a_guest_that_starts_anew_was_asked_for_nothing(host: OneHost) -> None:
    confirm = deaf(host)
    host.plug(host.confirm_volume(confirm, DATA))
    host.crash(reboot=True)
    settle(host)
    assert stage(host, confirm) is None
    assert host.disks[VmId(confirm.vm_id)] == {VID, DATA}


def test_what_storage_was_told_of_can_not_be_taken_back(host: OneHost) -> None:
    confirm = host.running(volumes=[VID, DATA])
    host.unplug(confirm, DATA)
    host.unplug_one()
    host.detach_one(done=False)
    assert code(host.plug(host.confirm_volume(confirm, DATA))) == "not-now"


def test_whoever_would_remove_a_vm_meanwhile_is_told_what_it_waits_for(host: OneHost) -> None:
    confirm = host.running(volumes=[VID])
    host.plug(host.confirm_volume(confirm, DATA))
    vm = host.vm(confirm)
    assert vm is not None
    refusal = host.do(host.compute.remove(vm))
    assert refusal is not None
    assert refusal.reasons[0].has == f"volume {dashed(DATA)} is being attached just now"
    assert refusal.reasons[0].hint == "run it again in half a minute"


def test_rm_ends_what_libvirt_does_not_say_and_frees_that_volume_as_well(host: OneHost) -> None:
    confirm = host.running(volumes=[VID])
    host.plug(host.confirm_volume(confirm, DATA))
    host.attach_one()
    vm, vid = host.take_one(wanted.PlugVolume)
    host.do(host.compute.plugging.unplugged(vm.vm_id, vm.generation, vid, gone=None))
    now = host.vm(confirm)
    assert now is not None
    assert host.do(host.compute.remove(now)) is None
    host.destroy()
    assert {claim.vid for claim in host.take(wanted.DetachVolumes).claims} == {VID, DATA}


def test_the_journal_has_the_volume_before_storage_and_before_the_domain(host: OneHost) -> None:
    confirm = host.running(volumes=[VID])
    assert host.plug(host.confirm_volume(confirm, DATA)) is None
    change = row(host, confirm).change
    assert change is not None
    assert (change.vid, change.stage, change.volume) == (DATA, Stage.ATTACHING, None)
    host.attach_one()
    change = row(host, confirm).change
    assert change is not None
    assert change.volume is not None
    assert vids(host, confirm) == [VID], "not yet"
    host.plug_one()
    assert row(host, confirm).change is None
    assert vids(host, confirm) == [VID, DATA]


def test_a_volume_goes_from_the_guest_from_storage_and_from_the_journal_in_this_order(host: OneHost) -> None:
    confirm = host.running(volumes=[VID, DATA])
    assert host.unplug(confirm, DATA) is None
    assert [type(effect) for effect in host.slow] == [wanted.UnplugVolume]
    host.unplug_one()
    assert [type(effect) for effect in host.slow] == [wanted.DetachVolume]
    assert vids(host, confirm) == [VID, DATA]
    host.detach_one()
    assert vids(host, confirm) == [VID]
    assert row(host, confirm).dropped == (DATA,)
    assert row(host, confirm).words[0].without == (DATA,)
    assert isinstance(host.unplug(confirm, DATA), Vm), "asked again, it is as it is"


def test_a_stopped_vm_gets_and_gives_without_a_domain(host: OneHost) -> None:
    confirm = host.stopped(volumes=[VID])
    plugged(host, confirm, DATA)
    assert vids(host, confirm) == [VID, DATA]
    assert host.unplug(confirm, VID) is None, "what it boots from may go, as it does not run"
    host.detach_one()
    assert vids(host, confirm) == [DATA]


def test_a_repeated_request_changes_nothing_and_gets_the_same_answer(host: OneHost) -> None:
    confirm = host.running()
    words = host.confirm_volume(confirm, DATA)
    assert host.plug(words) is None
    assert host.plug(words) is None
    assert len(host.slow) == 1
    host.attach_one()
    host.plug_one()
    first = host.plug(words)
    assert isinstance(first, Vm)
    assert host.plug(words) == first
    assert not host.slow


def test_a_copy_that_comes_after_a_refusal_or_a_detach_attaches_nothing(host: OneHost) -> None:
    confirm = host.running()
    refused = host.confirm_volume(confirm, DATA)
    host.plug(refused)
    host.attach_one(IN_USE)
    assert host.plug(refused) == IN_USE
    words = host.confirm_volume(confirm, ISO)
    host.plug(words)
    host.attach_one()
    host.plug_one()
    host.unplug(confirm, ISO)
    host.unplug_one()
    host.detach_one()
    assert code(host.plug(words)) == "detached"
    assert not host.slow


def test_each_thing_that_speaks_against_it_is_told(host: OneHost) -> None:
    confirm = host.running(volumes=[VID])
    words = host.confirm_volume(confirm, DATA)
    assert code(host.plug(words, BOB)) == "not-found"
    assert code(host.plug(replace(words, host_id="0" * 64))) == "wrong-host"
    assert code(host.plug(replace(words, generation=2))) == "old-generation"
    assert code(host.plug(host.confirm_volume(confirm, VID))) == "attached-already"
    assert code(host.plug(host.confirm_volume(confirm, DATA, cdrom=True))) == "not-hot"
    assert code(host.unplug(confirm, VID)) == "boots-from"
    assert host.plug(words) is None
    assert code(host.plug(replace(words, name="other"))) == "another-body"
    assert code(host.plug(host.confirm_volume(confirm, ISO))) == "not-now"
    assert code(host.unplug(confirm, DATA)) == "not-now"
    host.revoked.add(host.vm(confirm).user_id)  # type: ignore[union-attr]
    host.attach_one()
    assert code(host.plug(words)) == "revoked"
    host.detach_one()
    assert code(host.plug(host.confirm_volume(confirm, ISO))) == "revoked"
    assert vids(host, confirm) == [VID]


def test_a_domain_has_so_many_free_slots(host: OneHost) -> None:
    confirm = host.running()
    for number in range(HOT_MAX):
        plugged(host, confirm, f"{number:032x}")
    assert code(host.plug(host.confirm_volume(confirm, ISO))) == "too-many"


def test_who_was_silent_may_have_given_it_and_is_told_that_nothing_came_of_it(host: OneHost) -> None:
    confirm = host.running()
    words = host.confirm_volume(confirm, DATA)
    host.plug(words)
    host.attach_one(Silent("h2 is silent"))
    assert code(host.plug(words)) == "storage"
    host.detach_one(done=False)
    assert row(host, confirm).added, "known, until storage has ended it"
    host.reconcile()
    host.unplug_one()
    host.detach_one()
    assert not row(host, confirm).added
    host.plug(host.confirm_volume(confirm, DATA))
    host.attach_one(Silent("h2 can't be reached", asked=False))
    assert not host.slow
    assert not row(host, confirm).added


def test_what_the_domain_does_not_take_goes_back_to_storage(host: OneHost) -> None:
    confirm = host.running()
    words = host.confirm_volume(confirm, DATA)
    host.plug(words)
    host.attach_one()
    host.plug_one("No more available PCI slots")
    refusal = host.plug(words)
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.reasons[0].has) == ("not-plugged", "No more available PCI slots")
    host.detach_one()
    assert vids(host, confirm) == []
    assert not row(host, confirm).added


def test_a_guest_that_never_lets_go_keeps_it_and_is_waited_for(host: OneHost) -> None:
    confirm = host.running()
    plugged(host, confirm, DATA)
    host.deaf.add(VmId(confirm.vm_id))
    host.unplug(confirm, DATA)
    host.unplug_one()
    vm = host.compute.vms[VmId(confirm.vm_id)]
    assert code(host.compute.plugging.detach_outcome(vm.vm_id, 1, DATA)) == "guest-keeps-it"
    assert vids(host, confirm) == [DATA]
    assert not isinstance(host.compute.stop(vm, host.now_s, force=False), Refused), "it is busy with nothing"
    host.reconcile()
    effect = next(effect for effect in host.slow if isinstance(effect, wanted.UnplugVolume))
    assert not effect.asks, "a guest is asked once"
    host.unplug_one()
    host.disks[vm.vm_id].discard(DATA)
    settle_stopping(host)
    assert vids(host, confirm) == []


def settle_stopping(host: OneHost) -> None:
    host.slow.clear()
    host.reconcile()
    host.unplug_one()
    host.detach_one()


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("reboot", [False, True])
@pytest.mark.parametrize("deaf", [False, True])
def test_an_attach_that_a_crash_interrupts_ends_with_or_without_it(
    host: OneHost, step: int, reboot: bool, deaf: bool
) -> None:
    confirm = host.running(volumes=[VID])
    words = host.confirm_volume(confirm, DATA)
    steps = (
        lambda: host.plug(words),
        lambda: host.attach_one(),
        lambda: host.disks[VmId(confirm.vm_id)].add(DATA),
        lambda: host.plug_one(),
    )
    for each in steps[: step // 2 + 1]:
        if step % 2:
            each()
    if deaf:
        host.deaf.add(VmId(confirm.vm_id))
    host.crash(reboot=reboot)
    settle(host)
    vm = row(host, confirm)
    assert vm.change is None
    assert vm.state is State.RUNNING
    has = DATA in vids(host, confirm)
    assert has == (DATA in host.disks[vm.vm_id]) == bool(vm.added)


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("reboot", [False, True])
def test_a_detach_that_a_crash_interrupts_goes_on(host: OneHost, step: int, reboot: bool) -> None:
    confirm = host.running(volumes=[VID])
    plugged(host, confirm, DATA)
    steps = (lambda: host.unplug(confirm, DATA), host.unplug_one, host.detach_one)
    for each in steps[: step + 1]:
        each()
    host.crash(reboot=reboot)
    settle(host)
    vm = row(host, confirm)
    assert (vm.change, vm.added, vm.state) == (None, (), State.RUNNING)
    assert vids(host, confirm) == [VID]
    assert host.disks[vm.vm_id] == {VID}


@pytest.mark.parametrize("writes", range(3))
def test_a_full_disk_at_any_write_ends_with_or_without_it(host: OneHost, writes: int) -> None:
    confirm = host.running(volumes=[VID])
    host.fails_in = writes
    words = host.confirm_volume(confirm, DATA)
    answer = host.plug(words)
    if not writes:
        assert code(answer) == "journal"
        assert not host.slow
    while any(isinstance(effect, wanted.AttachVolume | wanted.PlugVolume) for effect in host.slow):
        host.attach_one() if isinstance(host.slow[0], wanted.AttachVolume) else host.plug_one()
    settle(host)
    vm = row(host, confirm)
    assert vm.change is None
    assert (DATA in vids(host, confirm)) == (DATA in host.disks[vm.vm_id]) == bool(vm.added)
    assert host.compute.vms[vm.vm_id] == vm


def test_what_storage_says_of_a_vm_as_it_was_does_not_end_it(host: OneHost) -> None:
    """It was asked before the VM got one more; the answer names the old set."""
    confirm = host.running(volumes=[DATA])
    host.now_s += 1000
    host.reconcile()
    asked = host.take(wanted.ReachVolumes)
    old = attached_for(asked)
    plugged(host, confirm, VID)
    host.apply(host.compute.reached(asked, old, host.now_s))
    vm = host.vm(confirm)
    assert vm is not None
    assert vm.state is State.RUNNING
    host.apply(host.compute.reached(vm, Attached((), ()), host.now_s))
    vm = host.vm(confirm)
    assert vm is not None
    assert vm.state is State.STOPPING, "and now it has lost them"


def test_storage_that_is_gone_holds_up_neither_the_answer_nor_the_next_start(host: OneHost) -> None:
    confirm = host.stopped(volumes=[VID, DATA])
    assert host.unplug(confirm, DATA) is None
    host.told.clear()
    host.detach_one(done=False)
    assert host.told, "who waits looks again"
    vm = host.compute.vms[VmId(confirm.vm_id)]
    assert code(host.compute.plugging.detach_outcome(vm.vm_id, 1, DATA)) == "storage"
    assert host.confirm(host.offered(host.pledge(vm_id=vm.vm_id, generation=2, volumes=[VID]))) is None, "it is taken"
    host.crash()
    host.reconcile()
    host.slow.clear()
    host.crash()
    assert row(host, confirm).change is not None, "generation 2 was never promised"
    settle(host)
    assert vids(host, confirm) == [VID]
