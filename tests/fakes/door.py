"""A front door on loopback, with a host that has one VM and a desk that is as real as the issuer behind it."""

import secrets
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from matcher.net.caller import Caller
from matcher.net.door.admission import Limits
from matcher.net.door.behind import Console, Neighbours
from matcher.net.door.serving import Opened, serve
from matcher.trust.documents import read_documents
from matcher.trust.identity import Identity, client_tls
from matcher.trust.issuing import IssueError
from matcher.trust.joining import admit
from matcher.trust.principal import fingerprint
from matcher.trust.tokens import Token, Tokens
from matcher.wire.framing import frame, unframe
from matcher.wire.messages import Abandoned, Answer, Reason, Refused, Role, VmView, VmViews
from matcher.wire.realm import (
    Admitted,
    ChangeGrant,
    Done,
    Grant,
    Invited,
    InviteHost,
    InviteUser,
    Join,
    Members,
    RealmStatus,
    Renew,
    Revoke,
    Use,
    UserUses,
    Welcome,
    WhoAmI,
)
from specs.ids import UserId, Vid, VmId
from tests.fakes.realms import FOUNDER, Realm

VM_ID = VmId("a" * 32)
VM = VmView(
    id=VM_ID,
    generation=1,
    name="web",
    user="ann",
    host="h0",
    host_id="1" * 64,
    state="running",
    why="",
    domain="atomos-x",
    accelerator="kvm",
    arch="X86_64",
    addresses=(),
    vcpus=1,
    threads=(0,),
    threads_per_core=1,
    overprovision=1,
    numa=0,
    ram_mib=512,
    pci=(),
    volumes=(),
    specfile="{}",
)
ABOUT = Answer("0" * 32, "h0", Role.COMPUTE, 7766, 1, "0.1.0", 1, "a CPU", "X86_64", "kvm", 4, 3, 8192, 4096, 1, 0)
ANN = UserId("a" * 64)
NOT_FOUND = Refused("not-found", (Reason("vm", "a VM", "no such VM of yours here", ""),))


class Echo:
    """A guest that says what it hears."""

    def __init__(self) -> None:
        self._say, self._heard = trio.open_memory_channel[bytes](8)
        self.is_closed = False

    async def send(self, data: bytes) -> None:
        await self._say.send(data)

    async def receive(self) -> bytes:
        return await self._heard.receive()

    async def aclose(self) -> None:
        self.is_closed = True


