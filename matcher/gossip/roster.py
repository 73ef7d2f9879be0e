"""One host's view of the realm: what each host said last, who is in trouble, and one mark of it all.

Kept apart: what is the same at every host (`Record`, which a simulation of thousands may share) and the few that are
not simply alive (`Trouble`). A view only climbs: see the package.

The *ring* holds those that are probed, in the order of their fingerprints, which is as good as a shuffle. In round r
everyone pings the one that stands `stride(r)` further on, and over the rounds every other one once.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from hashlib import blake2b
from math import gcd

from matcher.wire.gossip import BUCKETS, ENTRY, MARK_BYTES, Alive, Claim, HostState, Says
from specs.ids import HostId

HOSTS_MAX = 16_384
LOST_MAX = 1024  # that are down, gone or have left
CLAIMS_MAX = 4  # of each kind that are kept about one host; more say nothing new
STATES = tuple(HostState)  # by rank
RANK = {state: rank for rank, state in enumerate(STATES)}
_PROBED = frozenset({HostState.ALIVE, HostState.SUSPECT})
_LOST = frozenset({HostState.GONE, HostState.LEFT})
_GOLDEN = 0.6180339887


@dataclass(frozen=True, slots=True)
class Record:
    """What a host says of itself. `proof` is the signed statement as others can check it, with the signer's
    `certificate` apart; both are empty where nobody checks."""

    short: bytes
    host_id: HostId
    name: str
    alive: Alive
    proof: bytes = field(default=b"", repr=False)
    certificate: bytes = field(default=b"", repr=False)

    @property
    def version(self) -> tuple[int, int]:
        return self.alive.incarnation, self.alive.counter


@dataclass(frozen=True, slots=True)
class Charge:
    """A claim, by whom, and the signed statement."""

    by: bytes
    claim: Claim
    proof: bytes = field(default=b"", repr=False)

    @property
    def about(self) -> bytes:
        return short_of(HostId(self.claim.about))


@dataclass(slots=True)
class Trouble:
    """What is held against a host, in its present incarnation."""

    state: HostState
    since_s: float
    charges: dict[tuple[bytes, Says], Charge] = field(default_factory=dict)
    silent_s: float = float("inf")  # since when it is said to be silent,
    due_s: float = float("inf")  # and when that will have lasted too long
    patience_s: float = 0.0  # of this host beyond the rest
    last_ping: int | None = None  # the nonce of its last chance
    silences: int = 0  # pings one after the other that nobody answered or refused, once it is down

    def witnesses(self, *says: Says) -> int:
        return len({by for by, said in self.charges if said in says})

    def note(self, charge: Charge) -> bool:
        """Whether it is a new one."""
        key = charge.by, charge.claim.says
        if not self.is_new(*key):
            return False
        self.charges[key] = charge
        return True

    def forget(self, *says: Says) -> None:
        self.charges = {key: each for key, each in self.charges.items() if key[1] not in says}

    def is_new(self, by: bytes, says: Says) -> bool:
        return (by, says) not in self.charges and self.witnesses(says) < CLAIMS_MAX


class Full(Exception):
    """No room for one more host."""


class Roster:
    """`me` is in it from the start."""

    def __init__(self, me: Record) -> None:
        self.me = me.short
        self.records: dict[bytes, Record] = {}
        self.troubles: dict[bytes, Trouble] = {}
        self.ring: list[bytes] = []
        self.lost: dict[bytes, None] = {}  # in the order of being lost
        self.mark = 0
        self._marks = [0] * BUCKETS
        self.put(me, 0.0)

    def __len__(self) -> int:
        return len(self.records)

    def state(self, short: bytes) -> HostState:
        trouble = self.troubles.get(short)
        return HostState.ALIVE if trouble is None else trouble.state

    def version(self, short: bytes) -> tuple[int, int]:
        record = self.records.get(short)
        return (-1, -1) if record is None else record.version

    def put(self, record: Record, now_s: float) -> bool:
        """What a host says of itself; whether it is newer. A new incarnation clears it of all. Raises `Full`."""
        short, old = record.short, self.records.get(record.short)
        if old is None:
            if len(self.records) >= HOSTS_MAX:
                self._make_room()
            self.records[short] = record
            self._in_ring(short)
            self._toggle(short)
        elif old.host_id != record.host_id or old.version >= record.version:
            return False
        else:
            self._toggle(short)
            self.records[short] = record
            if record.alive.incarnation > old.alive.incarnation and self.troubles.pop(short, None) is not None:
                self.lost.pop(short, None)
                self._in_ring(short)
            self._toggle(short)
        if record.alive.leaving:
            self.set_state(short, HostState.LEFT, now_s)
        return True

    def trouble(self, short: bytes, now_s: float) -> Trouble:
        found = self.troubles.get(short)
        if found is None:
            found = self.troubles[short] = Trouble(HostState.ALIVE, now_s)
        return found

    def set_state(self, short: bytes, state: HostState, now_s: float, *, is_back: bool = False) -> bool:
        """Climb to `state`; false where it is there or above. `is_back`: what was held against it was wrong, as this
        host has seen for itself."""
        trouble = self.trouble(short, now_s)
        if RANK[state] <= RANK[trouble.state] and not is_back:
            return False
        self._toggle(short)
        trouble.state, trouble.since_s = state, now_s
        self._toggle(short)
        if state not in _PROBED:
            self._off_ring(short)
            self.lost.setdefault(short)
            while len(self.lost) > LOST_MAX:
                self.drop(next(iter(self.lost)))
        return True

    def drop(self, short: bytes) -> None:
        """Forget it wholly."""
        if short in self.records and short != self.me:
            self._toggle(short)
            del self.records[short]
            self.troubles.pop(short, None)
            self.lost.pop(short, None)
            self._off_ring(short)

    # ---- turns

    def turn(self, number: int) -> bytes | None:
        """Whom this host pings in this round; `None` where there is nobody else."""
        others = len(self.ring) - 1
        if others < 1:
            return None
        return self.ring[(bisect_left(self.ring, self.me) + stride(number, others)) % len(self.ring)]

    # ---- comparing

    def marks(self) -> bytes:
        """The first bytes of the mark of each bucket."""
        return b"".join(mark.to_bytes(8, "big")[:MARK_BYTES] for mark in self._marks)

    def in_bucket(self, number: int) -> list[bytes]:
        """Who is in it, lost or not, in order; a look at every host."""
        return sorted(short for short in self.records if bucket_of(short) == number)

    def key(self, short: bytes) -> tuple[int, int, int]:
        """What climbs; all below zero for who is not known."""
        return (*self.version(short), RANK[self.state(short)])

    def entry(self, short: bytes) -> bytes:
        return ENTRY.pack(short, *self.key(short))

    # ---- inside

    def _toggle(self, short: bytes) -> None:
        """Before a change, and after it."""
        mark = self._mark_of(short)
        self.mark ^= mark
        self._marks[bucket_of(short)] ^= mark

    def _mark_of(self, short: bytes) -> int:
        """Who is gone or has left counts for nothing: nobody needs to be told of them who has never heard of them."""
        state = self.state(short)
        if state in _LOST:
            return 0
        said = ENTRY.pack(short, *self.records[short].version, RANK[state])
        return int.from_bytes(blake2b(said, digest_size=8).digest(), "big")

    def _in_ring(self, short: bytes) -> None:
        at = bisect_left(self.ring, short)
        if at == len(self.ring) or self.ring[at] != short:
            self.ring.insert(at, short)

    def _off_ring(self, short: bytes) -> None:
        at = bisect_left(self.ring, short)
        if at < len(self.ring) and self.ring[at] == short:
            del self.ring[at]

    def _make_room(self) -> None:
        if not self.lost:
            raise Full
        self.drop(next(iter(self.lost)))


def short_of(host_id: HostId) -> bytes:
    return bytes.fromhex(host_id[:16])


def bucket_of(short: bytes) -> int:
    return short[0] * BUCKETS >> 8


def stride(number: int, others: int) -> int:
    """How far on in the ring the one to ping is: over `others` rounds, each distance from 1 to `others` once, and those
    that follow each other far apart."""
    step = max(1, round(_GOLDEN * others))
    while gcd(step, others) > 1:
        step += 1
    return 1 + number * step % others
