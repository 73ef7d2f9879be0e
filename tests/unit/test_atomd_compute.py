"""The compute host's decisions: each refusal, each failure on the way, and what copies and late messages may not do."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from atomd import effects as wanted
from atomd.vms.closed import ABANDONED_MAX, REFUSALS_MAX
from atomd.vms.lifecycle import State, Vm
from atomd.vms.stopping import PRESS_AGAIN_S, STOP_S
from matcher.wire.messages import Arch, Confirm, Firmware, Reason, Refused, VolumeClaim
from specs.ids import OfferId, VmId, new_id
from tests.fakes.one_host import ANN, BOB, HOST, THREADS, VID, OneHost, again

IN_USE = Refused("volume-in-use", (Reason("volume", "it", "taken", "wait"),))
LATER_S = 10.0


@pytest.fixture
def host() -> OneHost:
    return OneHost()


def code(answer: Vm | Refused | None) -> str | None:
    return answer.code if isinstance(answer, Refused) else None


def state(answer: Vm | Refused | None) -> State | None:
    return answer.state if isinstance(answer, Vm) else None


def free_threads(host: OneHost) -> int:
    return THREADS - len({thread for claim in host.ledger.residents(host.now_s) for thread in claim.threads})


# ---- confirm


def test_a_confirm_is_durable_before_it_is_told_and_told_before_it_is_started(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    effects = host.compute.confirm(confirm, b"", host.who(ANN), host.moment())
    assert not isinstance(effects, Refused)
    assert [type(effect) for effect in effects] == [wanted.Journal, wanted.Changed, wanted.StartDomain]
    assert isinstance(effects[0], wanted.Journal)
    assert effects[0].put.state is State.COMMITTED


def test_only_what_runs_in_this_boot_is_up(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    assert not host.compute.up(), "it is committed, and on its way"
    host.start()
    vm = host.vm(confirm)
    assert vm is not None
    assert host.compute.up() == (vm.claim,)
    host.crash(reboot=True)
    assert not host.compute.up(), "the journal says that it ran"


def test_volumes_are_attached_between_prepared_and_committed(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    assert host.confirm(confirm) is None
    assert [row.state for row in host.rows.values()] == [State.PREPARED]
    host.attach()
    outcome = host.compute.outcome(OfferId(confirm.offer_id))
    assert isinstance(outcome, Vm)
    assert [volume.vid for volume in outcome.volumes] == [VID]
    assert [row.state for row in host.rows.values()] == [State.COMMITTED]


def test_a_repeated_confirm_changes_nothing_and_gets_the_same_answer(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    first = host.confirm(confirm)
    assert state(first) is State.COMMITTED
    assert host.confirm(confirm) == first
    host.start()
    assert state(host.confirm(confirm)) is State.RUNNING
    assert len(host.rows) == 1
    assert not host.slow


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda confirm: again(confirm, host_id="0" * 64), "wrong-host"),
        (lambda confirm: again(confirm, vm=replace(confirm.vm, ram_mib=9)), "not-as-pledged"),
        (lambda confirm: again(confirm, vm_id="9" * 32), "not-as-pledged"),
        (lambda confirm: again(confirm, generation=2), "not-as-pledged"),
        (lambda confirm: again(confirm, pledge_id="9" * 32), "not-as-pledged"),
        (lambda confirm: again(confirm, volumes=(VolumeClaim(VID, HOST, "0" * 32),)), "not-as-pledged"),
        (lambda confirm: again(confirm, offer_id="9" * 32), "hold-lapsed"),
    ],
)
def test_a_confirm_of_anything_but_the_offer_is_refused(
    host: OneHost, change: Callable[[Confirm], Confirm], said: str
) -> None:
    assert code(host.confirm(change(host.offered(host.pledge())))) == said
    assert not host.rows


def test_an_offer_that_has_lapsed_is_refused(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.now_s += 3.1
    assert code(host.confirm(confirm)) == "hold-lapsed"


def test_another_user_can_neither_take_an_offer_nor_spoil_it(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    assert code(host.confirm(confirm, BOB)) == "hold-lapsed"
    assert host.abandon(confirm, BOB) is None
    assert state(host.confirm(confirm)) is State.COMMITTED


def test_other_words_under_a_taken_offer_are_refused(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    assert code(host.confirm(again(confirm, name="other"))) == "another-body"
    assert code(host.confirm(confirm, BOB)) == "another-body"


def test_a_name_is_one_vm_of_a_user_on_a_host(host: OneHost) -> None:
    host.running(name="web")
    assert code(host.confirm(host.offered(host.pledge(), name="web"))) == "name-taken"
    assert state(host.confirm(host.offered(host.pledge(), BOB, name="web"), BOB)) is State.COMMITTED
    assert state(host.confirm(host.offered(host.pledge(), name=""))) is State.COMMITTED


def test_a_next_generation_cannot_take_another_vms_name(host: OneHost) -> None:
    host.running(name="web")
    old = host.stopped(name="db")
    assert code(host.confirm(host.offered(host.pledge(vm_id=old.vm_id, generation=2), name="web"))) == "name-taken"
    assert state(host.confirm(host.offered(host.pledge(vm_id=old.vm_id, generation=2), name="db"))) is State.COMMITTED


def test_a_vm_id_that_is_anothers_is_not_found(host: OneHost) -> None:
    theirs = host.running()
    assert code(host.confirm(host.offered(host.pledge(vm_id=theirs.vm_id, generation=2), BOB), BOB)) == "not-found"
    assert state(host.vm(theirs)) is State.RUNNING


def test_only_a_stopped_vm_is_started_again(host: OneHost) -> None:
    confirm = host.running()
    assert code(host.confirm(host.offered(host.pledge(vm_id=confirm.vm_id, generation=2)))) == "running"


@pytest.mark.parametrize("generation", [1, 2])
def test_an_older_generation_is_refused(host: OneHost, generation: int) -> None:
    first = host.stopped()
    second = host.offered(host.pledge(vm_id=first.vm_id, generation=2))
    host.confirm(second)
    late = host.offered(host.pledge(vm_id=first.vm_id, generation=generation))
    assert code(host.confirm(late)) == "old-generation"


def test_a_late_confirm_of_an_older_generation_is_told_so_even_after_its_hold(host: OneHost) -> None:
    """Else its client would go and run the old generation on another host."""
    first = host.stopped()
    host.confirm(host.offered(host.pledge(vm_id=first.vm_id, generation=2)))
    assert code(host.confirm(again(first, offer_id="9" * 32))) == "old-generation"


def test_a_refusal_is_for_good_since_copies_of_the_confirm_may_still_come(host: OneHost) -> None:
    other = host.running(name="web")
    confirm = host.offered(host.pledge(), name="web")
    assert code(host.confirm(confirm)) == "name-taken"
    vm = host.vm(other)
    assert vm is not None
    host.do(host.compute.remove(vm))
    host.destroy()
    assert host.vm(other) is None, "the name is free, and the hold would still live"
    assert code(host.confirm(confirm)) == "name-taken"
    assert free_threads(host) == THREADS


def test_refusals_are_not_remembered_without_bound(host: OneHost) -> None:
    host.running(name="web")
    for _ in range(REFUSALS_MAX + 10):
        assert code(host.confirm(host.offered(host.pledge(), name="web"))) == "name-taken"
    assert len(host.compute._closed._refusals) <= REFUSALS_MAX


# ---- storage


def test_volumes_that_are_refused_leave_nothing_behind(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.attach(IN_USE)
    assert host.compute.outcome(OfferId(confirm.offer_id)) == IN_USE
    assert host.confirm(confirm) == IN_USE
    assert not host.rows
    assert free_threads(host) == THREADS


def test_storage_that_does_not_answer_is_asked_to_let_go_before_the_vm_is_forgotten(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.attach(silent=True)
    assert code(host.compute.outcome(OfferId(confirm.offer_id))) == "storage"
    host.detach(done=False)
    assert host.rows, "the detach is owed still"
    host.tick()
    host.detach()
    assert host.vm(confirm) is None
    assert not host.rows


def test_an_older_generation_stays_where_a_newer_one_is_refused_its_volumes(host: OneHost) -> None:
    first = host.stopped(volumes=[VID])
    second = host.offered(host.pledge(vm_id=first.vm_id, generation=2, volumes=[VID]))
    host.confirm(second)
    host.attach(IN_USE)
    assert host.vm(first) == host.rows[VmId(first.vm_id), 1]
    assert state(host.vm(first)) is State.STOPPED
    assert list(host.rows) == [(first.vm_id, 1)]


def test_a_newer_generation_takes_the_place_of_the_older_in_one_write(host: OneHost) -> None:
    first = host.stopped()
    host.confirm(host.offered(host.pledge(vm_id=first.vm_id, generation=2)))
    assert [generation for _, generation in host.rows] == [2]


def test_a_try_that_is_being_undone_is_no_reason_to_go_away_for_good(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.attach(silent=True)
    assert code(host.confirm(host.offered(host.pledge(vm_id=confirm.vm_id, volumes=[VID])))) == "not-now"


def test_a_late_detach_of_an_earlier_try_does_not_disturb_the_next(host: OneHost) -> None:
    first = host.stopped(volumes=[VID])
    host.confirm(host.offered(host.pledge(vm_id=first.vm_id, generation=2, volumes=[VID])))
    host.do(host.compute.detached(VmId(first.vm_id), 1, done=True))
    host.reconcile()
    assert state(host.vm(first)) is State.PREPARED, "busy with its attach, and left alone"


# ---- abandon


def test_an_abandoned_offer_is_refused_for_good_and_its_hold_is_free(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    assert host.abandon(confirm) is None
    assert host.abandoned == [confirm.offer_id]
    assert free_threads(host) == THREADS
    assert code(host.confirm(confirm)) == "abandoned"
    host.crash()
    assert code(host.confirm(confirm)) == "abandoned"


@pytest.mark.parametrize("is_up", [False, True])
def test_an_abandon_that_comes_too_late_is_told_of_the_vm(host: OneHost, is_up: bool) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    if is_up:
        host.start()
    assert host.abandon(confirm) == host.vm(confirm)
    assert not host.abandoned


def test_an_abandon_during_the_attach_waits_for_storage_before_it_detaches(host: OneHost) -> None:
    """Asked both at once, storage might attach last, and for ever."""
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    assert host.abandon(confirm) is None
    assert code(host.confirm(confirm)) == "abandoned"
    assert not any(isinstance(effect, wanted.DetachVolumes) for effect in host.slow)
    host.reconcile()
    host.attach()
    host.detach()
    assert host.vm(confirm) is None
    assert not host.rows
    assert free_threads(host) == THREADS


def test_an_abandon_for_an_older_generation_is_told_of_the_newer(host: OneHost) -> None:
    first = host.stopped()
    host.confirm(host.offered(host.pledge(vm_id=first.vm_id, generation=2)))
    told = host.abandon(again(first, offer_id="9" * 32))
    assert isinstance(told, Vm)
    assert told.generation == 2


def test_an_abandon_while_the_vm_is_removed_does_not_deny_that_it_was_there(host: OneHost) -> None:
    """Its domain may still be up: a client that heard *abandoned* would start it elsewhere."""
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.remove(vm))
    assert state(host.abandon(confirm)) is State.REMOVING
    assert code(host.confirm(confirm)) == "not-found"


def test_an_abandon_for_a_stopped_vm_is_told_of_it_while_its_next_generation_is_prepared(host: OneHost) -> None:
    first = host.stopped(volumes=[VID])
    host.confirm(host.offered(host.pledge(vm_id=first.vm_id, generation=2, volumes=[VID])))
    assert state(host.abandon(first)) is State.STOPPED


def test_a_stopped_vm_answers_for_its_confirm_while_its_next_generation_is_prepared(host: OneHost) -> None:
    first = host.stopped(volumes=[VID])
    host.confirm(host.offered(host.pledge(vm_id=first.vm_id, generation=2, volumes=[VID])))
    assert state(host.confirm(first)) is State.STOPPED
    assert code(host.confirm(again(first, name="other"))) == "another-body"


def test_an_abandon_that_could_not_be_noted_is_not_acknowledged(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.is_full = True
    assert code(host.abandon(confirm)) == "journal"
    host.is_full = False
    assert host.abandon(confirm) is None
    host.attach()
    host.detach()
    assert host.vm(confirm) is None
    assert not host.rows


def test_abandons_are_remembered_within_bounds(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    for _ in range(ABANDONED_MAX + 1):
        host.abandon(again(confirm, offer_id=new_id(host.random)))
    assert len(host.compute._closed._abandoned) == ABANDONED_MAX


# ---- a full disk


@pytest.mark.parametrize("volumes", [(), (VID,)])
def test_a_disk_that_is_full_at_the_confirm_refuses_it_and_loses_nothing(
    host: OneHost, volumes: tuple[str, ...]
) -> None:
    confirm = host.offered(host.pledge(volumes=volumes))
    host.is_full = True
    assert code(host.confirm(confirm)) == "journal"
    assert not host.slow
    assert not host.rows
    host.is_full = False
    assert code(host.confirm(confirm)) == "journal", "it was told no, and goes elsewhere"
    assert free_threads(host) == THREADS


def test_a_disk_that_is_full_at_the_commit_gives_the_volumes_back(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.is_full = True
    host.attach()
    assert code(host.compute.outcome(OfferId(confirm.offer_id))) == "journal"
    host.detach(done=False)
    host.tick()
    host.detach()
    assert host.vm(confirm) is None
    assert [row.state for row in host.rows.values()] == [State.PREPARED], "it can't even be forgotten"
    host.is_full = False
    host.reconcile()
    assert not host.rows


@pytest.mark.parametrize("volumes", [(), (VID,)])
@pytest.mark.parametrize("at", [0, 1])
def test_a_disk_that_is_full_on_the_way_leaves_the_stopped_generation(
    host: OneHost, volumes: tuple[str, ...], at: int
) -> None:
    first = host.stopped(volumes=volumes)
    second = host.offered(host.pledge(vm_id=first.vm_id, generation=2, volumes=volumes))
    host.fails_in = at if volumes else 0
    host.confirm(second)
    if volumes and at:
        host.attach()
        host.detach()
    assert code(host.compute.outcome(OfferId(second.offer_id))) == "journal"
    assert state(host.vm(first)) is State.STOPPED
    assert list(host.rows) == [(first.vm_id, 1)]
    assert free_threads(host) == THREADS


def test_what_could_not_be_written_down_as_running_is_found_running(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    host.is_full = True
    host.start()
    assert state(host.vm(confirm)) is State.COMMITTED
    host.is_full = False
    host.reconcile()
    assert state(host.vm(confirm)) is State.RUNNING


def test_compute_is_not_free_before_the_end_is_written_down(host: OneHost) -> None:
    """A crash would bring the commitment back, beside whatever was promised meanwhile."""
    confirm = host.running()
    host.up.clear()
    host.is_full = True
    host.reconcile()
    assert free_threads(host) == THREADS - 1
    host.is_full = False
    host.reconcile()
    assert state(host.vm(confirm)) is State.STOPPED
    assert free_threads(host) == THREADS


def test_a_step_that_fails_for_one_vm_does_not_hold_up_the_others(host: OneHost) -> None:
    first, second = host.running(), host.offered(host.pledge())
    host.confirm(second)
    host.crash()
    host.up.clear()
    host.fails_in = 0
    host.reconcile()
    assert state(host.vm(first)) is State.RUNNING
    host.start()
    assert state(host.vm(second)) is State.RUNNING
    host.reconcile()
    assert state(host.vm(first)) is State.STOPPED


def test_a_row_that_could_not_be_forgotten_is_forgotten_later_unless_its_id_is_used_anew(host: OneHost) -> None:
    confirm = host.stopped()
    vm = host.vm(confirm)
    assert vm is not None
    host.fails_in = 1
    host.do(host.compute.remove(vm))
    assert host.vm(confirm) is None
    assert [row.state for row in host.rows.values()] == [State.REMOVING]
    host.fails_in = 0
    host.confirm(host.offered(host.pledge(vm_id=confirm.vm_id)))
    host.confirm(host.offered(host.pledge(vm_id=confirm.vm_id)))
    host.reconcile()
    assert [row.state for row in host.rows.values()] == [State.COMMITTED]


def test_a_row_that_could_not_be_forgotten_is_forgotten_even_where_the_next_confirm_fails(host: OneHost) -> None:
    confirm = host.stopped()
    vm = host.vm(confirm)
    assert vm is not None
    host.fails_in = 1
    host.do(host.compute.remove(vm))
    host.fails_in = 0
    host.confirm(host.offered(host.pledge(vm_id=confirm.vm_id)))
    host.reconcile()
    assert not host.rows


def test_a_removal_that_could_not_be_written_down_did_not_happen(host: OneHost) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.is_full = True
    assert code(host.do(host.compute.remove(vm))) == "journal"
    host.is_full = False
    assert state(host.vm(confirm)) is State.RUNNING
    assert not host.slow
    assert host.do(host.compute.remove(vm)) is None, "and can be tried again"


def test_a_stopped_vm_whose_removal_could_not_be_written_down_still_answers_for_its_confirm(host: OneHost) -> None:
    confirm = host.stopped()
    vm = host.vm(confirm)
    assert vm is not None
    host.is_full = True
    assert code(host.do(host.compute.remove(vm))) == "journal"
    assert state(host.confirm(confirm)) is State.STOPPED


# ---- starts


def test_a_start_that_libvirt_refuses_keeps_the_vm_and_frees_its_compute(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    host.start("no such machine type")
    vm = host.vm(confirm)
    assert vm is not None
    assert (vm.state, vm.why) == (State.FAILED, "no such machine type")
    assert free_threads(host) == THREADS


@pytest.mark.parametrize("came", [False, True])
def test_an_unknown_start_is_looked_for_and_never_taken_for_a_failure(host: OneHost, came: bool) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    vm = host.take(wanted.StartDomain)
    host.compute.start_unknown(vm.vm_id, "libvirt does not answer")
    assert state(host.vm(confirm)) is State.COMMITTED
    assert free_threads(host) == THREADS - 1
    if came:
        host.up[vm.vm_id] = 1
    host.reconcile()
    if not came:
        host.start()
    assert state(host.vm(confirm)) is State.RUNNING
    assert not host.slow


def test_a_vm_is_there_once_after_a_crash_between_the_commit_and_the_start(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    host.crash()
    host.reconcile()
    host.start()
    host.reconcile()
    assert state(host.vm(confirm)) is State.RUNNING
    assert not host.slow


def test_a_look_that_began_before_the_start_had_ended_does_not_judge_it(host: OneHost) -> None:
    """libvirt's list was made before the domain was there, and is read after its start was told."""
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    looked = host.compute.look()
    host.start()
    up, host.up = host.up, {}
    host.reconcile_with(looked)
    host.up = up
    assert state(host.vm(confirm)) is State.RUNNING
    assert free_threads(host) == THREADS - 1