class FakeHost:
    """Has `VM`; whatever waits, waits for `go`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Caller]] = []
        self.bodies: list[bytes] = []
        self.go = trio.Event()
        self.waiting = 0
        self.echo = Echo()

    def about(self, caller: Caller) -> Answer:
        self.asked.append(("about", caller))
        return ABOUT

    async def uses(self, user_id: UserId) -> UserUses:
        return UserUses(Use(vms=2)) if user_id == ANN else UserUses(Use())

    async def whoami(self, caller: Caller) -> WhoAmI:
        return WhoAmI(caller.name, caller.id, "home", "h0", 0, caller.who.grant, caller.who.grant, Use(vms=1))

    async def pledge(self, envelope: bytes, caller: Caller) -> list[bytes] | Refused:
        self.bodies.append(envelope)
        return [b"one", b"two"]

    async def confirm(self, envelope: bytes, caller: Caller) -> VmView | Refused:
        self.bodies.append(envelope)
        return VM

    async def up(self, vm_id: VmId, generation: int) -> VmView | None:
        await self._wait()
        return VM

    async def abandon(self, envelope: bytes, caller: Caller) -> Abandoned | Refused:
        return Abandoned()

    async def vms(self, caller: Caller) -> VmViews:
        return VmViews((VM,))

    async def vm(self, vm_id: VmId, caller: Caller) -> VmView | Refused:
        return VM if vm_id == VM_ID else NOT_FOUND

    async def stop(self, vm_id: VmId, caller: Caller, *, force: bool) -> VmView | Refused:
        await self._wait()
        return VM

    async def reboot(self, vm_id: VmId, caller: Caller) -> VmView | Refused:
        raise AssertionError("a fault that the door must live with")

    async def remove(self, vm_id: VmId, caller: Caller, generation: int | None) -> VmView | Refused:
        return VM if generation in (None, 1) else NOT_FOUND

    async def attach_volume(self, vm_id: VmId, envelope: bytes, caller: Caller) -> VmView | Refused:
        self.bodies.append(envelope)
        return VM if vm_id == VM_ID else NOT_FOUND

    async def detach_volume(self, vm_id: VmId, vid: Vid, caller: Caller) -> VmView | Refused:
        self.bodies.append(vid.encode())
        return VM if vm_id == VM_ID else NOT_FOUND

    async def console_log(self, vm_id: VmId, caller: Caller) -> bytes | Refused:
        return bytes(4 << 20)

    async def console(self, vm_id: VmId, caller: Caller) -> Console | Refused:
        return self.echo if vm_id == VM_ID else NOT_FOUND

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.go.wait()
        finally:
            self.waiting -= 1


class FakeDesk:
    """The founder's desk."""

    def __init__(self, realm: Realm) -> None:
        self.realm, self.tokens = realm, Tokens()
        self.denials: list[tuple[str, str]] = []
        self.joined: list[str] = []

    @property
    def host(self) -> Identity:
        return self.realm[FOUNDER]

    def token(self, kind: str, name: str, port: int, grant: Grant | None = None, address: str = "127.0.0.1") -> Token:
        token = self.tokens.issue(
            "user" if kind == "user" else "host",
            name=name,
            grant=grant if kind == "user" else None,
            by="ann",
            root=fingerprint(self.realm.root.key.public_key()),
            addresses=[address],
            port=port,
            random=secrets.token_bytes(24),
            now_s=0.0,
        )
        assert token is not None
        return token

    def status(self) -> RealmStatus:
        return RealmStatus(self.realm.root.realm_id, "home", FOUNDER, 1, (), (), 0, 1, 0, True, 0)

    def bundle(self) -> bytes:
        return frame([self.host.bundle.to_bytes(), self.host.tag_key_documents()])

    async def offer(self, documents: bytes, caller: Caller) -> Done | Refused:
        known = [each for part in unframe(documents) for each in read_documents(frame([part]))]
        self.host.learn(known, time.time())
        return Done(f"{len(documents)} bytes")

    async def renew(self, renew: Renew, caller: Caller, leaf: bytes) -> Admitted | Refused:
        try:
            issued = self.realm.issuer.renew(leaf, renew.request, wall_s=time.time())
        except IssueError as error:
            return Refused(error.code, ())
        return Admitted(issued.leaf, self.host.tag_key_documents())

    async def invite_host(self, invite: InviteHost, caller: Caller) -> Invited | Refused:
        return Invited("atomos1-x", 900)

    async def invite_user(self, invite: InviteUser, caller: Caller) -> Invited | Refused:
        return Refused("not-an-issuer", (Reason("issuer", "to invite", "h9 is one", ""),))

    async def change_grant(self, change: ChangeGrant, caller: Caller) -> Done | Refused:
        try:
            revocation = self.realm.issuer.change(change.name, change.grant, wall_s=time.time())
        except IssueError as error:
            return Refused(error.code, ())
        self.host.learn([revocation], time.time())
        return Done("another grant")

    async def make_issuer(self, caller: Caller) -> Renew | Refused:
        return Renew(self.realm.issuer.request("h0"))

    async def revoke(self, revoke: Revoke, caller: Caller) -> Done | Refused:
        self.revoke_now(revoke.member)
        await trio.sleep(0.05)  # others are told
        return Done("revoked")

    def revoke_now(self, name: str) -> None:
        kind = self.realm[name].principal.kind
        self.host.learn([self.realm.issuer.revoke(kind, name, "", wall_s=time.time())], time.time())

    def members(self, caller: Caller) -> Members | Refused:
        return Members(self.realm.issuer.members(time.time()))

    def denied(self, caller: Caller, asked: str, why: str) -> None:
        self.denials.append((caller.name, asked))

    def is_joining(self) -> bool:
        return self.tokens.is_open(1.0)

    def welcome(self) -> Welcome:
        return Welcome(self.host.bundle.to_bytes())

    async def join(self, join: Join, server_leaf: bytes, address: str) -> Admitted | Refused:
        said = admit(
            join,
            self.tokens,
            self.realm.issuer,
            self.host,
            server_leaf=server_leaf,
            addresses=[address],
            now_s=1.0,
            wall_s=time.time(),
        )
        if isinstance(said, Refused):
            return said
        self.joined.append(said[1].member.name)
        return said[0]


