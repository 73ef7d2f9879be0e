"""`atomctl` finds the VM that is meant, says plainly what went wrong, and lets no other people's text out raw."""

import json
from pathlib import Path

import pytest

from atomd.atomctl import app
from atomd.sysadmin import as_table, matching
from matcher.wire.backdoor import VmRow

ANN = VmRow("a" * 32, 1, "web", "ann", "1" * 64, "running", "", 1, 64, 0)
BOB = VmRow("b" * 32, 1, "web", "bob", "2" * 64, "running", "", 1, 64, 0)
WEBMAIL = VmRow("ab" * 16, 1, "webmail", "bob", "2" * 64, "running", "", 1, 64, 0)
ALL = [ANN, BOB, WEBMAIL]


def run(tmp_path: Path, *words: str) -> int:
    settings = tmp_path / "atomd.toml"
    settings.write_text(f'atomctl_socket = "{tmp_path}/socket"\naudit = "{tmp_path}/audit"\n')
    with pytest.raises(SystemExit) as ended:
        app([*words, "--config", str(settings)])
    return int(ended.value.code or 0)


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
    assert capsys.readouterr().err.startswith("atomctl: atomd is not running")


def test_a_reason_too_long_to_be_told_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "evict", "web", "--why", "x" * 121) == 2
    assert "121" in capsys.readouterr().err


def test_the_newest_lines_of_the_audit_are_shown_without_atomd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"who": f"user {n}", "detail": "\x1b[2J"}) for n in range(5)]
    (tmp_path / "audit").write_text("".join(f"{line}\n" for line in lines))
    assert run(tmp_path, "audit", "-n", "2") == 0
    assert capsys.readouterr().out == "user 3  \ufffd[2J\nuser 4  \ufffd[2J\n"


def test_no_text_of_others_reaches_a_terminal_raw() -> None:
    assert as_table(("NAME",), [("\x1b[31m\u202ered",)]) == "NAME\n\ufffd[31m\ufffdred"
