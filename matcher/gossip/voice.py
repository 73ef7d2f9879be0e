"""What this host says, to whom and how often: its own statement, the rumors that it passes on, whatever is sent.

Who hears multicast is told so, once and once more. Who may not (`far`) is told by gossip as well.
Pure.
"""

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum, auto
from random import Random
from typing import Protocol

from matcher.gossip import syncing
from matcher.gossip.agenda import Agenda
from matcher.gossip.effects import Effect, Greet, Send, Shout
from matcher.gossip.roster import Charge, Record, Roster
from matcher.gossip.rumors import Rumors, Told
from matcher.wire.gossip import Alive, Ask, Claim, Listing, Summary, Tidings, Unsigned, Want
from matcher.wire.messages import Address

AGAIN_S = (0.25, 1.0)  # what was multicast is, again, as datagrams get lost; the second time only what is fresh
PACE_S = 0.05  # between two statements of one host about itself, at the least,
PACE_PER_HOST_S = 0.005  # and so much more for each host: on one link, 200 a second altogether
GREET_PER_HOST_S = 0.005  # answers to a newcomer are spread over that
GREETED_MAX = 64
SHOUT_FROM = 3  # newcomers: then one multicast greets them all
GOSSIP_S = 0.2
FANOUT = 3
SEED_S = 1.0
SEED_AGAIN_S = 30.0
SEEDS_MAX = 64
BEACON_S = 60.0  # one host or another says so often that it is there, to those who never heard of each other
ANSWERS_S = 0.1  # to one host, at the least
ANSWERED_MAX = 1024


class Way(Enum):
    """How a host's statement about itself came here."""

    MULTICAST = auto()
    ANSWER = auto()  # by the host itself, to a multicast of ours
    ITSELF = auto()  # by the host itself, for whatever else it knew of us
    OTHERS = auto()  # another has passed it on


class Hand(Protocol):
    """What signs as this host."""

    def record(self, alive: Alive) -> Record: ...

    def charge(self, claim: Claim) -> Charge: ...