def test_a_domain_that_was_removed_during_the_look_is_no_stranger(host: OneHost) -> None:
    confirm = host.running()
    looked, up = host.compute.look(), dict(host.up)
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.remove(vm))
    host.destroy()
    host.up = up
    host.reconcile_with(looked)
    assert not host.quarantined


# ---- ends


@pytest.mark.parametrize(
    ("crashed", "ends_as", "why"), [(True, State.FAILED, "panic"), (False, State.STOPPED, "powered off")]
)
def test_a_domain_that_ends_by_itself_is_told_with_libvirts_words(
    host: OneHost, crashed: bool, ends_as: State, why: str
) -> None:
    confirm = host.running()
    host.up.clear()
    host.compute.ended(VmId(confirm.vm_id), crashed=crashed, why=why)
    assert state(host.vm(confirm)) is State.RUNNING, "libvirt does not say which generation; reconcile looks"
    host.reconcile()
    vm = host.vm(confirm)
    assert vm is not None
    assert (vm.state, vm.why) == (ends_as, why)


def test_a_late_word_about_an_earlier_life_does_not_end_the_next(host: OneHost) -> None:
    first = host.stopped()
    second = host.running(vm_id=first.vm_id, generation=2)
    host.compute.ended(VmId(first.vm_id), crashed=False, why="destroyed")
    host.reconcile()
    assert state(host.vm(second)) is State.RUNNING


