"""The one renderer: every command gives a document and its table; `-o` says which form goes to stdout.

Data goes to stdout alone; progress and errors go to stderr, progress only where a person watches. Text that came from
another machine is made printable before it reaches a terminal.
"""

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Output = Annotated[
    Literal["table", "json", "yaml", "name"],
    Parameter(name=["--output", "-o"], help="table for people; json, yaml or bare names for programs"),
]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under column heads; `names` is what `-o name` prints, one a line. What stands under `copied` is for
    people to copy: it stays on one line while others can give way."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    names: Sequence[str] = ()
    notes: Sequence[str] = field(default=())
    copied: str = ""


def emit(output: str, document: dict[str, Any], table: Table) -> None:
    """Print one result on stdout, whole."""
    match output:
        case "json":
            text = as_json(document) + "\n"
        case "yaml":
            import yaml

            text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        case "name":
            text = "".join(f"{printable(name)}\n" for name in table.names)
        case _:
            text = _as_table(table)
    sys.stdout.write(text)
    sys.stdout.flush()


def as_json(document: object) -> str:
    """Readable in any language, and without a raw control character, not even those that JSON allows."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def note(text: str) -> None:
    """A line for the person, never data."""
    sys.stderr.write(f"{printable(text)}\n")


class Progress:
    """What is going on, on one line of a terminal; silent anywhere else."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._length = 0

    def say(self, text: str) -> None:
        if self._on:
            line = printable(text)[:78]
            sys.stderr.write(f"\r{line}{' ' * (self._length - len(line))}")
            sys.stderr.flush()
            self._length = len(line)

    def clear(self) -> None:
        if self._on and self._length:
            sys.stderr.write(f"\r{' ' * self._length}\r")
            sys.stderr.flush()
            self._length = 0


def warm_up(output: str) -> None:
    """Import what the table will need while something else is being waited for."""
    if output == "table":
        threading.Thread(target=_import_rich, daemon=True).start()


def printable(text: str) -> str:
    """No control characters, terminal escapes or direction marks, whoever wrote the text."""
    return "".join(character if character.isprintable() else "�" for character in text)


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else json.dumps(character)[1:-1]


def _import_rich() -> None:
    import rich.console
    import rich.table  # noqa: F401


def _as_table(table: Table) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    colourless = bool(os.environ.get("NO_COLOR"))
    shown = RichTable(box=None, pad_edge=False, header_style="" if colourless else "bold")
    for column in table.columns:
        shown.add_column(column, overflow="fold", no_wrap=column == table.copied)
    for row in table.rows:
        shown.add_row(*(Text(printable(str(cell))) for cell in row))
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal else 10_000  # a pipe has no width: nothing may be folded there
    text = StringIO()
    console = Console(file=text, width=width, force_terminal=is_terminal, no_color=colourless)
    if is_terminal:
        console.width = os.get_terminal_size(sys.stdout.fileno()).columns or 80
    if table.rows or not table.notes:  # heads alone say that there is nothing
        console.print(shown)
    for line in table.notes:
        console.print(Text(printable(line)))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n" if text.getvalue() else ""
