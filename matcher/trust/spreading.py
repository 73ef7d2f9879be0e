"""How what one host knows of its realm reaches all the others: told at once, and asked for where something is missing.

    something new (mine, or heard) --> Tell, and again a little later, as datagrams get lost
    another's digest differs       --> Fetch from it, by HTTPS, within a second or so; gossip tells, too
    every 30 s                     --> Tell, so that who missed all that will see it (anti-entropy); but not where
                                       another has just said the same: one host or so a link speaks, whatever its size
    a host has long told nothing   --> Fetch from it, one such host at a time: its tag key may be newer than ours
    what was fetched lacks something --> Give that: who was asked may not hear us, nor know that we are there

After the push/pull anti-entropy of Demers et al., "Epidemic algorithms for replicated database maintenance" (1987), and
the polite gossip of Trickle (RFC 6206): whoever hears what differs from its own does speak, and what is new is passed
on until enough others have done so. A host with users has something of its own to say, and says it in any case.
Bundles only grow, so that the order in which things come does not matter. Where a realm was parted for long while its
tag key changed, the hosts of each part hear each other well, and the others never again: it would not do to ask only
when nobody at all is heard.
No I/O, no clock: times come in, what is to be done comes out. `Knowing` is an `Identity`; some tests have one without
files.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2s
from random import Random
from typing import Protocol

from matcher.trust.bundle import Bundle
from matcher.trust.certificates import Scope
from matcher.trust.documents import Signed, read_documents
from matcher.trust.tag_keys import OVERLAP_S
from matcher.wire.framing import frame, unframe
from matcher.wire.messages import Message
from matcher.wire.realm import KEY_HINT_BYTES, News, TagKey, UserUse
from specs.ids import HostId

TELL_S = 30.0
TELL_AGAIN_S = (0.25, 1.5, 6.0)  # after something new of our own
TELL_ON_S = (0.2, 2.0)  # after something new of another's
TOLD_ENOUGH = 4  # times heard from others; then nobody needs to hear it from us
TELLINGS_MAX = 8
FETCH_WITHIN_S = 1.0  # so that a hundred hosts that hear one news do not all ask at once
FETCH_TURN_S = 0.002  # for each host, where there are more
FETCH_PAUSE_S = 5.0  # between two questions to one host
SILENCE_S = 95.0  # three tellings missed; and so often one of those is asked who missed them
FRESH_MAX_BYTES = 340  # of documents in one `News`: a heartbeat and a revocation, beside certificate and signature
USES_MAX = 2  # users in one `News`; where there are more, more is told
TELLS_MAX = 10  # in `TELL_S`, however many users there are
RECENT_MAX = 64  # documents that are told with every news for a while
RECENT_S = 120.0
PEERS_MAX = 256


class Knowing(Protocol):
    """What a member knows; see `matcher.trust.identity.Identity`."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def key_number(self) -> int: ...

    @property
    def tag_key(self) -> Signed[TagKey]:
        """Today's, as it was signed."""
        ...

    def learn(self, documents: Iterable[Signed[Message]], wall_s: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Where another host was heard of last."""

    host_id: HostId
    name: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Multicast this to all hosts."""

    news: News


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask this host for all it knows; `fetched` or `not_fetched` has to follow."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Give:
    """Bring this host signed documents, framed, that it does not have; whether it took them need not be known."""

    peer: Peer
    documents: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Save:
    """Put on the disk what was learned, before anything else."""


Effect = Tell | Fetch | Give | Save


class Spreading:
    """One host's part in it. `peers` are hosts that were known before, such as the one that this one joined at.
    `hosts_known` and `hears` are gossip's: how many live, and whether a host is one of them, which proves that its tag
    key is good here; most hosts are silent otherwise, as others have told what they know."""

    def __init__(
        self,
        knowing: Knowing,
        *,
        host: str,
        host_id: HostId,
        port: int,
        random: Random,
        uses: Callable[[], Sequence[UserUse]] = tuple,
        peers: Iterable[Peer] = (),
        hosts_known: Callable[[], int] = lambda: 0,
        hears: Callable[[HostId], bool] = lambda _: False,
        now_s: float,
    ) -> None:
        self.peers = {peer.host_id: peer for peer in peers}
        self._knowing, self._host, self._host_id, self._port = knowing, host, host_id, port
        self._random, self._uses, self._hosts_known, self._hears = random, uses, hosts_known, hears
        self._told_uses = 0  # how many of them have had their turn
        self._recent: dict[bytes, float] = {}  # documents that became known of late, with the time
        self._tell_at_s: list[float] = []  # for a reason
        # For no other reason than that its turn has come; soon at first, but where a whole realm starts, a few do.
        self._turn_s = now_s + random.uniform(0.1, 1.0)
        self._was_said = False  # by another, since the last telling or turn, and nothing else was
        self._tell_on_s, self._told_by_others = float("inf"), 0  # what was heard from another, and how often
        self._fetch_at_s: dict[HostId, float] = {}
        self._wanted: dict[HostId, tuple[bytes, int, bytes]] = {}  # what they said that they know
        self._fetched_s: dict[HostId, float] = {}
        self._known_of_s: dict[HostId, float] = {}  # when a host was heard, or asked because it was not
        self._ask_at_s = now_s + 5.0  # a host that starts soon asks somebody who has not told yet

    def next_deadline_s(self) -> float:
        return min(*self._tell_at_s, *self._fetch_at_s.values(), self._ask_at_s, self._tell_on_s, self._turn_s)

    def made(self, documents: Iterable[Signed[Message]], now_s: float, wall_s: float) -> list[Effect]:
        """Our own issuer has made something, or an admin has brought it: told at once, and again."""
        if not self._learn(documents, now_s, wall_s):
            return []
        self._tell_at_s = [now_s, *(now_s + self._random.uniform(0.8, 1.2) * later for later in TELL_AGAIN_S)]
        return [Save(), *self._tell_if_due(now_s, wall_s)]

    def tell_soon(self, now_s: float) -> None:
        """What users have here has changed."""
        if min(self._tell_at_s, default=float("inf")) > now_s + 1.0:
            self._tell_at_s = [now_s + self._random.uniform(0.0, 1.0), *self._tell_at_s][:TELLINGS_MAX]

    def heard(self, news: News, host_id: HostId, address: str, now_s: float, wall_s: float) -> list[Effect]:
        """Another host tells what it knows."""
        if host_id == self._host_id:
            return []
        if news.front_door_port:
            self._note_peer(Peer(host_id, news.host, address, news.front_door_port))
            self._known_of_s[host_id] = now_s
        effects = self._heard_of(read_documents(news.fresh), now_s, wall_s)
        knowing = self._knowing
        told = news.digest, news.key_number, news.key_hint
        self._was_said = told[:2] == (knowing.bundle.digest, knowing.key_number) and not self._is_behind(*told)
        if self._is_behind(*told) and host_id in self.peers:
            self._fetch_soon(host_id, now_s)
            self._wanted[host_id] = told
        else:
            self._fetch_at_s.pop(host_id, None)
            self._count_telling()
        return effects

    def differs(self, peer: Peer, now_s: float) -> None:
        """As gossip says, which goes where these tellings do not; one who is asked is given what it lacks as well."""
        self._note_peer(peer)
        self._wanted.pop(peer.host_id, None)
        self._fetch_soon(peer.host_id, now_s)

    def fetched(self, peer: Peer, answer: bytes, now_s: float, wall_s: float) -> list[Effect]:
        """What a host gave: its bundle and its tag keys, framed."""
        self._fetched_s[peer.host_id] = now_s
        documents = [document for part in unframe(answer) for document in read_documents(part)]
        effects = self._heard_of(documents, now_s, wall_s)
        lacks = self._lacking({document.data for document in documents})
        return [*effects, Give(peer, frame(lacks))] if lacks else effects

    def not_fetched(self, peer: Peer, now_s: float) -> None:
        """It did not answer; another is asked next time."""
        self._fetched_s[peer.host_id] = now_s

    def tick(self, now_s: float, wall_s: float) -> list[Effect]:
        effects = self._tell_if_due(now_s, wall_s)
        for host_id in [host_id for host_id, at_s in self._fetch_at_s.items() if at_s <= now_s]:
            del self._fetch_at_s[host_id]
            wanted = self._wanted.pop(host_id, None)
            if wanted is None or self._is_behind(*wanted):  # else another has told us meanwhile
                self._fetched_s[host_id] = now_s
                effects.append(Fetch(self.peers[host_id]))
        if now_s >= self._ask_at_s:
            self._ask_at_s = now_s + SILENCE_S
            effects += self._ask_a_silent_one(now_s)
        return effects

    # ---- inside

    def _fetch_soon(self, host_id: HostId, now_s: float) -> None:
        earliest_s = self._fetched_s.get(host_id, 0.0) + FETCH_PAUSE_S
        within_s = max(FETCH_WITHIN_S, FETCH_TURN_S * self._hosts_known())
        self._fetch_at_s.setdefault(host_id, max(now_s + self._random.uniform(0, within_s), earliest_s))

    def _is_behind(self, digest: bytes, key_number: int, key_hint: bytes) -> bool:
        """Ourselves, behind one who knows this; or that one is, which can't be told apart."""
        knowing = self._knowing
        if digest != knowing.bundle.digest or key_number > knowing.key_number:
            return True
        return key_number == knowing.key_number and key_hint not in (b"", hint_of(knowing.tag_key.says.key))

    def _count_telling(self) -> None:
        """Another says what we were about to pass on."""
        if self._was_said:
            self._told_by_others += 1
            if self._told_by_others >= TOLD_ENOUGH:
                self._tell_on_s = float("inf")

    def _lacking(self, held: set[bytes]) -> list[bytes]:
        """What another does not hold and would take; all anchors with the newest, which may not follow without them."""
        bundle, tag_key = self._knowing.bundle, self._knowing.tag_key
        anchors = [] if bundle.anchors[-1].data in held else [anchor.data for anchor in bundle.anchors]
        orphans = bundle.orphans
        revocations = [signed.data for digest, signed in bundle.revocations.items() if digest not in orphans]
        is_good = bundle.signer_in(tag_key, Scope.HOSTS) is not None
        return [*anchors, *(each for each in (*revocations, *([tag_key.data] * is_good)) if each not in held)]

    def _ask_a_silent_one(self, now_s: float) -> list[Effect]:
        earliest_s = now_s - SILENCE_S
        silent = [
            peer
            for peer in self.peers.values()
            if self._known_of_s.get(peer.host_id, earliest_s) <= earliest_s
            and peer.host_id != self._host_id
            and not self._hears(peer.host_id)
        ]
        if not silent:
            return []
        peer = self._random.choice(silent)
        self._known_of_s[peer.host_id] = now_s
        return [Fetch(peer)]

    def _tell_if_due(self, now_s: float, wall_s: float) -> list[Effect]:
        has_reason = any(at_s <= now_s for at_s in (*self._tell_at_s, self._tell_on_s))
        if not has_reason and now_s < self._turn_s:
            return []
        is_silent = not has_reason and self._was_said and not self._uses()
        self._tell_at_s = [at_s for at_s in self._tell_at_s if at_s > now_s]
        if self._tell_on_s <= now_s:
            self._tell_on_s = float("inf")
        self._turn_s, self._was_said = now_s + self._random.uniform(0.8, 1.2) * self._pace_s(), False
        return [] if is_silent else [Tell(self._news(now_s, wall_s))]

    def _pace_s(self) -> float:
        """From one telling to the next; users beyond those that fit have their turn within the same time."""
        return TELL_S / min(TELLS_MAX, max(1, -(-len(self._uses()) // USES_MAX)))

    def _news(self, now_s: float, wall_s: float) -> News:
        return News(
            host=self._host,
            sent_at_ms=int(wall_s * 1000),
            digest=self._knowing.bundle.digest,
            key_number=self._knowing.key_number,
            front_door_port=self._port,
            fresh=self._fresh(now_s),
            uses=self._some_uses(),
            key_hint=self._key_hint(wall_s),
        )

    def _key_hint(self, wall_s: float) -> bytes:
        """Two issuers may each have made a key of one number, and their hosts understand each other by the one before;
        when that is over, those who have not heard of the other key hear nothing of it any more, and ask."""
        today = self._knowing.tag_key.says
        return hint_of(today.key) if abs(wall_s - today.at_ms / 1000) <= OVERLAP_S else b""

    def _some_uses(self) -> tuple[UserUse, ...]:
        """Those whose turn it is."""
        uses = tuple(self._uses())
        start = self._told_uses if self._told_uses < len(uses) else 0
        self._told_uses = start + USES_MAX
        return uses[start : start + USES_MAX]

    def _fresh(self, now_s: float) -> bytes:
        """The newest heartbeat, then what became known of late, as far as it fits."""
        self._recent = {data: since_s for data, since_s in self._recent.items() if now_s - since_s < RECENT_S}
        beats = sorted(self._knowing.bundle.heartbeats.values(), key=lambda beat: -beat.says.at_ms)
        chosen: list[bytes] = []
        for data in (*reversed(self._recent), *(beat.data for beat in beats[:1])):
            if len(frame([*chosen, data])) <= FRESH_MAX_BYTES:
                chosen.append(data)
        return frame(chosen)

    def _heard_of(self, documents: Iterable[Signed[Message]], now_s: float, wall_s: float) -> list[Effect]:
        digest = self._knowing.bundle.digest
        if not self._learn(documents, now_s, wall_s):
            return []
        if self._knowing.bundle.digest != digest:  # a heartbeat alone can wait for the next telling
            self._tell_on_s = min(self._tell_on_s, now_s + self._random.uniform(*TELL_ON_S))
            self._told_by_others = 0
        return [Save()]

    def _learn(self, documents: Iterable[Signed[Message]], now_s: float, wall_s: float) -> bool:
        before = self._knowing.bundle.revocations
        if not self._knowing.learn(documents, wall_s):
            return False
        after = self._knowing.bundle.revocations
        for digest in [digest for digest in after if digest not in before][-RECENT_MAX:]:
            while len(self._recent) >= RECENT_MAX:
                del self._recent[next(iter(self._recent))]
            self._recent[after[digest].data] = now_s
        return True

    def _note_peer(self, peer: Peer) -> None:
        self.peers.pop(peer.host_id, None)
        while len(self.peers) >= PEERS_MAX:
            gone = next(iter(self.peers))
            del self.peers[gone]
            self._fetch_at_s.pop(gone, None)
            self._wanted.pop(gone, None)
            self._fetched_s.pop(gone, None)
            self._known_of_s.pop(gone, None)
        self.peers[peer.host_id] = peer


def hint_of(key: bytes) -> bytes:
    """Tells one tag key from another, and nothing of either."""
    return blake2s(key, digest_size=KEY_HINT_BYTES, person=b"atm-hint").digest()