def test_words_about_an_earlier_life_are_not_said_of_the_next(host: OneHost) -> None:
    first = host.stopped()
    second = host.offered(host.pledge(vm_id=first.vm_id, generation=2))
    host.confirm(second)
    host.compute.ended(VmId(first.vm_id), crashed=True, why="panic")
    host.start()
    host.up.clear()
    host.reconcile()
    vm = host.vm(second)
    assert vm is not None
    assert (vm.state, "not watching" in vm.why) == (State.STOPPED, True)


@pytest.mark.parametrize("before", [State.COMMITTED, State.RUNNING, State.STOPPING, State.REMOVING])
def test_a_domain_that_is_gone_is_noticed_in_every_state(host: OneHost, before: State) -> None:
    confirm = host.running() if before is not State.COMMITTED else host.offered(host.pledge())
    if before is State.COMMITTED:
        host.confirm(confirm)
        host.compute.start_unknown(host.take(wanted.StartDomain).vm_id, "libvirt does not answer")
    vm = host.vm(confirm)
    assert vm is not None
    if before is State.STOPPING:
        host.do(host.compute.stop(vm, host.now_s, force=False))
    if before is State.REMOVING:
        host.do(host.compute.remove(vm))
        host.destroy(done=False)
    host.slow.clear()
    host.up.clear()
    host.reconcile()
    after = {State.COMMITTED: State.COMMITTED, State.RUNNING: State.STOPPED, State.STOPPING: State.STOPPED}
    assert state(host.vm(confirm)) is after.get(before)
    assert len(host.slow) == (before is State.COMMITTED), "it is started, being promised"


