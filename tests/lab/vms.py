"""What the lab's tests of VMs share: `electros` as a script would use it, guests that have booted, and tidying up."""

import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "packaging" / "examples"
HELIUM = str(EXAMPLES / "helium.json")
TINY = {"slots": 1, "ramsize": 64}  # a whole core of its own, and no disk: up at once, and nothing boots
BOOT_S = 120.0  # an emulated guest on a busy machine


@dataclass(frozen=True)
class Ended:
    """How one command ended, as a script sees it."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error as `-o json` writes it: alone on stderr, with nothing on stdout."""
        assert self.out == "", f"data beside an error: {self.out}"
        return json.loads(self.err)["error"]


def electros(lab: Any, *arguments: str, code: int | None = 0) -> Ended:
    """`electros ... -o json` on the client; fails the test where the exit code is not `code` (`None`: any)."""
    return plainly(lab, *arguments, "-o", "json", code=code)


def plainly(lab: Any, *arguments: str, code: int | None = 0) -> Ended:
    done = lab.exec("client", "electros", *arguments, check=False)
    ended = Ended(done.returncode, done.stdout, done.stderr)
    if code is not None and ended.code != code:
        pytest.fail(f"electros {' '.join(arguments)}: exit {ended.code}, not {code}\n{ended.out}{ended.err}")
    return ended


def login_as(lab: Any, name: str, folder: Path, *grant: str) -> list[str]:
    """A new user of the realm, with these options of `user add`; what makes a command of the client theirs."""
    token = plainly(lab, "user", "add", name, *grant, "-o", "name").out.strip()
    kinds = ("CONFIG", "STATE", "CACHE", "DATA")
    own = ["env", *(f"XDG_{kind}_HOME={folder}/{name}/{kind.lower()}" for kind in kinds), "electros"]
    lab.exec("client", *own, "login", token)
    return own


class Vms:
    """VMs of one test or module: what is run here is removed at the end."""

    def __init__(self, lab: Any, folder: Path) -> None:
        self.lab, self._folder = lab, folder
        self._names: set[str] = set()

    def specfile(self, spec: object = None, name: str = "spec") -> str:
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(TINY if spec is None else spec))
        return str(path)

    def volumespec(self, *vids: str, name: str = "volumes") -> str:
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps([{"vid": vid} for vid in vids]))
        return str(path)

    def arguments(self, name: str, spec: object = None, *, volumes: Sequence[str] = (), host: str = "") -> list[str]:
        """Of `electros`, to run a VM; `host`: where it should be, if it can."""
        self._names.add(name)
        what = spec if isinstance(spec, str) else self.specfile(spec, f"{name}-spec")
        words = ["run", what, "--name", name]
        words += ["--volumes", self.volumespec(*volumes, name=f"{name}-volumes")] if volumes else []
        return [*words, "--rank", f'host == "{host}"'] if host else words

    def run(
        self, name: str, spec: object = None, *more: str, volumes: Sequence[str] = (), host: str = ""
    ) -> dict[str, Any]:
        """Once more where `host` was passed over, as one that answers late on a busy machine is."""
        words = [*self.arguments(name, spec, volumes=volumes, host=host), *more]
        vm = dict(electros(self.lab, *words).document["vm"])
        if host and vm["host"] != host:
            electros(self.lab, "rm", "--force", vm["id"])
            vm = dict(electros(self.lab, *words).document["vm"])
        return vm

    def ps(self) -> dict[str, dict[str, Any]]:
        return {vm["name"]: vm for vm in electros(self.lab, "ps").document["vms"]}

    def remove_all(self) -> None:
        """Also what is on its way: a promised VM may be busy for a moment."""
        deadline_s = time.monotonic() + 30
        while left := [vm["id"] for name, vm in self.ps().items() if name in self._names]:
            gone = electros(self.lab, "rm", "--force", *left, code=None)
            if gone.code and time.monotonic() > deadline_s:
                pytest.fail(f"not removed: {gone.err}")


def serial_of(lab: Any, vm: dict[str, Any]) -> str:
    """What the guest wrote to its serial port, from the host's own file."""
    path = lab.folder(vm["host"]) / "lib" / "console" / f"{vm['id']}.log"
    return path.read_text(errors="replace") if path.exists() else ""


def boots(lab: Any, vm: dict[str, Any]) -> list[int]:
    """The numbers of the boots that this VM's guest has announced; the volume itself counts them."""
    return [int(number) for number in re.findall(r"ATOMOS-GUEST-UP boots=(\d+) ", serial_of(lab, vm))]


def booted(lab: Any, until: Any, vm: dict[str, Any], *, since: int = 0, within_s: float = BOOT_S) -> dict[str, Any]:
    """Wait until the guest has announced its page, past `since` characters of its output; the VM as it stands then."""

    def is_up() -> bool:
        said = serial_of(lab, vm)[since:]
        return -1 < said.rfind("ATOMOS-GUEST-UP ") < said.rfind("ATOMOS-HTTP ")

    until(is_up, within_s=within_s)
    return dict(electros(lab, "inspect", vm["id"]).document["vm"])


def free_threads(lab: Any) -> dict[str, int]:
    """By each host's own word."""
    return {host["name"]: _own_slots(lab, host["name"]) for host in electros(lab, "hosts").document["hosts"]}


def _own_slots(lab: Any, name: str) -> int:
    """Of a host that has just started, once it speaks."""
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        told = electros(lab, "hosts", name, "--as-seen-by", name, code=None)
        if told.code == 0 and (slots := told.document["hosts"][0]["slots"]) is not None:
            return int(slots["free"])
    pytest.fail(f"{name} does not tell what it has: {told.err}")


def domains(lab: Any, host: str) -> list[str]:
    return list(lab.virsh(host, "list", "--all", "--name").split())


def places_with(secret: str, lab: Any, *more: Path) -> set[str]:
    """Files of all hosts (journals, ledgers, logs, console logs, volumes) and of the lab itself that hold it."""
    folders = [str(lab.folder("h1").parents[1]), f"/run/atomos-lab/{lab.name}", *map(str, more)]
    found = subprocess.run(["grep", "-rlaF", "-D", "skip", "--", secret, *folders], capture_output=True, text=True)
    assert found.returncode in (0, 1, 2), found.stderr
    return set(found.stdout.split("\n")) - {""}


def commands_with(secret: str) -> list[str]:
    """Processes of all hosts, as this machine sees them, whose command or environment holds it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # it has ended
        if secret.encode() in said:
            found.append(said.decode(errors="replace"))
    return found
