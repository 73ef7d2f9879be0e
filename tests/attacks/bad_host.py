"""A host of the realm that turned bad: its own key, its own address, and words that no daemon would say.

Runs on that host, in place of its atomd: `main` says "ready" once it answers. All that it sends is signed as it should
be; what it says is what terminals obey, in every field that takes text.

    words   datagrams and a front door that speak the protocol
    raw     a front door that speaks hardly any HTTP
"""

import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from matcher.net import peer
from matcher.net.caller import Caller
from matcher.net.door import serving
from matcher.net.intake import Intake
from matcher.trust.identity import load_identity, server_tls
from matcher.trust.principal import Principal
from matcher.wire.gossip import HostState
from matcher.wire.messages import (
    Accelerator,
    Answer,
    Arch,
    Pledge,
    Query,
    Reason,
    Refused,
    Reveal,
    Role,
    Unfit,
    VmOffer,
    VmView,
    VmViews,
    VolumeOffer,
)
from matcher.wire.realm import RealmStatus, WhoAmI
from specs.ids import VmId
from tests.fakes.door import ABOUT, VM, FakeHost
from tests.fakes.neighbours import FakeNeighbours, host

IDENTITY = Path("/var/lib/atomos/identity")
PORT = 7766
BAD = "\x1b[2J\x1b]0;owned\x07\x9b31m\x90q\u202egnp\u2066\u200f\u2028\r\nforged \x7f"
UNWANTED = frozenset("\x1b\x07\x9b\x90\u202e\u2066\u200f\u2028\r\x7f")
TWICE = BAD * 2
RAW = 7  # ways to answer that are none
REFUSED = Refused("odd", (Reason(BAD, TWICE, TWICE, TWICE, BAD),))


class BadAnswers:
    def __init__(self, digest: str) -> None:
        self.digest = digest

    def pledge(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit]:
        offer = VmOffer(
            pledge.pledge_id, "0f" * 16, BAD, PORT, 2, 3000, 1.0, (0,), 1, 0, (), Arch.X86_64, Accelerator.KVM
        )
        reasons = REFUSED.reasons
        return [*([] if pledge.dry else [offer]), Unfit(pledge.pledge_id, BAD, Role.COMPUTE, 2, reasons)]

    def reveal(self, reveal: Reveal, now_s: float) -> None:
        pass

    def query(self, query: Query, user: Principal) -> Answer:
        return replace(
            ABOUT, query_id=query.query_id, host=BAD, cpu_model=BAD, vms_matching=1, vms=1, realm=self.digest
        )


class BadHost(FakeHost):
    """Has one VM of everybody's, and refuses whatever is asked of it."""

    vm_ = replace(VM, name=BAD, user=BAD, host=BAD, why=BAD * 50, domain=BAD, addresses=(BAD, BAD), specfile=BAD)

    def about(self, caller: Caller) -> Answer:
        return replace(ABOUT, host=BAD, cpu_model=BAD)

    async def whoami(self, caller: Caller) -> WhoAmI:
        return replace(await super().whoami(caller), name=BAD, realm=BAD, host=BAD)

    async def vms(self, caller: Caller) -> VmViews:
        return VmViews((self.vm_,))

    async def vm(self, vm_id: VmId, caller: Caller) -> VmView | Refused:
        return self.vm_

    async def confirm(self, envelope: bytes, caller: Caller) -> VmView | Refused:
        return REFUSED

    async def stop(self, vm_id: VmId, caller: Caller, *, force: bool) -> VmView | Refused:
        return REFUSED


def desk(digest: str) -> Any:
    status = RealmStatus("0" * 16, "home", BAD, 1, (), (), 0, 1, 0, False, 0)
    return SimpleNamespace(status=lambda: status, is_joining=lambda: False, denied=lambda *_: None)


async def words() -> None:
    identity = load_identity(IDENTITY)
    digest = identity.short_digest
    async with trio.open_nursery() as nursery:
        hosts = FakeNeighbours(host(1, name=BAD, id=identity.principal.id), host(2, HostState.GONE, name=BAD))
        door = partial(serving.serve, identity, cast(Any, BadHost()), desk(digest), neighbours=hosts, port=PORT)
        await nursery.start(door)
        await nursery.start(peer.serve, Intake(identity, BadAnswers(digest)))
        print("ready", flush=True)


async def raw() -> None:
    """What it says over HTTP is none, or no JSON, or JSON of more than anybody wants to read."""
    identity = load_identity(IDENTITY)
    bad = BAD.encode()
    long_ = b'{"vms":[{"name":"%s"}]}' % (b"\\u001b[2J" * 10_000)
    answers = [
        b"HTTP/1.1 %s\r\n\r\n" % bad,
        b"%s\r\n\r\n" % bad.replace(b"\r\n", b""),
        b"HTTP/1.1 200 x\r\nContent-Length: 5\r\nX-%s\r\n\r\nabcde" % bad,
        b"HTTP/1.1 500 %s\r\nContent-Length: %d\r\n\r\n%s" % (b"\x1b[2J", len(bad), bad),
        b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n%s" % (len(bad), bad),
        b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n%s" % (len(long_), long_),
        b'HTTP/1.1 409 x\r\nContent-Length: 45\r\n\r\n{"code":"\\u001b[2J","reasons":[],"\\u009b":""}',
    ]
    assert len(answers) == RAW
    context = server_tls(identity)
    listening = socket.create_server(("", PORT))
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.serve, Intake(identity, BadAnswers(identity.short_digest)))
        print("ready", flush=True)
        await trio.to_thread.run_sync(_answer_each, listening, context, answers)


def _answer_each(listening: socket.socket, context: ssl.SSLContext, answers: Sequence[bytes]) -> None:
    for number in range(10_000):
        plain, _ = listening.accept()
        try:
            with context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(65_536)
                tls.sendall(answers[number % len(answers)])
        except OSError:
            continue


def main() -> None:
    trio.run({"words": words, "raw": raw}[sys.argv[1]])


if __name__ == "__main__":
    main()
