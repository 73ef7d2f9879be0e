"""What an attacker on the link does, one job for each run: `main` reads it as JSON, and answers in JSON.

Runs inside a lab's client. Knows all that is public (this code), and what the job says it has stolen.
"""

import contextlib
import json
import os
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from matcher.net import multicast
from matcher.trust.identity import Identity, load_identity
from matcher.wire.codec import encode
from matcher.wire.envelope import REALM, Kind, RealmSecret, seal
from matcher.wire.messages import Address, Query
from specs.ids import new_id

HEAR_S = 1.0
FRONT_DOOR = 7766


def query(identity: Identity, asking: socket.socket, link: multicast.Link, **change: Any) -> bytes:
    """A question as `electros hosts` would ask it, to be answered at `asking`."""
    reply = (Address(change.pop("reply_ip", link.ipv4 or ""), asking.getsockname()[1]),)
    sent_at_ms = time.time_ns() // 1_000_000 + change.pop("shift_ms", 0)
    message = Query(new_id(random.SystemRandom()), sent_at_ms, reply, "", False)
    sealing = {"realm": identity.realm, "signer": identity, "audience": REALM, "pad_bytes": 1200} | change
    return seal(Kind.QUERY, encode(message), **sealing)


def heard(asking: socket.socket, for_s: float = HEAR_S) -> int:
    """How many answers came."""
    asking.setblocking(True)
    end_s, count = time.monotonic() + for_s, 0
    while (left_s := end_s - time.monotonic()) > 0:
        asking.settimeout(left_s)
        with contextlib.suppress(TimeoutError):
            asking.recv(2048)
            count += 1
    return count


def retagged(data: bytes, realm: RealmSecret) -> bytes:
    """With a right tag, as whoever has the realm's key can make it."""
    from matcher.wire.envelope import _tag

    return data[:14] + _tag(realm.tag_key, data[:14], data[22:]) + data[22:]


