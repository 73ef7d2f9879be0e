"""Bodies and paths for a real front door on loopback, through TLS, as a member who is an admin sends them."""

import json
import time
from dataclasses import dataclass
from random import Random

import trio

from matcher.net.door.admission import Limits
from matcher.net.token_bucket import Rate
from matcher.trust.requests import make_request
from matcher.wire.codec import to_json
from matcher.wire.messages import Message
from matcher.wire.realm import ChangeGrant, Grant, InviteHost, InviteUser, Renew
from tests.fakes.door import VM_ID, Running, To, open_door
from tests.fakes.neighbours import FakeNeighbours, host
from tests.fakes.realms import Realm, new_key
from tests.fuzz.mutating import mutated
from tests.fuzz.running import Report, rss_bytes

LIMITS = Limits(requests_rate=Rate(per_s=1e9, burst=1e9))
FAULT = 500
OF_ONE_DOOR = 100  # requests, as a door of the tests lives for half a minute
BROKEN = (EOFError, OSError, trio.BrokenResourceError)


@dataclass(frozen=True)
class Room:
    method: str
    path: bytes
    bodies: tuple[bytes, ...] = ()


def rooms(realm: Realm) -> list[Room]:
    def body(message: Message) -> tuple[bytes, ...]:
        return (to_json(message).encode(),)

    vm = f"/v1/vms/{VM_ID}".encode()
    return [
        Room("GET", vm),
        Room("GET", b"/v1/hosts"),
        Room("DELETE", vm + b"?generation=7"),
        Room("GET", b"/v1/realm/bundle"),
        Room("POST", b"/v1/realm/hosts", body(InviteHost("h7"))),
        Room("POST", b"/v1/realm/users", body(InviteUser("bob", Grant()))),
        Room("POST", b"/v1/realm/grants", body(ChangeGrant("nobody", Grant()))),
        Room("POST", b"/v1/realm/renewals", body(Renew(make_request(new_key(), "ann")))),
        Room("POST", b"/v1/realm/documents", (realm["h1"].bundle.to_bytes(),)),
        Room("POST", b"/v1/confirms", (b"aTmO" + bytes(60),)),
        Room("POST", b"/v1/pledges", (b"aTmO" + bytes(60),)),
    ]


def fuzz_door(realm: Realm, inputs: int, seed: int) -> Report:
    report = Report("front door")
    trio.run(_run, realm, inputs, Random(seed), report)
    return report


async def _run(realm: Realm, inputs: int, random: Random, report: Report) -> None:
    before, begun_s, all_rooms = rss_bytes(), time.perf_counter(), rooms(realm)
    while report.inputs < inputs:
        async with open_door(realm, LIMITS, FakeNeighbours(host(1))) as door:
            door.host.go.set()
            to: To | None = None
            for _ in range(min(inputs - report.inputs, OF_ONE_DOOR)):
                to = await _ask(door, realm, to, _request(random.choice(all_rooms), random), report)
                report.inputs += 1
            await _alive(door, realm)
    report.took_s = time.perf_counter() - begun_s
    report.grown_bytes = rss_bytes() - before


def _request(room: Room, random: Random) -> bytes:
    path, body = room.path, random.choice(room.bodies) if room.bodies else b""
    if room.bodies and random.random() < 0.8:
        body = mutated(room.bodies, random)
    else:
        path = path[:8] + mutated([path[8:]], random)
    head = room.method.encode() + b" " + path + b" HTTP/1.1\r\nHost: h0\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def _ask(door: Running, realm: Realm, to: To | None, data: bytes, report: Report) -> To | None:
    """One request, on the connection of before where that lives. A door may hang up on what is no HTTP; it may not
    say that it made a mistake, nor say nothing for ever, nor turn away who comes next."""
    to = to or await door.connect(realm["ann"])
    status = FAULT
    try:
        with trio.fail_after(20):
            await to.tls.send_all(data)
            status, said = await to.answer()
        if status >= FAULT and (status == FAULT or json.loads(said)["code"] == "fault"):
            raise AssertionError(f"{status} {said[:200]!r}")
    except BROKEN:
        status = FAULT
    except Exception:
        report.note(data)
    if status < 400 and b"/v1/confirms" not in data:  # its news come in pieces, which `To` does not read
        return to
    await trio.aclose_forcefully(to.tls)
    return None


async def _alive(door: Running, realm: Realm) -> None:
    to = await door.connect(realm["ann"])
    status, _ = await to.ask("GET", "/v1/host")
    assert status == 200
