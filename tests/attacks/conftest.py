"""A lab to be attacked: raised once, under a name of its own, and held to be as it was after each attack."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab.conftest import ROOT, Lab, raised, until
from tests.lab.vms import electros

HOSTS = ("h1", "h2")
DAEMONS = ("atomd", "storaged")
GROWTH_MAX_KB = 1024


@pytest.fixture(scope="session")
def target() -> Iterator[Lab]:
    with raised("attacked", "-n", "2") as lab:
        electros(lab, "hosts")
        yield lab


@pytest.fixture(scope="session")
def lab(target: Lab) -> Lab:
    """The same, for users who attack it with a certificate of their own."""
    return target


@pytest.fixture(name="until", scope="session")
def until_fixture() -> Callable[..., Any]:
    return until


class Enemy:
    """Whoever sits on the same link: runs `tests.attacks.enemy` in the client's namespaces."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def does(self, **job: Any) -> Any:
        """The job's own answer."""
        python = str(ROOT / ".venv/bin/python")
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.attacks.enemy import main; main()"
        done = self.lab.exec("client", python, "-c", code, json.dumps(job), timeout_s=120)
        return json.loads(done.stdout)

    def popen(self, **job: Any) -> "subprocess.Popen[str]":
        python = str(ROOT / ".venv/bin/python")
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.attacks.enemy import main; main()"
        return self.lab.popen("client", python, "-c", code, json.dumps(job))


@pytest.fixture
def enemy(target: Lab) -> Enemy:
    return Enemy(target)


def standing(lab: Lab) -> dict[str, Any]:
    """What no attack may change: processes, VMs, domains, and what was audited as done."""
    pids = {f"{host} {daemon}": lab.daemon(host, daemon)["pid"] for host in HOSTS for daemon in DAEMONS}
    done = []
    for host in HOSTS:
        audit = lab.folder(host) / "lib" / "audit.jsonl"
        lines = audit.read_text().splitlines() if audit.exists() else []
        done += [line for line in lines if line and json.loads(line)["outcome"] == "ok"]
    domains = {host: lab.virsh(host, "list", "--all", "--name") for host in HOSTS}
    return {"pids": pids, "done": done, "domains": domains, "vms": electros(lab, "ps").document["vms"]}


@contextmanager
def nothing_changes(lab: Lab) -> Iterator[None]:
    before = standing(lab)
    yield
    assert standing(lab) == before
    assert {host["name"] for host in electros(lab, "hosts").document["hosts"]} == set(HOSTS)
    assert "silent" not in electros(lab, "ps").err


@contextmanager
def memory_stays(lab: Lab) -> Iterator[None]:
    """The most that atomd has from here on is less than a MiB beyond what it has now."""
    pid = lab.daemon("h1", "atomd")["pid"]

    def memory_kb(line: str) -> int:
        status = lab.exec("h1", "cat", f"/proc/{pid}/status").stdout
        return int(next(each.split()[1] for each in status.splitlines() if each.startswith(line)))

    lab.exec("h1", "sh", "-c", f"echo 5 > /proc/{pid}/clear_refs")
    before_kb = memory_kb("VmRSS")
    yield
    assert memory_kb("VmHWM") - before_kb < GROWTH_MAX_KB
