"""How long a VM may live. Pure.

While its host stays up a lease goes by the monotonic clock: a wall clock that jumps ends no VM early and keeps none
late. Wall time is kept beside it for one purpose, to know after the host's own reboot what is left.
"""

from dataclasses import dataclass, replace

from atomd.vms.moment import Moment
from specs.units import show_duration


@dataclass(frozen=True, slots=True)
class Lease:
    """`by_s` is its end on the monotonic clock of the boot `boot_id`, `ends_wall_s` the same by the wall clock as it
    went when the lease began."""

    for_s: int
    by_s: float
    boot_id: str
    ends_wall_s: float

    def is_over(self, now_s: float) -> bool:
        return self.by_s <= now_s

    def resumed(self, boot_id: str, moment: Moment) -> "Lease":
        """The same lease in the boot that is running now."""
        if self.boot_id == boot_id:
            return self
        left_s = min(float(self.for_s), max(0.0, self.ends_wall_s - moment.wall_s))
        return replace(self, by_s=moment.now_s + left_s, boot_id=boot_id)

    def ends_s(self, moment: Moment) -> int:
        """Since the epoch, as the wall clock goes now; never 0, which means that there is no lease."""
        return max(1, round(moment.wall_s + self.by_s - moment.now_s))

    @property
    def why_over(self) -> str:
        return f"its lease of {show_duration(self.for_s)} has ended"


def begin(for_s: int, boot_id: str, moment: Moment) -> Lease | None:
    """From now on, for so long; `None` where it is for ever (0)."""
    return Lease(for_s, moment.now_s + for_s, boot_id, moment.wall_s + for_s) if for_s else None