def test_stop_presses_the_button_again_and_gives_up_aloud(host: OneHost) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.stop(vm, host.now_s, force=False))
    host.now_s += PRESS_AGAIN_S
    host.tick()
    assert [type(effect) for effect in host.slow] == [wanted.ShutDownDomain, wanted.ShutDownDomain]
    host.now_s += STOP_S
    host.tick()
    vm = host.vm(confirm)
    assert vm is not None
    assert vm.state is State.RUNNING
    assert "ignored" in vm.why


def test_a_stop_that_a_crash_has_forgotten_is_pressed_again_and_ends_in_time(host: OneHost) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.stop(vm, host.now_s, force=False))
    host.crash()
    host.tick()
    assert [type(effect) for effect in host.slow] == [wanted.ShutDownDomain]
    host.now_s += STOP_S
    host.tick()
    assert state(host.vm(confirm)) is State.RUNNING


@pytest.mark.parametrize("asked_gently_before", [False, True])
def test_a_forced_stop_outlives_a_crash(host: OneHost, asked_gently_before: bool) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    if asked_gently_before:
        host.do(host.compute.stop(vm, host.now_s, force=False))
    now = host.vm(confirm)
    assert now is not None
    host.do(host.compute.stop(now, host.now_s, force=True))
    host.crash()
    host.tick()
    assert [type(effect) for effect in host.slow] == [wanted.DestroyDomain]
    host.destroy()
    assert state(host.vm(confirm)) is State.STOPPED


