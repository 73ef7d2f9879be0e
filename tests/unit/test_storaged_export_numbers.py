"""An export's number at ganesha is its own, and stays: whatever is started again, and however many there are."""

import json
import stat
from pathlib import Path

import pytest

from storaged.export import numbers
from storaged.export.ganesha_words import ID_MAX, number_for
from storaged.export.numbers import Numbers
from storaged.export.wanted import EXPORTS_MAX


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "nfs-numbers.json"


def of(given: Numbers, target: str, taken: frozenset[int] = frozenset(), wanted: tuple[str, ...] = ()) -> int:
    return given.of(target, taken=taken, wanted=wanted)


def rival_of(target: str) -> str:
    """Another one for which the same number would be the first choice."""
    wanted = number_for(target, ())
    return next(name for count in range(10 * ID_MAX) if number_for(name := f"rival {count}", ()) == wanted)


def test_as_many_as_a_host_may_export_have_a_number_each(memory: Path) -> None:
    given = Numbers(memory)
    each = [of(given, f"export {count}") for count in range(EXPORTS_MAX)]
    assert len({*each}) == EXPORTS_MAX
    assert len({number_for(f"export {count}", ()) for count in range(EXPORTS_MAX)}) < EXPORTS_MAX, "some had to yield"
    again = Numbers(memory)
    assert [of(again, f"export {count}") for count in reversed(range(EXPORTS_MAX))] == each[::-1]


def test_the_second_of_two_that_want_one_number_keeps_its_own_though_it_comes_first_then(memory: Path) -> None:
    rival = rival_of("first")
    given = Numbers(memory)
    numbers_then = of(given, "first"), of(given, rival)
    again = Numbers(memory)
    assert (of(again, rival), of(again, "first")) == numbers_then[::-1]


def test_what_ganesha_has_for_another_is_not_given(memory: Path) -> None:
    first = number_for("one", ())
    given = Numbers(memory)
    assert of(given, "one", frozenset({first})) != first
    second = of(given, "one")
    assert of(given, "one", frozenset({second})) != second, "as where the file was lost, and another got it"


def test_a_number_is_on_the_disk_before_it_is_used(memory: Path) -> None:
    number = of(Numbers(memory), "one")
    assert json.loads(memory.read_text()) == {"one": number}
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    memory.unlink()
    memory.parent.rmdir()
    memory.parent.write_text("in the way")
    given = Numbers(memory)
    with pytest.raises(OSError, match="state"):
        of(given, "one")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"one": "x"}', '{"one": 0}', '{"one": 99999}', '{"one": 5, "two": 5}']
)
def test_what_can_not_be_read_is_given_anew(memory: Path, text: str) -> None:
    memory.parent.mkdir()
    memory.write_text(text)
    given = Numbers(memory)
    assert of(given, "one") != of(given, "two")
    assert 1 <= of(given, "one") <= ID_MAX


def test_of_very_many_the_oldest_that_nobody_wants_are_forgotten(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "NUMBERS_MAX", 3)
    given = Numbers(memory)
    for count in range(5):
        of(given, f"export {count}", wanted=("export 0",))
    assert [*json.loads(memory.read_text())] == ["export 0", "export 3", "export 4"]
