"""Times of the wall clock, as people and programs read them: always in UTC."""

import time
from datetime import UTC, datetime

from specs.units import duration_s

DAY_S = 86_400
LATEST_S = 253_402_300_799  # the last second of the year 9999: what hosts say must not be able to overflow a date
REACH_S = 100 * 365 * DAY_S


def moment(wall_s: float | None) -> str:
    """2027-01-31 14:05 UTC; a dash where there is none."""
    return (
        datetime.fromtimestamp(min(wall_s, LATEST_S), UTC).strftime("%Y-%m-%d %H:%M UTC") if wall_s is not None else "-"
    )


def moment_document(wall_s: float | None) -> str | None:
    """2027-01-31T14:05:00Z."""
    return (
        datetime.fromtimestamp(min(wall_s, LATEST_S), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if wall_s is not None
        else None
    )


def age(seconds: int) -> str:
    """How long ago, in its largest unit: 45 s, 12 min, 3 h, 9 d."""
    for unit, size in (("d", DAY_S), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def until_s(text: str) -> int | None:
    """When "90d" from now is, or the end of the day 2027-01-31, in UTC; `None` where it is neither."""
    seconds = duration_s(text)
    if seconds is not None:
        return int(time.time()) + seconds if seconds <= REACH_S else None
    try:
        return int(datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) + DAY_S
    except (ValueError, OverflowError):
        return None
