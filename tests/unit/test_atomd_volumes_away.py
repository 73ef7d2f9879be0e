"""A VM with volumes of other hosts is watched, and goes on only where nobody else can have written."""

from dataclasses import replace

from atomd import effects as wanted
from atomd.effects import Effect
from atomd.vms.lifecycle import State, Vm
from atomd.vms.reconcile import Action, Observed, Step, reconcile
from atomd.volumes.answers import Answer, Silent
from atomd.volumes.away import ASK_AGAIN_S, PAUSED, WATCH_S, Away, why_lost
from matcher.wire.messages import Confirm, Reason, Refused
from matcher.wire.volumes import Attached
from specs.ids import HostId, VmId
from tests.fakes.one_host import BOOT, VID, VM_ID, OneHost, a_vm, attached_for

H2 = HostId("2" * 64)
OVER = Refused("generation-over", (Reason("volume e", "to write", "generation 2 of this VM has it on h3", ""),))
BUSY = Refused("unavailable", (Reason("volume e", "to use it", "its pool is not mounted", ""),))


def stalled_host() -> tuple[OneHost, Confirm]:
    """One VM, up, with a volume of h2 that fails it."""
    host = OneHost()
    host.servers[VID] = H2
    confirm = host.running(volumes=[VID], name="web")
    host.stalled.add(VmId(confirm.vm_id))
    return host, confirm


def waiting(host: OneHost, kind: type[Effect]) -> bool:
    return any(isinstance(effect, kind) for effect in host.slow)


def asked(host: OneHost) -> Vm:
    host.reconcile()
    return host.take(wanted.ReachVolumes)


def answer(host: OneHost, vm: Vm, said: Answer) -> None:
    assert host.apply(host.compute.reached(vm, said, host.now_s)) is None


def there(host: OneHost, confirm: Confirm) -> Vm:
    vm = host.vm(confirm)
    assert vm is not None
    return vm


def test_what_comes_back_as_it_was_goes_on() -> None:
    host, confirm = stalled_host()
    vm = asked(host)
    answer(host, vm, attached_for(vm))
    assert host.take(wanted.ResumeDomain).vm_id == confirm.vm_id
    assert there(host, confirm).state is State.RUNNING
    host.stalled.clear()
    host.reconcile()
    assert host.compute.away.why(vm.vm_id) == ""
    assert not host.slow


def test_what_another_has_taken_over_ends_the_vm_as_failed_and_says_why() -> None:
    host, confirm = stalled_host()
    vm = asked(host)
    answer(host, vm, OVER)
    assert there(host, confirm).state is State.STOPPING
    host.destroy()
    assert there(host, confirm).state is State.FAILED
    assert there(host, confirm).why == "its volumes were taken over: volume e: generation 2 of this VM has it on h3"
    assert not host.ledger.residents(host.now_s)
    assert host.rows[vm.vm_id, vm.generation].state is State.FAILED


def test_what_comes_back_in_another_epoch_may_have_been_written_meanwhile_and_ends_the_vm() -> None:
    host, confirm = stalled_host()
    vm = asked(host)
    answer(host, vm, attached_for(vm, epoch=2))
    assert not waiting(host, wanted.ResumeDomain)
    host.destroy()
    assert there(host, confirm).state is State.FAILED
    assert "others may have written meanwhile" in there(host, confirm).why
    host.detach()  # who freed it has others in mind
    assert there(host, confirm).state is State.FAILED
    host.do(host.compute.remove(there(host, confirm)))
    host.detach()
    assert host.vm(confirm) is None


def test_the_end_of_a_vm_that_lost_its_volumes_survives_a_crash_at_any_step() -> None:
    host, confirm = stalled_host()
    answer(host, asked(host), OVER)
    host.crash()  # before libvirt was asked
    host.reconcile()
    host.destroy()
    assert there(host, confirm).state is State.FAILED
    host, confirm = stalled_host()
    answer(host, asked(host), OVER)
    host.up.clear()  # destroyed, and nobody heard of it
    host.crash()
    host.reconcile()
    assert (there(host, confirm).state, there(host, confirm).why[:28]) == (State.FAILED, "its volumes were taken over:")


def test_a_domain_that_could_not_be_destroyed_is_destroyed_again_without_asking_storage() -> None:
    host, confirm = stalled_host()
    answer(host, asked(host), OVER)
    host.destroy(done=False)
    host.reconcile()
    assert not waiting(host, wanted.ReachVolumes)
    host.destroy()
    assert there(host, confirm).state is State.FAILED


def test_while_nobody_answers_it_waits_and_says_for_whom() -> None:
    host, confirm = stalled_host()
    vm = asked(host)
    assert host.compute.away.why(vm.vm_id) == f"paused: {PAUSED}"
    for said, why in (
        (Silent("h2, which has its volume, does not answer"), "paused: h2, which has its volume, does not answer"),
        (BUSY, "paused: volume e: its pool is not mounted"),
    ):
        answer(host, vm, said)
        assert there(host, confirm).state is State.RUNNING
        assert host.compute.away.why(vm.vm_id) == why
        host.now_s += ASK_AGAIN_S
        vm = asked(host)


def test_its_servers_are_asked_once_at_a_time_and_not_too_often() -> None:
    host, _ = stalled_host()
    vm = asked(host)
    host.now_s += 60
    host.reconcile()
    assert not waiting(host, wanted.ReachVolumes)  # it is being asked
    answer(host, vm, Silent("nobody"))
    host.reconcile()
    assert not waiting(host, wanted.ReachVolumes)  # it was asked just now
    host.now_s += ASK_AGAIN_S
    host.reconcile()
    assert waiting(host, wanted.ReachVolumes)


