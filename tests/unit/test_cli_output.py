"""Data goes to stdout in the form that was asked for, and nothing that a stranger wrote reaches a terminal raw."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios
import tty
from collections.abc import Callable, Iterator

import pytest
import yaml
from rich.cells import cell_len

from matcher.cli.output import FOLDED_MAX, Progress, Table, emit, note, printable

HOSTILE = "\U000e0041h1\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\u200b\r\n\x00"
TABLE = Table(("HOST", "STATE"), [("h1", "up"), (HOSTILE, "down")], ["h1", HOSTILE])
DOCUMENT = {"hosts": [{"name": "h1"}, {"name": HOSTILE}]}


def printed(form: str, capsys: pytest.CaptureFixture[str]) -> str:
    emit(form, DOCUMENT, TABLE)
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_json_and_yaml_carry_the_same_document_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed("json", capsys)) == DOCUMENT
    assert yaml.safe_load(printed("yaml", capsys)) == DOCUMENT


def test_names_come_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(printed("name", capsys).splitlines()) == 2


@pytest.mark.parametrize("form", ["table", "json", "yaml", "name"])
def test_no_form_lets_an_escape_through(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(form, capsys)
    assert not {*"\x1b\x07\x9b\r\x00"} & {*shown}
    if form in ("table", "name"):
        assert not {*"\u202e\u200b\U000e0041"} & {*shown}, "a direction mark can make a name read as another"


def test_a_table_of_nothing_is_its_heads(capsys: pytest.CaptureFixture[str]) -> None:
    emit("table", {"vms": []}, Table(("NAME", "HOST"), []))
    assert capsys.readouterr().out.split() == ["NAME", "HOST"]


def test_in_a_pipe_nothing_is_folded_and_no_line_ends_with_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    emit("table", {}, Table(("A", "B"), [("x" * 500, "y"), ("z", "")]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line == line.rstrip() for line in lines)


def test_rich_markup_in_a_name_is_only_text(capsys: pytest.CaptureFixture[str]) -> None:
    emit("table", {}, Table(("A",), [("[red]x[/red] :smile: [link=http://e]",)]))
    assert "[red]x[/red] :smile: [link=http://e]" in capsys.readouterr().out


def test_a_note_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("electros: \x1b[31mred\nsecond")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_printable_keeps_what_people_write() -> None:
    assert printable("Zürich 東京 vm-1_ä") == "Zürich 東京 vm-1_ä"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_silent_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    progress = Progress()
    progress.say("working")
    progress.clear()
    assert pipe.getvalue() == ""


def test_progress_leaves_a_clean_line_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress()
    progress.say("a long line about something")
    progress.say("short")
    progress.clear()
    screen = [" "] * 80
    at = 0
    for character in terminal.getvalue():
        if character == "\r":
            at = 0
        else:
            screen[at] = character
            at += 1
    assert "".join(screen).strip() == ""


# ---- on a terminal


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Table, int], str]]:
    """Prints a table on a terminal of so many columns, and gives what it has written."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def printed_on(table: Table, columns: int) -> str:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with open(slave, "w", closefd=False) as out, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            emit("table", {}, table)
        return os.read(master, 65_536).decode()

    yield printed_on
    os.close(master)
    os.close(slave)


def test_a_terminal_gets_bold_heads_and_the_same_table_as_a_pipe(
    terminal: Callable[[Table, int], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = terminal(TABLE, 80)
    assert shown.startswith("\x1b[1mHOST")
    assert shown.replace("\x1b[1m", "").replace("\x1b[0m", "") == printed("table", capsys)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in terminal(TABLE, 80)


def test_what_is_too_wide_for_a_terminal_is_folded_in_its_column(terminal: Callable[[Table, int], str]) -> None:
    lines = terminal(Table(("NAME", "WHY"), [("h1", "x" * 60)], notes=["a note"]), 30).splitlines()
    assert all(cell_len(re.sub("\x1b\\[[0-9;]*m", "", line)) <= 30 for line in lines)
    assert sum(line.count("x") for line in lines) == 60
    assert lines[-1] == "a note"


def test_a_table_too_long_to_be_folded_is_not(terminal: Callable[[Table, int], str]) -> None:
    table = Table(("A",), [("x" * 20,)] * (FOLDED_MAX + 1))
    assert f"\n{'x' * 20}\n" in terminal(table, 10)


def test_wide_letters_keep_columns_in_line(capsys: pytest.CaptureFixture[str]) -> None:
    emit("table", {}, Table(("A", "B"), [("東京", "x"), ("abcd", "x")]))
    assert {cell_len(line) for line in capsys.readouterr().out.splitlines()} == {7}
