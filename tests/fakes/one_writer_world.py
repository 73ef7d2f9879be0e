"""A storage host and two compute hosts, each in a network of its own: real storaged, real tgtd, QEMU's initiators.

    h1 (writer, atomd's questions) --10.97.1.0/24-- h0 (storaged, tgtd, the pool) --10.97.2.0/24-- h2 (the same)

What atomd would ask is asked by its own code, from the host's own network, with words that a user has signed. Anything
may be killed, stopped, or cut off by dropping packets, in one direction or both: what TCP holds back comes when it may.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import TypeVar

import trio

from atomd.vms.lifecycle import State, Vm
from atomd.volumes.answers import Answer, Silent
from atomd.volumes.storage import Storage
from matcher.net import local
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.wire.codec import BODY_MAX_BYTES, encode
from matcher.wire.envelope import REALM, Kind, host_audience, seal, unseal, user_audience
from matcher.wire.framing import unframe
from matcher.wire.messages import (
    Address,
    Confirm,
    ImageFormat,
    Pledge,
    Policy,
    Role,
    VolumeClaim,
    VolumeOffer,
)
from matcher.wire.volumes import Asked, Attached, Replies
from specs.ids import HostId, UserId, VmId, new_id
from storaged.config import PORT
from storaged.export import description
from storaged.export.child import Child
from storaged.export.description import Access, Chap
from storaged.export.tgt import Portal
from storaged.testing import make_volume, vid_of
from tests.fakes.iscsi_world import QemuWriter, qemu_io
from tests.fakes.one_host import ASK, a_vm
from tests.fakes.realms import Realm, make_realm

HOSTS = ("h1", "h2")
SERVER = "h0"
VID = vid_of(1)
PREFIX = "one-writer-"
NETS = Path("/run/netns")
ASK_S = 1.0  # then it counts as silent, whatever becomes of it there
HOLD_MS = 2000
UP_S = 120.0  # to begin again, on a machine that does much else
PLAIN = "from storaged.main import main; main()"

T = TypeVar("T")


class Nets:
    """The hosts' networks. A partition is rules by which h0's kernel drops what comes from a host, or goes there."""

    def __init__(self) -> None:
        self._prefix = f"{PREFIX}{os.getpid()}-"

    def begin(self) -> None:
        _sweep()
        for host in (SERVER, *HOSTS):
            _ip("netns", "add", self.name(host))
            _ip("-n", self.name(host), "link", "set", "lo", "up")
        for number, host in enumerate(HOSTS, 1):
            ends = ("add", host, "netns", self.name(SERVER), "type", "veth")
            _ip("link", *ends, "peer", "name", "eth0", "netns", self.name(host))
            for where, link, last in ((SERVER, host, 1), (host, "eth0", 2)):
                _ip("-n", self.name(where), "address", "add", f"10.97.{number}.{last}/24", "dev", link)
                _ip("-n", self.name(where), "link", "set", link, "up")

    def end(self) -> None:
        for host in (SERVER, *HOSTS):
            _clear(self.name(host))

    def name(self, host: str) -> str:
        return self._prefix + host

    def within(self, host: str) -> list[str]:
        """What makes the command that follows a process of this host's; it keeps its pid."""
        return ["nsenter", f"--net={NETS / self.name(host)}", "--"]

    def called_within(self, host: str, work: Callable[[], T]) -> T:
        """For a thread of its own."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, (NETS / self.name(host)).open() as away:
            if libc.setns(away.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                return work()
            finally:
                assert libc.setns(home.fileno(), 0) == 0

    @asynccontextmanager
    async def dropping(self, rules: list[list[str]]) -> AsyncIterator[None]:
        made = []
        try:
            for rule in rules:
                await self._iptables("-A", *rule)
                made.append(rule)
            yield
        finally:
            with trio.CancelScope(shield=True):
                for rule in made:
                    await self._iptables("-D", *rule)

    async def _iptables(self, *words: str) -> None:
        await trio.run_process([*self.within(SERVER), "iptables", "-w", *words, "-j", "DROP"])


def dropped(host: str, port: int, way: str) -> list[list[str]]:
    """Rules for what is between the host and that port of h0's. `way`: "in" to h0, "out" of it, or "both"."""
    into, out = ["INPUT", "-i", host, "-p", "tcp", "--dport"], ["OUTPUT", "-o", host, "-p", "tcp", "--sport"]
    return [[*rule, str(port)] for rule in {"in": [into], "out": [out], "both": [into, out]}[way]]


