"""How VMs are stopped: by their users, by their host's sysadmins, by their lease, or because others have their volumes.

The power button first and the plug after `STOP_S`, unless somebody wants it at once. Pure: `now_s` comes in.
"""

import dataclasses
from collections.abc import Callable

from atomd.effects import Changed, DestroyDomain, Effects, Journal, ShutDownDomain
from atomd.vms.lease import Lease
from atomd.vms.lifecycle import AT_REST, State, Vm
from atomd.vms.stopping import IGNORED, Due, Stopping, why_evicted
from atomd.vms.table import VmTable
from matcher.wire.messages import Refused
from specs.ids import VmId


class Ending:
    """`lease_of` tells the lease of a VM that runs."""

    def __init__(self, table: VmTable, lease_of: Callable[[Vm], Lease | None]) -> None:
        self._table, self._lease_of = table, lease_of
        self._stopping = Stopping()

    def stop(self, vm: Vm, now_s: float, *, force: bool) -> Refused | Effects:
        """Press the power button, or pull the plug. Nothing where the VM is stopped already."""
        if vm.state in AT_REST:
            return []
        if vm.state is State.STOPPING:
            return self._pull(vm) if force and vm.vm_id not in self._table.busy else []
        if vm.vm_id in self._table.busy or vm.state is not State.RUNNING:
            return self._table.not_now(vm, "stop")
        return self._pull(vm) if force else self._begin(vm, now_s)

    def evict(self, vm: Vm, now_s: float, *, why: str, force: bool) -> Refused | Effects:
        """End the VM against its user's will: the power button, and the plug after `STOP_S` or with `force`. While it
        is STOPPING, `why` says so, which a crash does not forget; the STOPPED one keeps it."""
        if vm.state in AT_REST:
            return []
        if vm.vm_id in self._table.busy or vm.state not in (State.RUNNING, State.STOPPING):
            return self._table.not_now(vm, "evict")
        return self.end_anyway(vm, dataclasses.replace(vm, why=why_evicted(why)), now_s, force=force)

    def end_anyway(self, vm: Vm, ending: Vm, now_s: float, *, force: bool) -> Effects:
        """Whatever its user wishes; `ending` is the VM with the reason."""
        stopping = dataclasses.replace(ending, state=State.STOPPING, is_forced=force or vm.is_forced)
        entered = self._table.enter(stopping, before=vm)
        if vm.state is State.RUNNING:
            self._stopping.pressed(vm.vm_id, now_s)
        return [entered, self.destroy(stopping) if force else ShutDownDomain(stopping), Changed(vm.vm_id)]

    def due(self, vm: Vm, now_s: float) -> Effects:
        """What time has come for: the button again, the plug, the end of a lease."""
        lease = self._lease_of(vm)
        over = lease if lease is not None and lease.is_over(now_s) else None
        if vm.state is State.RUNNING and over is not None:
            return self._begin(vm, now_s, over.why_over)
        if vm.state is not State.STOPPING:
            return []
        if vm.is_forced:  # by the journal's word, after a crash too
            self._stopping.pulled(vm.vm_id)
        match self._stopping.due(vm.vm_id, now_s):
            case Due.PRESS:
                return [ShutDownDomain(vm)]
            case Due.PULL:
                return [self.destroy(vm)]
            case Due.OVER if over is not None or vm.ends_because:
                return [self.destroy(vm)]
            case Due.OVER:
                return [self._enter(vm, State.RUNNING, IGNORED), Changed(vm.vm_id)]
        return []

    def destroy(self, vm: Vm) -> DestroyDomain:
        self._table.busy.add(vm.vm_id)
        self._stopping.pulled(vm.vm_id)
        return DestroyDomain(vm)

    def over(self, vm_id: VmId) -> None:
        """It has ended, or is being removed; or what was begun could not be noted."""
        self._stopping.over(vm_id)

    def _begin(self, vm: Vm, now_s: float, why: str = "") -> Effects:
        stopping = self._enter(vm, State.STOPPING, why)
        self._stopping.pressed(vm.vm_id, now_s)
        return [stopping, ShutDownDomain(vm), Changed(vm.vm_id)]

    def _pull(self, vm: Vm) -> Effects:
        """Noted first: whoever pulls the plug is not asked again after a crash."""
        stopping = dataclasses.replace(vm, state=State.STOPPING, why=vm.ends_because, is_forced=True)
        entered = self._table.enter(stopping, before=vm)
        return [entered, self.destroy(stopping), Changed(vm.vm_id)]

    def _enter(self, vm: Vm, state: State, why: str = "") -> Journal:
        return self._table.enter(vm.to(state, why), before=vm)
