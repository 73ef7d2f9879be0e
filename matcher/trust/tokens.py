"""Tokens: what an admin carries to a new host or user, redeemed once, at the host that issued it, within 15 minutes.

    atomos1-BASE64URL(version, kind, port, root fingerprint 32, id 8, secret 16, addresses, checksum 4)

Who redeems it knows by the root's fingerprint that the right realm answers, and proves by the secret, which never
travels, that the token is theirs. Pending tokens live in memory alone: a daemon that restarts has forgotten them, so
that no crash can make one good twice.
Pure: `now_s` is one monotonic clock; randomness comes in as bytes.
"""

import base64
import hmac
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from ipaddress import ip_address
from typing import Literal

from matcher.trust.principal import PrincipalKind
from matcher.wire.realm import Grant, Join

TOKEN_S = 15 * 60.0
PENDING_MAX = 64
REDEEMED_MAX = 256  # remembered until their time is over, for who did not hear the answer; the oldest go first
TRIES_MAX = 8  # wrong proofs for one token; then it is good for nothing
TEXT_MAX = 512
SECRET_BYTES = 16
ID_BYTES = 8
ADDRESSES_MAX = 8
_PREFIX = "atomos1-"
_KINDS: tuple[PrincipalKind, ...] = ("host", "user")


class BadToken(Exception):
    """A text that is no whole token; a sentence for a person."""


@dataclass(frozen=True, slots=True)
class Token:
    """`addresses` are numeric; `root` is the fingerprint of the realm's root, 64 hex digits."""

    kind: PrincipalKind
    root: str
    addresses: tuple[str, ...]
    port: int
    token_id: str
    secret: bytes = field(repr=False)

    def text(self) -> str:
        addresses = b"".join(bytes([len(raw)]) + raw for raw in (ip_address(a).packed for a in self.addresses))
        head = bytes([1, _KINDS.index(self.kind)]) + self.port.to_bytes(2, "big")
        body = head + bytes.fromhex(self.root) + bytes.fromhex(self.token_id) + self.secret + addresses
        return _PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")


def read_token(text: str) -> Token:
    """Raises `BadToken`."""
    text = text.strip()
    if len(text) > TEXT_MAX or not text.startswith(_PREFIX):
        raise BadToken(f"This is no token: one starts with {_PREFIX}")
    try:
        encoded = text.removeprefix(_PREFIX)
        raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (Base64Error, ValueError):
        raw = b""
    body, checksum = raw[:-4], raw[-4:]
    if len(body) < 60 or not hmac.compare_digest(checksum, _checksum(body)):
        raise BadToken("This token is not whole: it was changed or cut on the way. Copy all of it.")
    if body[0] != 1 or body[1] >= len(_KINDS):
        raise BadToken("This token is of a newer version than this program.")
    addresses = tuple(_addresses(body[60:]))
    if not addresses or not any(body[2:4]):
        raise BadToken("This token names no address.")
    token = Token(
        _KINDS[body[1]],
        body[4:36].hex(),
        addresses,
        int.from_bytes(body[2:4], "big"),
        body[36:44].hex(),
        body[44:60],
    )
    if token.text() != text:  # base64 has several spellings of the same bytes, and skips what it does not know
        raise BadToken("This token is not whole: it was changed or cut on the way. Copy all of it.")
    return token


def proof(secret: bytes, request: bytes, server_leaf: bytes) -> bytes:
    """Binds a certificate request to a token and to the host that it is sent to."""
    return hmac.digest(secret, b"atomos-join/1\0" + sha256(server_leaf).digest() + request, "sha256")


class TokenRefusal(StrEnum):
    """One word for what is not known, used or over: a stranger learns nothing from it."""

    NOT_GOOD = "token-not-good"


