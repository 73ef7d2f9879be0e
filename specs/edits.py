"""`--set path=value`: changes to a document before it is judged, in whichever form it is written.

`--set path-=value` takes entries out of a list, by what they say: "cpu.flags-=avx512f,amx-tile", "pci-=10de:24b0",
"pci-=gpu", "pci-=nvidia-63".

A path is a field of either form, or one inside it: "ramsize", "ram.ramsize", "pci.0.quantity", "flags.1". A value is
JSON if it reads as JSON, else the text itself; where a field takes text, digits stay text ("pci.0.model=24e0").
"""

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from specs.document import is_text, read_document
from specs.forms import ATTRIBUTES, INNER, PCI_CLASSES, SECTION_OF, SECTIONS, guess, is_nested
from specs.problems import Problem, SpecError, shorten, show

EDITS_MAX = 256
NAMED_MAX = 8  # entries in a hint

_TEXT_FIELDS = {
    "name",
    "description",
    "os_family",
    "os_flavour",
    "firmware",
    "vendor",
    "model",
    "class",
    "mdev_type",
    "archs",
    "flags",
}
_EXAMPLES = "for example ram.ramsize=4096, slots=2 or pci.0.quantity=1"

_Where = list[str | int]
_C = TypeVar("_C", list[Any], dict[str, Any])


class _Refused(Exception):
    def __init__(self, problem: str, hint: str = "") -> None:
        self.problem, self.hint = problem, hint
        super().__init__(problem)


def apply_edits(document: dict[str, Any], edits: Iterable[str]) -> tuple[dict[str, Any], list[Problem]]:
    """The document with every edit made, in their order, and a problem for each edit that can't be made."""
    problems: list[Problem] = []
    for number, edit in enumerate(edits):
        if number == EDITS_MAX:
            return document, [*problems, Problem("--set", f"is given more than {EDITS_MAX} times")]
        try:
            document = _edited(document, edit)
        except _Refused as refused:
            problems.append(Problem(f"--set {shorten(edit)}", refused.problem, refused.hint))
    return document, problems


def _edited(document: dict[str, Any], edit: str) -> dict[str, Any]:
    path, equals, text = edit.partition("=")
    if not equals or not path.strip():
        raise _Refused("is not of the form path=value", _EXAMPLES)
    path = path.strip()
    where = _resolve(path.removesuffix("-").split("."), document)
    if path.endswith("-"):
        return _without(document, where, text)
    edited = _with(document, where, _value(where, text))
    assert isinstance(edited, dict)
    return edited


def _without(document: dict[str, Any], where: _Where, text: str) -> dict[str, Any]:
    """A copy of the document without the entries of these names; each has to be there."""
    field = where[-1]
    if field not in ("flags", "archs", "pci", "usb"):
        raise _Refused(f"{field} is no list", "-= takes entries out of flags, archs, pci or usb: flags-=avx512f")
    entries: Any = document
    for step in where:
        entries = entries.get(step) if isinstance(entries, dict) else None
    kept = list(_expect(list, [] if entries is None else entries, str(field)))
    for name in text.split(","):
        meant = name.strip().lower()
        meant = PCI_CLASSES.get(meant, meant) if field == "pci" else meant
        rest = [entry for entry in kept if _called(entry) != meant]
        if len(rest) == len(kept):
            there = ", ".join(shorten(_called(entry)) for entry in kept[:NAMED_MAX])
            raise _Refused(f'"{shorten(name)}" is not among them', f"there is: {there}" if there else "there is none")
        kept = rest
    edited = _with(document, where, kept)
    assert isinstance(edited, dict)
    return edited


def _called(entry: Any) -> str:
    """What people and hosts call it: of a device "10de:24b0", its type if it is a mediated one, or else its name or
    class."""
    if not isinstance(entry, dict):
        return str(entry).lower()
    for named in ("mdev_type", "name"):
        if named in entry:
            return str(entry[named]).lower()
    if "class" in entry and "vendor" not in entry:
        said = str(entry["class"])
        return PCI_CLASSES.get(said) or said.lower().removeprefix("0x")
    return ":".join(str(entry.get(part, ""))[-4:].lower() for part in ("vendor", "model"))


def _resolve(steps: list[str], document: dict[str, Any]) -> _Where:
    """Where in this document the path points, with indexes as numbers."""
    name, rest = steps[0], steps[1:]
    if name in SECTIONS:
        if not rest:
            raise _Refused(f"{name} is a group of fields", f"set one of them: {_known(name)}")
        if rest[0] not in SECTIONS[name]:
            raise _unknown(rest[0], name)
        name, rest = rest[0], rest[1:]
    if name not in ATTRIBUTES:
        raise _unknown(name, "")
    return [*_place(name, document), *_inside(name, rest)]