class OneWriterWorld:
    """One volume, asked for by two hosts in turn. `program` is what storaged's process runs."""

    def __init__(self, root: Path, nursery: trio.Nursery, program: str = PLAIN) -> None:
        self.root, self.nursery, self.program = root, nursery, program
        self.nets = Nets()
        self.realm: Realm = make_realm(root / "realm", *HOSTS, "ann")
        self.pool = root / "pool"
        self.folder = make_volume(self.pool, VID)
        self.portal = Portal(IPv4Address("0.0.0.0"), root / "exports" / "iscsi")
        self.doors = {host: Address(f"10.97.{number}.1", PORT) for number, host in enumerate(HOSTS, 1)}
        self._asking = {host: Storage(self.realm[host], root / "none") for host in HOSTS}
        self._socket = root / "storaged.sock"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._random = Random()  # ids; what a seed decides is decided elsewhere

    # ---- the storage host

    async def begin(self) -> None:
        self.nets.begin()
        realm, state = self.root / "realm", self.root / "state"
        state.mkdir()
        paths = {
            "identity": realm / SERVER, "state": state, "socket": self._socket, "audit": self.root / "audit.jsonl",
            "exports": self.root / "exports",
        }  # fmt: skip
        settings = [f'{key} = "{path}"' for key, path in paths.items()]
        settings += [f'pools = ["{self.pool}"]', "nfs_port = 0"]
        (self.root / "storaged.toml").write_text("\n".join(settings))
        self.begin_daemon()

    def begin_daemon(self) -> None:
        with (self.root / "storaged.log").open("ab") as log:
            words = [sys.executable, "-c", self.program, "--config", str(self.root / "storaged.toml")]
            self._daemon = subprocess.Popen([*self.nets.within(SERVER), *words], stderr=log, stdout=log)

    def signal_daemon(self, number: int) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def kill_daemon(self) -> None:
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def signal_exporter(self, number: int) -> None:
        """It may be dead already."""
        with suppress(FileNotFoundError):
            child = Child.find(self.portal.command)
            if child is not None:
                os.kill(child.pid, number)
                child.close()

    def end(self) -> None:
        if self._daemon is not None:
            self.kill_daemon()
        self.nets.end()

    # ---- what a user says, and a compute host asks

    async def confirmed(self, host: str, vm_id: VmId, generation: int) -> Vm:
        """A new life of the VM, with the volume held for it: as soon as storaged answers."""
        ann, pledge_id = self.realm["ann"], new_id(self._random)
        offer_id = await self._held(ann, pledge_id, vm_id, generation)
        claim = VolumeClaim(VID, self.realm[SERVER].principal.id, offer_id, self.doors[host])
        host_id = HostId(self.realm[host].principal.id)
        confirm = Confirm(vm_id, generation, pledge_id, new_id(self._random), host_id, "web", ASK, (claim,), "{}")
        envelope = seal(
            Kind.CONFIRM, encode(confirm), realm=ann.realm, signer=ann,
            audience=host_audience(host_id, Role.COMPUTE), max_bytes=BODY_MAX_BYTES,
        )  # fmt: skip
        return replace(a_vm(State.PREPARED), confirm=confirm, envelope=envelope)

    async def _held(self, ann: Identity, pledge_id: str, vm_id: VmId, generation: int) -> str:
        until_s = trio.current_time() + UP_S
        while True:
            pledge = Pledge(
                pledge_id, time.time_ns() // 10**6, (), False, vm_id, generation, ASK, (VID,), bytes(32), HOLD_MS, 1,
                Policy.PACK,
            )  # fmt: skip
            envelope = seal(
                Kind.PLEDGE, encode(pledge), realm=ann.realm, signer=ann, audience=REALM, max_bytes=BODY_MAX_BYTES
            )
            with suppress(local.LocalError):
                said = await local.ask(self._socket, Asked(envelope), Replies, timeout_s=ASK_S)
                assert isinstance(said, Replies)
                offers = [message for message in _opened(ann, said) if isinstance(message, VolumeOffer)]
                if offers:
                    return offers[0].offer_id
            assert self._daemon is not None
            assert self._daemon.poll() is None, f"storaged has ended by itself: {self.log()}"
            assert trio.current_time() < until_s, f"storaged offers nothing: {self.log()}"
            pledge_id = new_id(self._random)
            await trio.sleep(0.02)

    async def ask(self, host: str, vm: Vm) -> Answer:
        return await self._from(host, partial(self._asking[host].attach, vm), Silent("no answer in time"))

    async def detach(self, host: str, vm: Vm) -> bool:
        return await self._from(host, partial(self._asking[host].detach, vm), False)

    async def _from(self, host: str, question: Callable[[], Awaitable[T]], else_: T) -> T:
        async def asked() -> T:
            with trio.move_on_after(ASK_S):
                return await question()
            return else_

        return await trio.to_thread.run_sync(lambda: self.nets.called_within(host, lambda: trio.run(asked)))

    # ---- the writers

    @asynccontextmanager
    async def writing(self, host: str, attached: Attached, stamp: int) -> AsyncIterator[QemuWriter]:
        pipe = subprocess.PIPE
        words = [*self.nets.within(host), "stdbuf", "-oL", *qemu_io(access_of(attached))]
        process = await trio.lowlevel.open_process(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
        writer = QemuWriter(process, stamp)
        self.nursery.start_soon(writer.run)
        try:
            yield writer
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    def log(self) -> str:
        return (self.root / "storaged.log").read_text()[-4000:]


def access_of(attached: Attached) -> Access:
    (volume,), (secret,) = attached.volumes, attached.secrets
    target = volume.iscsi
    assert target is not None
    return Access(
        description.Kind.ISCSI,
        target.target,
        ImageFormat.RAW,
        volume.readonly,
        address=target.portal.ip,
        port=target.portal.port,
        lun=target.lun,
        initiator=target.initiator,
        chap=Chap(target.user, secret.secret),
    )


def _opened(ann: Identity, said: Replies) -> Iterator[object]:
    for answer in unframe(said.framed):
        sealed = unseal(answer, realm=ann.realm, max_bytes=BODY_MAX_BYTES)
        audience = user_audience(UserId(ann.principal.id))
        yield open_sealed(sealed, ann, audience=audience, signer="host", wall_s=time.time(), max_bytes=BODY_MAX_BYTES)[
            0
        ]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _sweep() -> None:
    """End what a test run that was killed has left."""
    for net in NETS.glob(f"{PREFIX}*"):
        pid = net.name.removeprefix(PREFIX).split("-")[0]
        if not Path("/proc", pid).exists():
            _clear(net.name)


def _clear(net: str) -> None:
    if (NETS / net).exists():
        for pid in subprocess.run(["ip", "netns", "pids", net], capture_output=True, text=True).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("netns", "del", net)
