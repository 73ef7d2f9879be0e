"""`atomctl` finds the VM that is meant, says plainly what went wrong, and lets no other people's text out raw."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from atomd.atomctl import main
from atomd.sysadmin import as_table, matching
from matcher.net import local
from matcher.wire.backdoor import EvictVm, InspectVm, ListVms, RemoveVm, VmRow, VmRows
from matcher.wire.messages import Message

ANN = VmRow("a" * 32, 1, "web", "ann", "1" * 64, "running", "", 1, 64, 0)
BOB = VmRow("b" * 32, 1, "web", "bob", "2" * 64, "running", "", 1, 64, 0)
WEBMAIL = VmRow("ab" * 16, 1, "webmail", "bob", "2" * 64, "running", "", 1, 64, 0)
ALL = [ANN, BOB, WEBMAIL]


def settings(tmp_path: Path) -> str:
    path = tmp_path / "atomd.toml"
    path.write_text(
        f'atomctl_socket = "{tmp_path}/socket"\naudit = "{tmp_path}/audit"\nidentity = "{tmp_path}/identity"\n'
    )
    return str(path)


def run(tmp_path: Path, *words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["atomctl", *words, "--config", settings(tmp_path)])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What would have been asked of an atomd that has `ALL`, page by page, and nothing else to say."""
    questions: list[Message] = []

    async def ask(path: Path, question: Message, answer: type[Message], *, timeout_s: float) -> Message:
        questions.append(question)
        if isinstance(question, ListVms):
            later = [row for row in sorted(ALL, key=lambda row: row.id) if row.id > question.after]
            return VmRows(tuple(later[:2]), len(later) > 2)
        raise local.LocalError("nothing to say")

    monkeypatch.setattr(local, "ask", ask)
    return questions


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("web", [ANN, BOB]),
        ("webm", [WEBMAIL]),
        ("A" * 32, [ANN]),
        ("bbbbbbbb-bb", [BOB]),
        ("a", [ANN, WEBMAIL]),
        ("-", []),
        ("", []),
    ],
)
def test_a_vm_is_meant_by_name_uuid_or_the_start_of_either(word: str, found: list[VmRow]) -> None:
    assert matching(ALL, word) == found


def test_an_atomd_that_does_not_run_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "ps") == 6
    assert capsys.readouterr().err.startswith("atomctl: atomd does not serve")


def test_a_host_that_belongs_to_no_realm_is_told_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "ps") == 6
    assert "electros realm create NAME" in capsys.readouterr().err
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "leaf.pem").touch()
    assert run(tmp_path, "ps") == 6
    assert "realm create" not in capsys.readouterr().err


def test_a_reason_too_long_to_be_told_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "evict", "web", "--why", "x" * 121) == 2
    assert "121" in capsys.readouterr().err


def test_what_went_wrong_is_json_where_json_was_asked_for_even_if_nothing_else_was_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code, name in ((("fly", "-ojson"), 2, "usage"), (("ps", "-o", "json"), 6, "unreachable")):
        assert run(tmp_path, *words) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert json.loads(said.err)["error"]["code"] == name


def test_escapes_in_what_was_typed_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[Message]
) -> None:
    for words in (("\x1b[2J",), ("inspect", "\x1b[2J"), ("inspect", "\u202eweb")):
        assert run(tmp_path, *words) in (2, 4)
        assert not set(capsys.readouterr().err) & {"\x1b", "\u202e"}


def test_a_vm_is_not_removed_unless_that_is_said_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[Message]
) -> None:
    assert run(tmp_path, "rm", "webmail") == 2
    assert "webmail of bob (running)" in capsys.readouterr().err
    assert {type(question) for question in asked} == {ListVms}
    run(tmp_path, "rm", "webmail", "--yes")
    assert asked[-1] == RemoveVm(WEBMAIL.id, WEBMAIL.generation)


def test_a_name_of_several_users_is_told_with_all_of_them_and_nothing_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[Message]
) -> None:
    assert run(tmp_path, "evict", "web") == 2
    said = capsys.readouterr().err
    assert "web of ann" in said
    assert "web of bob" in said
    assert not any(isinstance(question, EvictVm) for question in asked)


def test_a_vm_on_a_later_page_is_found(tmp_path: Path, asked: list[Message]) -> None:
    run(tmp_path, "inspect", BOB.id)
    assert asked == [ListVms(), ListVms(WEBMAIL.id), InspectVm(BOB.id)]


def test_who_has_read_enough_may_hang_up(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text('{"who": "user"}\n' * 20_000)
    code = "from atomd.atomctl import main; main()"
    command = [sys.executable, "-c", code, "audit", "-n", "20000", "--config", settings(tmp_path)]
    with subprocess.Popen(command, stdout=-1, stderr=-1) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


def test_the_newest_lines_of_the_audit_are_shown_without_atomd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"who": f"user {n}", "detail": "\x1b[2J"}) for n in range(5)]
    (tmp_path / "audit").write_text("".join(f"{line}\n" for line in lines))
    assert run(tmp_path, "audit", "-n", "2") == 0
    assert capsys.readouterr().out == "user 3  \ufffd[2J\nuser 4  \ufffd[2J\n"


def test_no_text_of_others_reaches_a_terminal_raw() -> None:
    assert as_table(("NAME",), [("\x1b[31m\u202ered",)]) == "NAME\n\ufffd[31m\ufffdred"
