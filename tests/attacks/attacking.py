"""What the tests of attacks share: the attacker on the lab's client, and what must not have changed."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ATTACKER = str(ROOT / "tests" / "attacks" / "attacker.py")
WORDS = ("env", f"PYTHONPATH={ROOT}", "python3", ATTACKER)
DAEMONS = ("atomd", "storaged")


def attack(lab: Any, *, check: str = "", **wishes: Any) -> dict[str, Any]:
    """What came of it; `check`: what the confirm must have come to."""
    said: dict[str, Any] = json.loads(lab.exec("client", *WORDS, json.dumps(wishes), timeout_s=300).stdout)
    assert not check or said["answer"]["event"] == check, said
    return said


def attack_each(lab: Any, wishes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One by one."""
    said: list[dict[str, Any]] = json.loads(lab.exec("client", *WORDS, json.dumps(wishes), timeout_s=300).stdout)
    return said


def attackers(lab: Any, *each: dict[str, Any]) -> list[dict[str, Any]]:
    """All at the same moment."""
    running = [lab.popen("client", *WORDS, json.dumps(wishes)) for wishes in each]
    return [json.loads(one.communicate(timeout=120)[0]) for one in running]


def pids(lab: Any) -> dict[str, dict[str, int]]:
    """Of the daemons; one that fell has another."""
    return {
        host["name"]: {each["name"]: each["pid"] for each in host["daemons"] if each["name"] in DAEMONS}
        for host in lab.status()["hosts"]
    }


def audit(lab: Any, host: str) -> list[dict[str, str]]:
    """Each line by itself, of which each is printable ASCII and whole."""
    path = lab.folder(host) / "lib" / "audit.jsonl"
    raw = path.read_bytes() if path.exists() else b""  # it begins with the first change
    assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in raw)
    lines: list[dict[str, str]] = [json.loads(line) for line in raw.splitlines() if line]
    assert all({"at", "host", "who", "what", "outcome"} <= line.keys() for line in lines)
    return lines
