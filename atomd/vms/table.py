"""The VMs of one host as memory has them, and those that slow work is busy with. Pure.

Shared by those who decide about them: `compute`, `ending`, `plugging`. What is busy is left alone by reconcile and by
time, until its slow work comes back as an event.
"""

from atomd.effects import Journal
from atomd.vms.lifecycle import Vm
from atomd.vms.refusals import refused
from matcher.wire.messages import Refused
from specs.ids import VmId


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

    def not_now(self, vm: Vm, verb: str) -> Refused:
        state = "busy" if vm.vm_id in self.busy else vm.state
        return refused("not-now", "vm", verb, f"it is {state}", "electros ps shows what it is doing")