class Bench:
    def __init__(self, identity: str) -> None:
        self.identity = load_identity(Path(identity), allow_expired=True)
        self.link = next(link for link in multicast.links() if link.ipv4)
        self.asking = multicast.asking_socket(socket.AF_INET)

    def send(self, data: bytes) -> None:
        multicast.ask(self.asking, data, self.link)

    def datagrams(self, way: str) -> list[bytes]:
        """The forgeries of one kind, from an honest question."""
        honest = self.query()
        realm = self.identity.realm
        whole = len(honest.rstrip(bytes(1)))  # without its padding
        dice = random.Random(7)
        forgeries: dict[str, Callable[[], list[bytes]]] = {
            "honest": lambda: [honest],
            "random": lambda: [dice.randbytes(dice.randrange(1, 1400)) for _ in range(200)],
            "truncated": lambda: [honest[:size] for size in range(0, len(honest), 3)],
            "truncated-tagged": lambda: [retagged(honest[:size], realm) for size in range(30, whole, 7)],
            "too-long": lambda: [retagged(honest + bytes(size), realm) for size in (1, 100, 7000)],
            "flipped": lambda: [retagged(_flip(honest, at), realm) for at in dice.sample(range(30, whole), 60)],
            "flipped-outside": lambda: [_flip(honest, at) for at in range(30)],
            "no-key": lambda: [self.query(realm=replace(realm, tag_key=os.urandom(32)))],
            "other-kind": lambda: [
                retagged(honest[:5] + bytes([kind]) + honest[6:], realm) for kind in range(256) if kind != Kind.QUERY
            ],
            "unsigned": lambda: [self.unsigned()],
            "stale": lambda: [self.query(shift_ms=shift) for shift in (-600_000, 600_000)],
            "other-audience": lambda: [self.query(audience=b"hosts")],
            "spoofed-reply": lambda: [self.query(reply_ip=ip) for ip in ("10.98.0.1", "10.98.0.2", "127.0.0.1")],
        }
        return forgeries[way]()

    def query(self, **change: Any) -> bytes:
        return query(self.identity, self.asking, self.link, **change)

    def unsigned(self) -> bytes:
        """A question in the envelope of the one kind that goes without a signature."""
        message = encode(Query(new_id(random.SystemRandom()), time.time_ns() // 1_000_000, (), "", False))
        body = seal(Kind.REVEAL, message, realm=self.identity.realm, signer=None, audience=REALM, pad_bytes=1200)
        return retagged(body[:5] + bytes([Kind.QUERY]) + body[6:], self.identity.realm)


def _flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def forge(job: dict[str, Any]) -> Any:
    bench = Bench(job["identity"])
    for data in bench.datagrams(job["way"]):
        bench.send(data)
        time.sleep(0.002)
    return {"heard": heard(bench.asking)}


def replay(job: dict[str, Any]) -> Any:
    """The same bytes again, once they were answered."""
    bench = Bench(job["identity"])
    (data,) = bench.datagrams("honest")
    bench.send(data)
    first = heard(bench.asking)
    for _ in range(20):
        bench.send(data)
    return {"first": first, "again": heard(bench.asking)}


def flood(job: dict[str, Any]) -> Any:
    """As many datagrams as this machine can send, for some seconds, from an address of its own."""
    bench = Bench(job["identity"])
    (data,) = bench.datagrams(job["way"])
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.bind((job["source"], 0))
    index = socket.if_nametoindex("eth0")
    there = socket.inet_aton("0.0.0.0") + socket.inet_aton(job["source"]) + index.to_bytes(4, sys.byteorder)
    sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, there)
    end_s, sent, begun_s = time.monotonic() + job["for_s"], 0, time.monotonic()
    while time.monotonic() < end_s:
        for _ in range(50):
            sending.sendto(data, (multicast.GROUP_4, multicast.PORT))
        sent += 50
        ahead_s = sent / job["per_s"] - (time.monotonic() - begun_s)
        if ahead_s > 0:
            time.sleep(ahead_s)
    return {"per_s": sent / (time.monotonic() - begun_s)}


def knock(job: dict[str, Any]) -> Any:
    """At a front door, in one of the wrong ways; what came back of HTTP."""
    plain = socket.create_connection((job["host"], FRONT_DOOR), timeout=5)
    request = b"GET /v1/host HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    try:
        if job["way"] == "plaintext":
            plain.sendall(request)
            return {"said": plain.recv(4096).decode("latin-1")}
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if job["way"] == "tls-1.2":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if job["way"] == "join-without-token":
            context.set_alpn_protocols(["atomos-join/1"])
        if job.get("identity"):
            context.load_cert_chain(f"{job['identity']}/leaf.pem", f"{job['identity']}/key.pem")
        with context.wrap_socket(plain) as tls:
            tls.sendall(request)
            return {"said": tls.recv(4096).decode("latin-1")}
    except (OSError, ssl.SSLError) as error:
        return {"error": str(error), "said": ""}


def idle(job: dict[str, Any]) -> Any:
    """Connections that say nothing, held for some seconds."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (job["count"] + 100, job["count"] + 100))
    held = []
    for number in range(job["count"]):
        with contextlib.suppress(OSError):
            one = socket.socket()
            one.setblocking(False)
            one.bind((job["sources"][number % len(job["sources"])], 0))
            with contextlib.suppress(BlockingIOError):
                one.connect((job["host"], FRONT_DOOR))
            held.append(one)
        if number % 200 == 0:
            time.sleep(0.02)
    print(json.dumps({"held": len(held)}), flush=True)
    time.sleep(job["for_s"])
    os._exit(0)


def main() -> None:
    from tests.attacks import bodies

    job = json.loads(sys.argv[1])
    jobs = {"forge": forge, "replay": replay, "flood": flood, "knock": knock, "idle": idle} | bodies.JOBS
    print(json.dumps(jobs[job.pop("do")](job)), flush=True)
