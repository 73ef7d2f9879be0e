"""What a lab is made of, on disk before any of it is made: so that `down` can end what a killed `up` began.

/run/atomos-lab/NAME/          plan.json, and for each host HOST.pid and HOST.sock   gone after `down`
/var/lib/atomos-lab/NAME/      realm, and for each host its folders                  gone after `down`
network namespaces             atomos-NAME-HOST, atomos-NAME-switch                  gone after `down`
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Set
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

RUN = Path("/run/atomos-lab")
DATA = Path("/var/lib/atomos-lab")
ROOT = Path(__file__).resolve().parent.parent.parent  # the repository

HOSTS_MAX = 200
CLIENT = "client"
CLIENT_ADDRESS = "10.98.0.250"
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
LAB_ID = uuid.UUID("a70305a7-0000-5000-8000-6c6162000000")  # what host ids and volume ids are derived from


class LabError(Exception):
    """A sentence for the person who ran the command."""


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    inventory_root: str | None = None
    is_unclaimed: bool = False  # it belongs to no realm yet

    @property
    def is_client(self) -> bool:
        return self.name == CLIENT

    @property
    def uuid(self) -> uuid.UUID:
        return uuid.uuid5(LAB_ID, self.name)


@dataclass(frozen=True)
class Plan:
    name: str
    hosts: tuple[Host, ...]  # the client is the last
    with_daemons: bool
    boot_id: str
    is_up: bool = False
    home: str = field(default=str(ROOT))

    @property
    def run(self) -> Path:
        return RUN / self.name

    @property
    def data(self) -> Path:
        return DATA / self.name

    @property
    def realm(self) -> Path:
        return self.data / "realm"

    def folder(self, host: Host) -> Path:
        return self.data / "hosts" / host.name

    def namespace(self, name: str) -> str:
        return f"atomos-{self.name}-{name}"

    @property
    def switch(self) -> str:
        return self.namespace("switch")

    def pid_file(self, host: Host) -> Path:
        return self.run / f"{host.name}.pid"

    def socket(self, host: Host) -> Path:
        return self.run / f"{host.name}.sock"

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f'no host "{name}" in lab "{self.name}"; there are {" ".join(h.name for h in self.hosts)}')

    def workers(self) -> Iterator[Host]:
        return (host for host in self.hosts if not host.is_client)

    def save(self) -> None:
        """Whole or not at all, and on disk when this returns."""
        fresh = self.run / "plan.json.new"
        with fresh.open("w") as out:
            json.dump(asdict(self), out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        fresh.rename(self.run / "plan.json")

    def risen(self) -> Plan:
        return replace(self, is_up=True)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def name_from_environment() -> str:
    name = os.environ.get("ATOMOS_LAB", "lab")
    if not NAME.fullmatch(name):
        raise LabError(f'ATOMOS_LAB="{name}" is no name for a lab: small letters, digits and dashes, a letter first')
    return name


def make_plan(
    name: str, count: int, pretended: dict[str, str], unclaimed: Set[str] = frozenset(), *, with_daemons: bool
) -> Plan:
    """Where h1 is unclaimed there is no realm, and so everybody is."""
    if not 1 <= count <= HOSTS_MAX:
        raise LabError(f"-n {count}: a lab has 1 to {HOSTS_MAX} hosts")
    names = [f"h{i}" for i in range(1, count + 1)]
    for option, given in (("--pretend", set(pretended)), ("--unclaimed", unclaimed)):
        if strangers := given - set(names):
            raise LabError(f"{option} {min(strangers)}: the hosts are h1 to h{count}")
    alone = {*names, CLIENT} if "h1" in unclaimed else unclaimed
    workers = [Host(each, f"10.98.0.{i}", pretended.get(each), each in alone) for i, each in enumerate(names, start=1)]
    client = Host(CLIENT, CLIENT_ADDRESS, is_unclaimed=CLIENT in alone)
    return Plan(name, (*workers, client), with_daemons, boot_id())


def load_plan(name: str) -> Plan | None:
    try:
        fields = json.loads((RUN / name / "plan.json").read_text())
    except FileNotFoundError:
        return None
    except PermissionError:
        raise LabError("needs root (try: sudo packaging/lab ...)") from None
    hosts = tuple(Host(**host) for host in fields.pop("hosts"))
    return Plan(hosts=hosts, **fields)
