"""Joining a realm: what both sides say, over a TLS connection of the ALPN `atomos-join/1`. No I/O but one's own folder.

    who joins                                   the host that issued the token
              <------------- Welcome: the bundle
    (is this the realm of the token's root, and a host of it?)
              Join: certificate request, proof ------------->
                                               (is the token good? once, for this request)
              <------------- Admitted: leaf, tag keys; or Refused

Each message is msgpack behind its length (4 bytes). Who joins has no certificate yet; the host shows its own, and must
stand in a chain from the root whose fingerprint is in the token before anything is said to it.
"""

from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from matcher.trust.bundle import Bundle, read_bundle, roots_in
from matcher.trust.certificates import Untrusted, public_key_of
from matcher.trust.identity import Identity, is_identity, write_identity
from matcher.trust.issuing import Issued, IssueError, Issuer
from matcher.trust.principal import Principal, fingerprint
from matcher.trust.requests import make_request
from matcher.trust.tag_keys import read_tag_keys
from matcher.trust.tokens import Pending, Token, TokenRefusal, Tokens, proof
from matcher.trust.verifier import Verifier
from matcher.wire.messages import Reason, Refused
from matcher.wire.realm import Admitted, Join, Welcome

ALPN = "atomos-join/1"


class JoinError(Exception):
    """Why joining can't go on; a sentence for a person."""


class Joining:
    """The side of who joins, with a new key. `name`: a host's own; a user's stands in the token's record."""

    def __init__(self, token: Token, name: str) -> None:
        self.token = token
        self._key = generate_private_key(SECP256R1())
        self._request = make_request(self._key, name)
        self._bundle: Bundle | None = None
        self.server: Principal | None = None  # who answered, once that is known

    def answer(self, welcome: Welcome, server_leaf: bytes, wall_s: float) -> Join:
        """What to say to a host that has shown `server_leaf` in TLS. Raises `JoinError` where it is not the token's."""
        bundle = self._realm_in(welcome.bundle)
        try:
            server, _ = Verifier(bundle).principal(server_leaf, wall_s)
        except Untrusted as error:
            hint = ". Do both clocks go right?" if "valid" in error.reason or "expired" in error.reason else ""
            raise JoinError(f"Whoever answers is no host of the token's realm: {error.reason}{hint}") from error
        if server.kind != "host":
            raise JoinError("Whoever answers is no host of the token's realm, but a user.")
        self._bundle, self.server = bundle, server
        return Join(self.token.token_id, self._request, proof(self.token.secret, self._request, server_leaf))

    def finish(self, admitted: Admitted, folder: Path) -> None:
        """Write the identity. Raises `JoinError` where it is not what was asked for, and `OSError`."""
        assert self._bundle is not None, "after `answer`"
        if is_identity(folder):
            raise JoinError(f"There is an identity in {folder} already, and it stays.")
        try:
            certified = Verifier(self._bundle).certified(admitted.leaf)
        except Untrusted as error:
            raise JoinError(f"The host gave a certificate that can't be used: {error.reason}.") from error
        is_ours = certified.key == self._key.public_key() and certified.principal.kind == self.token.kind
        if not is_ours or read_tag_keys(admitted.keys, self._bundle) is None:
            raise JoinError("The host gave something else than was asked for.")
        write_identity(folder, self._key, admitted.leaf, self._bundle, admitted.keys)

    def _realm_in(self, data: bytes) -> Bundle:
        """The bundle, if a root with the token's fingerprint stands behind it."""
        try:
            root = next((root for root in roots_in(data) if fingerprint(public_key_of(root)) == self.token.root), None)
            if root is None:
                raise JoinError("Whoever answers does not belong to the realm of this token.")
            return read_bundle(data, root)
        except Untrusted as error:
            raise JoinError(f"The realm that answers does not hold together: {error.reason}.") from error


def admit(
    join: Join,
    tokens: Tokens,
    issuer: Issuer,
    identity: Identity,
    *,
    server_leaf: bytes,
    addresses: Collection[str],
    now_s: float,
    wall_s: float,
) -> tuple[Admitted, Issued, Pending] | Refused:
    """The side of the host: a leaf, once for each token; a repeat of the same request gets one again.

    Raises `OSError` where the issuer can't write it down; then the same request may come again.
    """
    pending = tokens.judge(join, server_leaf, now_s)
    if isinstance(pending, TokenRefusal):
        has = "not one that can be redeemed here: used, over, or of another host"
        return Refused(pending.value, (Reason("token", "to join with it", has, "ask for a new one"),))
    is_repeat = bool(pending.used_for)
    tokens.use(join)
    try:
        issued = issuer.admit(
            pending.kind, pending.name, join.request, pending.grant, wall_s=wall_s, addresses=addresses
        )
    except IssueError as error:
        if not is_repeat:
            tokens.give_back(join)
        return Refused(error.code, (Reason("token", "to join with it", error.said[:120], error.helps[:160]),))
    return Admitted(issued.leaf, identity.tag_key_documents()), issued, pending
