"""A volumespec: which volumes a VM gets, by their ids, in boot order.

    [{"vid": "4f3c2d1e0b9a48f7a6d5c4b3a2918070"}, {"vid": "0b9a48f7-4f3c-4d1e-a6d5-c4b3a2918070"}]

JSON or JSON5; 1 to 64 entries; a vid is 32 hex digits, with a UUID's dashes or without. All mistakes at once.
"""

import string
from collections.abc import Iterator
from typing import Any

from specs.document import join_path, read_document
from specs.ids import Vid, parse_id
from specs.problems import Problem, SpecError, show

VOLUMES_MAX = 64
VID_DIGITS = 32

_EXAMPLE = '[{"vid": "4f3c2d1e0b9a48f7a6d5c4b3a2918070"}]'
_UUID = "a UUID has its dashes after 8, 12, 16 and 20 digits, or none"


def parse_volumespec(text: str | bytes) -> tuple[Vid, ...]:
    """The vids as 32 lowercase hex digits, in the order written; raises `SpecError` with every problem."""
    document = read_document(text, what="volumespec")
    problems = list(document.problems)
    vids: dict[Vid, int] = {}
    if not isinstance(document.value, list):
        problems.append(_not_a_list(document.value))
    elif not 1 <= len(document.value) <= VOLUMES_MAX:
        problems.append(_wrong_count(len(document.value)))
    else:
        for index, entry in enumerate(document.value):
            problems += _entry_problems(entry, index, vids, {problem.path for problem in problems})
    if problems:
        raise SpecError(problems, what="volumespec")
    return tuple(vids)


def is_volumespec(text: str | bytes) -> bool:
    """Whether this is meant as a volumespec rather than a specfile; raises `SpecError` if it can't be read at all."""
    return isinstance(read_document(text, what="document").value, list)


def _not_a_list(value: Any) -> Problem:
    hint = f"as in {_EXAMPLE}"
    if isinstance(value, dict) and "vid" in value:
        hint = f"put the object into a list: {_EXAMPLE}"
    elif isinstance(value, dict) and {"slots", "ramsize", "cpu", "ram"} & set(value):
        hint = "this is a specfile: volumes are listed in a document of their own"
    return Problem("", f"the document is {show(value)}, not a list", hint)


def _wrong_count(count: int) -> Problem:
    if count == 0:
        return Problem("", "the list is empty", "for a VM without volumes, give no volumespec")
    return Problem("", f"the list has {count} volumes; the most is {VOLUMES_MAX}")


def _entry_problems(entry: Any, index: int, vids: dict[Vid, int], known: set[str]) -> Iterator[Problem]:
    """Judge one entry; a good vid joins `vids` with its index."""
    path = str(index)
    if not isinstance(entry, dict):
        hint = f'write {{"vid": {show(entry)}}}' if isinstance(entry, str) else f"as in {_EXAMPLE}"
        if path not in known:
            yield Problem(path, f"is {show(entry)}, not an object", hint)
        return
    for key in entry:
        if key != "vid":
            hint = "a volume is named by its vid alone; its size, name and mode are its own" if "vid" in entry else ""
            yield Problem(join_path(path, key), "is not a field of a volumespec", hint or 'did you mean "vid"?')
    if "vid" not in entry:
        yield Problem(f"{path}.vid", "is missing", f"as in {_EXAMPLE}")
    elif f"{path}.vid" not in known:
        yield from _vid_problems(entry["vid"], index, vids)


def _vid_problems(value: Any, index: int, vids: dict[Vid, int]) -> Iterator[Problem]:
    path = f"{index}.vid"
    if not isinstance(value, str):
        yield Problem(path, f"is {show(value)}, not text", "32 hex digits in quotes")
    elif (identifier := parse_id(value)) is None:
        yield Problem(path, *_why_no_id(value))
    elif (earlier := vids.setdefault(Vid(identifier), index)) != index:
        yield Problem(path, f"is the volume of entry {earlier} again", "name each volume once")


def _why_no_id(text: str) -> tuple[str, str]:
    digits = text.strip().removesuffix(".elimg").replace("-", "")
    strange = next((character for character in digits if character not in string.hexdigits), None)
    if strange is not None:
        return f"is {show(text)}: {show(strange)} is no hex digit", "a vid has 32 of the digits 0-9 and a-f"
    if len(digits) != VID_DIGITS:
        return f"has {len(digits)} hex digits: {show(text)}", f"a vid has {VID_DIGITS}"
    if text != text.strip() or ".elimg" in text:
        return f"is {show(text)}: more than the id", f'write "{digits.lower()}"'
    return f"is {show(text)}: its dashes are out of place", _UUID
