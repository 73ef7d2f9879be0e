"""Where journal and libvirt differ: the whole table, and what is never touched."""

import pytest

from atomd.vms.lifecycle import State
from atomd.vms.reconcile import Action, Observed, Step, reconcile
from specs.ids import VmId
from tests.fakes.one_host import BOOT, VM_ID, a_vm

OTHER = VmId("b" * 32)
THIS_BOOT, LAST_BOOT = BOOT, "an earlier boot"


def up(*, vm_id: VmId = VM_ID, generation: int = 1) -> Observed:
    return Observed(vm_id, generation, stalled=False)


@pytest.mark.parametrize(
    ("state", "boot_id", "when_up", "when_gone"),
    [
        (State.PREPARED, THIS_BOOT, Action.UNDO, Action.UNDO),
        (State.COMMITTED, THIS_BOOT, Action.RUNS, Action.START),
        (State.COMMITTED, LAST_BOOT, Action.RUNS, Action.START),
        (State.RUNNING, THIS_BOOT, None, Action.ENDED),
        (State.RUNNING, LAST_BOOT, None, Action.RESTART),
        (State.STOPPING, THIS_BOOT, None, Action.ENDED),
        (State.STOPPING, LAST_BOOT, None, Action.ENDED),
        (State.STOPPED, THIS_BOOT, Action.QUARANTINE, None),
        (State.STOPPED, LAST_BOOT, Action.QUARANTINE, None),
        (State.FAILED, THIS_BOOT, Action.QUARANTINE, None),
        (State.REMOVING, THIS_BOOT, Action.REMOVE, Action.REMOVE),
    ],
)
def test_each_state_knows_what_to_do_with_its_domain_and_without(
    state: State, boot_id: str, when_up: Action | None, when_gone: Action | None
) -> None:
    one = a_vm(state, boot_id=boot_id)
    assert actions(reconcile([one], [up()], boot_id=THIS_BOOT, busy=())) == [when_up] * (when_up is not None)
    assert actions(reconcile([one], [], boot_id=THIS_BOOT, busy=())) == [when_gone] * (when_gone is not None)


def test_a_promised_guest_that_has_not_begun_is_started_on_and_one_that_runs_and_was_paused_is_left_alone() -> None:
    held = [Observed(VM_ID, 1, stalled=False, held=True)]
    assert actions(reconcile([a_vm(State.COMMITTED)], held, boot_id=THIS_BOOT, busy=())) == [Action.START]
    assert actions(reconcile([a_vm(State.RUNNING)], held, boot_id=THIS_BOOT, busy=())) == []


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("observed", [[], [up()], [up(generation=9)]])
def test_a_busy_vm_is_left_alone(state: State, observed: list[Observed]) -> None:
    assert reconcile([a_vm(state)], observed, boot_id=THIS_BOOT, busy={VM_ID}) == ()


def test_a_domain_that_the_journal_does_not_know_is_quarantined() -> None:
    steps = reconcile([a_vm(State.RUNNING)], [up(), up(vm_id=OTHER)], boot_id=THIS_BOOT, busy=())
    assert steps == (Step(Action.QUARANTINE, OTHER),)


@pytest.mark.parametrize("generation", [0, 1, 3])
def test_a_domain_of_another_generation_is_not_taken_for_ours(generation: int) -> None:
    one = a_vm(State.RUNNING, generation=2)
    steps = reconcile([one], [up(generation=generation)], boot_id=THIS_BOOT, busy=())
    assert steps == (Step(Action.ENDED, VM_ID), Step(Action.QUARANTINE, VM_ID))


@pytest.mark.parametrize("state", list(State))
def test_nothing_but_a_removal_may_destroy(state: State) -> None:
    removes = {step.action for step in reconcile([a_vm(state)], [up()], boot_id=THIS_BOOT, busy=())} & {Action.REMOVE}
    assert bool(removes) == (state is State.REMOVING)


def actions(steps: tuple[Step, ...]) -> list[Action]:
    return [step.action for step in steps]
