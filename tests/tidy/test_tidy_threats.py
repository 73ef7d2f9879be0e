"""What docs/THREATS.md promises is shown by tests that exist."""

import ast
import re

from tests.tidy.house import ROOT

THREATS = ROOT / "docs" / "THREATS.md"
SHOWN_BY = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
SHOWN_MIN = 50  # a pattern that finds nothing would be content with anything


def named_in(path: str) -> set[str]:
    if not (ROOT / path).is_file():
        return set()
    tree = ast.parse((ROOT / path).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_test_that_a_threat_names_exists() -> None:
    named = SHOWN_BY.findall(THREATS.read_text())
    assert len(named) >= SHOWN_MIN
    assert not [f"{path}::{test}" for path, test in named if test not in named_in(path)]


def test_whatever_looks_like_the_name_of_a_test_is_one() -> None:
    text = THREATS.read_text()
    assert len(re.findall(r"\btest_\w+(?!\w*\.py)\b(?!\.py)", text)) == len(SHOWN_BY.findall(text))


def test_every_attacker_is_shown_something() -> None:
    sections = THREATS.read_text().split("\n## ")[1:-1]
    assert not [section.splitlines()[0] for section in sections if not SHOWN_BY.search(section)]
