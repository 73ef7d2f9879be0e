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


GAP = "  "  # between two columns
FOLDED_MAX = 500  # rows; to fold 10,000 takes five seconds


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under column heads; `names` is what `-o name` prints, one a line."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    names: Sequence[str] = ()
    notes: Sequence[str] = field(default=())


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
    return "\n".join(line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n"))


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
        threading.Thread(target=_import_cells, daemon=True).start()


def printable(text: str) -> str:
    """No control characters, terminal escapes or direction marks, whoever wrote the text."""
    return "".join(character if character.isprintable() else "�" for character in text)


def cell_len(text: str) -> int:
    """How many cells of a terminal it takes: letters of some scripts take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, cells: int) -> str:
    """So many cells of it, with blanks where it is shorter, or half a letter would be left."""
    from rich.cells import set_cell_size

    return set_cell_size(text, cells)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else json.dumps(character)[1:-1]


def _import_cells() -> None:
    import rich.cells  # noqa: F401


def _as_table(table: Table) -> str:
    """Folded where a terminal is too narrow for it; a pipe has no width, and nobody reads so long a table folded."""
    is_terminal = sys.stdout.isatty()
    width = (os.get_terminal_size(sys.stdout.fileno()).columns or 80) if is_terminal else 0
    notes = [printable(line) for line in table.notes]
    rows = [[printable(str(cell)) for cell in row] for row in table.rows]
    lines = list[str]()
    if rows or not notes:  # heads alone say that there is nothing
        lines = _aligned([[*table.columns], *rows])
        if is_terminal and len(rows) <= FOLDED_MAX and any(cell_len(line) > width for line in lines):
            return _folded(table.columns, rows, notes, width)
    if lines and is_terminal and not os.environ.get("NO_COLOR"):
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    return "".join(f"{line}\n" for line in (*lines, *notes))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _folded(columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str], width: int) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    colourless = bool(os.environ.get("NO_COLOR"))
    shown = RichTable(box=None, pad_edge=False, header_style="" if colourless else "bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    text = StringIO()
    console = Console(file=text, force_terminal=True, no_color=colourless)
    console.width = width
    console.print(shown)
    for line in notes:
        console.print(Text(line))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
