"""Amounts of memory, storage and time."""

import pytest

from specs.units import guess_mib, mib_of_gb, seconds_of, show_mib, show_seconds


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
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("30 min", 1800), ("12H", 43_200), ("2d", 172_800)]
)
def test_durations_are_a_number_and_a_letter(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds
    assert seconds_of(show_seconds(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1", "1.5h", "1h30m", "9" * 99, "\uff12h", "2w"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert seconds_of(text) is None


@pytest.mark.parametrize(("seconds", "text"), [(61, "61 s"), (5400, "90 min"), (7200, "2 h"), (86_400, "1 d")])
def test_durations_read_in_their_largest_whole_unit(seconds: int, text: str) -> None:
    assert show_seconds(seconds) == text
