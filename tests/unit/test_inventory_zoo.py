"""The inventory against recorded machines, judged by lscpu's tables and by hwloc on the same files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ZOO = REPOSITORY.parent / "shared/zoo"


def test_every_recorded_machine_is_read_as_its_judge_reads_it() -> None:
    if not (ZOO / "check.py").exists():
        pytest.skip(f"the recorded machines are not beside this repository ({ZOO.name} is missing)")
    if shutil.which("lstopo-no-graphics") is None:
        pytest.skip("the judge is missing: apt install hwloc-nox")
    inventory = [sys.executable, "-m", "atomd.inventory", "--root", "{root}", "-o", "json"]
    check = [sys.executable, "-W", "ignore", str(ZOO / "check.py"), "--", *inventory]
    done = subprocess.run(check, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