def _place(name: str, document: dict[str, Any]) -> _Where:
    """Where the document says it already, else where its form would."""
    section = SECTION_OF.get(name)
    if section is None or name in document:
        return [name]
    nested = name in document[section] if isinstance(document.get(section), dict) else False
    return [section, name] if nested or is_nested(document) else [name]


def _inside(name: str, rest: list[str]) -> _Where:
    """The steps below a field: a member of info or misc, an index, an index and a member of a PCI entry."""
    if name in ("info", "misc"):
        if len(rest) != 1:
            raise _Refused(f"{name} is a group of fields", f"set one of them: {_known(name)}")
        return [_member(name, rest[0])]
    if not rest:
        return []
    if name == "pci" and rest[0] == "any_of" and len(rest) <= 4:
        numbers, members = rest[1:3], rest[3:]
        return [rest[0], *(_index(name, step) for step in numbers), *(_member(name, step) for step in members)]
    if name in ("pci", "usb") and len(rest) <= 2:
        return [_index(name, rest[0]), *(_member(name, step) for step in rest[1:])]
    if name in ("archs", "flags") and len(rest) == 1:
        return [_index(name, rest[0])]
    raise _Refused(f'there is nothing named "{shorten(rest[-1])}" inside {name}', _EXAMPLES)


def _member(section: str, name: str) -> str:
    if name not in INNER[section]:
        raise _unknown(name, section)
    return name


def _index(name: str, step: str) -> int:
    if not (step.isascii() and step.isdigit() and len(step) < 5):
        example = f"{name}.0.quantity=1" if name in ("pci", "usb") else f"{name}.0=…"
        raise _Refused(f'"{shorten(step)}" is not the number of an entry', f"entries count from 0: {example}")
    return int(step)


def _unknown(name: str, section: str) -> _Refused:
    meant = guess(name, section, nested=True)
    if meant and section in ("pci", "usb"):
        meant = f"{section}.0.{meant}"
    path = f"{section}.{name}" if section else name
    return _Refused(f"{shorten(path)} is not a field of a specfile", f"did you mean {meant}?" if meant else _EXAMPLES)


def _known(section: str) -> str:
    return ", ".join(f"{section}.{name}" for name in SECTIONS.get(section) or INNER[section])


def _value(where: _Where, text: str) -> Any:
    field = next(step for step in reversed(where) if isinstance(step, str))
    try:
        parsed = json.loads(text, parse_constant=lambda _: text)
    except (ValueError, RecursionError):
        parsed = text
    if isinstance(parsed, dict | list):
        return _safe(text)
    if parsed is None:
        raise _Refused("null is not a value")
    if isinstance(parsed, str) and not is_text(parsed):
        raise _Refused("holds half of a character", "is the terminal set to UTF-8?")
    whole_list = field in ("archs", "flags") and where[-1] == field
    if field in _TEXT_FIELDS and not whole_list and not isinstance(parsed, str):
        return text
    return parsed


def _safe(text: str) -> Any:
    """A list or an object, under the same rules as a document."""
    try:
        document = read_document(text, what="edit")
    except SpecError as error:
        raise _Refused(error.problems[0].problem, error.problems[0].hint) from None
    if document.problems:
        raise _Refused(document.problems[0].problem, document.problems[0].hint)
    return document.value


def _with(target: Any, where: _Where, value: Any, above: str = "the document") -> Any:
    """A copy of `target` with `value` at `where`; what is absent on the way is made, a list grows by one at its end."""
    if not where:
        return value
    step, rest = where[0], where[1:]
    below = str(step) if above == "the document" else f"{above}.{step}"
    if isinstance(step, int):
        entries = _expect(list, [] if target is None else target, above)
        if step > len(entries):
            count = f"has {len(entries)}" if entries else "has none"
            raise _Refused(f"there is no entry {step}: {above} {count}", "entries count from 0")
        entry = entries[step] if step < len(entries) else None
        return [*entries[:step], _with(entry, rest, value, below), *entries[step + 1 :]]
    members = _expect(dict, {} if target is None else target, above)
    return {**members, step: _with(members.get(step), rest, value, below)}


def _expect(kind: type[_C], target: Any, above: str) -> _C:
    if not isinstance(target, kind):
        raise _Refused(f"can't be set: {above} is {show(target)}, not {'a list' if kind is list else 'an object'}")
    return target
