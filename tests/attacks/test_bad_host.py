"""A member host that turned bad answers with what terminals obey: none of it reaches one, in whatever form."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.attacks.attacking import ROOT
from tests.attacks.bad_host import RAW, UNWANTED
from tests.lab.conftest import Lab, until
from tests.lab.vms import TINY, electros, plainly

pytestmark = pytest.mark.lab

PYTHON = str(ROOT / ".venv/bin/python")
VM_ID = "a" * 32
AT_A_TERMINAL = (["ps"], ["stop", VM_ID])
WORST = ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\x90", "\u202e", "\u2028")  # electros has bold letters of its own
LONG = 2000  # characters


@contextmanager
def turned_bad(lab: Lab, way: str) -> Iterator[None]:
    """h2 has the enemy's program in place of its atomd."""
    lab.stop("h2", "atomd")
    bad = lab.popen("h2", "env", f"PYTHONPATH={ROOT}", PYTHON, "-m", "tests.attacks.bad_host", way)
    try:
        assert bad.stdout is not None
        assert bad.stdout.readline() == "ready\n", bad.communicate()[1]
        yield
    finally:
        bad.terminate()
        bad.communicate()
        lab.start("h2", "atomd")
        until(lambda: lab.daemon("h2", "atomd")["state"] == "up")


@pytest.fixture
def specfile(tmp_path: Path) -> str:
    """For which there is no room on any honest host."""
    path = tmp_path / "huge.json"
    path.write_text(json.dumps(TINY | {"slots": 1000}))
    return str(path)


def assert_clean(text: str) -> None:
    """Nothing that a terminal obeys, and no line that the host has begun."""
    assert not UNWANTED & {*text}, text
    assert not any(line.lstrip().startswith("forged") for line in text.splitlines()), text


def shown(lab: Lab, *words: str) -> str:
    """As a person has it; and as a program has it: JSON that is whole, on stdout, or on stderr after notes."""
    plain = plainly(lab, *words, code=None)
    assert_clean(plain.out + plain.err)
    json_ = plainly(lab, *words, "-o", "json", code=None)
    assert_clean(json_.out + json_.err)
    document = json_.out or "".join(re.split(r"^(?=\{)", json_.err, maxsplit=1, flags=re.MULTILINE)[1:])
    assert isinstance(json.loads(document), dict), json_
    return plain.out + plain.err


def at_a_terminal(lab: Lab, *words: str) -> str:
    """What `electros` writes where it believes that a person sits: colours of its own, and that is all."""
    line = shlex.join(["electros", *words])
    return lab.exec("client", "script", "-qec", line, "/dev/null", check=False).stdout


def test_what_terminals_obey_is_shown_as_text(target: Lab, specfile: str) -> None:
    seen_by_h2 = ["--as-seen-by", electros(target, "hosts", "h2").document["hosts"][0]["id"]]
    asking = [["hosts", *seen_by_h2], ["pledge", specfile], ["run", specfile], ["inspect", VM_ID], ["realm", "status"]]
    with turned_bad(target, "words"):
        for words in (*asking, *AT_A_TERMINAL):
            assert "owned" in shown(target, *words), words
        assert "owned" in at_a_terminal(target, "top", "--once", *seen_by_h2)
        for words in (["hosts", *seen_by_h2], ["top", "--once", *seen_by_h2], *AT_A_TERMINAL):
            said = at_a_terminal(target, *words)
            assert "\ufffd" in said, "it was heard"
            assert not any(bad in said for bad in WORST), said
    assert electros(target, "ps").document["vms"] == []


def test_what_is_hardly_http_is_told_and_not_shown(target: Lab) -> None:
    """Heads with escapes, bodies that are no JSON or much too long, one after the other."""
    h2 = electros(target, "hosts", "h2").document["hosts"][0]["id"]
    with turned_bad(target, "raw"):
        for words in (["inspect", VM_ID], ["hosts", "--as-seen-by", h2]):
            for _ in range(RAW):
                said = shown(target, *words)
                assert len(said) < LONG, "a person can read it"
