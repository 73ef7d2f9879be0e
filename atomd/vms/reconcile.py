"""What to do where the journal and libvirt differ: (committed, observed) -> actions. Pure.

It runs at start, every 30 s, and whenever libvirtd comes back. It never destroys what the journal does not know: a
domain that carries our name without a commitment is reported and left alone.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from atomd.vms.lifecycle import State, Vm
from atomd.volumes.answers import is_away
from specs.ids import VmId


@dataclass(frozen=True, slots=True)
class Observed:
    """A domain of ours as libvirt has it now; `generation` is 0 where its metadata lacks one. `stalled`: QEMU paused it
    on an I/O error. `held`: it was asked to pause it, by a start that did not come to its end, or by a sysadmin. (What
    runs and is paused by a sysadmin is theirs, and left alone.)"""

    vm_id: VmId
    generation: int
    stalled: bool
    held: bool = False


class Action(StrEnum):
    UNDO = "undo"  # a confirm that was never promised
    START = "start"  # promised, and not there yet, or its guest has not begun
    RESTART = "restart"  # was running before the host's own reboot
    RUNS = "runs"  # promised, and up: write that down
    WATCH = "watch"  # it is up, and has volumes of other hosts; or stands still, as its disk was full, say
    ENDED = "ended"  # it was up, and no longer is
    REMOVE = "remove"  # `rm` was under way
    QUARANTINE = "quarantine"  # ours by its name, unknown to the journal


@dataclass(frozen=True, slots=True)
class Step:
    action: Action
    vm_id: VmId


def reconcile(
    vms: Iterable[Vm], observed: Collection[Observed], *, boot_id: str, busy: Collection[VmId]
) -> tuple[Step, ...]:
    """The steps that bring both sides together; nothing for a VM that slow work is `busy` with."""
    there = {domain.vm_id: domain for domain in observed}
    known: dict[VmId, int] = {}
    steps: list[Step] = []
    for vm in vms:
        known[vm.vm_id] = vm.generation
        domain = there.get(vm.vm_id)
        action = _action(vm, domain if domain is not None and domain.generation == vm.generation else None, boot_id)
        if action is not None and vm.vm_id not in busy:
            steps.append(Step(action, vm.vm_id))
    steps += [
        Step(Action.QUARANTINE, domain.vm_id)
        for domain in observed
        if known.get(domain.vm_id) != domain.generation and domain.vm_id not in busy
    ]
    return tuple(steps)


def _action(vm: Vm, domain: Observed | None, boot_id: str) -> Action | None:
    match vm.state:
        case State.PREPARED:
            return Action.UNDO
        case State.COMMITTED:
            return Action.START if domain is None or domain.held else Action.RUNS
        case State.RUNNING | State.STOPPING:
            if domain is not None:
                return Action.WATCH if is_away(vm.volumes) or domain.stalled else None
            rebooted = vm.boot_id != boot_id and vm.state is State.RUNNING
            return Action.RESTART if rebooted else Action.ENDED
        case State.STOPPED | State.FAILED:
            return Action.QUARANTINE if domain is not None else None
        case State.REMOVING:
            return Action.REMOVE
    assert_never(vm.state)
