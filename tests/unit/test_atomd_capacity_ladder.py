"""What a hole is worth, in numbers that can be counted by hand."""

from collections.abc import Callable

import pytest

from atomd.capacity import ladder
from atomd.capacity.ladder import CORES, GIB_PER_CORE, HOLES_MAX, kept, worth
from atomd.capacity.occupancy import charged_mib
from atomd.capacity.score import fill


def gib(guests: int, each: int) -> int:
    """MiB charged for so many guests of so many GiB."""
    return guests * charged_mib(each * 1024)


def test_a_hole_is_worth_the_whole_vms_of_each_size_that_it_could_take() -> None:
    assert worth(1, gib(1, 1)) == 1  # a core with one GiB
    assert worth(1, gib(1, 8)) == 4  # a core with 1, 2, 4 or 8
    assert worth(2, gib(1, 8)) == 2 + 2 + 1 + 1 + 2 * 3  # singles, two with up to 2 GiB; a pair with up to 4 each
    assert worth(3, gib(3, 1)) == 3 + 1 + 2  # three small ones, one with 2 GiB, and one of two cores


@pytest.mark.parametrize(("units", "mib"), [(0, 1 << 20), (64, 0), (64, charged_mib(1024) - 1)])
def test_cores_without_ram_and_ram_without_cores_are_worth_nothing(units: int, mib: int) -> None:
    assert worth(units, mib) == 0


@pytest.mark.parametrize("cores", CORES)
@pytest.mark.parametrize("ratio", GIB_PER_CORE)
def test_every_rung_is_worth_something_to_one_of_its_size_and_to_none_that_is_narrower(cores: int, ratio: int) -> None:
    size = charged_mib(cores * ratio * 1024)
    assert worth(cores, size) > worth(cores, size - 1)
    assert worth(cores, size) > worth(cores - 1, size)


def test_who_is_smaller_than_every_rung_still_finds_who_loses_nothing() -> None:
    tiny = charged_mib(256)
    assert kept(1, tiny, 2, gib(1, 1) + tiny) == 1.0
    assert kept(1, tiny, 1, gib(1, 8)) == 1 / 4


def test_what_is_kept_of_holes_is_bounded() -> None:
    for mib in range(HOLES_MAX + 100):
        worth(1, mib)
    assert ladder.worth.cache_info().currsize <= HOLES_MAX


def tight_alone(slots: int, mib: int, open_units: int, free_mib: int) -> float:
    """Best fit by volume, which is half of the score."""
    return (slots / open_units * mib / free_mib) ** 0.5


@pytest.mark.parametrize(("judge", "is_spared"), [(fill, True), (tight_alone, False)])
def test_the_hole_that_a_large_vm_needs_is_left_whole_though_it_is_the_tighter_one(
    judge: Callable[[int, int, int, int], float], is_spared: bool
) -> None:
    """Volume alone would break it up: that this is told apart is what the ladder is for."""
    large, slightly_larger = (32, gib(1, 128)), (34, gib(1, 128) + gib(2, 4))
    small = (2, gib(1, 8))
    assert (judge(*small, *slightly_larger) > judge(*small, *large)) is is_spared


def test_ram_is_not_left_without_cores_nor_cores_without_ram() -> None:
    """Of two holes of one volume, the one whose rest is in proportion."""
    asked = (4, gib(1, 16))
    fitting, skewed = (8, gib(1, 32)), (16, gib(1, 16))
    assert fill(*asked, *fitting) > fill(*asked, *skewed)