def test_a_forced_stop_says_nothing_of_the_gentle_one_that_the_guest_ignored(host: OneHost) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.stop(vm, host.now_s, force=False))
    host.now_s += STOP_S
    host.tick()
    deaf = host.vm(confirm)
    assert deaf is not None
    assert deaf.state is State.RUNNING
    assert deaf.why
    host.do(host.compute.stop(deaf, host.now_s, force=True))
    host.destroy()
    ended = host.vm(confirm)
    assert ended is not None
    assert (ended.state, ended.why) == (State.STOPPED, "")


def test_a_forced_eviction_outlives_a_crash(host: OneHost) -> None:
    confirm = host.running()
    evict(host, confirm, force=True)
    host.crash()
    host.tick()
    assert [type(effect) for effect in host.slow] == [wanted.DestroyDomain]


def test_a_forced_stop_that_could_not_be_noted_pulls_no_plug_later(host: OneHost) -> None:
    """Its user was refused; a gentle stop afterwards is a gentle one."""
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.is_full = True
    assert code(host.do(host.compute.stop(vm, host.now_s, force=True))) == "journal"
    host.is_full = False
    host.slow.clear()
    host.do(host.compute.stop(vm, host.now_s, force=False))
    host.slow.clear()
    host.now_s += PRESS_AGAIN_S
    host.tick()
    assert [type(effect) for effect in host.slow] == [wanted.ShutDownDomain]


