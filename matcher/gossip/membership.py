"""One host as a member: datagrams and time in, effects out. See the package for the algorithm and what always holds.

Signatures are the caller's: what comes in as a `Record` or `Charge` was checked, and `Hand` signs what goes out.
Signed statements inside a datagram come first (`heard`, `charged`), then the datagram itself (`receive`). Times are
of one monotonic clock. Pure.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from matcher.gossip import syncing
from matcher.gossip.agenda import Agenda
from matcher.gossip.effects import Changed, Differs, Effect, Send, Shout
from matcher.gossip.judging import Judge
from matcher.gossip.probing import NACK_S, ROUND_S, Prober
from matcher.gossip.roster import RANK, Charge, Full, Record, Roster, short_of
from matcher.gossip.rumors import Told
from matcher.gossip.suspicion import shortest_s
from matcher.gossip.voice import Hand, Voice, Way
from matcher.wire.gossip import (
    MARK_BYTES,
    WANTED,
    Ack,
    Alive,
    Ask,
    Claim,
    Digest,
    HostState,
    Listing,
    Nack,
    Ping,
    Says,
    Summary,
    Tidings,
    Unsigned,
    Want,
)
from matcher.wire.messages import Address
from specs.ids import HostId

SYNC_S = 1.0
LOST_S = 10.0  # one that is lost is pinged so often
LOST_KEEP_S = 86_400.0
LAST_CHANCE_S = 0.5
SILENCES = 2  # of a daemon that was refused before, until its machine is suspect as well
SLEPT_S = 0.5  # who wakes so late was stopped, and was as deaf as those it suspects
LOST_PINGS_MAX = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """One host as this one sees it."""

    record: Record
    state: HostState
    since_s: float  # in this state; 0 where it never was in another


class Membership:
    """Starts to speak with the first `tick`. `alive`: what to say of this host at first; its incarnation has to be
    above those of before, such as the milliseconds of the wall clock at the start. `seeds`: where others may be.
    `ahead_s`: how far a clock that hosts share, roughly, is ahead of `now_s`. `realm`: the mark of what this host
    knows of the realm, kept up by the caller."""

    def __init__(
        self,
        alive: Alive,
        hand: Hand,
        *,
        random: Random,
        now_s: float,
        ahead_s: float = 0.0,
        seeds: Iterable[Address] = (),
    ) -> None:
        me = hand.record(replace(alive, fresh=True))
        self.roster = Roster(me)
        self.has_left = False
        self.realm = bytes(MARK_BYTES)
        self._me, self._hand, self._random = me.short, hand, random
        self._agenda, self._judge = Agenda(), Judge(self.roster, random)
        self._prober = Prober(self.roster, random, ahead_s=ahead_s, now_s=now_s)
        self._voice = Voice(self.roster, hand, self._agenda, random, seeds, now_s)
        self._lost_pings: dict[int, bytes] = {}
        self._is_minding = False
        self._sync_s = now_s
        self._reactions: dict[type[Unsigned], Callable[[Any, Address, float], None]] = {
            Ping: self._pinged,
            Ack: self._acked,
            Ask: self._asked,
            Nack: self._nacked,
            Summary: self._summed,
            Listing: self._listed,
            Want: self._wanted,
            Tidings: lambda *_: None,  # all that it says stands in its statements
        }

    # ---- what others ask

    @property
    def hosts_known(self) -> int:
        """That are thought to live, this one with them."""
        return len(self.roster.ring)

    def hosts(self) -> list[Seen]:
        seen = []
        for short, record in self.roster.records.items():
            trouble = self.roster.troubles.get(short)
            state, since_s = (trouble.state, trouble.since_s) if trouble else (HostState.ALIVE, 0.0)
            seen.append(Seen(record, state, since_s))
        return seen

    def is_far(self, short: bytes) -> bool:
        """Whether it may not hear our multicast, as far as is known."""
        return short in self._voice.far

    def state_of(self, host_id: HostId) -> HostState | None:
        """`None` for a host that is not known."""
        record = self.roster.records.get(short_of(host_id))
        return self.roster.state(record.short) if record is not None and record.host_id == host_id else None

    def is_news(self, short: bytes, alive: Alive) -> bool:
        """Whether it is worth the check of a signature."""
        return (alive.incarnation, alive.counter) > self.roster.version(short)

    def is_news_of(self, by: bytes, claim: Claim) -> bool:
        charge = Charge(by, claim)
        trouble = self.roster.troubles.get(charge.about)
        if charge.about == self._me:
            return claim.incarnation == self._voice.mine.incarnation
        return self._judge.concerns(charge) and (trouble is None or trouble.is_new(by, claim.says))

    def next_deadline_s(self) -> float:
        return min(self._prober.due_s, self._agenda.next_s)

    # ---- what happens

    def tick(self, now_s: float) -> list[Effect]:
        late_s = now_s - self.next_deadline_s()
        if late_s > SLEPT_S:
            self._slept(late_s, now_s)
        self._agenda.run(now_s)
        if now_s >= self._prober.due_s:
            self._probe(now_s)
        return self._effects()

    def tell(self, digest: Digest, now_s: float) -> list[Effect]:
        """What is free here has changed."""
        if digest != self._voice.mine.digest:
            self._voice.restate(now_s, digest=digest)
        return self._effects()

    def moved(self, addresses: tuple[Address, ...], now_s: float) -> list[Effect]:
        """Links came or went: who is there now may not know of us."""
        if addresses:
            self._voice.restate(now_s, addresses=addresses[:2])
        return self._effects()

    def seed(self, seeds: Iterable[Address]) -> list[Effect]:
        """Others may be there."""
        self._voice.add_seeds(seeds)
        return self._effects()

    def leave(self, now_s: float) -> list[Effect]:
        """The last word; nothing is to be asked of this object after it."""
        self.has_left = True
        mine, others = self._voice.mine, self._prober.helpers(self._me)
        self._voice.take(replace(mine, counter=mine.counter + 1, leaving=True, fresh=False), now_s)
        record = self.roster.records[self._me]
        for short in others:
            self._voice.send(short, Tidings(self._me, b""), (record,))
        return self._effects()

    def expel(self, host_id: HostId) -> list[Effect]:
        """It is no member of the realm any more."""
        for short in [short for short, record in self.roster.records.items() if record.host_id == host_id]:
            self._drop(short)
        return self._effects()

    def heard(self, record: Record, now_s: float, way: Way = Way.OTHERS) -> list[Effect]:
        """What a host says of itself."""
        short = record.short
        if short == self._me:
            self._heard_of_me(record, now_s)
            return self._effects()
        before = short in self.roster.records
        is_new = self._put(record, now_s)
        if short not in self.roster.records:
            return self._effects()
        if not before:
            self._voice.unheard.add(short)
            self._voice.far.add(short)
        self._voice.heard(record, way, now_s, is_new=is_new)
        if is_new:
            self._voice.drop_claims(short)
            self._voice.pass_on(record, now_s)
            self._voice.out.append(Changed(record.host_id, self.roster.state(short)))
            self._mind(now_s)
        return self._effects()

    def charged(self, charge: Charge, now_s: float) -> list[Effect]:
        """What one host says of another."""
        self._weigh(charge, now_s)
        return self._effects()

    def lacks(self, short: bytes, source: bytes, now_s: float) -> list[Effect]:
        """A statement of this host came from `source` and can't be checked: its certificate is not known here."""
        if short != self._me:
            self._voice.send(source, Want(self._me, WANTED.pack(short, 1)))
        return self._effects()

    def receive(self, message: Unsigned, source: Address, now_s: float) -> list[Effect]:
        """Raises `BadBytes` for lists that are none."""
        self._reactions[type(message)](message, source, now_s)
        return self._effects()

    def refused(self, nonce: int, now_s: float) -> list[Effect]:
        """The machine of the one who was pinged with this says that nobody listens there."""
        probe, errand = self._prober.probe, self._prober.errands.pop(nonce, None)
        if probe is not None and probe.nonce == nonce:
            self._prober.rest(now_s)
            for helper in self._prober.helpers(probe.target, 2):
                self._voice.send(helper, Ask(self._prober.nonce(), self._me, probe.target))
            self._was_refused(probe.target, now_s)
        elif errand is not None:
            self._voice.out.append(Send(errand.to, Nack(errand.nonce, self._me)))
            self._was_refused(errand.target, now_s)
        elif (short := self._lost_pings.pop(nonce, None)) is not None:
            self._was_refused(short, now_s)
        return self._effects()

    def _object(self, now_s: float) -> None:
        """Somebody says something of us that is not so. It may be that we were too slow to answer."""
        self._prober.health.worse()
        self._voice.take(
            replace(self._voice.mine, incarnation=self._voice.mine.incarnation + 1, counter=0, fresh=False), now_s
        )

    def _heard_of_me(self, record: Record, now_s: float) -> None:
        """From before a restart, by a clock that was ahead."""
        if record.version > self.roster.version(self._me):
            self._voice.take(replace(self._voice.mine, incarnation=record.alive.incarnation + 1), now_s)

    def _slept(self, late_s: float, now_s: float) -> None:
        """What was not heard meanwhile says nothing about others; what waits in our sockets comes first."""
        self._prober.health.worse()
        if self._prober.probe is not None:
            self._prober.rest(now_s)
        self._judge.slept(late_s)

    # ---- probing

    def _probe(self, now_s: float) -> None:
        prober = self._prober
        if prober.probe is None:
            if (probe := prober.begin(now_s)) is not None:
                self._ping(probe.target, probe.nonce)
            return
        probe = prober.probe
        if not probe.asked and (helpers := prober.helpers(probe.target)):
            prober.ask_for_help(len(helpers), now_s)
            for helper in helpers:
                self._voice.send(helper, Ask(probe.nonce, self._me, probe.target))
            self._ping(probe.target, probe.nonce)
            return
        self._claim(prober.failed(now_s), Says.SUSPECT, now_s)

    def _ping(self, target: bytes, nonce: int) -> None:
        """With what is held against it, so that it can object at once (Lifeguard's buddy)."""
        self._voice.send(target, Ping(nonce, self._me, target, self._view), self._for(target))

    @property
    def _view(self) -> bytes:
        return self.roster.mark.to_bytes(8, "big")

    def _pinged(self, ping: Ping, source: Address, _now_s: float) -> None:
        if ping.target != self._me or self.has_left:
            return
        known = ping.sender in self.roster.records
        hears = 0 if not known else 1 if ping.sender in self._voice.unheard else 2
        ours = known and source in self.roster.records[ping.sender].alive.addresses
        told = self._for(ping.sender) if ours else ()
        self._voice.out.append(Send(source, Ack(ping.nonce, self._me, self._view, hears, self.realm), told))

    def _for(self, short: bytes) -> tuple[Told, ...]:
        """What to tell this host beside: what is held against itself, and rumors as far as they fit."""
        trouble = self.roster.troubles.get(short)
        held = tuple(trouble.charges.values())[-2:] if trouble is not None else ()
        return (*held, *self._voice.rumors(syncing.TOLD_MAX_BYTES - sum(len(each.proof) for each in held)))

    def _acked(self, ack: Ack, source: Address, now_s: float) -> None:
        errand = self._prober.errands.pop(ack.nonce, None)
        if errand is not None:
            if ack.sender == errand.target:
                self._voice.out.append(Send(errand.to, replace(ack, nonce=errand.nonce, told=b"")))
            return
        target = self._prober.probe.target if self._prober.probe is not None else self._lost_pings.get(ack.nonce)
        if not self._prober.acked(ack.nonce, now_s) and self._lost_pings.pop(ack.nonce, None) is None:
            return
        if target != ack.sender or target not in self.roster.records:
            return
        trouble = self.roster.troubles.get(target)
        if trouble is not None:  # it is there, and has just been told what to object to
            trouble.last_ping, trouble.silences = None, 0
            trouble.due_s = max(trouble.due_s, now_s + shortest_s(len(self.roster.ring)))
        (self._voice.far.discard if ack.hears > 1 else self._voice.far.add)(target)
        if not ack.hears:
            self._voice.introduce(source)
        if ack.realm != self.realm:
            self._voice.out.append(Differs(self.roster.records[target]))
        if ack.view != self._view and now_s >= self._sync_s:
            self._sync_s = now_s + SYNC_S
            self._voice.send(target, Summary(self._me, self.roster.marks()))

    def _asked(self, ask: Ask, source: Address, now_s: float) -> None:
        if ask.target not in self.roster.records or ask.target == self._me or not self._voice.may_answer(ask, now_s):
            return
        nonce = self._prober.errand(source, ask.nonce, ask.target)
        if nonce is not None:
            self._ping(ask.target, nonce)
            self._agenda.at(now_s + NACK_S, lambda _: self._give_up(nonce))

    def _give_up(self, nonce: int) -> None:
        errand = self._prober.errands.pop(nonce, None)
        if errand is not None:
            self._voice.out.append(Send(errand.to, Nack(errand.nonce, self._me)))

    def _nacked(self, nack: Nack, _source: Address, _now_s: float) -> None:
        probe = self._prober.probe
        if probe is not None and probe.nonce == nack.nonce and len(probe.nackers) < probe.asked:
            probe.nackers.add(nack.sender)

    # ---- comparing

    def _summed(self, summary: Summary, _source: Address, now_s: float) -> None:
        listing = syncing.listing(self.roster, summary, self._random)
        if listing is not None and self._voice.may_answer(summary, now_s):
            self._voice.send(summary.sender, listing)

    def _listed(self, theirs: Listing, _source: Address, now_s: float) -> None:
        want, parcels = syncing.compare(self.roster, theirs)
        if want is not None:
            self._voice.send(theirs.sender, want)
        if self._voice.may_answer(theirs, now_s):
            self._voice.deliver(theirs.sender, parcels)

    def _wanted(self, want: Want, _source: Address, now_s: float) -> None:
        if self._voice.may_answer(want, now_s):
            self._voice.deliver(want.sender, syncing.answer(self.roster, want))

    # ---- claims

    def _weigh(self, charge: Charge, now_s: float) -> None:
        short = charge.about
        if short == self._me:
            if charge.claim.incarnation == self._voice.mine.incarnation and not self.has_left:
                self._object(now_s)
            return
        before = self.roster.state(short)
        if not self._judge.weigh(charge, now_s):
            return
        self._voice.pass_on(charge, now_s)
        self._after(short, before, now_s)

    def _after(self, short: bytes, before: HostState, now_s: float) -> None:
        """Claims about it were weighed."""
        trouble, state = self.roster.troubles[short], self.roster.state(short)
        if trouble.due_s < float("inf"):
            self._agenda.at(trouble.due_s, lambda now_s: self._overdue(short, now_s))
        if state is not before:
            self._voice.out.append(Changed(self.roster.records[short].host_id, state))
        self._mind(now_s)

    def _claim(self, short: bytes, says: Says, now_s: float) -> None:
        """Tell all what this host has found, once."""
        record, trouble = self.roster.records.get(short), self.roster.troubles.get(short)
        if record is None or (trouble is not None and not trouble.is_new(self._me, says)):
            return
        charge = self._hand.charge(Claim(record.host_id, record.alive.incarnation, says))
        if self._judge.concerns(charge):
            self._voice.out.append(Shout(charge))
            self._weigh(charge, now_s)

    def _was_refused(self, short: bytes, now_s: float) -> None:
        """Twice here, a round apart, is as good as two witnesses: all others may be down as well. And a machine that
        answers here is not gone, whoever did not hear it."""
        trouble, before = self.roster.troubles.get(short), self.roster.state(short)
        if RANK[before] < RANK[HostState.DOWN] and (trouble is None or trouble.is_new(self._me, Says.REFUSED)):
            self._claim(short, Says.REFUSED, now_s)
            return
        if trouble is None:
            return
        trouble.silences, trouble.last_ping = 0, None
        if before is HostState.LEFT:
            return
        if before is HostState.GONE or trouble.due_s < float("inf") or now_s - trouble.since_s >= ROUND_S / 2:
            self._judge.down(short, now_s)
            self._after(short, before, now_s)

    def _overdue(self, short: bytes, now_s: float) -> None:
        """It was silent for its time: one more ping, and then it is gone."""
        trouble = self.roster.troubles.get(short)
        if trouble is None or RANK[trouble.state] >= RANK[HostState.GONE] or trouble.due_s == float("inf"):
            return
        if now_s < trouble.due_s:
            self._agenda.at(trouble.due_s, lambda now_s: self._overdue(short, now_s))
        elif trouble.last_ping is None:
            trouble.last_ping = self._ping_lost(short)
            trouble.due_s = now_s + LAST_CHANCE_S
            self._agenda.at(trouble.due_s, lambda now_s: self._overdue(short, now_s))
        else:
            self._claim(short, Says.GONE, now_s)
            before = self.roster.state(short)
            if self.roster.set_state(short, HostState.GONE, now_s):  # so many have said it before that ours is not kept
                self._after(short, before, now_s)

    # ---- the lost

    def _ping_lost(self, short: bytes) -> int:
        nonce = self._prober.nonce()
        self._lost_pings[nonce] = short
        while len(self._lost_pings) > LOST_PINGS_MAX:
            del self._lost_pings[next(iter(self._lost_pings))]
        self._ping(short, nonce)
        return nonce

    def _mind(self, now_s: float) -> None:
        if self.roster.lost and not self._is_minding:
            self._is_minding = True
            self._agenda.at(now_s + LOST_S, self._mind_one)

    def _mind_one(self, now_s: float) -> None:
        """Ping one of those that are down or gone: it may be back, or on the other side of a partition that is over."""
        for short in [*self.roster.lost][:LOST_PINGS_MAX]:
            if now_s - self.roster.troubles[short].since_s > LOST_KEEP_S:
                self._drop(short)
        lost = [short for short in self.roster.lost if self.roster.state(short) is not HostState.LEFT]
        if lost:
            short = lost[self._random.randrange(len(lost))]
            nonce = self._ping_lost(short)
            if self.roster.state(short) is HostState.DOWN:
                self._agenda.at(now_s + LAST_CHANCE_S, lambda now_s: self._still_down(short, nonce, now_s))
        self._is_minding = bool(self.roster.lost)
        if self._is_minding:
            self._agenda.at(now_s + LOST_S * self._random.uniform(0.5, 1.5), self._mind_one)

    def _still_down(self, short: bytes, nonce: int, now_s: float) -> None:
        """Neither an ack nor a refusal: the machine may be gone as well."""
        trouble = self.roster.troubles.get(short)
        if self._lost_pings.pop(nonce, None) is None or trouble is None:
            return
        trouble.silences += 1
        if trouble.silences >= SILENCES and trouble.state is HostState.DOWN:
            self._claim(short, Says.SUSPECT, now_s)

    # ---- inside

    def _put(self, record: Record, now_s: float) -> bool:
        try:
            return self.roster.put(record, now_s)
        except Full:
            return False

    def _drop(self, short: bytes) -> None:
        self.roster.drop(short)
        self._voice.far.discard(short)
        self._voice.unheard.discard(short)
        self._voice.drop_claims(short)

    def _effects(self) -> list[Effect]:
        done, self._voice.out = self._voice.out, []
        return done
