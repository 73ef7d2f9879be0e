"""VMs with volumes of other hosts: whether these are still theirs, and what follows where they are not. Pure.

    (runs) --a server does not answer--> the guest stands still; its servers are asked again
      |       '--the same attachment is there again--> (runs): the guest saw a stall
      '--the volume has another holder, or another epoch--> destroyed, FAILED, and detached as far as anybody listens

One writer: the guest's memory holds what it believes to be on the disk. Where anybody else may have written since, it
must never go on. QEMU does not tell of a lost target: it logs in again and again, and its guest waits. (Of other errors
it does, and pauses.) So the servers are asked now and then for what the VM has already, which also makes an export that
went missing again. A volume that a person has freed is not given by such a question. Where a server gives one anew all
the same, all are given back at once.
What is known is in memory alone; the journal has the attachment itself.
"""

from collections.abc import Collection

from atomd.vms.lifecycle import Vm
from atomd.volumes.answers import TAKEN_OVER, Answer, Silent, is_same, told
from matcher.wire.messages import Refused
from matcher.wire.volumes import Attached
from specs.ids import VmId

WATCH_S = 20.0  # how often servers are asked about a VM that is well
ASK_AGAIN_S = 1.0  # and about one that QEMU has paused, at most, whatever events say

PAUSED = "a volume can't be read or written"


class Away:
    """By VM: when its servers were asked last, and what there is to say of it."""

    def __init__(self) -> None:
        self._stalled: frozenset[VmId] = frozenset()
        self._asked_s: dict[VmId, float | None] = {}  # `None`: being asked
        self._silence: dict[VmId, str] = {}

    def seen(self, up: Collection[VmId], stalled: Collection[VmId]) -> None:
        """These are up, as of now, and QEMU has paused these of them on an I/O error."""
        self._stalled = frozenset(stalled)
        for vm_id in self._silence.keys() - set(up):
            del self._silence[vm_id]
        for vm_id in [vm_id for vm_id, asked_s in self._asked_s.items() if asked_s is not None and vm_id not in up]:
            del self._asked_s[vm_id]

    def is_stalled(self, vm_id: VmId) -> bool:
        return vm_id in self._stalled

    def is_due(self, vm_id: VmId, now_s: float, *, is_away: bool) -> bool:
        """Whether its servers are to be asked now; who is told so asks them. `is_away`: one of them is another host."""
        asked_s = self._asked_s.get(vm_id, float("-inf"))
        if asked_s is None or now_s < asked_s + (ASK_AGAIN_S if is_away and self.is_stalled(vm_id) else WATCH_S):
            return False
        self._asked_s[vm_id] = None
        return True

    def answered(self, vm_id: VmId, answer: Answer, now_s: float) -> None:
        self._asked_s[vm_id] = now_s
        if isinstance(answer, Attached):
            self._silence.pop(vm_id, None)
        else:
            self._silence[vm_id] = why_waiting(answer)

    def forget(self, vm_id: VmId) -> None:
        self._asked_s.pop(vm_id, None)
        self._silence.pop(vm_id, None)

    def why(self, vm_id: VmId) -> str:
        """A sentence for a person, or empty."""
        if self.is_stalled(vm_id):
            return f"paused: {self._silence.get(vm_id, PAUSED)}"
        return self._silence.get(vm_id, "")


def why_lost(vm: Vm, answer: Answer) -> str | None:
    """Why the VM must not go on, in a sentence; `None` where it may, now or later."""
    if isinstance(answer, Silent):
        return None
    if isinstance(answer, Refused):
        return f"its volumes were taken over: {told(answer.reasons)}" if answer.code in TAKEN_OVER else None
    if is_same(vm.volumes, answer.volumes):
        return None
    return "its volumes were taken over: a person freed them, so that others may have written meanwhile"


def why_waiting(answer: Silent | Refused) -> str:
    return answer.why if isinstance(answer, Silent) else told(answer.reasons)
