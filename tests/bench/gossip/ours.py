"""Our own hosts as a system: real daemons of one realm (`host`), asked by users with real certificates."""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from selectors import EVENT_READ, DefaultSelector
from subprocess import DEVNULL

import trio

from atomd.accelerator import REMEMBERED, detect
from matcher.net.client import Client
from matcher.scheduler.pledging import Errand, make_pledge, vm_ask
from matcher.wire.messages import DATAGRAM_MAX_BYTES, VmAsk, VmOffer
from specs.ids import VmId, new_id
from specs.specfile import parse_specfile
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.system import READY_S, Hub, System
from tests.bench.gossip.way import Way
from tests.fakes.realms import Realm, make_realm

ROOT = Path(__file__).resolve().parents[3]
USERS = 24  # a host answers ten pledges a second of one user, and a hundred datagrams of one machine
CLIENT_PLACES = 4
# Small enough that hundreds of them are on one host, for as long as a run takes.
SPECFILE = b'{"slots": 1, "allowSMT": true, "overprovision": 64, "ramsize": 64}'


def small_ask() -> VmAsk:
    return vm_ask(parse_specfile(SPECFILE), allow_emulation=True)


class Ours(System):
    """Everything that it writes is in `folder`, which must be on a disk: what a host commits is synced to it."""

    name = "ours"
    module = "tests.bench.gossip.host"
    stdout = DEVNULL

    def __init__(self, lab: NetLab, hub: Hub, hosts: int, folder: Path) -> None:
        super().__init__(lab, hub, hosts)
        self._folder = folder
        self.realm: Realm = make_realm(folder / "realm", *(f"h{n}" for n in range(1, hosts)), *map(user, range(USERS)))
        self._remembered = _found_out(folder)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(folder / "ready"))
        self._ready.settimeout(READY_S)
        self._awaited = 0

    def start(self, place: int) -> None:
        self._awaited += 1
        state = self._folder / f"h{place}"
        state.mkdir(exist_ok=True)
        shutil.copy(self._remembered, state)
        settings = {
            "identity": str(self.realm.folder / f"h{place}"),
            "issuer": str(self.realm.folder / ("issuer" if place == 0 else "none")),
            "state": str(state),
            "audit": str(state / "audit.jsonl"),
            "storaged_socket": str(state / "storaged.sock"),
            "atomctl_socket": str(state / "atomctl.sock"),
            "shares": str(state / "shares"),
            "share_cores_between_users": True,
        }
        path = state / "atomd.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        env = {**os.environ, "NOTIFY_SOCKET": str(self._folder / "ready"), "PYTHONPATH": str(ROOT)}
        with open(state / "log", "wb") as log:
            words = [sys.executable, "-m", self.module, str(path)]
            self.daemons[place] = self.lab.start(place, words, env=env, stdout=self.stdout, stderr=log)

    def ready(self) -> None:
        """As many have said so as were started since."""
        for _ in range(self._awaited):
            try:
                self._ready.recv(64)
            except TimeoutError:
                self._tell_who_failed()
                raise
        self._awaited = 0

    def ways(self) -> list[Way]:
        clients = []
        for number in range(USERS):
            with self.lab.inside(self.hosts + number % CLIENT_PLACES):
                clients.append(_Listening(self.realm[user(number)]))
        return [OursWay("ours", self.hosts, clients)]

    def _tell_who_failed(self) -> None:
        for place, daemon in self.daemons.items():
            if daemon.poll() is not None:
                print((self._folder / f"h{place}/log").read_text(), file=sys.stderr)


def user(number: int) -> str:
    return f"u{number}"


def _found_out(folder: Path) -> Path:
    """What this machine's QEMU can do, found out once and not by every host again."""
    trio.run(lambda: detect("auto", state_dir=folder))
    return folder / REMEMBERED


class _Listening(Client):
    """A client whose answers are kept as they come, and understood later."""

    @property
    def sockets(self) -> Sequence[socket.socket]:
        return self._sockets

    def understand(self, data: bytes) -> VmOffer | None:
        said = self._said(data, "", DATAGRAM_MAX_BYTES)
        return said[0].message if said and isinstance(said[0].message, VmOffer) else None

    def close(self) -> None:
        self._selector.close()
        for asking in self._sockets:
            asking.close()


class OursWay(Way):
    """Dry pledges, of many users in turns: one user alone, or one machine, is kept to its share by every host."""

    def __init__(self, name: str, hosts: int, clients: Sequence[_Listening]) -> None:
        super().__init__(name, hosts)
        self._clients, self._sent = clients, 0
        self._random, self._vm = SystemRandom(), small_ask()
        self._received: list[tuple[float, _Listening, bytes]] = []
        self._selector = DefaultSelector()
        for client in clients:
            for asking in client.sockets:
                self._selector.register(asking, EVENT_READ, client)

    def send(self) -> str:
        client = self._clients[self._sent % len(self._clients)]
        self._sent += 1
        errand = Errand(VmId(new_id(self._random)), 1, self._vm)
        pledge, _ = make_pledge(errand, random=self._random, wall_ms=time.time_ns() // 1_000_000, dry=True)
        client.ask(pledge)
        return pledge.pledge_id

    def receive(self, until_s: float) -> None:
        for key, _ in self._selector.select(max(0.0, until_s - time.monotonic())):
            asking = key.fileobj
            assert isinstance(asking, socket.socket)
            with suppress(BlockingIOError):
                while True:
                    data = asking.recv(DATAGRAM_MAX_BYTES + 1)
                    self._received.append((time.monotonic(), key.data, data))

    @property
    def kept(self) -> int:
        return len(self._received)

    def understand(self) -> None:
        for at_s, client, data in self._received:
            offer = client.understand(data)
            if offer is not None:
                self.answers[offer.pledge_id].setdefault(offer.host, at_s)
        self._received.clear()

    def close(self) -> None:
        self._selector.close()
        for client in self._clients:
            client.close()
