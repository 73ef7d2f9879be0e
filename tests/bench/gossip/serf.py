"""HashiCorp's Serf, as Debian has it and with its own defaults for a LAN, driven by its RPC.

    request:  {Command, Seq} {body}      answer:  {Seq, Error} {body, if the command has one}

A query asks for an answer of 200 bytes from every agent; who answers for them is the bench, by RPC as well. That
traffic stays on the loopback of each place. Joins and failures are taken from the logs, since their stream of events is
held back for a second or more to be told together.
"""

import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from subprocess import PIPE, STDOUT
from typing import IO, Any

import msgpack  # type: ignore[import-untyped]

from tests.bench.gossip.system import READY_S, System
from tests.bench.gossip.way import ANSWERS_S, Way

PORT, RPC_PORT = 7946, 7373
PAYLOAD = b"x" * 200
EVENT_BYTES = 100
RETRY_S = 0.05
READ_BYTES = 65_536
JOINS, JOIN_S = 6, 20.0


def install() -> None:
    """From Debian, where it is missing; its service is not started."""
    if shutil.which("serf") is None:
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
        install = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends", "serf"]
        subprocess.run(["apt-get", "-q", "update"], check=True, **quiet)  # type: ignore[call-overload]
        subprocess.run(install, check=True, **quiet)  # type: ignore[call-overload]


class Serf(System):
    name = "serf"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rpc: dict[int, Rpc] = {}
        self.heard: list[tuple[int, str, float]] = []  # (query, who answered, when)
        self.gone = self.failed  # it makes no difference between them
        self._changes = 0

    def start(self, place: int) -> None:
        address, control = f"{self.lab.ip(place)}:{PORT}", f"127.0.0.1:{RPC_PORT}"
        words = ["serf", "agent", f"-node=n{place}", f"-bind={address}", f"-rpc-addr={control}"]
        daemon = self.lab.start(place, words, stdout=PIPE, stderr=STDOUT)
        assert daemon.stdout is not None
        self.daemons[place] = daemon
        self.hub.add(daemon.stdout, _Log(self, place, daemon.stdout).read)

    def ready(self) -> None:
        end_s = time.monotonic() + READY_S
        for place in self.daemons.keys() - self.rpc.keys():
            self.rpc[place] = Rpc(self, place, self._connect(place, end_s))
        self.hub.rest(0.3)

    def raise_all(self) -> None:
        super().raise_all()
        everybody = self.hosts * self.hosts
        for _ in range(JOINS):  # an agent that had no time to answer is asked again
            known = {place: sum(observer == place for observer, _ in self.up) for place in self.daemons}
            for place in [place for place in self.daemons if place and known[place] < self.hosts]:
                self.join(place, 0)
            if self.hub.run(lambda: len(self.up) >= everybody, JOIN_S):
                return
        raise AssertionError(f"serf's agents did not all join: {len(self.up)} of {everybody} see each other")

    def join(self, place: int, seed: int) -> None:
        self.rpc[place].call("join", {"Existing": [f"{self.lab.ip(seed)}:{PORT}"], "Replay": False})

    def ways(self) -> list[Way]:
        return [SerfWay(self)]

    def change(self, place: int) -> bytes:
        """As long as what is free on a host is, in words."""
        self._changes += 1
        payload = (b"%08d" % self._changes).ljust(EVENT_BYTES, b".")
        self.rpc[place].call("event", {"Name": "e", "Payload": payload, "Coalesce": False})
        return payload

    def kill(self, place: int) -> float:
        self.rpc.pop(place).close()
        return super().kill(place)

    def leave(self, place: int) -> float:
        """When."""
        at_s = time.monotonic()
        self.rpc[place].call("leave", {})
        daemon = self.daemons.pop(place)
        self.await_end(daemon)
        self.rpc.pop(place).close()
        return at_s

    def _connect(self, place: int, end_s: float) -> socket.socket:
        while True:
            with self.lab.inside(place):
                control = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                control.connect(("127.0.0.1", RPC_PORT))
                return control
            except OSError:
                control.close()
                if time.monotonic() >= end_s:
                    raise
            self.hub.rest(RETRY_S)


