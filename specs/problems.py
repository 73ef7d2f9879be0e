"""What is wrong with something that a person wrote: where, what, and what to do about it.

`path` is dotted, as `--set` takes it ("cpu.slots", "pci.0.vendor"); empty for the document as a whole; a place
("line 3, column 5") where the text can't be read at all. All problems of a document travel in one `SpecError`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

TOLD_MAX = 50  # problems in one message for people
SHOWN_MAX = 48  # a value or key inside a message; people paste whole files by mistake


@dataclass(frozen=True, slots=True)
class Problem:
    path: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        line = f"{self.path}: {self.problem}" if self.path else self.problem
        return f"{line}\n    hint: {self.hint}" if self.hint else line


class SpecError(Exception):
    """Every problem of one document, in the order of their paths; `str()` is for people."""

    def __init__(self, problems: Iterable[Problem], *, what: str = "specfile") -> None:
        self.what = what
        self.problems = tuple(sorted(problems, key=lambda problem: _by_number(problem.path)))
        assert self.problems
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"the {self.what} has {'a problem' if count == 1 else f'{count} problems'}"
        told = [f"  {problem}" for problem in self.problems[:TOLD_MAX]]
        more = [f"  … and {count - TOLD_MAX} more"] if count > TOLD_MAX else []
        return "\n".join([head, *told, *more])


def _by_number(path: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts "pci.10" after "pci.9"."""
    return tuple((0, int(part), "") if _is_index(part) else (1, 0, part) for part in path.split("."))


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10


def show(value: object) -> str:
    """A value as it was written, short, on one line and safe for a terminal."""
    match value:
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return shorten(json.dumps(value, ensure_ascii=False))


def show_key(key: object) -> str:
    """One step of a path; a key that would not read as one step is quoted."""
    text = str(key)
    plain = text.isidentifier() or _is_index(text)
    return shorten(text if plain else json.dumps(text, ensure_ascii=False))


def shorten(text: str) -> str:
    """For a message: printable, and no longer than `SHOWN_MAX`."""
    start = text[: SHOWN_MAX + 1]
    safe = "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in start)
    return safe if len(safe) <= SHOWN_MAX else f"{safe[: SHOWN_MAX - 1]}…"


def join(*steps: object) -> str:
    """A dotted path of keys and indexes."""
    return ".".join(show_key(step) for step in steps)