class Voice:
    """`out` is what is to be done, until somebody takes it."""

    def __init__(
        self, roster: Roster, hand: Hand, agenda: Agenda, random: Random, seeds: Iterable[Address], now_s: float
    ) -> None:
        self.seeds = [*seeds][:SEEDS_MAX]
        self.out: list[Effect] = []
        self.far: set[bytes] = set()  # who may not hear our multicast,
        self.unheard: set[bytes] = set()  # and whose was not heard here
        self._roster, self._me, self._hand, self._agenda, self._random = roster, roster.me, hand, agenda, random
        self._rumors = Rumors()
        self._newcomers: dict[bytes, Address] = {}
        self._answered_s: dict[bytes, float] = {}
        self._said_s = float("-inf")
        self._wanted = self.mine
        self._is_restating = self._is_gossiping = False
        for at_s, do in ((now_s, self._begin), (now_s, self._seed), (now_s + BEACON_S * random.random(), self._beacon)):
            agenda.at(at_s, do)

    @property
    def mine(self) -> Alive:
        return self._roster.records[self._me].alive

    def take(self, alive: Alive, now_s: float) -> None:
        """Say this of ourselves from now on, to all."""
        record = self._hand.record(alive)
        self._roster.put(record, now_s)
        self.shout(record, now_s)

    def shout(self, told: Told, now_s: float) -> None:
        self.out.append(Shout(told))
        if isinstance(told, Record):
            self._said_s = now_s
            self._agenda.at(now_s + AGAIN_S[0], lambda _: self._again(told))
            if told.alive.fresh:
                self._agenda.at(now_s + AGAIN_S[1], lambda _: self._again(told))
        self.pass_on(told, now_s)

    def _again(self, record: Record) -> None:
        if self._roster.records[self._me] is record:
            self.out.append(Shout(record))

    def _begin(self, now_s: float) -> None:
        self.shout(self._roster.records[self._me], now_s)

    def _beacon(self, now_s: float) -> None:
        if self._random.random() * len(self._roster.ring) < 1.0:
            self.out.append(Shout(self._roster.records[self._me]))
        self._agenda.at(now_s + BEACON_S, self._beacon)

    def restate(self, now_s: float, **changes: object) -> None:
        """At once where that is not too often; else what is true by then, a little later."""
        at_s = self._said_s + PACE_S + PACE_PER_HOST_S * len(self._roster.ring)
        wanted: Alive = replace(
            self._wanted if self._is_restating else self.mine,
            **changes,  # type: ignore[arg-type]
            fresh=False,
        )
        if at_s <= now_s and not self._is_restating:
            self.take(replace(wanted, counter=wanted.counter + 1), now_s)
            return
        self._wanted = wanted
        if not self._is_restating:
            self._is_restating = True
            self._agenda.at(at_s, self._restate_now)

    def _restate_now(self, now_s: float) -> None:
        self._is_restating = False
        mine = self.mine
        said = replace(mine, digest=self._wanted.digest, addresses=self._wanted.addresses, fresh=False)
        if said != mine:
            self.take(replace(said, counter=mine.counter + 1), now_s)

    # ---- to others

    def rumors(self, room_bytes: int) -> tuple[Told, ...]:
        return self._rumors.take(room_bytes) if self._rumors else ()

    def drop_claims(self, about: bytes) -> None:
        self._rumors.drop_claims(about)

    def pass_on(self, told: Told, now_s: float) -> None:
        """By gossip to those who don't hear multicast; where there are none, all have heard it or will see the
        difference."""
        if self.far:
            self._rumors.add(told, len(self._roster.ring))
            if not self._is_gossiping:
                self._is_gossiping = True
                self._agenda.at(now_s + self._random.uniform(0.0, GOSSIP_S), self._gossip)

    def _gossip(self, now_s: float) -> None:
        far = sorted(self.far)
        for short in self._random.sample(far, min(FANOUT, len(far))):
            if told := self._rumors.take(syncing.TOLD_MAX_BYTES):
                self.send(short, Tidings(self._me, b""), told)
        self._is_gossiping = bool(self._rumors)
        if self._is_gossiping:
            self._agenda.at(now_s + GOSSIP_S, self._gossip)

    def heard(self, record: Record, way: Way, now_s: float, *, is_new: bool) -> None:
        short = record.short
        if way is Way.MULTICAST:
            self.unheard.discard(short)
        if way in (Way.MULTICAST, Way.ANSWER):
            self.far.discard(short)
        if not (is_new and record.alive.fresh) or way is Way.OTHERS:
            return
        if way is not Way.MULTICAST:
            self.introduce(record.alive.addresses[0])
        elif len(self._newcomers) < GREETED_MAX:
            if not self._newcomers:
                wait_s = self._random.uniform(0.0, GREET_PER_HOST_S * len(self._roster.ring))
                self._agenda.at(now_s + wait_s, self._greet)
            self._newcomers[short] = record.alive.addresses[0]

    def _greet(self, _now_s: float) -> None:
        newcomers, self._newcomers = self._newcomers, {}
        if len(newcomers) >= SHOUT_FROM:
            self.out.append(Shout(self._roster.records[self._me]))
        else:
            for address in newcomers.values():
                self.out.append(Greet(address, self._roster.records[self._me]))

    def introduce(self, to: Address) -> None:
        self.out.append(Send(to, Tidings(self._me, b""), (self._roster.records[self._me],), certified=True))

    def _seed(self, now_s: float) -> None:
        records = self._roster.records.values() if self.seeds else ()
        known = {address for record in records for address in record.alive.addresses}
        unknown = [address for address in self.seeds if address not in known]
        is_alone = len(self._roster.ring) == 1
        for address in self._random.sample(unknown, min(FANOUT if is_alone else 1, len(unknown))):
            self.introduce(address)
        self._agenda.at(now_s + (SEED_S if is_alone and self.seeds else SEED_AGAIN_S), self._seed)

    def add_seeds(self, seeds: Iterable[Address]) -> None:
        new = [seed for seed in seeds if seed not in self.seeds]
        self.seeds = [*new, *self.seeds][:SEEDS_MAX]
        for address in new[:FANOUT] if len(self._roster.ring) == 1 else ():
            self.introduce(address)

    def deliver(self, to: bytes, parcels: Iterable[syncing.Parcel]) -> None:
        for told, certified in parcels:
            self.send(to, Tidings(self._me, b""), told, certified=certified)

    def send(self, to: bytes, message: Unsigned, told: tuple[Told, ...] = (), *, certified: bool = False) -> None:
        """To where that host says that it is, whoever asked: nobody can have others answer to a third."""
        record = self._roster.records.get(to)
        if record is not None:
            self.out.append(Send(record.alive.addresses[0], message, told, certified))

    def may_answer(self, question: Ask | Summary | Listing | Want, now_s: float) -> bool:
        key = question.sender + type(question).__name__.encode()
        if question.sender not in self._roster.records or now_s - self._answered_s.get(key, -ANSWERS_S) < ANSWERS_S:
            return False
        self._answered_s.pop(key, None)
        self._answered_s[key] = now_s
        if len(self._answered_s) > ANSWERED_MAX:
            del self._answered_s[next(iter(self._answered_s))]
        return True
