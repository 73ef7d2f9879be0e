"""VMs that QEMU has paused because a volume across the network fails them. Pure.

    (runs) --I/O error--> paused --the server gives the same attachment again--> (runs): the guest saw a stall
                            |  '--no answer, or "ask again"--> paused, and asked again
                            '--the volume has another holder, or another epoch--> destroyed, FAILED

One writer: the guest's memory holds what it believes to be on the disk. Where anybody else may have written since, it
must never go on. What is known of them is in memory alone: libvirt itself remembers that a domain is paused, and why.
"""

from collections.abc import Collection

from atomd.lifecycle import Vm
from atomd.volumes import TAKEN_OVER, Answer, Silent, is_same, told
from matcher.wire.messages import Refused
from specs.ids import VmId

ASK_AGAIN_S = 1.0  # at most so often for each VM, whatever events say

PAUSED = "paused: a volume can't be read or written"


class Stalled:
    """By VM: when its servers were asked last, and what there is to say of it."""

    def __init__(self) -> None:
        self._asked_s: dict[VmId, float | None] = {}  # `None`: being asked
        self._why: dict[VmId, str] = {}

    def seen(self, stalled: Collection[VmId]) -> None:
        """These, and no others, are paused now."""
        for vm_id in self._why.keys() - set(stalled):
            self._why.pop(vm_id)
            if self._asked_s.get(vm_id) is not None:
                del self._asked_s[vm_id]
        for vm_id in stalled:
            self._why.setdefault(vm_id, PAUSED)

    def is_due(self, vm_id: VmId, now_s: float) -> bool:
        """Whether its servers are to be asked now; who is told so asks them."""
        asked_s = self._asked_s.get(vm_id, float("-inf"))
        if asked_s is None or now_s < asked_s + ASK_AGAIN_S:
            return False
        self._asked_s[vm_id] = None
        return True

    def answered(self, vm_id: VmId, now_s: float) -> None:
        self._asked_s[vm_id] = now_s
        if vm_id not in self._why:
            del self._asked_s[vm_id]

    def waits(self, vm_id: VmId, why: str) -> None:
        if vm_id in self._why:
            self._why[vm_id] = f"paused: {why}"

    def why(self, vm_id: VmId) -> str:
        """A sentence for a person, or empty."""
        return self._why.get(vm_id, "")


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
