"""What the front door costs, printed and never asserted: `python -m tests.bench.bench_door`.

Two processes of one machine, over loopback, a new connection each time, as `electros` asks. Milliseconds, median and
99th of 100, in rounds that take turns, so that other load falls on all alike. *Bare* is a mutual TLS 1.3 handshake
with the same certificates and one byte back, by Python's ssl on both sides, blocking.
"""

import multiprocessing
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import trio

from matcher.net.door.admission import Limits
from matcher.net.door.serving import Opened, serve
from matcher.net.https import Connection, Door
from matcher.net.token_bucket import Rate
from matcher.trust.identity import Identity, client_tls, load_identity, server_tls
from matcher.wire.messages import Answer
from matcher.wire.realm import WhoAmI
from tests.fakes.door import FakeDesk, FakeHost
from tests.fakes.realms import FOUNDER, make_realm

ROUNDS, EACH = 5, 40
UNLIMITED = Limits(requests_rate=Rate(per_s=1e9, burst=1e9), connections_per_member_max=1000)


def serve_door(folder: Path, pipe: Pipe) -> None:
    realm = make_realm(folder, "ann")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            start = partial(serve, realm[FOUNDER], FakeHost(), FakeDesk(realm), port=0, limits=UNLIMITED)
            opened: Opened = await nursery.start(start)
            pipe.send(opened.port)

    trio.run(main)


def serve_bare(folder: Path, pipe: Pipe) -> None:
    context = server_tls(load_identity(folder))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pipe.send(listening.getsockname()[1])
        while True:
            plain, _ = listening.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(plain, server_side=True) as tls:
                tls.sendall(b".")


def started(serving: Callable[[Path, Pipe], None], folder: Path) -> tuple[multiprocessing.Process, int]:
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serving, args=(folder, theirs), daemon=True)
    process.start()
    port: int = mine.recv()
    return process, port


def bare(tls: ssl.SSLContext, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with tls.wrap_socket(plain) as secured:
            assert secured.recv(1) == b"."


def asked(identity: Identity, door: Door, tls: ssl.SSLContext, path: str, answer: type[Answer] | type[WhoAmI]) -> None:
    with Connection(identity, door, timeout_s=5, tls=tls) as connection:
        assert isinstance(connection.ask("GET", path, answer), answer)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        door_process, door_port = started(serve_door, Path(folder) / "realm")
        bare_process, bare_port = started(serve_bare, Path(folder) / "realm" / FOUNDER)
        ann, h0 = load_identity(Path(folder) / "realm" / "ann"), load_identity(Path(folder) / "realm" / FOUNDER)
        tls, door = client_tls(ann), Door(FOUNDER, h0.principal.id, "127.0.0.1", door_port)
        todo: dict[str, Callable[[], None]] = {
            "bare handshake": partial(bare, tls, bare_port),
            "GET /v1/whoami": partial(asked, ann, door, tls, "/v1/whoami", WhoAmI),
            "GET /v1/host": partial(asked, ann, door, tls, "/v1/host", Answer),
        }
        took: dict[str, list[float]] = {name: [] for name in todo}
        for round_ in range(ROUNDS + 1):
            for name, do in todo.items():
                for _ in range(EACH):
                    begun = time.perf_counter()
                    do()
                    if round_:  # the first one warms up
                        took[name].append((time.perf_counter() - begun) * 1000)
        print(f"{'ms':<18}{'p50':>8}{'p99':>8}{'x bare':>8}")
        floor = statistics.median(took["bare handshake"])
        for name, times in took.items():
            middle = statistics.median(times)
            print(f"{name:<18}{middle:>8.2f}{statistics.quantiles(times, n=100)[-1]:>8.2f}{middle / floor:>8.2f}")
        for process in (door_process, bare_process):
            process.terminate()
            process.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
