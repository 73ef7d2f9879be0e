"""Amounts of memory, storage and time, as people write and read them.

Memory is counted in MiB. Volumes come in GB, in steps of 0.125; one such GB is 1,024 MiB, so a step is 128 MiB.
Durations are whole seconds: "90d", "12h", "1h30m".
"""

import re

MIB_BYTES = 1024 * 1024
GB_MIB = 1024
STEPS_PER_GB = 8
VOLUME_GB_MAX = 64 * 1024  # 64 TiB

_AMOUNT = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([kmgt]?)i?b?\s*", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(
    r"(?:([0-9]{1,6})w)?(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9})s)?", re.ASCII
)
_SECONDS_OF = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_MIB_OF = {"": 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024.0}


def show_mib(mib: int) -> str:
    """512 → "512 MiB", 2048 → "2 GiB", 42500 → "41.5 GiB"."""
    for unit, size in (("TiB", 1024 * 1024), ("GiB", 1024)):
        if abs(mib) >= size:
            return f"{mib / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{mib} MiB"


def show_gb(mib: int) -> str:
    """The size of a volume: 10240 → "10 GB", 128 → "0.125 GB"."""
    return f"{mib / GB_MIB:.3f}".rstrip("0").rstrip(".") + " GB"


def guess_mib(text: str) -> int | None:
    """The MiB that "2G", "2 GiB" or "512" mean; for hints only, since documents hold plain numbers."""
    found = _AMOUNT.fullmatch(text)
    if found is None:
        return None
    mib = float(found[1]) * _MIB_OF[found[2].lower()]
    return int(mib) if mib.is_integer() else None


def mib_of_gb(size_gb: float) -> int | None:
    """The MiB of a volume's size; `None` unless it is a positive multiple of 0.125 within limits."""
    if not 0 < size_gb <= VOLUME_GB_MAX:
        return None
    steps = size_gb * STEPS_PER_GB
    return int(steps) * (GB_MIB // STEPS_PER_GB) if steps == int(steps) else None


def duration_s(text: str) -> int | None:
    """The seconds of "90d", "12h", "30m" or "1d12h"; `None` where it is no duration. A number alone is none, since
    nobody could tell its unit."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or not any(found.groups()):
        return None
    return sum(int(count or 0) * size for count, size in zip(found.groups(), _SECONDS_OF.values(), strict=True))


def show_duration(seconds: int) -> str:
    """43200 → "12h", 129600 → "1d12h", 7776000 → "90d"; exact, and read again by `duration_s`."""
    parts = []
    for unit in "dhms":
        count, seconds = divmod(seconds, _SECONDS_OF[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
