"""Real hosts for tests: a lab raised once for the session, under a name of its own, and ended whatever happens.

A test asks for `lab` (three hosts with all daemons) or `bare_lab` (libvirt alone). Where there is no root, or the
machine allows no namespaces, such tests are skipped and say why.
"""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.sanlock_world import SanlockWorld

ROOT = Path(__file__).resolve().parents[2]
COMMAND = str(ROOT / "packaging" / "lab")
RUN = Path("/run/atomos-lab")
PREFIX = "pytest-"


@dataclass(frozen=True)
class Lab:
    """A running lab. Every call is one `packaging/lab` command, as a person would type it."""

    name: str

    def command(self, *words: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"ATOMOS_LAB": self.name}
        done = subprocess.run([COMMAND, *words], env=environment, capture_output=True, text=True, timeout=timeout_s)
        if check and done.returncode:
            pytest.fail(f"lab {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
        return done

    def exec(
        self, host: str, *command: str, check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return self.command("exec", host, "--", *command, check=check, timeout_s=timeout_s)

    def popen(self, host: str, *command: str) -> "subprocess.Popen[str]":
        """A command that goes on while the test does; signals sent to it reach it. `communicate()` at the end."""
        environment = os.environ | {"ATOMOS_LAB": self.name}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([COMMAND, "exec", host, "--", *command], env=environment, text=True, **pipes)

    def electros(self, *arguments: str, check: bool = True, timeout_s: float = 120) -> Any:
        """What `electros ... -o json` prints on the client, parsed; None if it prints nothing."""
        done = self.exec("client", "electros", *arguments, "-o", "json", check=check, timeout_s=timeout_s)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def virsh(self, host: str, *arguments: str, check: bool = True) -> str:
        return self.exec(host, "virsh", "-q", *arguments, check=check).stdout

    def restart(self, host: str, daemon: str) -> None:
        self.command("restart", host, daemon)

    def stop(self, host: str, daemon: str) -> None:
        self.command("stop", host, daemon)

    def start(self, host: str, daemon: str) -> None:
        self.command("start", host, daemon)

    def kill(self, host: str, daemon: str, signal: str = "KILL") -> None:
        """As by accident: the daemon comes back by itself, as under a service manager."""
        self.command("kill", host, daemon, "--signal", signal)

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.command("status", "--json", check=False).stdout))

    def daemon(self, host: str, name: str) -> dict[str, Any]:
        """State, pid (as the host sees it) and number of restarts."""
        hosts = {each["name"]: each for each in self.status()["hosts"]}
        return next(daemon for daemon in hosts[host]["daemons"] if daemon["name"] == name)

    def logs(self, host: str, *daemon: str) -> str:
        return self.command("logs", host, *daemon).stdout

    def volumes(self, host: str) -> dict[str, str]:
        """Volume id by name (`h1-boot`, `h1-data`, ...), of those on one host."""
        listed = json.loads(self.command("volumes", "--json").stdout)["volumes"]
        return {volume["name"]: volume["vid"] for volume in listed if volume["host"] == host}

    def folder(self, host: str) -> Path:
        """Seen from outside: `etc` is the host's /etc/atomos, `lib` its /var/lib/atomos, `srv` its /srv/atomos."""
        return Path("/var/lib/atomos-lab", self.name, "hosts", host)


def until(what: Callable[[], Any], within_s: float = 30.0, every_s: float = 0.05) -> Any:
    """The first true value of `what`; fails the test if there is none in time."""
    deadline_s = time.monotonic() + within_s
    while not (value := what()):
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {within_s:g} s")
        time.sleep(every_s)
    return value


@pytest.fixture(name="until", scope="session")
def until_fixture() -> Callable[..., Any]:
    return until


def why_not() -> str | None:
    if os.geteuid() != 0:
        return "lab tests need root"
    spaces = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"]
    if subprocess.run(spaces, capture_output=True).returncode:
        return "lab tests need network namespaces, and this machine allows none"
    return None


def sweep() -> None:
    """End the labs of test runs that were killed."""
    for folder in RUN.glob(f"{PREFIX}*/"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            Lab(folder.name).command("down", check=False)


@contextlib.contextmanager
def raised(kind: str, *options: str) -> Iterator[Lab]:
    if reason := why_not():
        pytest.skip(reason)
    sweep()
    lab = Lab(f"{PREFIX}{os.getpid()}-{kind}")
    try:
        lab.command("up", *options, timeout_s=300)
        yield lab
    finally:
        lab.command("down", check=False)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """h1, h2, h3 and the client, with atomd and storaged. Leave no VM behind: the next test meets the same lab."""
    with raised("full", "-n", "3") as lab:
        yield lab


@pytest.fixture(scope="session")
def bare_lab() -> Iterator[Lab]:
    """h1, h2 and the client, with libvirt alone."""
    with raised("bare", "-n", "2", "--no-daemons") as lab:
        yield lab


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """For tests that break a lab: `make_lab("-n", "2")` raises one that is the test's alone."""
    with contextlib.ExitStack() as stack:

        def make(*options: str) -> Lab:
            return stack.enter_context(raised("own", *options))

        yield make


@pytest.fixture(scope="session")
def servers() -> Iterator[SanlockWorld]:
    """Two that see one pool. Joining takes 20 s, so that all tests share them."""
    yield from _raised()


@pytest.fixture
def fresh_servers() -> Iterator[SanlockWorld]:
    """For what takes one of them from the pool."""
    yield from _raised()


def _raised() -> Iterator[SanlockWorld]:
    with tempfile.TemporaryDirectory(prefix="atomos-", dir="/var/tmp") as folder:  # a tmpfs may know no O_DIRECT
        world = SanlockWorld(Path(folder))
        try:
            world.begin()
            yield world
        finally:
            world.end()
