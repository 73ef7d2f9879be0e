"""Signs what a host says in gossip, and judges what others have signed.

    length, magic, realm, tag → rate of the source → decode → news? → rate of the signer, total → certificate, signature

Only what would change the view is worth a signature's check, so that repeats, replays and copies by the other family
cost none. A statement may come without its certificate, where whoever hears it should have it: who does not asks.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from matcher.gossip.effects import Greet, Send, Shout
from matcher.gossip.membership import Membership
from matcher.gossip.roster import Charge, Record, short_of
from matcher.gossip.rumors import Told
from matcher.net.budget import source_key
from matcher.net.token_bucket import Rate, TokenBucket, TokenBuckets
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.wire.codec import BadBytes, decode, encode
from matcher.wire.envelope import (
    GOSSIP,
    HOSTS,
    KIND_OF,
    MESSAGE_OF,
    Kind,
    RealmSecret,
    Sealed,
    seal,
    signed,
    unseal,
    wrap,
)
from matcher.wire.gossip import Ack, Alive, Claim, Ping, Statement, Tidings, Unsigned, join, split
from specs.ids import HostId

SOURCE = Rate(per_s=300, burst=1500)  # datagrams of one machine: a realm that starts all at once, and no more
SIGNER = Rate(per_s=20, burst=60)  # statements of one host that would be news
STRANGERS = Rate(per_s=50, burst=500)  # for all together whose certificate was not seen before
TOTAL = Rate(per_s=1000, burst=2000)  # checks of a signature; a tenth of a core
SOURCES_MAX = SIGNERS_MAX = 4096
COUNTERS_MAX = 64
_SIGNED = (Kind.ALIVE, Kind.CLAIM)


class Lacking(Exception):
    """This host's certificate is not known here, or it has another by now."""

    def __init__(self, signer: bytes) -> None:
        super().__init__()
        self.signer = signer


@dataclass(frozen=True, slots=True)
class Opened:
    """A datagram: signed statements, of which those that are of use are still to be judged, and what carried them;
    `None` for a statement in an envelope of its own."""

    statements: tuple[Statement, ...]
    message: Unsigned | None


