"""A daemon's datagrams: bytes and time go in, the datagrams to send come out.

Cheapest check first, and what costs is shared out (`matcher.net.budget`):

    length, magic, version, realm, tag → look-ups: heard before? a known leaf that is good for nothing?
    → budget → certificate, signature, decode → source, freshness → the signer's own share → remembered → the grant

A failure is silence and a counter. A validly signed but stale question gets one rate-limited `Clock` answer, so that a
person can read "h2 is 94 s behind"; a pledge beyond its user's grant an `Unfit` that says so. An answer goes to the
address inside the signature alone, only if the question came from there, and is no longer than its question.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, Protocol

from matcher.net.budget import Budget
from matcher.net.multicast import SocketAddress, answer_address, is_named
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.trust.principal import Principal, PrincipalKind
from matcher.wire.brevity import briefer
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, decode, encode
from matcher.wire.envelope import (
    HOSTS,
    KIND_OF,
    REALM,
    REPLAY_KEYS_MAX,
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
    Reason,
    Reveal,
    Role,
    Unfit,
    VmOffer,
    VolumeOffer,
)
from matcher.wire.realm import News, Verb
from specs.ids import UserId

FRESH_MS = 30_000
REPEAT_S = 0.1  # a query by several links, each copy with a signature of its own, is one query
HEARD_MAX = REPLAY_KEYS_MAX  # what was signed and of use; no member can fill it alone (`matcher.net.budget`)
QUERIES_MAX = 4096  # see REPEAT_S
VAIN_MAX = 4096  # signatures that were checked for nothing; beyond it they would be checked again
COUNTERS_MAX = 64  # reasons; all others are one

Reply = VmOffer | VolumeOffer | Unfit | Answer | Clock
Outgoing = tuple[bytes, SocketAddress]
HearsNews = Callable[[News, Principal, str], None]

_SIGNED_BY: dict[Kind, tuple[PrincipalKind, bytes]] = {
    Kind.PLEDGE: ("user", REALM),
    Kind.QUERY: ("user", REALM),
    Kind.NEWS: ("host", HOSTS),
}

_QUESTIONS: Final = (Pledge, Query)  # a union would be made anew for each


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a datagram came: the family of its socket, for IPv6 the link, and the numeric address that it came from."""

    family: int
    scope: int
    source: str

    @property
    def address(self) -> str:
        """The source as another socket would take it: with the link, where an IPv6 address needs one."""
        return f"{self.source}%{self.scope}" if self.scope and ip_address(self.source).is_link_local else self.source


@dataclass(frozen=True, slots=True)
class _Came:
    """A datagram, or (`arrival` is `None`) a body that came over HTTPS. `max_bytes` is what an answer may have."""

    data: bytes
    sealed: Sealed
    arrival: Arrival | None
    max_bytes: int
    now_s: float
    wall_ms: int

    @property
    def vain_key(self) -> bytes:
        """What can't be answered by one family may be by the other."""
        return self.sealed.signature + bytes([self.arrival.family if self.arrival else 0])


class _Silence(Exception):
    """Nothing is to be said; `reason` is for a counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Answering(Protocol):
    """What a daemon decides once a question is known to be a user's own; synchronous."""

    def pledge(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit]: ...

    def reveal(self, reveal: Reveal, now_s: float) -> None: ...

    def query(self, query: Query, user: Principal) -> Answer: ...


class Later(Protocol):
    """A daemon that answers some pledges later: `hear` is `None` for such a one, and `due` names it when it is to be
    answered, once and for certain. `matcher.offers.offering` limits how many wait."""

    def hear(self, pledge: Pledge, user: Principal, now_s: float) -> Sequence[VmOffer | VolumeOffer | Unfit] | None: ...

    def due(self, now_s: float) -> Sequence[str]: ...

    def next_deadline_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """A pledge whose answer waits, and where the answer goes."""

    came: _Came
    address: SocketAddress
    pledge: Pledge
    user: Principal


