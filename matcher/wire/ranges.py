"""Sets of small numbers in the kernel's list format: "0-3,48-51". Pure.

A host with 256 threads fits a datagram this way. Format: Linux, Documentation/admin-guide/cputopology.rst.
"""

from collections.abc import Collection
from itertools import groupby

NUMBER_MAX = 65_535
NUMBERS_MAX = 4096


def to_ranges(numbers: Collection[int]) -> str:
    """The numbers, ascending and without repeats, as a list of ranges; "" for none."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def from_ranges(text: str) -> tuple[int, ...]:
    """The numbers of a list of ranges, ascending. Raises `ValueError` for any other text, and for too many numbers."""
    numbers: list[int] = []
    for part in text.split(",") if text else []:
        first, dash, last = part.partition("-")
        low = _number(first)
        high = _number(last) if dash else low
        if high < low or (numbers and low <= numbers[-1]) or len(numbers) + high - low >= NUMBERS_MAX:
            raise ValueError("not a list of ranges")
        numbers.extend(range(low, high + 1))
    return tuple(numbers)


def _number(text: str) -> int:
    if not (1 <= len(text) <= 5 and text.isascii() and text.isdigit()) or int(text) > NUMBER_MAX:
        raise ValueError("not a list of ranges")
    return int(text)