@dataclass(slots=True)
class Pending:
    """A token that waits to be redeemed. `name` may be empty for a host, which then says its own. `by` is who asked
    for it."""

    kind: Literal["host", "user"]
    name: str
    grant: Grant | None
    by: str
    secret: bytes = field(repr=False)
    until_s: float
    tries: int = 0
    used_for: bytes = b""  # the request that it was redeemed with: a repeat gets the same answer


class Tokens:
    """All tokens that one host has issued and that are not over yet."""

    def __init__(self) -> None:
        self._pending: dict[str, Pending] = {}

    def is_open(self, now_s: float) -> bool:
        """Whether anybody may come to join at all."""
        self._forget(now_s)
        return bool(self._pending)

    def count(self, now_s: float) -> int:
        self._forget(now_s)
        return sum(not pending.used_for for pending in self._pending.values())

    def issue(
        self,
        kind: Literal["host", "user"],
        *,
        name: str,
        grant: Grant | None,
        by: str,
        root: str,
        addresses: Sequence[str],
        port: int,
        random: bytes,
        now_s: float,
    ) -> Token | None:
        """A new token; `None` where too many are pending. `random` is `ID_BYTES + SECRET_BYTES` long."""
        assert len(random) == ID_BYTES + SECRET_BYTES
        self._forget(now_s)
        if sum(not pending.used_for for pending in self._pending.values()) >= PENDING_MAX:
            return None
        token = Token(kind, root, tuple(addresses[:ADDRESSES_MAX]), port, random[:ID_BYTES].hex(), random[ID_BYTES:])
        self._pending[token.token_id] = Pending(kind, name, grant, by, token.secret, now_s + TOKEN_S)
        return token

    def withdraw(self, kind: str, name: str) -> str | None:
        """The unredeemed token that has promised this name is good for nothing any more; its id, if there was one."""
        for token_id, pending in self._pending.items():
            if (pending.kind, pending.name) == (kind, name) and not pending.used_for:
                del self._pending[token_id]
                return token_id
        return None

    def judge(self, join: Join, server_leaf: bytes, now_s: float) -> Pending | TokenRefusal:
        """The pending token behind `join`, if its proof is right and it is unused, or was used by this very request."""
        self._forget(now_s)
        pending = self._pending.get(join.token_id)
        wanted = proof(pending.secret if pending else bytes(SECRET_BYTES), join.request, server_leaf)
        is_right = hmac.compare_digest(wanted, join.proof)
        if pending is None:
            return TokenRefusal.NOT_GOOD
        if not is_right:
            pending.tries += 1
            if pending.tries >= TRIES_MAX:
                del self._pending[join.token_id]
            return TokenRefusal.NOT_GOOD
        if pending.used_for and pending.used_for != join.request:
            return TokenRefusal.NOT_GOOD
        return pending

    def use(self, join: Join) -> None:
        """Redeemed: no other request will do from now on. To be called right after `judge`, before anything waits, so
        that of two who race with one token exactly one is admitted."""
        self._pending[join.token_id].used_for = join.request
        used = [token_id for token_id, pending in self._pending.items() if pending.used_for]
        for token_id in used[:-REDEEMED_MAX]:
            del self._pending[token_id]

    def give_back(self, join: Join) -> None:
        """Nobody was admitted with it: another request may come."""
        pending = self._pending.get(join.token_id)
        if pending is not None and pending.used_for == join.request:
            pending.used_for = b""

    def _forget(self, now_s: float) -> None:
        for token_id in [token_id for token_id, pending in self._pending.items() if pending.until_s <= now_s]:
            del self._pending[token_id]


def _addresses(raw: bytes) -> list[str]:
    addresses: list[str] = []
    at = 0
    while at < len(raw):
        size = raw[at]
        if size not in (4, 16) or at + 1 + size > len(raw) or len(addresses) >= ADDRESSES_MAX:
            raise BadToken("This token names no address.")
        addresses.append(str(ip_address(raw[at + 1 : at + 1 + size])))
        at += 1 + size
    return addresses


def _checksum(body: bytes) -> bytes:
    return sha256(b"atomos-token\0" + body).digest()[:4]
