"""What the wire costs, printed and never asserted: `python -m tests.bench.bench_wire`.

Microseconds for each operation, the best of five rounds, so that other load shows least; then a daemon's own loop under
a flood, at a rate that one machine can send: how much of a core it takes, and how long an honest query waits meanwhile.
"""

import dataclasses
import itertools
import multiprocessing
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from timeit import Timer

import trio

from matcher.net import multicast, peer
from matcher.net.intake import Arrival, Intake
from matcher.trust.identity import Identity, load_identity
from matcher.trust.opening import open_sealed
from matcher.wire import messages as m
from matcher.wire import signature
from matcher.wire.codec import decode, encode, from_json, to_json
from matcher.wire.envelope import KIND_OF, REALM, Kind, _tag, seal, unseal, verify
from tests.fakes.realms import Realm, make_realm

TAG_GOAL_US, VERIFY_GOAL_US = 5.0, 150.0
FLOOD_PER_S = 20_000
FLOOD_S = 5.0
HONEST_PAUSE_S = 0.02
MISSED_S = 1.0
FORK = multiprocessing.get_context("fork")  # what it runs is not for pickling

ID = "0a" * 16
HOST_ID = "0b" * 32
ASK = m.VmAsk(
    2,
    False,
    1,
    (m.Arch.X86_64,),
    ("avx2", "sse4_2"),
    2048,
    False,
    (m.PciAsk("10de", "24b0", 1),),
    m.Firmware.BIOS,
    True,
)
REASON = m.Reason("ram", "65536 MiB", "41984 MiB free", "ask for less", "ram.ramsize=41984")
VOLUME = m.OfferedVolume(ID, "web", 2048, m.ImageFormat.RAW, True, False, False, m.Reach.LOCAL)
SAMPLES: tuple[m.Message, ...] = (
    m.Pledge(
        ID,
        1_700_000_000_000,
        (m.Address("10.0.0.1", 4711),),
        False,
        ID,
        1,
        ASK,
        (ID,),
        bytes(32),
        3000,
        3,
        m.Policy.PACK,
    ),
    m.VmOffer(
        ID, ID, "h1", 8443, 3, 3000, 0.5, (0, 1, 48, 49), 2, 0, ("0000:3b:00.0",), m.Arch.X86_64, m.Accelerator.KVM
    ),
    m.VolumeOffer(ID, ID, "h1", 3, 3000, (VOLUME,)),
    m.Unfit(ID, "h1", m.Role.COMPUTE, 3, (REASON, REASON)),
    m.Reveal(ID, bytes(32), ID),
    m.Confirm(ID, 1, ID, ID, HOST_ID, "web", ASK, (m.VolumeClaim(ID, HOST_ID, ID),), "{}" * 200),
    m.Abandon(ID, 1, ID, HOST_ID),
)


def cost_us(work: Callable[[], object]) -> float:
    timer = Timer(work)
    number = max(1, int(0.02 / max(timer.timeit(1), 1e-7)))
    return min(timer.repeat(5, number)) / number * 1e6


def show(name: str, work: Callable[[], object], note: str = "") -> None:
    print(f"  {name:24}{cost_us(work):9.1f} µs  {note}")


def bench_messages() -> None:
    print(f"  {'':24}{'bytes':>7}{'encode':>9}{'decode':>9}{'to_json':>9}{'from_json':>11}")
    for message in SAMPLES:
        cls, data, text = type(message), encode(message), to_json(message)
        costs = (
            cost_us(lambda message=message: encode(message)),  # type: ignore[misc]
            cost_us(lambda cls=cls, data=data: decode(cls, data)),  # type: ignore[misc]
            cost_us(lambda message=message: to_json(message)),  # type: ignore[misc]
            cost_us(lambda cls=cls, text=text: from_json(cls, text)),  # type: ignore[misc]
        )
        print(f"  {cls.__name__:24}{len(data):7}{costs[0]:9.1f}{costs[1]:9.1f}{costs[2]:9.1f}{costs[3]:11.1f}")


