"""The inventory against recorded machines: judged by lscpu's tables, by hwloc on the same files, and by what was found
right before."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atomd.inventory.command import show
from tests.zoo.machines import OURS, REPOSITORY, SUITES


def test_every_machine_of_the_public_suites_is_read_as_its_judge_reads_it() -> None:
    if not (SUITES / "check.py").exists():
        pytest.skip(f"the recorded machines are not beside this repository ({SUITES} is missing)")
    if shutil.which("lstopo-no-graphics") is None:
        pytest.skip("the judge is missing: apt install hwloc-nox")
    inventory = [sys.executable, "-m", "atomd.inventory", "--root", "{root}", "-o", "json"]
    check = [sys.executable, "-W", "ignore", str(SUITES / "check.py"), "--", *inventory]
    done = subprocess.run(check, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("recording", sorted(OURS.glob("*.tar.gz")), ids=lambda path: path.name)
def test_every_machine_here_is_read_as_it_was_found_right(recording: Path) -> None:
    right = recording.with_name(recording.name.removesuffix(".tar.gz") + ".json")
    assert json.loads(show(recording, "json")) == json.loads(right.read_text())
