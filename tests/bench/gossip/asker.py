"""Asks the floor and our own hosts in turns, from one process, and tells how long it took until all had answered.

Ours goes through `matcher.net.client.Client` as `electros` does: a padded, signed pledge on IPv4 and IPv6, and every
answer's certificate, signature and form checked. *wet* pledges are held by every host, and freed again by *done*.
Prints one JSON object: milliseconds by kind of question.
"""

import argparse
import gc
import json
import os
import random
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from matcher.net.client import Client
from matcher.scheduler.pledging import Errand, make_pledge, vm_ask
from matcher.trust.identity import load_identity
from matcher.wire.messages import Reveal, VmOffer
from specs.ids import VmId, new_id
from specs.specfile import parse_specfile
from tests.bench.gossip.floor_daemon import GROUP, PORT, pack, unpack

ANSWERS_S = 1.0
PAUSE_S = 0.03  # hosts are idle again
WARM_UP = 10
QUESTION_BYTES = 200


class Floor:
    def __init__(self, hosts: int, ip: str) -> None:
        self._hosts, self._number = hosts, 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(ip))
        self._socket.bind((ip, 0))

    def ask(self, *, signed: bool) -> float | None:
        self._number += 1
        begun_s = time.perf_counter()
        question = {"id": self._number, "op": "query", "payload": b"x" * QUESTION_BYTES}
        self._socket.sendto(pack(question, signed=signed), (GROUP, PORT))
        heard: set[object] = set()
        while len(heard) < self._hosts:
            if not select.select([self._socket], [], [], ANSWERS_S)[0]:
                return None
            answer, _ = unpack(self._socket.recv(4096))
            if answer["id"] == self._number:
                heard.add(answer["from"])
        return time.perf_counter() - begun_s


class Ours:
    def __init__(self, hosts: int, client: Client, specfile: bytes) -> None:
        self._hosts, self._client, self._random = hosts, client, random.SystemRandom()
        self._ask = vm_ask(parse_specfile(specfile), allow_emulation=True)

    def ask(self, *, dry: bool) -> float | None:
        errand = Errand(VmId(new_id(self._random)), 1, self._ask)
        begun_s = time.perf_counter()
        pledge, seal = make_pledge(errand, random=self._random, wall_ms=time.time_ns() // 1_000_000, dry=dry)
        self._client.ask(pledge)
        heard: set[str] = set()
        until_s = time.monotonic() + ANSWERS_S
        while len(heard) < self._hosts and time.monotonic() < until_s:
            for said in self._client.hear(until_s):
                if isinstance(said.message, VmOffer) and said.message.pledge_id == pledge.pledge_id:
                    heard.add(said.host_id)
        took_s = time.perf_counter() - begun_s
        if not dry:
            self._client.reveal(Reveal(pledge.pledge_id, seal.done))
        return took_s if len(heard) == self._hosts else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--ip", required=True)
    parser.add_argument("--specfile", type=Path, required=True)
    options = parser.parse_args()
    identity = load_identity(Path(os.environ["XDG_CONFIG_HOME"]) / "atomos/default")
    took: dict[str, list[float | None]] = {}
    with Client(identity) as client:
        floor, ours = Floor(options.hosts, options.ip), Ours(options.hosts, client, options.specfile.read_bytes())
        questions: dict[str, Callable[[], float | None]] = {
            "floor": lambda: floor.ask(signed=False),
            "floor, signed": lambda: floor.ask(signed=True),
            "pledge, dry": lambda: ours.ask(dry=True),
            "pledge, wet": lambda: ours.ask(dry=False),
        }
        gc.disable()  # on either side; it is collected between the questions
        for number in range(WARM_UP + options.rounds):
            for kind in random.sample([*questions], len(questions)):
                took_s = questions[kind]()
                if number >= WARM_UP:
                    took.setdefault(kind, []).append(took_s if took_s is None else took_s * 1000)
                gc.collect()
                time.sleep(PAUSE_S)
    print(json.dumps({kind: took[kind] for kind in questions}))


if __name__ == "__main__":
    main()