def bench_envelope(realm: Realm) -> None:
    h1, ann = realm["h1"], realm["ann"]
    payload, now_s = encode(SAMPLES[0]), time.time()
    data = seal(Kind.PLEDGE, payload, realm=ann.realm, signer=ann, audience=REALM, pad_bytes=1200)
    sealed = unseal(data, realm=h1.realm)
    key = h1.verifier.principal(sealed.certificate, now_s)[1]
    outside = bytes([*data[:14], *bytes(8), *data[22:]])
    signed = ann.sign(payload)
    show("sign", lambda: ann.sign(payload))
    show("verify", lambda: signature.verify(key, signed, payload))
    show(
        "seal a pledge", lambda: seal(Kind.PLEDGE, payload, realm=ann.realm, signer=ann, audience=REALM, pad_bytes=1200)
    )
    goal = f"goal {TAG_GOAL_US:g}"
    show("tag", lambda: _tag(h1.realm.tag_key, data[:14], data[22:]), goal)
    show("unseal it", lambda: unseal(data, realm=h1.realm), f"{goal}; {len(data)} bytes, leaf {len(ann.certificate)}")
    show("refuse a wrong tag", lambda: _refuse(outside, h1), goal)
    show("open it, known leaf", lambda: _open(data, h1), f"goal {VERIFY_GOAL_US:g}; from bytes to message and user")
    show("verify the envelope", lambda: verify(sealed, key, realm_id=h1.realm.realm_id, audience=REALM))
    show("principal, first seen", lambda: h1.verifier._check(sealed.certificate))
    show("principal, known", lambda: h1.verifier.principal(sealed.certificate, now_s))
    show("load an identity", lambda: load_identity(realm.folder / "ann"))


@dataclasses.dataclass(frozen=True)
class Forger:
    """Has a member's certificate, and no key."""

    certificate: bytes

    def sign(self, data: bytes) -> bytes:
        return b"\1" * 64


class Answers:
    """As little as a daemon can do."""

    def pledge(self, pledge: m.Pledge, user: object, now_s: float) -> tuple[()]:
        return ()

    def reveal(self, reveal: m.Reveal, now_s: float) -> None:
        return None

    def query(self, query: m.Query, user: object) -> m.Answer:
        return m.Answer(query.query_id, "h1", m.Role.COMPUTE, 7766, 3, "0", 0, "", "", "", 2, 2, 9, 9, 0, 0)


def query(by: Identity, query_id: str, reply: tuple[m.Address, ...]) -> bytes:
    says = m.Query(query_id, peer.wall_ms(), reply, "", False)
    return seal(Kind.QUERY, encode(says), realm=by.realm, signer=by, audience=REALM, pad_bytes=1200)


def forged(by: Identity, payload: bytes = b"") -> bytes:
    """With the realm's tag, and a signature that nobody made."""
    return seal(Kind.QUERY, payload, realm=by.realm, signer=Forger(by.certificate), audience=REALM, pad_bytes=1200)


def outsiders(by: Identity) -> bytes:
    data = forged(by)
    return data[:14] + bytes(8) + data[22:]


def bench_intake(realm: Realm) -> None:
    """Whole datagrams, from bytes to the decision; each in a source of its own, so that no limit is met."""
    h1, ann, bob = realm["h1"], realm["ann"], realm["bob"]
    intake, here = Intake(h1, Answers()), Arrival(socket.AF_INET, 0, "10.0.0.9")
    ticks = itertools.count()

    def hear(data: bytes) -> None:
        intake.receive(data, here, now_s=next(ticks), wall_ms=peer.wall_ms())

    reply = (m.Address("10.0.0.9", 4711),)
    fresh = [query(ann, f"{number:032x}", reply) for number in range(2000)]
    hear(fresh.pop())
    begun_s = time.perf_counter()
    for data in fresh:
        intake.receive(data, here, now_s=next(ticks) / 10, wall_ms=peer.wall_ms())
    whole_us = (time.perf_counter() - begun_s) / len(fresh) * 1e6
    hear(query(bob, ID, reply))
    h1.learn([realm.issuer.revoke("user", "bob", "", wall_s=time.time())], time.time())
    outside, revoked, replayed = outsiders(ann), forged(bob), fresh[-1]
    now_s = next(ticks) / 10
    show("datagram, wrong tag", lambda: hear(outside), "all that an outsider can make a host do")
    show("datagram, revoked leaf", lambda: hear(revoked))
    show("datagram, heard before", lambda: intake.receive(replayed, here, now_s=now_s, wall_ms=peer.wall_ms()))
    print(f"  {'query, with its answer':24}{whole_us:9.1f} µs  known leaf: checked, decoded, answered, signed")
    print(f"  {'':24}{dict(intake.counters)}")


