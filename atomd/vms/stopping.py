"""VMs on their way to being off: the power button is pressed now and then, and a guest has so long to obey. Pure."""

from enum import Enum

from specs.ids import VmId

STOP_S = 60.0  # how long a guest may take to obey the power button
PRESS_AGAIN_S = 5.0  # a guest that is just booting does not hear the first press
PULL_AGAIN_S = 5.0  # after a libvirt that did not, or could not, end the domain
IGNORED = f"the guest ignored the power button for {STOP_S:.0f} s"
EVICTED = "its sysadmin ended it"


class Due(Enum):
    NOTHING = "nothing"
    PRESS = "press"
    PULL = "pull"  # the plug, once more
    OVER = "over"  # it had its time


class Stopping:
    """By VM; in memory alone, so that a daemon that starts again gives each guest its time anew. That the plug is to be
    pulled on somebody's word is in the journal."""

    def __init__(self) -> None:
        self._by_s: dict[VmId, tuple[float, float]] = {}  # (the end, the next press)
        self._pulled: dict[VmId, float] = {}  # for good; when it is to be pulled again

    def pressed(self, vm_id: VmId, now_s: float) -> None:
        self._by_s[vm_id] = now_s + STOP_S, now_s + PRESS_AGAIN_S

    def pulled(self, vm_id: VmId) -> None:
        """There is no way back: should it not work, it is pulled again."""
        self._pulled.setdefault(vm_id, float("-inf"))

    def over(self, vm_id: VmId) -> None:
        self._by_s.pop(vm_id, None)
        self._pulled.pop(vm_id, None)

    def due(self, vm_id: VmId, now_s: float) -> Due:
        """What has to be done for a VM that is stopping, and not being destroyed just now; whoever asks does it."""
        if (pull_s := self._pulled.get(vm_id)) is not None:
            if now_s < pull_s:
                return Due.NOTHING
            self._pulled[vm_id] = now_s + PULL_AGAIN_S
            return Due.PULL
        end_s, press_s = self._by_s.setdefault(vm_id, (now_s + STOP_S, now_s))
        if end_s <= now_s:
            del self._by_s[vm_id]
            return Due.OVER
        if press_s <= now_s:
            self._by_s[vm_id] = end_s, now_s + PRESS_AGAIN_S
            return Due.PRESS
        return Due.NOTHING


def why_evicted(why: str) -> str:
    """What the VM's user is told; `why` are the sysadmin's own words, or none."""
    return f"{EVICTED}: {why}" if why else EVICTED
