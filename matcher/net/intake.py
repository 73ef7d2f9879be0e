"""A daemon's datagrams: bytes and time go in, the datagrams to send come out.

Cheapest check first: length, magic, realm and tag (`unseal`), the certificate (remembered), the signature, freshness.
A failure is silence and a counter; a validly signed but stale question gets one rate-limited `Clock` answer, so that a
person can read "h2 is 94 s behind". Answers go to the address inside the signature alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from matcher.net.multicast import SocketAddress, answer_address
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.trust.principal import Principal
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, decode, encode
from matcher.wire.envelope import (
    KIND_OF,
    REALM,
    Kind,
    ReplayWindow,
    Sealed,
    TooLong,
    seal,
    unseal,
    user_audience,
)
from matcher.wire.messages import (
    DATAGRAM_MAX_BYTES,
    Answer,
    Clock,
    Message,
    Pledge,
    Query,
    Reveal,
    Unfit,
    VmOffer,
    VolumeOffer,
)
from specs.ids import UserId

FRESH_MS = 30_000
REPEAT_S = 0.1  # a client that heard nothing asks again, later than this
COPY_S = 0.05  # the same bytes come by IPv4 and IPv6: they are verified and answered once
COPIES_MAX = 64
CLOCK_ANSWER_S = 1.0  # at most one `Clock` in this time

Reply = VmOffer | VolumeOffer | Unfit | Answer | Clock
Outgoing = tuple[bytes, SocketAddress]


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a datagram came: the family of its socket and, for IPv6, the link."""

    family: int
    scope: int


@dataclass(frozen=True, slots=True)
class _Heard:
    question: Pledge | Query
    user: Principal


class Answering(Protocol):
    """What a daemon decides once a question is known to be a user's own; synchronous."""

    def pledge(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit]: ...

    def reveal(self, reveal: Reveal, now_s: float) -> None: ...

    def query(self, query: Query, user: Principal) -> Answer: ...


class Intake:
    """One daemon's way in for datagrams. `counters` tell why silence was kept.

    `ignores` is asked before any signature is checked, of what the realm's tag alone vouches for: for what this daemon
    would answer with silence in any case.
    """

    def __init__(
        self, identity: Identity, answering: Answering, *, ignores: Callable[[Sealed], bool] = lambda _: False
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._identity, self._answering, self._ignores = identity, answering, ignores
        self._queries = ReplayWindow(keep_s=REPEAT_S)  # a query that came by two links is one query
        self._copies = ReplayWindow(keep_s=COPY_S, keys_max=COPIES_MAX)
        self._clock_answer_s = float("-inf")

    def receive(self, data: bytes, arrival: Arrival, *, now_s: float, wall_ms: int) -> list[Outgoing]:
        """What to send because of a datagram; never raises for what a stranger can write."""
        if self._copies.seen(data, now_s):
            self.counters["copy"] += 1
            return []
        heard = self._hear(data, DATAGRAM_MAX_BYTES, now_s, wall_ms)
        if heard is None:
            return []
        address = answer_address(heard.question.reply, arrival.family, arrival.scope)
        if address is None:
            self.counters["no address to answer"] += 1
            return []
        self._copies.fresh(data, now_s)
        replies = self._replies(heard.question, heard.user, now_s, wall_ms)
        return [(answer, address) for reply in replies for answer in self._seal(reply, heard.user, DATAGRAM_MAX_BYTES)]

    def receive_body(self, data: bytes, *, now_s: float, wall_ms: int) -> list[bytes] | None:
        """The answers to a pledge that came over HTTPS, since it is too long for a datagram; `None` if it is none."""
        heard = self._hear(data, BODY_MAX_BYTES, now_s, wall_ms)
        if heard is None:
            return None
        replies = self._replies(heard.question, heard.user, now_s, wall_ms)
        return [answer for reply in replies for answer in self._seal(reply, heard.user, BODY_MAX_BYTES)]

    def _hear(self, data: bytes, max_bytes: int, now_s: float, wall_ms: int) -> _Heard | None:
        try:
            sealed = unseal(data, realm=self._identity.realm, max_bytes=max_bytes)
            if sealed.kind is Kind.REVEAL:
                self._answering.reveal(decode(Reveal, sealed.payload), now_s)
                return None
            return None if self._ignores(sealed) else self._question(sealed, max_bytes, wall_ms)
        except (BadBytes, Untrusted) as error:
            self.counters[error.reason] += 1
            return None

    def _question(self, sealed: Sealed, max_bytes: int, wall_ms: int) -> _Heard:
        """The pledge or query inside, and the user who signed it. Raises `BadBytes` or `Untrusted`."""
        if sealed.kind not in (Kind.PLEDGE, Kind.QUERY):
            raise BadBytes("unexpected kind")
        question, user = open_sealed(
            sealed, self._identity, audience=REALM, signer="user", wall_s=wall_ms / 1000, max_bytes=max_bytes
        )
        assert isinstance(question, Pledge | Query)
        return _Heard(question, user)

    def _replies(self, question: Pledge | Query, user: Principal, now_s: float, wall_ms: int) -> Sequence[Reply]:
        if abs(question.sent_at_ms - wall_ms) > FRESH_MS:
            self.counters["stale"] += 1
            return self._clock_answer(question, now_s, wall_ms)
        self.counters[type(question).__name__.lower()] += 1
        if isinstance(question, Pledge):
            return self._answering.pledge(question, user, now_s)
        if not self._queries.fresh(f"{user.id}{question.query_id}".encode(), now_s):
            return []
        return [self._answering.query(question, user)]

    def _clock_answer(self, question: Pledge | Query, now_s: float, wall_ms: int) -> Sequence[Clock]:
        if now_s - self._clock_answer_s < CLOCK_ANSWER_S:
            return []
        self._clock_answer_s = now_s
        about = question.pledge_id if isinstance(question, Pledge) else question.query_id
        return [Clock(about, self._identity.principal.name, wall_ms)]

    def _seal(self, reply: Reply, user: Principal, max_bytes: int) -> list[bytes]:
        audience = user_audience(UserId(user.id))
        while True:
            try:
                return [self._sealed(reply, audience, max_bytes)]
            except TooLong:
                if not isinstance(reply, Unfit) or len(reply.reasons) <= 1:
                    self.counters["answer too long"] += 1
                    return []
                reply = replace(reply, reasons=reply.reasons[:-1])  # the first reasons are the ones that matter

    def _sealed(self, reply: Message, audience: bytes, max_bytes: int) -> bytes:
        identity, kind = self._identity, KIND_OF[type(reply)]
        return seal(kind, encode(reply), realm=identity.realm, signer=identity, audience=audience, max_bytes=max_bytes)
