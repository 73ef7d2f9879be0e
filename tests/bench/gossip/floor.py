"""The floor as a system: daemons that answer anything, signed or not (`floor_daemon`)."""

import socket
import sys
import time
from pathlib import Path
from subprocess import PIPE

from tests.bench.gossip.floor_daemon import GROUP, PORT, pack, unpack
from tests.bench.gossip.system import System
from tests.bench.gossip.way import Way

QUESTION_BYTES = 200
DATAGRAM_BYTES = 4096
RECEIVE_BUFFER_BYTES = 8 << 20
SO_RCVBUFFORCE = 33  # socket(7)


class Floor(System):
    name = "floor"

    def start(self, place: int) -> None:
        program = Path(__file__).with_name("floor_daemon.py")
        words = [sys.executable, str(program), "--name", f"n{place}", "--ip", self.lab.ip(place)]
        self.daemons[place] = self.lab.start(place, words, stdout=PIPE)

    def ready(self) -> None:
        for daemon in self.daemons.values():
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == b"up\n"

    def ways(self) -> list[Way]:
        return [self._way("floor", signed=False), self._way("signed floor", signed=True)]

    def _way(self, name: str, *, signed: bool) -> "FloorWay":
        with self.lab.inside(self.hosts):
            return FloorWay(name, self.hosts, self.lab.ip(self.hosts), signed=signed)


class FloorWay(Way):
    def __init__(self, name: str, hosts: int, ip: str, *, signed: bool) -> None:
        super().__init__(name, hosts)
        self._signed, self._number = signed, 0
        self._received: list[tuple[float, bytes]] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(ip))
        self._socket.bind((ip, 0))

    def send(self) -> str:
        self._number += 1
        question = {"id": self._number, "op": "query", "payload": b"x" * QUESTION_BYTES}
        self._socket.sendto(pack(question, signed=self._signed), (GROUP, PORT))
        return str(self._number)

    def receive(self, until_s: float) -> None:
        self._socket.settimeout(max(1e-4, until_s - time.monotonic()))
        try:
            while True:
                data = self._socket.recv(DATAGRAM_BYTES)
                self._received.append((time.monotonic(), data))
                self._socket.setblocking(False)
        except (TimeoutError, BlockingIOError):
            return

    @property
    def kept(self) -> int:
        return len(self._received)

    def understand(self) -> None:
        for at_s, data in self._received:
            answer, _ = unpack(data)
            self.answers[str(answer["id"])].setdefault(str(answer["from"]), at_s)
        self._received.clear()

    def close(self) -> None:
        self._socket.close()
