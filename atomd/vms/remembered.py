"""The journal's rows, sorted into what counts after a start. Pure.

One generation of a VM counts, the newest. Below a PREPARED one, the stopped one that it would replace is kept; any
other older row is one that could not be forgotten in time.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from atomd.vms.lifecycle import AT_REST, State, Vm
from specs.ids import VmId


@dataclass(slots=True)
class Remembered:
    vms: dict[VmId, Vm] = field(default_factory=dict)
    older: dict[VmId, Vm] = field(default_factory=dict)
    litter: dict[tuple[VmId, int], Vm] = field(default_factory=dict)


def remembered(rows: Collection[Vm]) -> Remembered:
    kept = Remembered()
    for vm in sorted(rows, key=lambda vm: vm.generation):
        before = kept.vms.get(vm.vm_id)
        if before is not None:
            if vm.state is State.PREPARED and before.state in AT_REST:
                kept.older[before.vm_id] = before
            else:
                kept.litter[before.vm_id, before.generation] = before
        kept.vms[vm.vm_id] = vm
    return kept


def forgettable(vms: Mapping[VmId, Vm], older: Mapping[VmId, Vm], litter: dict[tuple[VmId, int], Vm]) -> list[Vm]:
    """Take from `litter` what is left over, unless its place has been taken by a VM of the same name."""
    used = {(vm.vm_id, vm.generation) for vm in (*vms.values(), *older.values())}
    return [litter.pop(life) for life in [*litter] if life not in used]
