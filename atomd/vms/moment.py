"""What time it is, in the three ways that a host has to know it. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """`now_s` is the one monotonic clock (CLOCK_BOOTTIME), by which all durations go. `wall_s` is since the epoch, and
    may jump. `minute` is of the local day, as `hours` in the settings mean it."""

    now_s: float
    wall_s: float
    minute: int = 0