def test_a_guest_that_powers_off_while_it_is_stopped_ends_once(host: OneHost) -> None:
    confirm = host.running()
    host.up.clear()
    host.compute.ended(VmId(confirm.vm_id), crashed=False, why="the guest powered itself off")
    vm = host.vm(confirm)
    assert vm is not None
    assert host.do(host.compute.stop(vm, host.now_s, force=False)) is None
    host.reconcile()
    assert state(host.vm(confirm)) is State.STOPPED
    host.reconcile()
    host.tick()
    assert free_threads(host) == THREADS


def test_nothing_else_begins_while_a_domain_is_being_destroyed(host: OneHost) -> None:
    """The destroy goes by UUID: a next generation started meanwhile would be hit by it."""
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.stop(vm, host.now_s, force=True))
    host.up.clear()
    host.reconcile()
    assert state(host.vm(confirm)) is State.STOPPING
    assert code(host.confirm(host.offered(host.pledge(vm_id=confirm.vm_id, generation=2)))) == "running"
    host.destroy()
    assert state(host.vm(confirm)) is State.STOPPED


def test_a_destroy_without_an_answer_is_repeated_by_reconcile(host: OneHost) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.remove(vm))
    host.destroy(done=False)
    host.reconcile()
    host.destroy()
    assert host.vm(confirm) is None
    assert not host.rows


def test_a_vm_is_removed_while_libvirt_does_not_say_whether_it_has_started(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.attach()
    vm = host.vm(confirm)
    assert vm is not None
    assert host.do(host.compute.remove(vm)) is None, "that may take 30 s, and nobody has to come back then"
    host.reconcile()
    assert not any(isinstance(effect, wanted.DetachVolumes) for effect in host.slow), "the domain may come yet"
    host.start()
    assert not any(isinstance(effect, wanted.DetachVolumes) for effect in host.slow), "it is there"
    host.destroy()
    host.detach()
    assert host.vm(confirm) is None
    assert not host.rows
    assert free_threads(host) == THREADS


@pytest.mark.parametrize("done", [False, True])
def test_a_vm_is_removed_while_libvirt_does_not_say_whether_it_has_ended(host: OneHost, *, done: bool) -> None:
    confirm = host.running(volumes=[VID])
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.stop(vm, host.now_s, force=True))
    stopping = host.vm(confirm)
    assert stopping is not None
    assert host.do(host.compute.remove(stopping)) is None
    assert [type(effect) for effect in host.slow] == [wanted.DestroyDomain], "once is enough"
    host.destroy(done=done)
    if not done:
        host.reconcile()
        host.destroy()
    host.detach()
    assert host.vm(confirm) is None
    assert not host.rows


def test_whoever_has_to_wait_is_told_for_what(host: OneHost) -> None:
    starting = host.offered(host.pledge())
    host.confirm(starting)
    vm = host.vm(starting)
    assert vm is not None
    refusal = host.do(host.compute.stop(vm, host.now_s, force=True))
    assert refusal is not None
    assert refusal.reasons[0].has == "it is being started just now"
    assert refusal.reasons[0].hint == "electros rm --force ends that as well"


def test_a_confirm_that_is_repeated_after_rm_is_told_that_it_was_removed(host: OneHost) -> None:
    confirm = host.stopped()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.remove(vm))
    assert code(host.confirm(confirm)) == "not-found"