def flood(address: tuple[str, int], data: bytes, end_s: float) -> None:
    """As fast as said, in small bursts; a process and an address of its own."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("127.0.0.66", 0))
    begun_s, sent = time.monotonic(), 0
    while (now_s := time.monotonic()) < end_s:
        while sent < (now_s - begun_s) * FLOOD_PER_S:
            sender.sendto(data, address)
            sent += 1
        time.sleep(0.0005)


def ask_meanwhile(address: tuple[str, int], by: Identity, end_s: float, told: Connection) -> None:
    """An honest client's queries, one at a time; tells milliseconds, `None` for what was not answered."""
    took: list[float | None] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind(("127.0.0.1", 0))
        asking.settimeout(MISSED_S)
        reply = (m.Address(*asking.getsockname()),)
        while time.monotonic() < end_s:
            data = query(by, random.randbytes(16).hex(), reply)
            begun_s = time.perf_counter()
            asking.sendto(data, address)
            try:
                asking.recv(2048)
                took.append((time.perf_counter() - begun_s) * 1000)
            except TimeoutError:
                took.append(None)
            time.sleep(HONEST_PAUSE_S)
    told.send(took)


async def bench_loop(name: str, realm: Realm, data: bytes | None) -> None:
    """One listening socket of a daemon, flooded with `data`."""
    intake = Intake(realm["h1"], Answers())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        multicast.make_room(listener)
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        address, end_s = listener.getsockname(), time.monotonic() + FLOOD_S
        tells, hears = FORK.Pipe()
        others = [FORK.Process(target=ask_meanwhile, args=(address, realm["ann"], end_s, tells))]
        others += [FORK.Process(target=flood, args=(address, data, end_s))] if data else []
        for other in others:
            other.start()
        used_s = time.process_time()
        with trio.move_on_after(FLOOD_S + MISSED_S):
            await peer._answer([(listener, listener)], {listener.family: listener}, intake)
        used_s = time.process_time() - used_s
        times = hears.recv()
        for other in others:
            other.join()
    answered = sorted(each for each in times if each is not None)
    middle, late = statistics.median(answered), answered[int(len(answered) * 0.99)]
    heard = sum(intake.counters.values())
    print(
        f"  {name:24}{heard / FLOOD_S:9.0f} /s  {used_s / FLOOD_S:4.0%} of a core; honest queries: "
        f"p50 {middle:.1f} ms, p99 {late:.1f} ms, {len(times) - len(answered)} of {len(times)} missed"
    )


def bench_floods(realm: Realm) -> None:
    """`realm` has a revoked member, bob, who has the tag key still and knows the others' leaves."""
    ann, bob = realm["ann"], realm["bob"]
    print(f"one socket of a daemon, {FLOOD_PER_S} datagrams a second, {os.cpu_count()} cores for all")
    for name, data in (
        ("no flood", None),
        ("wrong tag", outsiders(ann)),
        ("revoked leaf", forged(bob)),
        ("another's leaf", forged(realm["cat"])),
    ):
        trio.run(bench_loop, name, realm, data)


def _open(data: bytes, identity: Identity) -> object:
    box = unseal(data, realm=identity.realm)
    return open_sealed(box, identity, audience=REALM, signer="user", wall_s=time.time())


def _refuse(data: bytes, identity: object) -> None:
    try:
        unseal(data, realm=identity.realm)  # type: ignore[attr-defined]
    except Exception:
        return
    raise AssertionError("a wrong tag passed")


def main() -> None:
    print(f"wire and trust, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        realm = make_realm(Path(folder), "h1", "ann", "bob", "cat")
        bench_envelope(realm)
        bench_intake(realm)
        bench_floods(realm)
    bench_messages()


if __name__ == "__main__":
    assert set(KIND_OF) >= {type(message) for message in SAMPLES}
    main()
