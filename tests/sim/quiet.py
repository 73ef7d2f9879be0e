"""Memberships by the ten thousand: while a realm is quiet, what changes nothing is not carried from host to host.

QUIET means that all hosts run, all hold each other for alive and hear each other's multicast, and all have the same
mark of all that they know; that nothing gets lost, and nothing else is under way than what is named here. What happens
then, and what is left out:

- A host pings another when it is its turn, and is answered. The one that answers is the same before and after. The one
  that asks has drawn a nonce, and has its next turn. So its own `Prober` begins and ends that probe, at the very
  moments, and neither ping nor ack is carried.
- A host says once more by multicast what all know of it already. All are the same before and after. So its own `tick`
  says so, and nobody is told.

All other timers are the objects' own, at their time. Nothing is left out from shortly before the next thing that people
do until all is quiet again; after a newcomer that is when all have heard each other's multicast, by beacons. Where
`skips` is false, all is carried: `test_sim_quiet` compares the two, down to the state of every object and of its random
numbers. For that, delays hang on who sends when, and not on what was sent before.

In `settled` all hosts read one and the same view, until something reaches a host that is not left out: then it gets a
copy of its own. That is what makes 10,000 views of 10,000 hosts fit into memory.
"""

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush

from matcher.gossip.effects import Effect, Shout
from matcher.gossip.membership import Membership
from matcher.gossip.roster import Record
from matcher.gossip.rumors import Told
from matcher.wire.gossip import Ack, Digest, Ping
from tests.sim.members import DELAY_S, HEADERS_BYTES, SIZES, Datagram, Host, Statement, World, nowhere, whole_of

EXCHANGE_S = 2.5 * DELAY_S[1]  # a ping, its ack, and no doubt
LOOK_AGAIN_S = (0.01, 1.0)