@pytest.mark.parametrize("volumes", [(), (VID,)])
def test_rm_frees_everything(host: OneHost, volumes: tuple[str, ...]) -> None:
    confirm = host.running(volumes=volumes)
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.remove(vm))
    host.destroy()
    if volumes:
        assert host.vm(confirm) is not None
        host.detach()
    assert host.vm(confirm) is None
    assert not host.rows
    assert free_threads(host) == THREADS


# ---- crashes and reboots


def test_a_confirm_that_a_crash_left_prepared_is_undone_and_its_copies_are_told(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.crash()
    assert host.confirm(confirm) is None
    host.reconcile()
    assert code(host.confirm(confirm)) == "undone"
    host.detach()
    assert not host.rows
    assert code(host.confirm(confirm)) == "undone"


def test_what_is_undone_or_removed_does_not_take_compute_from_what_is_promised_after_a_crash(host: OneHost) -> None:
    stopped = host.stopped(volumes=[VID])
    for _ in range(THREADS):
        host.running()
    vm = host.vm(stopped)
    assert vm is not None
    host.do(host.compute.remove(vm))
    host.crash()
    assert len(host.ledger.committed()) == THREADS
    assert free_threads(host) == 0


def test_what_is_removed_keeps_its_compute_until_its_domain_is_gone_after_a_crash_too(host: OneHost) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.remove(vm))
    host.crash()
    assert free_threads(host) == THREADS - 1
    host.reconcile()
    host.destroy()
    assert free_threads(host) == THREADS


def test_an_older_row_that_was_never_forgotten_takes_nothing_and_goes(host: OneHost) -> None:
    first = host.stopped()
    vm = host.vm(first)
    assert vm is not None
    host.fails_in = 1
    host.do(host.compute.remove(vm))
    second = host.running(vm_id=first.vm_id, generation=2)
    assert len(host.rows) == 2
    host.crash()
    assert free_threads(host) == THREADS - 1
    host.reconcile()
    assert list(host.rows) == [(second.vm_id, 2)]


@pytest.mark.parametrize("volumes", [(), (VID,)])
def test_what_ran_before_the_hosts_reboot_is_started_again_after_a_fresh_attach(
    host: OneHost, volumes: tuple[str, ...]
) -> None:
    confirm = host.running(volumes=volumes)
    host.crash(reboot=True)
    host.reconcile()
    if volumes:
        host.attach()
    host.start()
    assert state(host.vm(confirm)) is State.RUNNING
    host.crash()
    host.reconcile()
    assert not host.slow


def test_storage_that_is_not_up_yet_after_a_reboot_is_asked_again(host: OneHost) -> None:
    confirm = host.running(volumes=[VID])
    host.crash(reboot=True)
    host.reconcile()
    host.attach(silent=True)
    assert state(host.vm(confirm)) is State.RUNNING
    host.reconcile()
    host.attach()
    host.start()
    assert state(host.vm(confirm)) is State.RUNNING


def test_volumes_that_are_anothers_after_a_reboot_leave_the_vm_stopped_and_say_why(host: OneHost) -> None:
    confirm = host.running(volumes=[VID])
    host.crash(reboot=True)
    host.reconcile()
    host.attach(IN_USE)
    vm = host.vm(confirm)
    assert vm is not None
    assert vm.state is State.STOPPED
    assert "taken" in vm.why
    assert free_threads(host) == THREADS


def test_a_guest_that_has_not_begun_begins_though_it_could_not_be_started_any_more(host: OneHost) -> None:
    """Its domain was started after the host's reboot, and its user has been revoked since."""
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.attach()
    host.crash(reboot=True)
    host.reconcile()
    host.up[VmId(confirm.vm_id)] = confirm.generation
    host.held.add(VmId(confirm.vm_id))
    host.crash()
    host.revoked.add(ANN)
    host.reconcile()
    host.start()
    assert state(host.vm(confirm)) is State.RUNNING


def test_a_stranger_that_bears_our_name_is_reported_and_left_alone(host: OneHost) -> None:
    host.up[VmId("7" * 32)] = 1
    host.reconcile()
    assert host.quarantined == ["7" * 32]
    assert not host.slow


def test_another_generations_domain_is_not_destroyed_in_place_of_ours(host: OneHost) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.remove(vm))
    host.destroy(done=False)
    host.up[vm.vm_id] = 9
    host.reconcile()
    assert not host.slow


# ---- sysadmins


def evict(host: OneHost, confirm: Confirm, why: str = "", *, force: bool = False) -> Refused | None:
    vm = host.vm(confirm)
    assert vm is not None
    return host.do(host.compute.evict(vm, host.now_s, why=why, force=force))


