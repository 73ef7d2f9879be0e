"""Many hosts' memberships on one event heap: links with loss and delay, partitions, hosts that are stopped, killed or
cut from power, networks without multicast. The objects are the daemons' own; signatures alone are left out.

What is counted is what would be on the wire: Ethernet, IP and UDP headers, the envelope, the message, the statements.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from heapq import heappop, heappush
from random import Random

from matcher.gossip.effects import Changed, Effect, Greet, Send, Shout
from matcher.gossip.membership import Membership
from matcher.gossip.roster import Charge, Record, short_of
from matcher.gossip.syncing import size_of
from matcher.gossip.voice import Way
from matcher.wire import gossip as wire
from matcher.wire.codec import encode
from matcher.wire.envelope import HEADER
from matcher.wire.gossip import Alive, Claim, Digest, HostState, Unsigned
from matcher.wire.messages import Address, Role
from specs.ids import HostId

PORT = 7766
HEADERS_BYTES = 14 + 20 + 8
PROOF, CERTIFICATE = bytes(345), bytes(470)  # as long as real ones
DELAY_S = (0.0002, 0.001)
DIGEST = Digest((Role.COMPUTE,), "X86_64", "x86-64-v3", 16, 16, 64_000, 64_000)
_SHORT = bytes(8)
SIZES: dict[type, int] = {
    type(message): HEADER.size + len(encode(message))
    for message in (
        wire.Ping(2**50, _SHORT, _SHORT, _SHORT),
        wire.Ack(2**50, _SHORT, _SHORT, 2, bytes(wire.MARK_BYTES)),
        wire.Ask(2**50, _SHORT, _SHORT),
        wire.Nack(2**50, _SHORT),
        wire.Summary(_SHORT, bytes(256)),
        wire.Listing(_SHORT, 2**63, _SHORT, _SHORT, b""),
        wire.Want(_SHORT, b""),
        wire.Tidings(_SHORT, b""),
    )
}


@dataclass(frozen=True, slots=True)
class Hand:
    """Signs by saying so."""

    host_id: HostId
    name: str

    def record(self, alive: Alive) -> Record:
        return Record(short_of(self.host_id), self.host_id, self.name, alive, PROOF, CERTIFICATE)

    def charge(self, claim: Claim) -> Charge:
        return Charge(short_of(self.host_id), claim, PROOF[:200])


@dataclass(slots=True)
class Host:
    number: int
    host_id: HostId
    address: Address
    member: Membership | None = None
    is_powered: bool = True
    paused_until_s: float = 0.0
    waiting: deque[Callable[[float], None]] = field(default_factory=deque)
    wakes_s: float = float("inf")
    sent: Counter[str] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)

    @property
    def short(self) -> bytes:
        return short_of(self.host_id)


def nowhere(_a: int, _b: int) -> bool:
    """Parts no two hosts."""
    return False


class World:
    """`parted(a, b)`: whether nothing gets from host a to host b."""

    def __init__(self, seed: int, *, loss: float = 0.0, multicast: bool = True) -> None:
        self.random = Random(seed)
        self.now_s = 0.0
        self.loss, self.multicast = loss, multicast
        self.hosts: list[Host] = []
        self.by_address: dict[str, Host] = {}
        self.parted: Callable[[int, int], bool] = nowhere
        self.changes: list[tuple[float, int, HostId, HostState]] = []
        self.longest_bytes = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # ---- the people who make things happen

    def add(self, *, seeds: Iterable[Address] = ()) -> Host:
        number = len(self.hosts)
        host_id = HostId(sha256(b"%d/%d" % (number, self.random.getrandbits(32))).hexdigest())
        host = Host(number, host_id, Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", PORT))
        self.hosts.append(host)
        self.by_address[host.address.ip] = host
        self.start(host, seeds=seeds)
        return host

    def start(self, host: Host, *, seeds: Iterable[Address] = ()) -> None:
        alive = Alive(int(self.now_s * 1000), 0, (host.address,), 7443, DIGEST)
        hand = Hand(host.host_id, f"h{host.number}")
        host.is_powered = True
        host.member = Membership(alive, hand, random=Random(self.random.getrandbits(64)), now_s=self.now_s, seeds=seeds)
        self._wake(host)

    def kill(self, host: Host) -> None:
        """As SIGKILL does: the machine says that nobody listens there."""
        host.member = None

    def cut_power(self, host: Host) -> None:
        host.member, host.is_powered = None, False

    def pause(self, host: Host, for_s: float) -> None:
        host.paused_until_s = max(host.paused_until_s, self.now_s + for_s)
        self.at(host.paused_until_s, lambda: self._resume(host))

    def tell(self, host: Host, digest: Digest) -> None:
        assert host.member is not None
        self._do(host, host.member.tell(digest, self.now_s))

    def leave(self, host: Host) -> None:
        assert host.member is not None
        self._do(host, host.member.leave(self.now_s))
        host.member = None

    def at(self, at_s: float, do: Callable[[], None]) -> None:
        self._push(at_s, do)

    def _fly(self, delay_s: float, arrive: Callable[[], None], _what: "Datagram | Statement | None" = None) -> None:
        self._push(self.now_s + delay_s, arrive)

    def _push(self, at_s: float, do: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._heap, (at_s, self._count, do))

    def run(self, for_s: float, until: Callable[[], bool] = lambda: False) -> bool:
        end_s = self.now_s + for_s
        while self._heap and self._heap[0][0] <= end_s:
            self.now_s, _, do = heappop(self._heap)
            do()
            if until():
                return True
        self.now_s = end_s
        return False

    def comes_to_rest(self, within_s: float, is_so: Callable[[], bool]) -> bool:
        """As `run`, for what is dear to look at: looked at twice a second."""
        for _ in range(int(2 * within_s)):
            self.run(0.5)
            if is_so():
                return True
        return False

    # ---- what is seen

    @property
    def living(self) -> list[Host]:
        return [host for host in self.hosts if host.member is not None]

    def states_of(self, host: Host) -> Counter[HostState]:
        """What the others hold it for; those that do not know it are not counted."""
        found: Counter[HostState] = Counter()
        for other in self.living:
            assert other.member is not None
            if other is not host and host.short in other.member.roster.records:
                found[other.member.roster.state(host.short)] += 1
        return found

    def all_hold(self, host: Host, *states: HostState) -> bool:
        found = self.states_of(host)
        return sum(found[state] for state in states) == len(self.living) - (host.member is not None)

    def agree(self) -> bool:
        return len({other.member.roster.mark for other in self.living if other.member is not None}) == 1

    # ---- the network

    def _do(self, host: Host, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to, message, told, certified):
                    size = SIZES[type(message)] + len(getattr(message, "entries", getattr(message, "hosts", b"")))
                    size += sum(size_of(each, certified=certified) for each in told)
                    self._one(host, to, type(message).__name__, size, Datagram(message, told, host.address))
                case Greet(to, told):
                    self._one(host, to, "greeting", whole_of(told), Statement(told, Way.ANSWER))
                case Shout(told):
                    self._all(host, told)
                case Changed(host_id, state):
                    self.changes.append((self.now_s, host.number, host_id, state))
        self._wake(host)

    def _one(self, host: Host, to: Address, kind: str, size: int, what: "Datagram | Statement") -> None:
        self._count_sent(host, kind, size)
        there = self.by_address.get(to.ip)
        if there is None or self._is_lost() or self.parted(host.number, there.number):
            return
        self._carry(host, there, kind, size, what)

    def _all(self, host: Host, told: Record | Charge) -> None:
        """By IPv4 and by IPv6."""
        if not self.multicast:
            return
        what, size = Statement(told, Way.MULTICAST), whole_of(told)
        for _ in range(2):
            self._count_sent(host, "shout", size)
            for there in self.hosts:
                if there is host or there.member is None or self.parted(host.number, there.number):
                    continue
                if not self.loss or self.random.random() >= self.loss:
                    self._carry(host, there, "shout", size, what)

    def _is_lost(self) -> bool:
        return self.random.random() < self.loss

    def _delay_s(self, _host: Host, _there: Host) -> float:
        return self.random.uniform(*DELAY_S)

    def _count_sent(self, host: Host, kind: str, size: int) -> None:
        host.sent[kind] += 1
        host.sent["bytes"] += size + HEADERS_BYTES
        host.sent["packets"] += 1
        self.longest_bytes = max(self.longest_bytes, size)

    def _carry(self, host: Host, there: Host, kind: str, size: int, what: "Datagram | Statement") -> None:
        def arrive() -> None:
            there.heard[kind] += 1
            there.heard["bytes"] += size + HEADERS_BYTES
            there.heard["packets"] += 1
            if there.member is None:
                if there.is_powered and isinstance(what, Datagram) and isinstance(what.message, wire.Ping):
                    self._refuse(there, host, what.message.nonce)
            elif self.now_s < there.paused_until_s:
                there.waiting.append(lambda _: self._deliver(there, what))
            else:
                self._deliver(there, what)

        self._fly(self._delay_s(host, there), arrive, what)

    def _refuse(self, there: Host, host: Host, nonce: int) -> None:
        if self.random.random() >= self.loss and not self.parted(there.number, host.number):
            self._fly(DELAY_S[0], lambda: self._refused(host, nonce))

    def _refused(self, host: Host, nonce: int) -> None:
        if host.member is not None and self.now_s >= host.paused_until_s:
            self._do(host, host.member.refused(nonce, self.now_s))

    def _deliver(self, host: Host, what: "Datagram | Statement") -> None:
        member, now_s = host.member, self.now_s
        if member is None:
            return
        for told in what.told if isinstance(what, Datagram) else (what.told,):
            if isinstance(told, Charge):
                if told.about == host.short or told.by in member.roster.records:
                    self._do(host, member.charged(told, now_s))
            elif isinstance(what, Statement):
                self._do(host, member.heard(told, now_s, what.way))
            else:
                is_own = self.by_address[what.source.ip].short == told.short
                self._do(host, member.heard(told, now_s, Way.ITSELF if is_own else Way.OTHERS))
        if isinstance(what, Datagram):
            self._do(host, member.receive(what.message, what.source, now_s))

    # ---- time

    def _wake(self, host: Host) -> None:
        if host.member is None:
            return
        due_s = max(host.member.next_deadline_s(), self.now_s)
        if due_s < host.wakes_s:
            host.wakes_s = due_s
            self._push(due_s, lambda: self._tick(host, due_s))

    def _tick(self, host: Host, due_s: float) -> None:
        if host.wakes_s != due_s:
            return  # another was asked for meanwhile
        host.wakes_s = float("inf")
        if host.member is None:
            return
        if self.now_s < host.paused_until_s:
            host.wakes_s = host.paused_until_s
            return
        if host.member.next_deadline_s() <= self.now_s:
            self._do(host, host.member.tick(self.now_s))
        else:
            self._wake(host)

    def _resume(self, host: Host) -> None:
        if self.now_s < host.paused_until_s:
            return
        host.wakes_s = float("inf")
        while host.waiting and host.member is not None:
            host.waiting.popleft()(self.now_s)
        host.waiting.clear()
        if host.member is not None:
            self._do(host, host.member.tick(self.now_s))


@dataclass(frozen=True, slots=True)
class Datagram:
    message: Unsigned
    told: tuple[Record | Charge, ...]
    source: Address


@dataclass(frozen=True, slots=True)
class Statement:
    told: Record | Charge
    way: Way


def whole_of(told: Record | Charge) -> int:
    return HEADER.size + len(told.proof) + len(CERTIFICATE)


def grown(seed: int, hosts: int, *, loss: float = 0.0, settle_s: float = 30.0) -> World:
    """A realm that has come to rest on one link; it grows by ten hosts a second."""
    world = World(seed)
    for _ in range(hosts):
        world.add()
        world.run(0.1)
    world.run(settle_s)
    world.loss = loss
    return world


def changed(digest: Digest, random: Random) -> Digest:
    return replace(digest, slots_free=random.randrange(digest.slots), ram_free_mib=random.randrange(digest.ram_mib))
