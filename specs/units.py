"""Amounts of memory, storage and time, as people write and read them.

Memory is counted in MiB. Volumes come in GB, in steps of 0.125; one such GB is 1,024 MiB, so a step is 128 MiB.
"""

import re

MIB_BYTES = 1024 * 1024
GB_MIB = 1024
STEPS_PER_GB = 8
VOLUME_GB_MAX = 64 * 1024  # 64 TiB

_AMOUNT = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([kmgt]?)i?b?\s*", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"([0-9]{1,10})\s*(s|m|min|h|d)?", re.ASCII)
_SECONDS_OF = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_MIB_OF = {"": 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024.0}


def show_mib(mib: int) -> str:
    """512 → "512 MiB", 2048 → "2 GiB", 42500 → "41.5 GiB"."""
    for unit, size in (("TiB", 1024 * 1024), ("GiB", 1024)):
        if abs(mib) >= size:
            return f"{mib / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{mib} MiB"


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


def seconds_of(text: str) -> int | None:
    """The seconds that "90", "90s", "30m", "12h" or "2d" mean; `None` for anything else."""
    found = _DURATION.fullmatch(text.strip().lower())
    return int(found[1]) * _SECONDS_OF[found[2]] if found else None


def show_seconds(seconds: int) -> str:
    """7200 → "2 h", 5400 → "90 min", 172800 → "2 d", 61 → "61 s"."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
