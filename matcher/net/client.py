"""The client's datagrams: asking on every link at once, hearing signed answers, and driving a scheduler's machine.

Blocking, on purpose: a client does one thing at a time, and importing an event loop would cost it more than the whole
protocol does (docs/decisions.md). Everything that is decided is decided by `matcher.scheduler`.

Where nobody answers on the user's own links, the same question goes by a relay (`matcher.net.relay`). Until that is
found, the client's clock stands: no machine gives up because it takes a while.
"""

import dataclasses
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from matcher.net import multicast
from matcher.net.https import CONNECT_S, Connection, Door, Unanswered, Unreachable, dial
from matcher.net.interrupts import Interrupts
from matcher.scheduler import outcomes
from matcher.scheduler.outcomes import Effects, Finished, Outcome, SendAbandon, SendConfirm, SendPledge, SendReveal
from matcher.scheduler.placing import CONFIRM_REPEAT_S, Placing
from matcher.scheduler.surveying import Surveying
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity, client_tls
from matcher.trust.opening import open_sealed
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, encode, prepare
from matcher.wire.envelope import (
    ANSWERS,
    REALM,
    Kind,
    TooLong,
    host_audience,
    seal,
    unseal,
    user_audience,
)
from matcher.wire.framing import unframe
from matcher.wire.messages import (
    DATAGRAM_MAX_BYTES,
    Abandoned,
    Address,
    Answer,
    Clock,
    ConfirmVolume,
    Message,
    Pledge,
    Query,
    Refused,
    Reveal,
    Role,
    Unfit,
    VmOffer,
    VolumeOffer,
)
from specs.ids import HostId, OfferId, UserId

if TYPE_CHECKING:
    import ssl

    from matcher.net.relay.calling import CalledLine, Calling

BATCH_MAX = 256
ALONE_S = 0.15  # nobody has answered on the user's own links
Answers = VmOffer | VolumeOffer | Unfit | Answer | Clock
Q = TypeVar("Q", Pledge, Query)


@dataclass(frozen=True, slots=True)
class Said:
    """A signed answer of a host, and where it came from."""

    message: Answers
    host_id: HostId
    address: str