class Running:
    """A door that serves, and how to come to it."""

    def __init__(self, realm: Realm, host: FakeHost, desk: FakeDesk, opened: Opened) -> None:
        self.realm, self.host, self.desk, self.port = realm, host, desk, opened.port
        self.counters = opened.counters
        self._opened: list[trio.SocketStream] = []

    async def plain(self) -> trio.SocketStream:
        """A bare connection, closed in the end."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self._opened.append(stream)
        return stream

    async def close(self) -> None:
        for each in self._opened:
            await trio.aclose_forcefully(each)

    async def connect(
        self, identity: Identity | None, *, alpn: str = "", context: ssl.SSLContext | None = None
    ) -> "To":
        """With a finished handshake, as the client sees it."""
        if context is None:
            context = client_tls(identity) if identity else stranger_tls()
        if alpn:
            context.set_alpn_protocols([alpn])
        tls = trio.SSLStream(await self.plain(), context, https_compatible=True)
        await tls.do_handshake()
        return To(tls)


class To:
    """One end of a connection to the door."""

    def __init__(self, tls: "trio.SSLStream[trio.SocketStream]") -> None:
        self.tls = tls
        self._read = bytearray()

    async def ask(self, method: str, path: str, body: bytes = b"", *, headers: str = "") -> tuple[int, bytes]:
        """Status and body of one answer."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        await self.tls.send_all(f"{method} {path} HTTP/1.1\r\nHost: h0\r\n{length}{headers}\r\n".encode() + body)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        head = await self.read_until(b"\r\n\r\n")
        status, length = int(head.split()[1]), 0
        for line in head.decode().lower().splitlines():
            if line.startswith("content-length:"):
                length = int(line.partition(":")[2])
        return status, await self.read(length)

    async def read(self, size: int) -> bytes:
        while len(self._read) < size:
            await self._more()
        said = bytes(self._read[:size])
        del self._read[:size]
        return said

    async def reset(self) -> None:
        """End it as a program does that is killed."""
        stream = self.tls.transport_stream
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async def is_over(self) -> bool:
        """Waits for the other side to end it; whether nothing was said before."""
        try:
            return not await self.tls.receive_some()
        except trio.BrokenResourceError:
            return True

    async def read_until(self, mark: bytes) -> bytes:
        while mark not in self._read:
            await self._more()
        end = self._read.index(mark) + len(mark)
        found = bytes(self._read[:end])
        del self._read[:end]
        return found

    async def _more(self) -> None:
        data = await self.tls.receive_some()
        if not data:
            raise EOFError
        self._read += data


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not is_so():  # noqa: ASYNC110  what is waited for knows nothing of us
            await trio.sleep(0.005)


def stranger_tls() -> ssl.SSLContext:
    """Somebody without a certificate, who trusts anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def open_door(
    realm: Realm, limits: Limits | None = None, neighbours: Neighbours | None = None
) -> AsyncIterator[Running]:
    host, desk = FakeHost(), FakeDesk(realm)
    async with trio.open_nursery() as nursery:
        door = partial(serve, realm[FOUNDER], host, desk, neighbours=neighbours, port=0, limits=limits or Limits())
        opened = await nursery.start(door)
        running = Running(realm, host, desk, opened)
        try:
            with trio.fail_after(30):
                yield running
        finally:
            with trio.CancelScope(shield=True):
                await running.close()
        nursery.cancel_scope.cancel()