class Intake:
    """One daemon's way in for datagrams. `counters` tell why silence was kept.

    `ignores` is asked before any signature is checked, of what the realm's tag alone vouches for: for what this daemon
    would answer with silence in any case. `hears_news` is called with what hosts tell each other (this host's own word
    comes back as well), who signed it, and from where it came; the address is no part of what is signed. `later` is
    asked instead of `answering` about pledges that came as datagrams; those by HTTPS are answered at once.
    """

    def __init__(
        self,
        identity: Identity,
        answering: Answering,
        *,
        role: Role = Role.COMPUTE,
        ignores: Callable[[Sealed], bool] = lambda _: False,
        hears_news: HearsNews | None = None,
        later: Later | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._identity, self._answering, self._role = identity, answering, role
        self._ignores, self._hears_news, self._later = ignores, hears_news, later
        self._asked_before: dict[str, _Asked] = {}  # those that wait, by pledge id
        self._budget = Budget()
        self._latest = b""  # the last one that was of use, whole
        self._heard = ReplayWindow(keys_max=HEARD_MAX)
        self._vain = ReplayWindow(keys_max=VAIN_MAX)
        self._queries = ReplayWindow(keep_s=REPEAT_S, keys_max=QUERIES_MAX)

    def __len__(self) -> int:
        """How much is remembered, in entries."""
        windows = (self._heard, self._vain, self._queries)
        return len(self._budget) + sum(map(len, windows)) + len(self.counters) + len(self._asked_before)

    def count(self, reason: str) -> None:
        known = reason in self.counters or len(self.counters) < COUNTERS_MAX
        self.counters[reason if known else "other"] += 1

    def passes_over(self, data: bytes) -> bool:
        """Whether these are the bytes heard last: what comes by IPv4 comes by IPv6 as well, and mostly next."""
        if data != self._latest:
            return False
        self.count("heard before")
        return True

    def receive(self, data: bytes, arrival: Arrival, *, now_s: float, wall_ms: int) -> list[Outgoing]:
        """What to send because of a datagram; never raises for what a stranger can write."""
        if self.passes_over(data):
            return []
        try:
            sealed = unseal(data, realm=self._identity.realm)
            if sealed.kind is Kind.REVEAL:
                self._reveal(sealed, arrival, now_s)
                self._latest = data
                return []
            if self._ignores(sealed):
                return []
            came = _Came(data, sealed, arrival, len(data), now_s, wall_ms)
            if sealed.kind is Kind.NEWS and self._hears_news is not None:
                self._news(came, arrival, self._hears_news)
                return []
            return self._asked(came, arrival)
        except (BadBytes, Untrusted, _Silence) as error:
            self.count(error.reason)
            return []

    def next_deadline_s(self) -> float | None:
        """When to call `tick`; `None` while nothing waits."""
        return self._later.next_deadline_s() if self._later is not None else None

    def tick(self, now_s: float) -> list[Outgoing]:
        """What to send because time has passed."""
        sent: list[Outgoing] = []
        for pledge_id in self._later.due(now_s) if self._later is not None else ():
            asked = self._asked_before.pop(pledge_id)
            for reply in self._answering.pledge(asked.pledge, asked.user, now_s):
                sent += [(answer, asked.address) for answer in self._seal(asked.came, reply, asked.user)]
        return sent

    def receive_body(self, data: bytes, *, now_s: float, wall_ms: int, caller_id: str | None = None) -> list[bytes]:
        """The answers to a pledge that came over HTTPS, since it is too long for a datagram. Raises `BadBytes` or
        `Untrusted` if it is none.

        `caller_id` is the user at the other end, who must have signed it; `None` where that was asked already.
        """

        def answers() -> list[bytes]:
            sealed = unseal(data, realm=self._identity.realm, max_bytes=BODY_MAX_BYTES)
            if sealed.kind is not Kind.PLEDGE:
                raise BadBytes("unexpected kind")
            return self._at_once(_Came(data, sealed, None, BODY_MAX_BYTES, now_s, wall_ms), is_theirs)

        def is_theirs(_: Pledge | Query, user: Principal) -> None:
            if caller_id not in (None, user.id):
                raise Untrusted("its certificate is not the caller's")

        return self._counted(answers)

    def receive_relayed(self, data: bytes, relay: str, *, now_s: float, wall_ms: int) -> list[bytes]:
        """The answers to what another host has relayed here for a user. Raises `BadBytes` or `Untrusted` if it is none.

        `relay` is that host's address: the user has to have named it in what they signed, so that nothing is relayed by
        whom it was not given to, nor a second time. Empty: another daemon of this host has asked that already.
        """
        max_bytes = DATAGRAM_MAX_BYTES if relay else BODY_MAX_BYTES

        def answers() -> list[bytes]:
            sealed = unseal(data, realm=self._identity.realm, max_bytes=max_bytes)
            if sealed.kind is Kind.REVEAL:
                if not self._budget.relayed_reveals.take(now_s):
                    raise _Silence("reveal rate")
                self._answering.reveal(decode(Reveal, sealed.payload), now_s)
                return []
            return self._at_once(_Came(data, sealed, None, max_bytes, now_s, wall_ms), is_its_own)

        def is_its_own(question: Pledge | Query, _: Principal) -> None:
            if relay and not is_named(question.reply, relay):
                raise Untrusted("it was not given to this relay")

        return self._counted(answers)

    def _counted(self, answers: Callable[[], list[bytes]]) -> list[bytes]:
        """Those; why something by HTTPS has none is counted, and told where it is not to be met with silence."""
        try:
            return answers()
        except _Silence as error:
            self.count(error.reason)
            return []
        except (BadBytes, Untrusted) as error:
            self.count(error.reason)
            raise

    def _at_once(self, came: _Came, check: Callable[[Pledge | Query, Principal], None]) -> list[bytes]:
        """The answers to what came by HTTPS, if `check` does not raise `Untrusted`."""
        if self._ignores(came.sealed):
            return []
        question, user = self._question(came)
        check(question, user)
        return [answer for reply in self._replies(came, question, user) for answer in self._seal(came, reply, user)]

    # ---- by kind

    def _reveal(self, sealed: Sealed, arrival: Arrival, now_s: float) -> None:
        """Nobody signs it; heard twice, it does nothing twice."""
        refusal = self._budget.refuses_reveal(arrival.source, now_s)
        if refusal is not None:
            raise _Silence(refusal)
        self._answering.reveal(decode(Reveal, sealed.payload), now_s)

    def _news(self, came: _Came, arrival: Arrival, hears_news: HearsNews) -> None:
        news, host = self._opened(came)
        assert isinstance(news, News)
        if not _is_fresh(news, came):
            raise self._in_vain(came, "stale news")
        if not self._budget.news.take(host.id, came.now_s):
            raise self._in_vain(came, "news rate")
        self._remember(came)
        self.count("news")
        hears_news(news, host, arrival.address)

    def _asked(self, came: _Came, arrival: Arrival) -> list[Outgoing]:
        question, user = self._question(came)
        address = answer_address(question.reply, arrival.source, arrival.scope)
        if address is None:
            raise self._in_vain(came, "no address to answer")
        replies = self._replies(came, question, user, address)
        return [(answer, address) for reply in replies for answer in self._seal(came, reply, user)]

    def _question(self, came: _Came) -> tuple[Pledge | Query, Principal]:
        if came.sealed.kind not in (Kind.PLEDGE, Kind.QUERY):
            raise BadBytes("unexpected kind")
        question, user = self._opened(came)
        assert isinstance(question, _QUESTIONS)
        return question, user

    def _replies(
        self, came: _Came, question: Pledge | Query, user: Principal, address: SocketAddress | None = None
    ) -> Sequence[Reply]:
        """`address` is where an answer may go later."""
        if not _is_fresh(question, came):
            self._in_vain(came, "")
            self.count("stale")
            return self._clock_answer(question, user, came)
        shares = self._budget.pledges if isinstance(question, Pledge) else self._budget.queries
        if not shares.take(user.id, came.now_s):
            raise self._in_vain(came, "user rate")
        self._remember(came)
        self.count(type(question).__name__.lower())
        lacking = verb_lacking(question, user)
        if isinstance(question, Pledge):
            return [self._beyond(question, lacking)] if lacking else self._answers(came, question, user, address)
        if lacking:
            raise _Silence("grant")
        if not self._queries.fresh(f"{user.id}{question.query_id}".encode(), came.now_s):
            return []
        return [self._answering.query(question, user)]

    def _answers(
        self, came: _Came, pledge: Pledge, user: Principal, address: SocketAddress | None
    ) -> Sequence[VmOffer | VolumeOffer | Unfit]:
        if self._later is None or address is None:
            return self._answering.pledge(pledge, user, came.now_s)
        replies = self._later.hear(pledge, user, came.now_s)
        if replies is None:
            self._asked_before.setdefault(pledge.pledge_id, _Asked(came, address, pledge, user))
        return replies or ()

    # ---- judging

    def _opened(self, came: _Came) -> tuple[Message, Principal]:
        """What is inside and who signed it: first by what costs nothing, then within the budget. Raises `BadBytes`,
        `Untrusted` or `_Silence`."""
        sealed, wall_s = came.sealed, came.wall_ms / 1000
        if self._heard.seen(sealed.signature, came.now_s) or self._vain.seen(came.vain_key, came.now_s):
            raise _Silence("heard before")
        signer, audience = _SIGNED_BY[sealed.kind]
        verifier, leaf, judged = self._identity.verifier, None, None
        if verifier.is_known(sealed.certificate):
            leaf = sealed.certificate
            judged = verifier.principal(leaf, wall_s)  # revoked, expired: who floods so has no share of the rest
        refusal = self._budget.refuses(came.arrival.source if came.arrival else None, leaf, came.now_s)
        if refusal is not None:
            raise _Silence(refusal)
        longest = DATAGRAM_MAX_BYTES if came.arrival else BODY_MAX_BYTES
        return open_sealed(
            sealed,
            self._identity,
            audience=audience,
            signer=signer,
            wall_s=wall_s,
            max_bytes=longest,
            judged=judged,
        )

    def _remember(self, came: _Came) -> None:
        if not self._heard.fresh(came.sealed.signature, came.now_s):
            raise _Silence("replay window full")
        self._latest = came.data

    def _in_vain(self, came: _Came, reason: str) -> _Silence:
        """Checked, and for nothing: the same bytes are not checked again."""
        self._vain.fresh(came.vain_key, came.now_s)
        return _Silence(reason)

    # ---- answering

    def _clock_answer(self, question: Pledge | Query, user: Principal, came: _Came) -> Sequence[Clock]:
        if not self._budget.clocks.take(user.id, came.now_s):
            return []
        about = question.pledge_id if isinstance(question, Pledge) else question.query_id
        return [Clock(about, self._identity.principal.name, came.wall_ms)]

    def _beyond(self, pledge: Pledge, lacking: Verb) -> Unfit:
        what = "ask who could serve" if lacking is Verb.PLEDGE else "have VMs"
        self.count("grant")
        reason = Reason("grant", lacking.value, f"your grant does not let you {what}", "ask an admin of the realm")
        return Unfit(pledge.pledge_id, self._identity.principal.name, self._role, 0, (reason,))

    def _seal(self, came: _Came, reply: Message, user: Principal) -> list[bytes]:
        """With the key that the question's tag was made with: who asked may not have heard of a newer one."""
        identity, audience = self._identity, user_audience(UserId(user.id))
        realm = identity.realm
        if came.sealed.tag_key != realm.tag_key:
            realm = replace(realm, tag_key=came.sealed.tag_key)
        while True:
            kind, payload = KIND_OF[type(reply)], encode(reply)
            try:
                return [seal(kind, payload, realm=realm, signer=identity, audience=audience, max_bytes=came.max_bytes)]
            except TooLong:
                shorter = briefer(reply)
                if shorter is None:
                    self.count("answer too long")
                    return []
                reply = shorter


def _is_fresh(message: Pledge | Query | News, came: _Came) -> bool:
    return abs(message.sent_at_ms - came.wall_ms) <= FRESH_MS


def verb_lacking(question: Pledge | Query, user: Principal) -> Verb | None:
    """The verb that the user would need and does not have."""
    needed = Verb.RUN if isinstance(question, Pledge) and not question.dry else Verb.PLEDGE
    return None if user.may(needed) else needed
