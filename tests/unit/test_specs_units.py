"""Amounts of memory, storage and time."""

import pytest

from specs.units import duration_s, guess_mib, mib_of_gb, show_duration, show_mib


@pytest.mark.parametrize(
    ("mib", "text"),
    [(0, "0 MiB"), (512, "512 MiB"), (2048, "2 GiB"), (42_496, "41.5 GiB"), (3 * 1024 * 1024, "3 TiB")],
)
def test_memory_reads_in_its_largest_unit(mib: int, text: str) -> None:
    assert show_mib(mib) == text


@pytest.mark.parametrize(
    ("text", "mib"),
    [("2G", 2048), ("2 GiB", 2048), ("512", 512), ("512mb", 512), ("1.5g", 1536), ("1T", 1024 * 1024), ("2048k", 2)],
)
def test_what_people_write_for_memory_is_understood_for_hints(text: str, mib: int) -> None:
    assert guess_mib(text) == mib


@pytest.mark.parametrize("text", ["", "G", "two", "-1", "1.0001M", "1e9", "9" * 99, "\uff12G"])
def test_what_is_no_amount_is_not_guessed(text: str) -> None:
    assert guess_mib(text) is None


def test_volumes_come_in_steps_of_an_eighth_of_a_gb() -> None:
    assert mib_of_gb(10) == 10_240
    assert mib_of_gb(0.125) == 128
    for wrong in (0, -1, 0.1, 0.0625, float("nan"), float("inf"), 1e9):
        assert mib_of_gb(wrong) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("45s", 45), ("1d12h", 129_600), ("2W", 1_209_600), ("0s", 0)],
)
def test_durations_read_as_people_write_them(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "12", "h", "12 h", "-1h", "1.5h", "12h1d", "1y", "9" * 10 + "s", "\uff11h", "1h\n2m"]
)
def test_what_is_no_duration_is_not_guessed(text: str) -> None:
    assert duration_s(text) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (43_200, "12h"), (129_600, "1d12h"), (7_776_000, "90d"), (61, "1m1s")]
)
def test_a_duration_is_shown_whole(seconds: int, text: str) -> None:
    assert show_duration(seconds) == text
