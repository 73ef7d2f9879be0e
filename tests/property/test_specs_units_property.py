"""Durations: whatever is shown is read as the same, and whatever is read is exact."""

import hypothesis.strategies as st
from hypothesis import given

from specs.units import duration_s, show_duration

UNITS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
counts = st.none() | st.integers(0, 99_999)


@given(st.integers(0, 2**36))
def test_what_is_shown_is_read_as_the_same(seconds: int) -> None:
    assert duration_s(show_duration(seconds)) == seconds


@given(st.tuples(counts, counts, counts, counts, counts))
def test_a_duration_is_the_sum_of_its_parts(parts: tuple[int | None, ...]) -> None:
    said = [(count, unit) for count, unit in zip(parts, UNITS, strict=True) if count is not None]
    text = "".join(f"{count}{unit}" for count, unit in said)
    assert duration_s(text) == (sum(count * UNITS[unit] for count, unit in said) if said else None)


@given(st.text(max_size=12))
def test_whatever_is_written_is_a_duration_or_is_not(text: str) -> None:
    found = duration_s(text)
    assert found is None or found >= 0