class QuietWorld(World):
    def __init__(self, seed: int, *, loss: float = 0.0, skips: bool = True) -> None:
        super().__init__(seed, loss=loss)
        self.skips = skips
        self.skipped = 0  # exchanges and statements that were not carried
        self._key = seed
        self._flights: dict[int, tuple[float, Callable[[], None], Datagram | Statement | None]] = {}
        self._planned: list[tuple[float, int, Callable[[], None]]] = []  # what people do
        self._sharing: set[int] = set()  # hosts that read the common view
        self._by_short: dict[bytes, Host] = {}
        self._answered: dict[bytes, int] = {}

    def at(self, at_s: float, do: Callable[[], None]) -> None:
        super().at(at_s, do)
        heappush(self._planned, (at_s, self._count, do))

    def run(self, for_s: float, until: Callable[[], bool] = lambda: False) -> bool:
        """`until` is not asked while it is quiet, as nothing changes then."""
        end_s, step_s = self.now_s + for_s, LOOK_AGAIN_S[0]
        while self.now_s < end_s:
            if self._is_quiet():
                self._idle(min(end_s, self._next_planned_s()) - EXCHANGE_S)
                step_s = LOOK_AGAIN_S[0]
            if super().run(min(step_s, end_s - self.now_s), until):
                return True
            step_s = min(2 * step_s, LOOK_AGAIN_S[1])
        return False

    # ---- quiet

    def _is_quiet(self) -> bool:
        if not self.skips or self.loss or not self.multicast or self.parted is not nowhere or len(self.hosts) < 2:
            return False
        first = self.hosts[0].member
        if first is None or not all(_changes_nothing(what, first) for _, _, what in self._flights.values()):
            return False
        under_way = (_exchanged(what) for _, _, what in self._flights.values())
        asked = {each.nonce for each in under_way if each is not None}
        return all(
            host.member is not None
            and not host.waiting
            and self.now_s >= host.paused_until_s
            and host.member.roster.mark == first.roster.mark
            and _is_at_rest(host.member)
            and _is_answered_soon(host.member, asked)
            for host in self.hosts
        )

    def _next_planned_s(self) -> float:
        while self._planned and self._planned[0][0] < self.now_s:
            heappop(self._planned)
        return self._planned[0][0] if self._planned else float("inf")

    def _idle(self, until_s: float) -> None:
        """All that hosts do before `until_s`, one after the other: none is heard by another."""
        if until_s <= self.now_s + EXCHANGE_S:
            return
        self._land()
        self._answered.clear()
        shouted, self._by_short = Counter[str](), {host.short: host for host in self.hosts}
        alone = [self._idle_alone(host, until_s) for host in self.hosts]
        for mine in alone:
            shouted += mine
        for host, mine in zip(self.hosts, alone, strict=True):
            pings = self._answered.get(host.short, 0)
            _count(host.heard, "Ping", SIZES[Ping], pings)
            _count(host.sent, "Ack", SIZES[Ack], pings)
            host.heard += shouted - mine
            host.wakes_s = float("inf")
        self._heap = [*self._planned]  # nothing else was on it but when hosts wake up
        self.now_s = until_s
        for host in self.hosts:
            self._wake(host)

    def _land(self) -> None:
        """All that is under way; whoever wakes up meanwhile does so later, at its moment."""
        while self._flights:
            self.now_s, land = min((at_s, number) for number, (at_s, _, _) in self._flights.items())
            self._flights[land][1]()

    def _idle_alone(self, host: Host, until_s: float) -> Counter[str]:
        """What others would have heard of it."""
        member = host.member
        assert member is not None
        prober, agenda, shouted, pings = member._prober, member._agenda, Counter[str](), 0
        while True:
            probe_s, agenda_s = prober.due_s, agenda.next_s
            now_s = min(probe_s, agenda_s)
            if now_s >= until_s:
                break
            if agenda_s < probe_s:
                for effect in member.tick(now_s):
                    shouted += self._known_to_all(host, effect)
                continue
            assert agenda_s > probe_s, "not both at one moment"
            probe = prober.begin(now_s)
            assert probe is not None
            there = self._by_short[probe.target]
            arrives_s = now_s + self._delay_at(now_s, host, there)
            prober.acked(probe.nonce, arrives_s + self._delay_at(arrives_s, there, host))
            self._answered[probe.target] = self._answered.get(probe.target, 0) + 1
            pings += 1
        _count(host.sent, "Ping", SIZES[Ping], pings)
        _count(host.heard, "Ack", SIZES[Ack], pings)
        host.sent += shouted
        self.skipped += pings + shouted["shout"]
        return shouted

    def _known_to_all(self, host: Host, effect: Effect) -> Counter[str]:
        assert isinstance(effect, Shout), effect
        assert host.member is not None
        assert isinstance(effect.told, Record)
        assert effect.told.version == host.member.roster.version(host.short), "all have the same mark"
        said = Counter[str]()
        _count(said, "shout", whole_of(effect.told), 2)
        return said

    # ---- the network, and views that become a host's own

    def _is_lost(self) -> bool:
        return self.loss > 0 and super()._is_lost()

    def _delay_s(self, host: Host, there: Host) -> float:
        return self._delay_at(self.now_s, host, there)

    def _delay_at(self, now_s: float, host: Host, there: Host) -> float:
        chance = (hash((self._key, now_s, host.number, there.number)) & 0xFFFFFFFF) / 2**32
        return DELAY_S[0] + (DELAY_S[1] - DELAY_S[0]) * chance

    def _fly(self, delay_s: float, arrive: Callable[[], None], what: Datagram | Statement | None = None) -> None:
        number = self._count

        def land() -> None:
            del self._flights[number]
            arrive()

        self._flights[number] = self.now_s + delay_s, land, what
        super()._fly(delay_s, land, what)

    def _deliver(self, host: Host, what: Datagram | Statement) -> None:
        told = what.told if isinstance(what, Datagram) else (what.told,)
        if host.member is not None and any(_is_news(each, host.member) for each in told):
            self._own(host)
        super()._deliver(host, what)

    def _tick(self, host: Host, due_s: float) -> None:
        if host.member is not None and (host.member._prober.probe is not None or not _is_at_rest(host.member)):
            self._own(host)
        super()._tick(host, due_s)

    def _resume(self, host: Host) -> None:
        self._own(host)
        super()._resume(host)

    def _refused(self, host: Host, nonce: int) -> None:
        self._own(host)
        super()._refused(host, nonce)

    def tell(self, host: Host, digest: Digest) -> None:
        self._own(host)
        super().tell(host, digest)

    def leave(self, host: Host) -> None:
        self._own(host)
        super().leave(host)

    def _own(self, host: Host) -> None:
        if host.number in self._sharing and host.member is not None:
            roster = host.member.roster
            roster.records, roster.ring, roster._marks = dict(roster.records), [*roster.ring], [*roster._marks]
        self._sharing.discard(host.number)

    def share(self) -> None:
        """All have heard of all: every roster is what it would be, and one is read by all."""
        rosters = [host.member.roster for host in self.hosts if host.member is not None]
        common = rosters[0]
        for roster in rosters[1:]:
            common.put(roster.records[roster.me], 0.0)
        for roster in rosters[1:]:
            roster.records, roster.ring, roster._marks = common.records, common.ring, common._marks
            roster.mark = common.mark
        self._sharing = set(range(len(self.hosts)))


def settled(seed: int, hosts: int, *, skips: bool = True) -> QuietWorld:
    """As if all had heard each other's first word at once."""
    world = QuietWorld(seed, skips=skips)
    for _ in range(hosts):
        host = world.add()
        assert host.member is not None
        host.member.tick(world.now_s)
    world.share()
    return world


def _is_at_rest(member: Membership) -> bool:
    voice, roster = member._voice, member.roster
    troubled = roster.troubles or member._is_minding or member.has_left
    speaks = voice.far or voice.unheard or voice.seeds or voice._newcomers or voice._is_restating or voice._is_gossiping
    return not (troubled or speaks or member._prober.errands or voice._rumors)


def _is_answered_soon(member: Membership, asked: set[int]) -> bool:
    """The one that it pings, if it does."""
    probe = member._prober.probe
    return probe is None or (not probe.asked and probe.nonce in asked)


def _exchanged(what: Datagram | Statement | None) -> Ping | Ack | None:
    return what.message if isinstance(what, Datagram) and isinstance(what.message, Ping | Ack) else None


def _changes_nothing(what: Datagram | Statement | None, member: Membership) -> bool:
    """For nobody, as all have the same mark."""
    if isinstance(what, Statement):
        return not _is_news(what.told, member)
    if not isinstance(what, Datagram) or what.told:
        return False
    return isinstance(what.message, Ping | Ack) and what.message.view == member._view


def _is_news(told: Told, member: Membership) -> bool:
    return not isinstance(told, Record) or member.is_news(told.short, told.alive)


def _count(counted: Counter[str], kind: str, size: int, times: int = 1) -> None:
    counted[kind] += times
    counted["packets"] += times
    counted["bytes"] += times * (size + HEADERS_BYTES)