class Scribe:
    """One host's: its `Hand` for `Membership`, and its ears. `counters` tell why something was not heard."""

    def __init__(self, identity: Identity) -> None:
        self.counters: Counter[str] = Counter()
        self._identity = identity
        self._sources = TokenBuckets(SOURCE, keys_max=SOURCES_MAX)
        self._signers = TokenBuckets(SIGNER, keys_max=SIGNERS_MAX)
        self._strangers, self._total = TokenBucket(STRANGERS), TokenBucket(TOTAL)

    def count(self, reason: str) -> None:
        known = reason in self.counters or len(self.counters) < COUNTERS_MAX
        self.counters[reason if known else "other"] += 1

    # ---- speaking

    def record(self, alive: Alive) -> Record:
        me = self._identity.principal
        proof, certificate = self._signed(Kind.ALIVE, encode(alive))
        return Record(short_of(HostId(me.id)), HostId(me.id), me.name, alive, proof, certificate)

    def charge(self, claim: Claim) -> Charge:
        proof, _ = self._signed(Kind.CLAIM, encode(claim))
        return Charge(short_of(HostId(self._identity.principal.id)), claim, proof)

    def datagram(self, effect: Send | Shout | Greet) -> bytes:
        """What goes out. An envelope of its own to one address is a greeting: see `Way`."""
        if not isinstance(effect, Send):
            certificate = self._identity.certificate
            if isinstance(effect.told, Record):
                certificate = effect.told.certificate
            (statement,) = split(effect.told.proof)
            sealed = Sealed(Kind(statement.kind), certificate, statement.signature, statement.payload)
            return wrap(sealed, realm=self._realm)
        message = effect.message
        if effect.told:
            assert isinstance(message, Ping | Ack | Tidings)
            message = dataclasses.replace(message, told=join(list(_whole(effect))))
        return seal(KIND_OF[type(message)], encode(message), realm=self._realm, signer=None, audience=HOSTS)

    # ---- hearing

    def open(self, data: bytes, source: str, now_s: float) -> Opened:
        """Raises `BadBytes`; nothing that is signed has been judged yet."""
        sealed = unseal(data, realm=self._identity.realm)
        if not self._sources.take(source_key(source), now_s):
            raise BadBytes("source rate")
        if sealed.kind in _SIGNED:
            return Opened((Statement(sealed.kind, b"", sealed.certificate, sealed.signature, sealed.payload),), None)
        if sealed.kind not in GOSSIP:
            raise BadBytes("unexpected kind")
        message = decode(MESSAGE_OF[sealed.kind], sealed.payload)
        told = message.told if isinstance(message, Ping | Ack | Tidings) else b""
        return Opened(tuple(split(told)), message)  # type: ignore[arg-type]  # what GOSSIP says

    def refused_nonce(self, data: bytes) -> int | None:
        """Of a ping of ours that a machine has refused."""
        try:
            sealed = unseal(data, realm=self._identity.realm)
            return decode(Ping, sealed.payload).nonce if sealed.kind is Kind.PING else None
        except BadBytes:
            return None

    def told(self, statement: Statement, member: Membership, now_s: float) -> Told | None:
        """What it says, where that is news, or was said by whoever carries it; `None` where it is of no use. Raises
        `BadBytes`, `Untrusted` or `Lacking`."""
        if statement.kind not in _SIGNED:
            raise BadBytes("statement")
        kind = Kind(statement.kind)
        roster = member.roster
        short = statement.signer or self._short_in(statement.certificate, now_s)
        known = roster.records.get(short)
        if kind is Kind.ALIVE:
            if known is not None and _proof(kind, short, statement) == known.proof:
                return known
            if not member.is_news(short, decode(Alive, statement.payload)):
                return None
        elif not member.is_news_of(short, decode(Claim, statement.payload)):
            return None
        certificate = statement.certificate or (known.certificate if known is not None else b"")
        if not certificate:
            raise Lacking(short)
        self._afford(short, now_s)
        return self._judged(kind, short, certificate, statement)

    # ---- inside

    def _judged(self, kind: Kind, short: bytes, certificate: bytes, statement: Statement) -> Told:
        sealed = Sealed(kind, certificate, statement.signature, statement.payload)
        try:
            says, host = open_sealed(sealed, self._identity, audience=HOSTS, signer="host", wall_s=time.time())
        except (BadBytes, Untrusted):
            if not statement.certificate:
                raise Lacking(short) from None
            raise
        if short_of(HostId(host.id)) != short:
            raise BadBytes("statement", "another's")
        proof = _proof(kind, short, statement)
        if isinstance(says, Claim):
            return Charge(short, says, proof)
        assert isinstance(says, Alive)
        return Record(short, HostId(host.id), host.name, says, proof, certificate)

    def _afford(self, short: bytes, now_s: float) -> None:
        if not self._signers.take(short, now_s):
            raise BadBytes("signer rate")
        if not self._total.take(now_s):
            raise BadBytes("total rate")

    def _short_in(self, certificate: bytes, now_s: float) -> bytes:
        """Raises `BadBytes` or `Untrusted`. A certificate that was never seen costs the check of its issuer's
        signature."""
        if not self._identity.verifier.is_known(certificate) and not self._strangers.take(now_s):
            raise BadBytes("stranger rate")
        return short_of(HostId(self._identity.verifier.certified(certificate).principal.id))

    def _signed(self, kind: Kind, payload: bytes) -> tuple[bytes, bytes]:
        mine = self._identity
        made = signed(kind, payload, realm_id=mine.realm.realm_id, signer=mine, audience=HOSTS)
        short = short_of(HostId(mine.principal.id))
        return Statement(kind, short, b"", made.signature, payload).to_bytes(), made.certificate

    @property
    def _realm(self) -> RealmSecret:
        return self._identity.realm.spoken


def _whole(send: Send) -> Iterator[bytes]:
    for told in send.told:
        if send.certified and isinstance(told, Record):
            (plain,) = split(told.proof)
            yield dataclasses.replace(plain, certificate=told.certificate).to_bytes()
        else:
            yield told.proof


def _proof(kind: Kind, short: bytes, statement: Statement) -> bytes:
    return Statement(kind, short, b"", statement.signature, statement.payload).to_bytes()