def test_its_user_can_end_it_while_storage_is_silent() -> None:
    for verb in ("stop", "rm"):
        host, confirm = stalled_host()
        vm = asked(host)
        if verb == "stop":
            host.do(host.compute.stop(there(host, confirm), host.now_s, force=True))
        else:
            host.do(host.compute.remove(there(host, confirm)))
        host.destroy()
        answer(host, vm, attached_for(vm))  # late
        assert not waiting(host, wanted.ResumeDomain)
        assert (host.vm(confirm) is None) or there(host, confirm).state in (State.STOPPED, State.REMOVING)


def test_a_vm_that_is_being_destroyed_is_not_destroyed_for_another_reason_as_well() -> None:
    host, confirm = stalled_host()
    vm = asked(host)
    host.do(host.compute.stop(there(host, confirm), host.now_s, force=True))
    answer(host, vm, OVER)
    host.destroy()
    assert not host.slow
    assert there(host, confirm).state is State.STOPPED


def test_a_late_answer_does_not_wake_what_is_no_longer_stalled() -> None:
    """A sysadmin may have paused it since, say."""
    host, _ = stalled_host()
    vm = asked(host)
    host.stalled.clear()
    host.reconcile()
    answer(host, vm, attached_for(vm))
    assert not waiting(host, wanted.ResumeDomain)


def test_a_full_disk_does_not_end_it_and_it_is_tried_again() -> None:
    host, confirm = stalled_host()
    vm = asked(host)
    host.is_full = True
    assert host.apply(host.compute.reached(vm, OVER, host.now_s)) is not None
    assert there(host, confirm).state is State.RUNNING
    host.is_full = False
    host.now_s += ASK_AGAIN_S
    answer(host, asked(host), OVER)
    host.destroy()
    assert there(host, confirm).state is State.FAILED


def test_a_vm_being_stopped_by_its_user_fails_as_well_where_its_volumes_are_lost() -> None:
    host, confirm = stalled_host()
    host.do(host.compute.stop(there(host, confirm), host.now_s, force=False))
    host.take(wanted.ShutDownDomain)
    answer(host, asked(host), OVER)
    host.destroy()
    assert there(host, confirm).state is State.FAILED


def test_one_that_is_well_is_asked_about_now_and_then() -> None:
    host, confirm = stalled_host()
    host.stalled.clear()
    vm = asked(host)
    answer(host, vm, attached_for(vm))
    assert not waiting(host, wanted.ResumeDomain)
    host.now_s += WATCH_S - 1
    host.reconcile()
    assert not waiting(host, wanted.ReachVolumes)
    host.now_s += 1
    assert asked(host).vm_id == confirm.vm_id


def test_one_that_qemu_never_paused_is_ended_as_well_where_it_lost_its_volumes() -> None:
    """QEMU logs in again and again to a target that is gone for good, and says nothing."""
    host, confirm = stalled_host()
    host.stalled.clear()
    answer(host, asked(host), OVER)
    host.destroy()
    assert there(host, confirm).state is State.FAILED


def test_a_server_that_is_silent_is_told_of_though_qemu_has_not_noticed() -> None:
    host, confirm = stalled_host()
    host.stalled.clear()
    vm = asked(host)
    answer(host, vm, Silent("h2, which has its volume, does not answer"))
    assert host.compute.away.why(VmId(confirm.vm_id)) == "h2, which has its volume, does not answer"
    host.now_s += WATCH_S
    answer(host, asked(host), attached_for(vm))
    assert host.compute.away.why(VmId(confirm.vm_id)) == ""


def test_volumes_of_other_hosts_are_watched_and_of_ones_own_where_the_guest_stands_still() -> None:
    host, confirm = stalled_host()
    away = replace(a_vm(State.RUNNING), volumes=there(host, confirm).volumes)

    def steps(vm: Vm, *, stalled: bool) -> tuple[Step, ...]:
        return reconcile([vm], [Observed(VM_ID, 1, stalled)], boot_id=BOOT, busy=())

    for stalled in (False, True):
        assert steps(away, stalled=stalled) == (Step(Action.WATCH, VM_ID),)
        assert steps(a_vm(State.RUNNING), stalled=stalled) == ((Step(Action.WATCH, VM_ID),) if stalled else ())


def test_a_guest_that_stands_still_on_its_own_hosts_disk_is_tried_less_often() -> None:
    away = Away()
    away.seen({VM_ID}, {VM_ID})
    for is_away, again_s in ((True, ASK_AGAIN_S), (False, WATCH_S)):
        away.answered(VM_ID, Attached(()), 0.0)
        assert not away.is_due(VM_ID, again_s - 0.1, is_away=is_away)
        assert away.is_due(VM_ID, again_s, is_away=is_away)


def test_refusals_that_may_pass_are_no_loss() -> None:
    vm = a_vm(State.RUNNING)
    for code in ("unavailable", "journal", "storage-unwritable", "volume-unusable", "denied", "not-reachable"):
        assert why_lost(vm, Refused(code, ())) is None
    for code in ("generation-over", "volume-in-use", "volume-held-elsewhere"):
        assert why_lost(vm, Refused(code, ())) is not None
    assert why_lost(vm, Attached(())) is None


def test_nothing_is_remembered_of_a_vm_that_is_gone() -> None:
    away = Away()
    away.seen({VM_ID}, {VM_ID})
    assert away.is_due(VM_ID, 1.0, is_away=True)
    away.answered(VM_ID, Silent("h2 is silent"), 2.0)
    away.seen((), ())
    assert away.why(VM_ID) == ""
    assert away.is_due(VM_ID, 2.0, is_away=True)
    away.forget(VM_ID)
    assert not away._asked_s
    assert not away._silence
