"""Our hosts as members: what each of them holds the others for, as it tells it itself (`watched`).

Time is taken when this process reads it, as it is of Serf's logs.
"""

import os
import signal
import socket
import time
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO

from matcher.gossip.roster import STATES, short_of
from matcher.wire.gossip import HostState
from specs.ids import HostId
from tests.bench.gossip.netlab import NetLab
from tests.bench.gossip.ours import Ours
from tests.bench.gossip.system import Hub
from tests.bench.gossip.watched import SEEN, SPOKE

READ_BYTES = SEEN.size * 1024


class Members(Ours):
    """`spares` more can be started, in the places after the first `hosts`."""

    module = "tests.bench.gossip.watched"
    stdout = PIPE

    def __init__(self, lab: NetLab, hub: Hub, hosts: int, folder: Path, *, spares: int = 0) -> None:
        super().__init__(lab, hub, hosts + spares, folder)
        self.hosts = hosts
        self.spoke: dict[int, float] = {}  # when a host's first datagram went out
        self.suspected: dict[tuple[int, int], float] = {}
        self._places = {short_of(HostId(self.realm[f"h{n}"].principal.id)): n for n in range(hosts + spares)}
        self._free_gb = 0
        self._held = {
            HostState.ALIVE: self.up,
            HostState.SUSPECT: self.suspected,
            HostState.DOWN: self.failed,
            HostState.GONE: self.gone,
            HostState.LEFT: self.left,
        }
        self._tells = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def start(self, place: int) -> None:
        self.spoke.pop(place, None)
        super().start(place)
        told = self.daemons[place].stdout
        assert told is not None
        self.hub.add(told, _Told(self, place, told).read)

    def raise_all(self) -> None:
        """All see all."""
        super().raise_all()
        everybody = self.hosts * (self.hosts - 1)
        assert self.hub.run(lambda: len(self.up) >= everybody, 60.0), f"{len(self.up)} of {everybody} see each other"

    def short(self, place: int) -> bytes:
        return next(short for short, each in self._places.items() if each == place)

    def forget(self) -> None:
        for seen in self._held.values():
            seen.clear()

    def change(self, place: int) -> bytes:
        """Of what is free there; what it is called in `events`."""
        self._free_gb += 1
        said = self._free_gb.to_bytes(8, "big")
        self._tells.sendto(said, str(self._folder / f"h{place}/control"))
        return said

    def leave(self, place: int) -> float:
        """As `systemctl stop` does; when."""
        daemon, at_s = self.daemons.pop(place), time.monotonic()
        daemon.terminate()
        self.await_end(daemon)
        return at_s

    def close(self) -> None:
        self._tells.close()
        self._ready.close()

    def heard(self, observer: int, seen: tuple[bytes, int, int, float], at_s: float) -> None:
        short, rank, free_gb, said_s = seen
        if rank == SPOKE:
            self.spoke[observer] = said_s
            return
        subject = self._places[short]
        self._held[STATES[rank]].setdefault((observer, subject), at_s)
        if STATES[rank] is HostState.GONE:
            self.failed.setdefault((observer, subject), at_s)
        if free_gb:
            self.events[free_gb.to_bytes(8, "big")].setdefault(observer, at_s)


class _Told:
    """One host's standard output."""

    def __init__(self, members: Members, place: int, file: IO[bytes]) -> None:
        self._members, self._place, self._file, self._tail = members, place, file, b""

    def read(self, at_s: float) -> None:
        data = os.read(self._file.fileno(), READ_BYTES)
        if not data:
            self._members.hub.drop(self._file)
            return
        self._tail += data
        whole = len(self._tail) // SEEN.size * SEEN.size
        whole_part, self._tail = self._tail[:whole], self._tail[whole:]
        for seen in SEEN.iter_unpack(whole_part):
            self._members.heard(self._place, seen, at_s)


def stop(daemon: "Popen[bytes]") -> None:
    daemon.send_signal(signal.SIGSTOP)


def go_on(daemon: "Popen[bytes]") -> None:
    daemon.send_signal(signal.SIGCONT)
