"""The command itself, without any host: what it says, where, and with which exit code."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from matcher.cli.main import main; main()"]


def electros(*words: str, folder: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    homes = {f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE", "DATA")}
    return subprocess.run([*COMMAND, *words], env=os.environ | homes, input=stdin, capture_output=True, timeout=30)


def test_a_specfile_is_checked_without_any_host(tmp_path: Path) -> None:
    done = electros("spec", "validate", "-", "-o", "json", folder=tmp_path, stdin=b'{"slots": 2, "ramsize": 512}')
    assert (done.returncode, done.stderr) == (0, b"")
    document = json.loads(done.stdout)
    assert document["valid"] is True
    assert document["canonical"]["cpu"]["slots"] == 2


def test_all_mistakes_of_a_file_are_in_one_json_document_on_stderr(tmp_path: Path) -> None:
    done = electros("spec", "validate", "-", "-ojson", folder=tmp_path, stdin=b'{"slots": 0, "ramsise": 1}')
    assert (done.returncode, done.stdout) == (2, b"")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "malformed"
    assert len(error["problems"]) == 3
    assert all(set(problem) == {"path", "problem", "hint"} for problem in error["problems"])


def test_somebody_who_belongs_to_no_realm_is_told_how_to(tmp_path: Path) -> None:
    done = electros("hosts", folder=tmp_path)
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"electros login TOKEN" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("volume inspect", "volume inspect wants VOLUME"),
        ("volume attach web", "volume attach wants VOLUME"),
        ("volume import --name a", "volume import wants IMAGE"),
        ("volume create --name a", "volume create wants --size …"),
        ("volume create --size", "volume create wants --size …"),
        ("volume inspect a b", 'volume inspect has no use for "b"'),
        ("volume import x --name a --format folder", 'Invalid value "folder" for --format'),
        ("volume import x --name a --image-format folder", 'Invalid value "folder" for --image-format'),
        ("image add x --name a --format folder", 'Invalid value "folder" for --format'),
        ("volume convert a --format folder", 'Invalid value "folder" for --format'),
    ],
)
def test_what_a_command_wants_is_named_as_people_say_it(tmp_path: Path, words: str, said: str) -> None:
    done = electros(*words.split(), folder=tmp_path)
    assert done.returncode == 2
    first, second = done.stderr.decode().splitlines()
    assert first.startswith(f"electros: {said}")
    assert second == f"  electros {' '.join(words.split()[:2])} --help"


@pytest.mark.parametrize("form", ["-ojson", "-o=json", "--output=json"])
def test_an_error_is_json_where_json_was_asked_for_even_if_nothing_else_was_understood(
    tmp_path: Path, form: str
) -> None:
    done = electros("fly", form, folder=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stderr)["error"]["code"] == "usage"


def test_escapes_in_what_was_typed_do_not_reach_the_terminal(tmp_path: Path) -> None:
    for words in (("inspect", "\x1b[2J"), ("spec", "validate", "/no\x1b[2J"), ("\x1b[2J",)):
        done = electros(*words, folder=tmp_path)
        assert done.returncode in (2, 5)
        assert b"\x1b" not in done.stderr


def test_a_closed_output_is_no_traceback(tmp_path: Path) -> None:
    for closing in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        script = f'exec "$0" -c "from matcher.cli.main import main; main()" spec schema {closing}'
        done = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, timeout=30)
        assert b"Traceback" not in done.stderr, closing


def test_ctrl_c_while_it_reads_ends_it_with_130(tmp_path: Path) -> None:
    with subprocess.Popen([*COMMAND, "spec", "validate", "-"], stdin=-1, stdout=-1, stderr=-1) as running:
        assert running.stdin is not None
        wait_until_reading(running.pid)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=10)
    assert (running.returncode, out) == (130, b"")
    assert b"interrupted" in err
    assert b"Traceback" not in err


def wait_until_reading(pid: int) -> None:
    """The process sleeps in a read of its standard input."""
    for _ in range(1000):
        call = Path(f"/proc/{pid}/syscall").read_text().split()
        if call[:2] == ["0", "0x0"]:
            return
        signal.sigtimedwait([], 0.01)
    pytest.fail("it does not read")


@pytest.mark.parametrize(("words", "code"), [("Error:\\n  KeyboardInterrupt: ", 130), ("Error:\\n  of ours", 1)])
def test_ctrl_c_that_a_library_passes_on_in_words_ends_it_with_130_and_a_fault_is_none(words: str, code: int) -> None:
    """pydantic, where it comes while a validator is built."""
    planted = (
        "import matcher.cli.app as app; from pydantic_core import SchemaError\n"
        f"def fails(*_, **__): raise SchemaError('{words}')\n"
        "app.app = fails; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", planted], capture_output=True, timeout=30)
    assert done.returncode == code
    assert (b"Traceback" in done.stderr) == (code == 1)
