"""A lab for the benchmarks: raised unless it is up already, ended again if we raised it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "packaging/lab"
EXAMPLES = ROOT / "packaging/examples"

os.environ.setdefault("ATOMOS_LAB", "bench")


@contextmanager
def raised(hosts: int) -> Iterator[None]:
    """At least `hosts` hosts, with code that is compiled: nobody's start is to pay for a compiler."""
    subprocess.run([ROOT / "packaging/setup"], check=True)
    there = json.loads(lab("status", "--json", check=False).stdout or b"{}")
    names = [host["name"] for host in there.get("hosts", []) if host["name"] != "client"]
    if there.get("up"):
        assert len(names) >= hosts, f"the lab that is up has {len(names)} hosts, {hosts} are wanted: end it first"
        yield
        return
    lab("up", "-n", str(hosts), show=True)
    try:
        yield
    finally:
        lab("down", show=True)


def lab(*words: str, check: bool = True, show: bool = False) -> "subprocess.CompletedProcess[bytes]":
    """`packaging/lab WORDS`. Where it fails and must not, its own words are shown and the benchmark ends."""
    done = subprocess.run([LAB, *words], stdout=subprocess.PIPE, stderr=None if show else subprocess.PIPE)
    if check and done.returncode:
        sys.stderr.buffer.write(done.stderr or b"")
        sys.exit(f"bench: lab {' '.join(words)} ended with {done.returncode}")
    return done


def machine() -> str:
    """What else the machine is doing, so that a figure can be believed or not."""
    return f"{os.cpu_count()} cores, load {' '.join(f'{load:.1f}' for load in os.getloadavg())}"
