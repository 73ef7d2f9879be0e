"""Whose turn it is to be pinged, what came of it, and pings on behalf of others. After SWIM's failure detector.

    (idle) --its turn--> PINGED --no ack--> ASKED three others --nothing--> silent
              ack, at any step --> (idle)

Rounds are counted on a clock that hosts share, roughly: where it is the same, each host is pinged once in a round, at a
moment of its own; where it is not, the turns are as good as random, and all of SWIM's promises hold still. Pure.
"""

from dataclasses import dataclass, field
from math import floor
from random import Random

from matcher.gossip.roster import Roster
from matcher.gossip.suspicion import Health
from matcher.wire.messages import Address

ROUND_S = 2.0
ACK_S = 0.5
ASKED_S = 0.8  # the others' pings, there and back twice
NACK_S = 0.5
HELPERS = 3
ERRANDS_MAX = 256  # pings on behalf of others, not answered yet
NONCE_BITS = 52


@dataclass(slots=True)
class Probe:
    """The one that is under way. `asked`: how many were asked to help; `nacks` of them said that they hear nothing."""

    nonce: int
    target: bytes
    asked: int = 0
    nackers: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Errand:
    """`nonce` is that of the one who asked."""

    to: Address
    nonce: int
    target: bytes


class Prober:
    """`ahead_s`: how far the shared clock is ahead of this host's own."""

    def __init__(self, roster: Roster, random: Random, *, ahead_s: float, now_s: float) -> None:
        self.health = Health()
        self.probe: Probe | None = None
        self.due_s = now_s
        self.ahead_s = ahead_s
        self.errands: dict[int, Errand] = {}
        self._roster, self._random = roster, random
        self._round = floor((now_s + ahead_s) / ROUND_S)
        self.rest(now_s)

    def rest(self, now_s: float) -> None:
        """Until the next turn; `Health.times` as many rounds from now."""
        self.probe = None
        current = floor((now_s + self.ahead_s) / ROUND_S)
        self._round = max(self._round + self.health.times, current)
        if self._round > current + self.health.times:  # the shared clock was set back
            self._round = current + 1
        while (due_s := self._moment()) <= now_s:
            self._round += 1
        self.due_s = due_s

    def begin(self, now_s: float) -> Probe | None:
        """It is due: whom to ping; `None` where there is nobody."""
        target = self._roster.turn(self._round)
        if target is None:
            self.rest(now_s)
            return None
        self.probe = Probe(self.nonce(), target)
        self.due_s = now_s + ACK_S * self.health.times
        return self.probe

    def helpers(self, target: bytes, count: int = HELPERS) -> list[bytes]:
        """Others, at random, who may reach it."""
        ring, found = self._roster.ring, set[bytes]()
        for _ in range(4 * count):
            chosen = ring[self._random.randrange(len(ring))]
            if chosen not in (self._roster.me, target) and chosen not in self._roster.troubles:
                found.add(chosen)
                if len(found) == count:
                    break
        return sorted(found)

    def ask_for_help(self, helpers: int, now_s: float) -> None:
        assert self.probe is not None
        self.probe.asked = helpers
        self.due_s = now_s + ASKED_S * self.health.times

    def acked(self, nonce: int, now_s: float) -> bool:
        """Whether that is the answer that was waited for."""
        if self.probe is None or self.probe.nonce != nonce:
            return False
        self.health.better()
        self.rest(now_s)
        return True

    def failed(self, now_s: float) -> bytes:
        """Nobody has heard it: who. Helpers that say so are a sign that this host hears well (Lifeguard)."""
        assert self.probe is not None
        missing = self.probe.asked - len(self.probe.nackers)
        self.health.worse(missing if self.probe.asked else 1)
        target = self.probe.target
        self.rest(now_s)
        return target

    def errand(self, to: Address, nonce: int, target: bytes) -> int | None:
        """The nonce to ping `target` with for another; `None` where there are too many."""
        if len(self.errands) >= ERRANDS_MAX:
            return None
        mine = self.nonce()
        self.errands[mine] = Errand(to, nonce, target)
        return mine

    def nonce(self) -> int:
        return self._random.getrandbits(NONCE_BITS)

    def _moment(self) -> float:
        """When this round's turn comes: it depends on whose it is, so that all of a host's are equally far apart."""
        target = self._roster.turn(self._round) or self._roster.me
        part = int.from_bytes(target[-4:], "big") / 2**32
        return (self._round + part) * ROUND_S - self.ahead_s