def test_an_evicted_guest_has_its_time_then_the_plug_is_pulled_and_its_user_is_told_why(host: OneHost) -> None:
    confirm = host.running()
    evict(host, confirm, "a fan is broken")
    host.take(wanted.ShutDownDomain)
    host.now_s += STOP_S - 0.1
    host.tick()
    assert not any(isinstance(effect, wanted.DestroyDomain) for effect in host.slow)
    host.now_s += 0.2
    host.tick()
    host.destroy()
    vm = host.vm(confirm)
    assert vm is not None
    assert (vm.state, vm.why) == (State.STOPPED, "its sysadmin ended it: a fan is broken")
    assert free_threads(host) == THREADS


def test_an_eviction_outlives_a_crash(host: OneHost) -> None:
    confirm = host.running()
    evict(host, confirm, "a fan is broken")
    host.crash()
    host.tick()
    host.now_s += STOP_S + 0.1
    host.tick()
    host.destroy()
    assert "a fan is broken" in str(host.rows[VmId(confirm.vm_id), 1].why)


def test_a_guest_that_its_user_is_stopping_can_be_evicted_and_is_then_ended_in_any_case(host: OneHost) -> None:
    confirm = host.running()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.stop(vm, host.now_s, force=False))
    host.now_s += STOP_S / 2
    evict(host, confirm)
    host.now_s += STOP_S / 2 + 0.1
    host.tick()
    host.destroy()
    assert state(host.vm(confirm)) is State.STOPPED


def test_a_vm_that_was_evicted_can_be_started_again(host: OneHost) -> None:
    confirm = host.running()
    evict(host, confirm, force=True)
    host.destroy()
    again = host.offered(host.pledge(vm_id=confirm.vm_id, generation=2))
    assert state(host.confirm(again)) is State.COMMITTED


def test_what_is_off_needs_no_eviction_and_what_is_starting_none_yet(host: OneHost) -> None:
    stopped = host.stopped()
    before = host.vm(stopped)
    assert evict(host, stopped, "why") is None
    assert host.vm(stopped) == before
    starting = host.offered(host.pledge())
    host.confirm(starting)
    assert code(evict(host, starting)) == "not-now"


# ---- what outlives the domain


@pytest.fixture(params=[{"firmware": Firmware.UEFI}, {"tpm": True}, {"archs": (Arch.ARM_8,)}])
def keeping(host: OneHost, request: pytest.FixtureRequest) -> OneHost:
    """Its VMs keep something beside their volumes."""
    host.ask = replace(host.ask, **request.param)
    return host


def test_what_firmware_and_tpm_keep_goes_before_the_vm_is_forgotten(keeping: OneHost) -> None:
    confirm = keeping.running(volumes=[VID])
    keeping.do(keeping.compute.remove(keeping.vm(confirm)))
    keeping.destroy()
    assert keeping.slow == [wanted.EraseState(keeping.vm(confirm))]
    keeping.erase(done=False)
    assert state(keeping.vm(confirm)) is State.REMOVING
    keeping.reconcile()
    keeping.erase()
    keeping.detach()
    assert keeping.vm(confirm) is None
    assert not keeping.rows


def test_a_crash_before_it_is_erased_does_not_forget_it(keeping: OneHost) -> None:
    confirm = keeping.stopped()
    keeping.do(keeping.compute.remove(keeping.vm(confirm)))
    keeping.crash()
    keeping.reconcile()
    keeping.erase()
    assert not keeping.rows


def test_it_stays_for_the_next_start_on_this_host(keeping: OneHost) -> None:
    first = keeping.stopped()
    keeping.confirm(keeping.offered(keeping.pledge(vm_id=first.vm_id, generation=2)))
    keeping.start()
    assert keeping.slow == []


def test_a_try_that_is_undone_takes_nothing_from_the_stopped_generation(keeping: OneHost) -> None:
    first = keeping.stopped(volumes=[VID])
    keeping.confirm(keeping.offered(keeping.pledge(vm_id=first.vm_id, generation=2, volumes=[VID])))
    keeping.attach(silent=True)
    keeping.detach()
    assert state(keeping.vm(first)) is State.STOPPED
    assert keeping.slow == []


def test_a_vm_of_plain_hardware_keeps_nothing(host: OneHost) -> None:
    confirm = host.stopped()
    host.do(host.compute.remove(host.vm(confirm)))
    assert not host.rows


@pytest.mark.parametrize("other", [{"firmware": Firmware.UEFI_SECURE}, {"tpm": True}])
def test_a_vm_keeps_its_firmware_and_tpm_from_generation_to_generation(host: OneHost, other: dict[str, object]) -> None:
    """Else secure boot would meet the variables of a firmware without it, and boot what it likes."""
    host.ask = replace(host.ask, firmware=Firmware.UEFI)
    first = host.stopped()
    host.ask = replace(host.ask, **other)
    refusal = host.confirm(host.offered(host.pledge(vm_id=first.vm_id, generation=2)))
    assert code(refusal) == "not-now"
    assert state(host.vm(first)) is State.STOPPED