class _Log:
    """One agent's log, line by line."""

    def __init__(self, system: Serf, place: int, file: IO[bytes]) -> None:
        self._system, self._place, self._file, self._tail = system, place, file, b""

    def read(self, at_s: float) -> None:
        data = os.read(self._file.fileno(), READ_BYTES)
        if not data:
            self._system.hub.drop(self._file)
            return
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            for word, seen in (
                (b"EventMemberJoin: n", self._system.up),
                (b"EventMemberFailed: n", self._system.failed),
                (b"EventMemberLeave: n", self._system.left),
            ):
                if word in line:
                    subject = int(line.partition(word)[2].split()[0])
                    seen.setdefault((self._place, subject), at_s)


@dataclass
class Rpc:
    """A connection to one agent."""

    system: Serf
    place: int
    control: socket.socket
    number: int = 0
    asked: dict[int, str] = field(default_factory=dict)  # the command of a number, while it can be answered
    head: int | None = None  # whose body comes next

    def __post_init__(self) -> None:
        self.control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unpacker = msgpack.Unpacker(raw=True)
        self.system.hub.add(self.control, self._read)
        self.call("handshake", {"Version": 1})
        self.call("stream", {"Type": "user:e,query:q"})

    def call(self, command: str, body: dict[str, Any]) -> int:
        self.number += 1
        self.asked[self.number] = command
        head = {"Command": command, "Seq": self.number}
        self.control.setblocking(True)
        self.control.sendall(b"".join(msgpack.packb(each, use_bin_type=False) for each in (head, body)))
        self.control.setblocking(False)
        return self.number

    def close(self) -> None:
        if self.control.fileno() >= 0:
            self.system.hub.drop(self.control)
            self.control.close()

    def _read(self, at_s: float) -> None:
        try:
            data = self.control.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._unpacker.feed(data)
        for each in self._unpacker:
            if b"Seq" in each and b"Error" in each:
                self._answered(each)
            elif self.head is not None:
                self._body(self.head, each, at_s)

    def _answered(self, head: dict[bytes, Any]) -> None:
        self.head = head[b"Seq"]
        if self.asked.get(head[b"Seq"]) not in ("stream", "query"):
            self.asked.pop(head[b"Seq"], None)

    def _body(self, number: int, body: dict[bytes, Any], at_s: float) -> None:
        command = self.asked.get(number)
        if command == "stream" and body.get(b"Event") == b"query":
            self.call("respond", {"ID": body[b"ID"], "Payload": PAYLOAD})
        elif command == "stream" and body.get(b"Event") == b"user":
            self.system.events[body[b"Payload"]].setdefault(self.place, at_s)
        elif command == "query" and body.get(b"Type") == b"response":
            self.system.heard.append((number, body[b"From"].decode(), at_s))
        elif command == "query" and body.get(b"Type") == b"done":
            del self.asked[number]


class SerfWay(Way):
    """Queries, all by the agent in place 0, as all of our pledges are by one client."""

    def __init__(self, system: Serf) -> None:
        super().__init__("serf", system.hosts)
        self._system = system

    def send(self) -> str:
        query = {"Name": "q", "Payload": PAYLOAD, "RequestAck": False, "Timeout": int(ANSWERS_S * 1e9)}
        return str(self._system.rpc[0].call("query", query))

    def receive(self, until_s: float) -> None:
        self._system.hub.turn(until_s)

    @property
    def kept(self) -> int:
        return len(self._system.heard)

    def understand(self) -> None:
        for number, who, at_s in self._system.heard:
            self.answers[str(number)].setdefault(who, at_s)
        self._system.heard.clear()

    def close(self) -> None:
        pass
