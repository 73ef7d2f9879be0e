"""What a host still owes: the word that a VM is gone, to storage hosts that were silent when it went. Pure.

    rm --> (volumes let go of) --a storage host is silent--> OWED --told again: after 2 s, 4 s, ... 30 s--> (heard)

The VM takes nothing any more; its row stays in the journal until everybody has heard, so that a crash forgets no debt.
A host that the realm has removed is nobody to tell: see `atomd.volumes.storage`. At `OWED_MAX` no VM with volumes is
removed or promised, since it might come to be owed as well; what is on its way there then is still taken.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from atomd.vms.lifecycle import AT_REST, State, Vm
from specs.ids import VmId

OWED_MAX = 256
TELL_AGAIN_MIN_S = 2.0
TELL_AGAIN_MAX_S = 30.0  # so that a storage host that is back hears of it within that

Life = tuple[VmId, int]  # (vm_id, generation)


@dataclass(slots=True)
class _Debt:
    vm: Vm
    due_s: float = float("-inf")
    pause_s: float = TELL_AGAIN_MIN_S
    is_being_told: bool = False


class Owed:
    """By life: one VM may be owed in several generations."""

    def __init__(self) -> None:
        self._debts: dict[Life, _Debt] = {}

    def __len__(self) -> int:
        return len(self._debts)

    def __contains__(self, life: Life) -> bool:
        return life in self._debts

    @property
    def is_full(self) -> bool:
        return len(self._debts) >= OWED_MAX

    def add(self, vm: Vm, *, is_being_told: bool = False) -> None:
        self._debts[vm.vm_id, vm.generation] = _Debt(vm, is_being_told=is_being_told)

    def restore(self, vms: Iterable[Vm]) -> None:
        for vm in vms:
            self.add(vm)

    def due(self, now_s: float) -> list[Vm]:
        """Whose storage hosts are to be told now; whoever asks tells them, and says what came of it by `told`."""
        due = [debt for debt in self._debts.values() if debt.due_s <= now_s and not debt.is_being_told]
        for debt in due:
            debt.is_being_told, debt.due_s = True, now_s + debt.pause_s
            debt.pause_s = min(2 * debt.pause_s, TELL_AGAIN_MAX_S)
        return [debt.vm for debt in due]

    def told(self, life: Life, *, done: bool) -> Vm | None:
        """The VM that nobody is owed any more (`done`: all have heard), if it was owed at all."""
        if (debt := self._debts.get(life)) is None:
            return None
        debt.is_being_told = False
        return self._debts.pop(life).vm if done else None

    def take_back(self, vm: Vm) -> Vm | None:
        """The stopped life in whose place `vm` could not come, after all."""
        if vm.state is not State.COMMITTED:
            return None
        life = max((life for life in self._debts if life[0] == vm.vm_id and life[1] < vm.generation), default=None)
        if life is None or self._debts[life].vm.state not in AT_REST:
            return None
        return self._debts.pop(life).vm
