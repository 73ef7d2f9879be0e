"""Limits of style that have a number, and what no file may say. What can't be measured is for readers."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.house import MODULES, ROOT

FUNCTION_LINES_MAX = 64
MODULE_LINES_MAX = 500

NOT_OURS = {".git", ".venv", ".hypothesis", "__pycache__", "build", "dist"}
TEXT = {"", ".py", ".md", ".toml", ".json", ".json5", ".service", ".S"}
MACHINE_PATHS = re.compile(r"/work/|/home/\w+/|site-packages|/tmp/\w+\.(py|md)\b")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
DOCUMENT = re.compile(r"(?<![\w./-])docs/[\w-]+\.md")
ROOM = re.compile(r"(?<![\w./-])(?:specs|matcher|atomd|storaged|packaging|tests|docs)/[\w.*/-]*[\w*]")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def lines_of(function: Function) -> int:
    """With decorators and docstring."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


def texts(*suffixes: str) -> list[Path]:
    """The repository's own files of these kinds; without any, all that are text. Not this one, which names it all."""
    found = (path for path in ROOT.rglob("*") if not is_foreign(path) and path.is_file() and path != Path(__file__))
    return sorted(path for path in found if path.suffix in (suffixes or TEXT) and path.name != "LICENSE")


def is_foreign(path: Path) -> bool:
    inside = path.relative_to(ROOT).parts
    return bool(NOT_OURS & {*inside}) or any(part.endswith("_cache") for part in inside)


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]


def test_a_function_is_seen_at_one_glance() -> None:
    long = [
        f"{module.where(function)} {function.name} has {lines_of(function)} lines"
        for module in MODULES.values()
        for function in functions(module.tree)
        if lines_of(function) > FUNCTION_LINES_MAX
    ]
    assert not long


def test_a_module_fits_in_a_sitting() -> None:
    lengths = {module.name: len(module.text.splitlines()) for module in MODULES.values()}
    long = {name: n for name, n in lengths.items() if n > MODULE_LINES_MAX}
    assert not long, "grown a second noun? Make two files of it"


def test_a_module_opens_with_what_it_promises() -> None:
    assert not [module.name for module in MODULES.values() if len(module.doc.partition("\n")[0]) < 20]


def test_no_file_knows_the_machine_that_it_was_written_on() -> None:
    assert not lines_with(MACHINE_PATHS)


def test_nothing_is_left_for_later_in_a_comment() -> None:
    assert not lines_with(UNFINISHED), "what is left to do is an issue"


def test_every_document_that_the_code_names_is_there() -> None:
    named = {(path, document) for path in texts(".py", "") for document in DOCUMENT.findall(path.read_text())}
    assert not [f"{path.relative_to(ROOT)}: {name}" for path, name in sorted(named) if not (ROOT / name).exists()]


def test_every_room_that_a_document_names_is_there() -> None:
    """A map that shows rooms that are gone is worse than none."""
    named = {(path, room) for path in texts(".md") for room in ROOM.findall(path.read_text())}
    assert not [f"{path.relative_to(ROOT)}: {room}" for path, room in sorted(named) if not [*ROOT.glob(room)]]