class Client:
    """A user on their own links. Use it as a context manager.

    `soon` are the messages that come after the first question: what they need is made while hosts are waited for.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        port: int = multicast.PORT,
        known: tuple[Door, ...] = (),
        soon: tuple[type[Message], ...] = (),
        relays: "Calling | None" = None,
    ) -> None:
        self.identity = identity
        self._relays = relays
        self._asked: Pledge | Query | None = None  # what a relay would be given
        self._asked_s = 0.0
        self._stood_s = 0.0  # for so long the clock has stood
        self._has_called = False  # what relay there may be was looked for
        self._near: set[str] = set()  # hosts that were heard on the user's own links,
        self._far: set[str] = set()  # and by a relay alone
        self._soon = soon
        self._tls: tuple[int, ssl.SSLContext | None] = (0, None)  # for which version of the identity
        self.interrupts = Interrupts()
        self.taken: Connection | None = None  # where a confirm was taken: its progress is still to be read
        self.known = known  # where a pledge goes that is too long for a datagram
        self._port = port
        self._links = multicast.links()
        self._sockets = multicast.asking_sockets()
        self._selector = selectors.DefaultSelector()
        self._pledged = ""  # the id of the pledge that was asked last
        self._early: list[Said] = []  # answers that came by HTTPS
        for asking in self._sockets:
            self._selector.register(asking, selectors.EVENT_READ)

    def __enter__(self) -> "Client":
        self.interrupts.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.interrupts.__exit__()
        if self.taken is not None:
            self.taken.close()
        self._selector.close()
        for asking in self._sockets:
            asking.close()
        if self._relays is not None:
            self._relays.close()

    def now_s(self) -> float:
        """The client's clock: monotonic, and it stands while a relay is looked for."""
        return time.monotonic() - self._stood_s

    @property
    def has_heard_near(self) -> bool:
        return bool(self._near)

    @property
    def relay(self) -> Door | None:
        """By which hosts were heard, if by any, and none without."""
        return self._relays.relay if self._relays is not None and self._far and not self._near else None

    # ---- asking

    def ask(self, question: Pledge | Query) -> None:
        """Multicast on every link, each time with the address at which this link's answers are awaited.

        Asked again, it is signed anew, with the time of now: hosts drop the same bytes heard twice. A pledge that names
        volumes goes by IPv4 at first, where a link has it: hosts answer the copy that they hear first, and where a
        server was heard at a link-local IPv6 address, no other host could ask it for its volumes.
        """
        only_4 = self._is_new_and_names_volumes(question)
        if self._asked is None:
            self._asked_s = self.now_s()
        self._asked = question
        try:
            for link in self._links if self._relays is None or not self._relays.is_only else ():
                datagram = self._question(question, self._reply(link))
                for asking in self._sockets:
                    if not (only_4 and link.ipv4 and asking.family == socket.AF_INET6):
                        multicast.ask(asking, datagram, link, self._port)
            self._ask_through(question)
        except TooLong:
            assert isinstance(question, Pledge), "a query always fits"
            self._ask_each(question)
        if self._soon:
            Thread(target=self._prepare, args=(self._soon,), daemon=True).start()
            self._soon = ()

    def _question(self, question: Pledge | Query, reply: tuple[Address, ...]) -> bytes:
        """Raises `TooLong`."""
        kind = Kind.PLEDGE if isinstance(question, Pledge) else Kind.QUERY
        mine = dataclasses.replace(question, reply=reply, sent_at_ms=time.time_ns() // 1_000_000)
        return self._sealed(kind, mine, REALM, pad_bytes=DATAGRAM_MAX_BYTES)

    def _is_new_and_names_volumes(self, question: Pledge | Query) -> bool:
        is_new = isinstance(question, Pledge) and question.pledge_id != self._pledged
        self._pledged = question.pledge_id if isinstance(question, Pledge) else ""
        return is_new and isinstance(question, Pledge) and bool(question.volumes)

    def reveal(self, reveal: Reveal) -> None:
        datagram = seal(Kind.REVEAL, encode(reveal), realm=self.identity.realm, signer=None, audience=REALM)
        for link in self._links:
            for asking in self._sockets:
                multicast.ask(asking, datagram, link, self._port)
        self._say(lambda line: line.ask(datagram))

    def hear(self, until_s: float) -> Iterator[Said]:
        """What hosts say until `until_s` on the client's clock, as it comes; ends early after each batch."""
        while self._early:
            yield self._early.pop(0)
        if self._is_waiting_alone():
            until_s = min(until_s, self._asked_s + ALONE_S)
        with self.interrupts.waiting():
            ready = self._selector.select(max(0.0, until_s - self.now_s()))
        for key, _ in ready:
            if isinstance(key.fileobj, socket.socket):
                yield from self._drain(key.fileobj)
            else:
                yield from self._drain_line()
        if self._is_waiting_alone() and self.now_s() >= self._asked_s + ALONE_S:
            self._call()

    def connect(self, door: Door, *, timeout_s: float) -> Connection:
        return Connection(self.identity, door, timeout_s=timeout_s, tls=self._kept_tls(), dial=self._dial)

    def _kept_tls(self) -> "ssl.SSLContext | None":
        version, tls = self._tls
        return tls if version == self.identity.version else None

    # ---- by a relay

    def _is_waiting_alone(self) -> bool:
        return self._relays is not None and not (self._has_called or self._near or self._asked is None)

    def _call(self) -> "CalledLine | None":
        """Look for a relay, once or after one was lost, and ask there what was asked here."""
        relays = self._relays
        if relays is None:
            return None
        from matcher.net.relay.calling import NoRelay

        self._has_called = True
        begun_s = time.monotonic()
        try:
            with self.interrupts.waiting():
                line = relays.open(self._kept_tls())
        except NoRelay as error:
            relays.tell(f"no relay: {error}")
            return None
        finally:
            self._stood_s += time.monotonic() - begun_s
        self._selector.register(line, selectors.EVENT_READ)
        if self._asked is not None:
            self._say(partial(self._ask_by, question=self._asked))
        return line

    def _ask_through(self, question: Pledge | Query) -> None:
        relays = self._relays
        if relays is None:
            return
        if relays.line is None and not self._has_called and (relays.is_first or relays.is_only):
            self._call()  # asks by itself
        else:
            self._say(partial(self._ask_by, question=question))

    def _ask_by(self, line: "CalledLine", question: Pledge | Query) -> None:
        for place in line.places:
            line.ask(self._question(question, place.reply))

    def _say(self, what: Callable[["CalledLine"], None]) -> None:
        """By the line, where there is one; by the next, where that is lost."""
        line = self._relays.line if self._relays is not None else None
        if line is None:
            return
        from matcher.net.web import Broken

        try:
            what(line)
        except Broken as error:
            self._lose(line, error)

    def _drain_line(self) -> Iterator[Said]:
        from matcher.net.web import Broken

        line = self._relays.line if self._relays is not None else None
        if line is None:
            return
        try:
            for address, data in line.hear():
                for said in self._said(data, address, DATAGRAM_MAX_BYTES):
                    if said.host_id not in self._near and said.host_id != line.door.host_id:
                        self._far.add(said.host_id)
                    yield said
        except Broken as error:
            self._lose(line, error)

    def _lose(self, line: "CalledLine", why: Exception) -> None:
        """What is still to be heard can come by another one."""
        assert self._relays is not None
        self._selector.unregister(line)
        self._relays.lost(str(why))
        self._call()

    def _dial(self, door: Door, timeout_s: float) -> socket.socket:
        """Through the relay where a host was heard by that alone; or where it can't be reached otherwise, and nobody
        was heard here. Raises `OSError`."""
        relays = self._relays
        if relays is not None and door.host_id in self._far - self._near:
            return relays.tunnel(door, timeout_s, self._kept_tls())
        try:
            return dial(door, timeout_s)
        except OSError:
            if relays is None or self._near or not door.host_id:
                raise
            return relays.tunnel(door, timeout_s, self._kept_tls())

    # ---- placing

    def drive(self, machine: Placing | Surveying) -> Outcome:
        """Run a machine to its outcome; Ctrl-C is told to it, so that nothing is left half done."""
        pending = deque(machine.start(self.now_s(), wall_ms=time.time_ns() // 1_000_000))
        while True:
            try:
                if not pending:
                    pending.extend(self._wait(machine))
                    continue
                effect = pending.popleft()
                if isinstance(effect, Finished):
                    return effect.outcome
                pending.extend(self._perform(machine, effect))
            except KeyboardInterrupt:
                pending.extend(machine.interrupt(self.now_s()))

    def _wait(self, machine: Placing | Surveying) -> Effects:
        deadline_s = machine.next_deadline_s()
        assert deadline_s is not None, "an unfinished machine waits for something"
        for said in self.hear(deadline_s):
            if effects := _tell(machine, said, self.now_s()):
                return effects  # what cannot wait until all is read; the rest stays in the socket
        return machine.tick(self.now_s())

    def _perform(self, machine: Placing | Surveying, effect: outcomes.Effect) -> Effects:
        match effect:
            case SendPledge(pledge=pledge):
                self.ask(pledge)
            case SendReveal(reveal=reveal):
                self.reveal(reveal)
            case SendConfirm():
                assert isinstance(machine, Placing)
                return self._confirm(machine, effect)
            case SendAbandon():
                assert isinstance(machine, Placing)
                return self._abandon(machine, effect)
        return []

    def _confirm(self, machine: Placing, send: SendConfirm) -> Effects:
        offer_id = OfferId(send.confirm.offer_id)
        envelope = self._to_host(Kind.CONFIRM, send.confirm, send.host_id)
        connection = self._door(send.host_id, send.address, send.port)
        try:
            with self.interrupts.waiting():
                answer = connection.confirm(envelope)
        except Unreachable:
            return machine.confirm_failed(offer_id, self.now_s(), sent=False)
        except (Unanswered, EOFError):
            return machine.confirm_failed(offer_id, self.now_s(), sent=True)
        if isinstance(answer, Refused):
            return machine.confirm_answered(offer_id, answer, self.now_s())
        self.taken = connection
        return machine.confirm_answered(offer_id, outcomes.Committed(), self.now_s())

    def _abandon(self, machine: Placing, send: SendAbandon) -> Effects:
        envelope = self._to_host(Kind.ABANDON, send.abandon, send.host_id)
        try:
            with self.interrupts.waiting(), self._door(send.host_id, send.address, send.port) as connection:
                answer = connection.ask("POST", "/v1/abandons", Abandoned, envelope)
        except (Unreachable, Unanswered):
            return []
        said = answer if isinstance(answer, Refused) else outcomes.Abandoned(answer.committed is not None)
        return machine.abandon_answered(OfferId(send.abandon.offer_id), said, self.now_s())

    def sealed_for(self, host_id: HostId, confirm: ConfirmVolume) -> bytes:
        """The user's word on one volume more, for the host where the VM is."""
        return self._to_host(Kind.CONFIRM_VOLUME, confirm, host_id)

    # ---- inside

    def _prepare(self, soon: tuple[type[Message], ...]) -> None:
        prepare(*soon)
        version = self.identity.version
        self._tls = version, client_tls(self.identity)

    def _door(self, host_id: HostId, address: str, port: int) -> Connection:
        return self.connect(Door("", host_id, address, port), timeout_s=CONFIRM_REPEAT_S)

    def _to_host(self, kind: Kind, message: Message, host_id: HostId) -> bytes:
        return self._sealed(kind, message, host_audience(host_id, Role.COMPUTE), max_bytes=BODY_MAX_BYTES)

    def _sealed(
        self,
        kind: Kind,
        message: Message,
        audience: bytes,
        *,
        pad_bytes: int = 0,
        max_bytes: int = DATAGRAM_MAX_BYTES,
    ) -> bytes:
        identity = self.identity
        return seal(
            kind,
            encode(message),
            realm=identity.realm,
            signer=identity,
            audience=audience,
            pad_bytes=pad_bytes,
            max_bytes=max_bytes,
        )

    def _reply(self, link: multicast.Link) -> tuple[Address, ...]:
        ips = {socket.AF_INET: link.ipv4, socket.AF_INET6: link.ipv6}
        own = ((ips[asking.family], asking.getsockname()[1]) for asking in self._sockets)
        return tuple(Address(ip, port) for ip, port in own if ip)

    def _ask_each(self, pledge: Pledge) -> None:
        """A pledge too long for a datagram goes to the hosts that were heard of before, one by one."""
        self._asked = None  # no relay takes it either; each host is reached through one, where it has to be
        mine = dataclasses.replace(pledge, sent_at_ms=time.time_ns() // 1_000_000)
        envelope = self._sealed(Kind.PLEDGE, mine, REALM, max_bytes=BODY_MAX_BYTES)
        for door in self.known:
            try:
                with self.connect(door, timeout_s=CONNECT_S) as connection:
                    framed = connection.ask_bytes("POST", "/v1/pledges", envelope)
            except (Unreachable, Unanswered):
                continue
            for answer in unframe(framed) if isinstance(framed, bytes) else ():
                self._early += self._said(answer, door.address, BODY_MAX_BYTES)

    def _drain(self, asking: socket.socket) -> Iterator[Said]:
        for _ in range(BATCH_MAX):
            try:
                data, source = asking.recvfrom(DATAGRAM_MAX_BYTES + 1)
            except OSError:
                return
            for said in self._said(data, multicast.source_address(source), DATAGRAM_MAX_BYTES):
                self._near.add(said.host_id)
                yield said

    def _said(self, data: bytes, address: str, max_bytes: int) -> list[Said]:
        """The answer inside, if a host of the realm signed it for this user; anything else is nothing."""
        identity = self.identity
        try:
            sealed = unseal(data, realm=identity.realm, max_bytes=max_bytes)
            if sealed.kind not in ANSWERS:
                return []
            audience = user_audience(UserId(identity.principal.id))
            message, host = open_sealed(
                sealed, identity, audience=audience, signer="host", wall_s=time.time(), max_bytes=max_bytes
            )
        except (BadBytes, Untrusted):
            return []
        assert isinstance(message, VmOffer | VolumeOffer | Unfit | Answer | Clock)
        return [Said(message, HostId(host.id), address)]


def _tell(machine: Placing | Surveying, said: Said, now_s: float) -> Effects:
    match said.message:
        case VmOffer():
            return machine.heard_vm(said.message, said.host_id, said.address, now_s)
        case VolumeOffer():
            return machine.heard_volume(said.message, said.host_id, said.address, now_s)
        case Unfit():
            return machine.heard_unfit(said.message, said.host_id, now_s)
        case Clock():
            return machine.heard_clock(said.message, said.host_id, now_s)
        case Answer():
            return []
