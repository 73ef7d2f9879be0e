"""The packages as they are written: every module's syntax tree, and what it imports. Nothing is run."""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("specs", "matcher", "atomd", "storaged")


@dataclass(frozen=True)
class Module:
    """One file of the packages; `name` as it is imported."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @cached_property
    def imports(self) -> frozenset[str]:
        """All that it names in imports, those inside functions and those for types alone as well."""
        return frozenset(name for node in ast.walk(self.tree) for name in _imported(node))

    @cached_property
    def run_imports(self) -> frozenset[str]:
        """What is imported when it runs, sooner or later: all but what `TYPE_CHECKING` guards."""
        return frozenset(name for node in _running(self.tree) for name in _imported(node))

    def is_under(self, *packages: str) -> bool:
        return any(self.name == package or self.name.startswith(f"{package}.") for package in packages)

    def where(self, node: ast.stmt | ast.expr) -> str:
        return f"{self.path.relative_to(ROOT)}:{node.lineno}"


def _modules() -> Iterator[Module]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield Module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path)


def _imported(node: ast.AST) -> Iterator[str]:
    """Full names; `from package import module` is an import of the module, where there is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.module is not None and node.level == 0, "imports are absolute here"  # noqa: PT018
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in MODULES else node.module


def _running(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from _running(child)


def ours(names: Iterable[str]) -> set[str]:
    """Those of `names` that are modules of this repository."""
    return {name for name in names if name.partition(".")[0] in PACKAGES}


def others(names: Iterable[str]) -> set[str]:
    """The top-level packages of all the rest."""
    return {name.partition(".")[0] for name in names} - set(PACKAGES)


def third_party(names: Iterable[str]) -> set[str]:
    return others(names) - sys.stdlib_module_names


def closure(starts: Iterable[str]) -> set[str]:
    """Our modules that come along when `starts` run; a module brings its packages with it."""
    seen: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += {name.rpartition(".")[0]} - {""} | ours(MODULES[name].run_imports)
    return seen


MODULES = {module.name: module for module in _modules()}
