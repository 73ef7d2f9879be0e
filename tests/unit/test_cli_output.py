"""Data goes to stdout in the form that was asked for, and nothing that a stranger wrote reaches a terminal raw."""

import fcntl
import io
import json
import os
import struct
import sys
import termios

import pytest
import yaml

from matcher.cli.output import Progress, Table, emit, note, printable

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


@pytest.mark.parametrize("width", [80, 60])
def test_what_people_copy_stays_on_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    vid = "5e755b09-045e-48a4-a64a-6b26b99aa37a"
    row = ("a-name-of-some-length", "0.125 GB", "raw", "bootable,readonly", "attached: web", "h1", vid)
    heads = ("NAME", "SIZE", "FORMAT", "TRAITS", "STATE", "HOST", "VID")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    with open(theirs, "w") as terminal, open(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stdout", terminal)
        emit("table", {}, Table(heads, [row], copied="VID"))
        shown = screen.read(10_000).decode()
    assert vid in shown
    assert all(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) <= width for line in shown.splitlines())
