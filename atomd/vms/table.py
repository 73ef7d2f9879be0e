"""The VMs of one host as memory has them, and those that slow work is busy with. Pure.

Shared by those who decide about them: `compute`, `ending`, `plugging`. What is busy is left alone by reconcile and by
time, until its slow work comes back as an event.
"""

from atomd.effects import Journal
from atomd.vms.lifecycle import Stage, State, Vm
from atomd.vms.refusals import refused
from matcher.wire.messages import Refused
from specs.ids import VmId, dashed


class VmTable:
    def __init__(self) -> None:
        self.vms: dict[VmId, Vm] = {}
        self.busy: set[VmId] = set()

    def at(self, vm_id: VmId, generation: int) -> Vm | None:
        """This life of the VM, if it is the one that is here."""
        vm = self.vms.get(vm_id)
        return vm if vm is not None and vm.generation == generation else None

    def enter(self, now: Vm, *, before: Vm) -> Journal:
        """`now` counts, once it is durable."""
        self.vms[now.vm_id] = now
        return Journal(now, before=before)

    def is_libvirts(self, vm: Vm) -> bool:
        """Whether what a busy VM waits for is libvirt alone, which starts or ends its domain and may take its time."""
        return vm.state is State.COMMITTED or (vm.state is State.STOPPING and vm.change is None)

    def not_now(self, vm: Vm, verb: str) -> Refused:
        if vm.vm_id not in self.busy:
            return refused("not-now", "vm", verb, f"it is {vm.state}", "electros ps shows what it is doing")
        if vm.change is not None:
            doing = "attached" if vm.change.stage is Stage.ATTACHING else "detached"
            has = f"volume {dashed(vm.change.vid)} is being {doing} just now"
            hint = "run it again in half a minute"
        elif vm.state in (State.PREPARED, State.COMMITTED, State.RUNNING):
            has, hint = "it is being started just now", "electros rm --force ends that as well"
        else:
            has, hint = "it is being ended just now", "electros ps shows it until it is"
        return refused("not-now", "vm", verb, has, hint)
