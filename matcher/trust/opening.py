"""A signed envelope, judged: who signed it, for whom, and what it says. The one place where that is decided."""

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.principal import Principal, PrincipalKind
from matcher.trust.verifier import REVOKED
from matcher.wire.codec import BadBytes, decode
from matcher.wire.envelope import MESSAGE_OF, Sealed, verify
from matcher.wire.messages import DATAGRAM_MAX_BYTES, Message


def open_sealed(
    sealed: Sealed,
    identity: Identity,
    *,
    audience: bytes,
    signer: PrincipalKind,
    wall_s: float,
    max_bytes: int = DATAGRAM_MAX_BYTES,
    judged: tuple[Principal, EllipticCurvePublicKey] | None = None,
) -> tuple[Message, Principal]:
    """The message and its signer, a member of the realm of that kind. Raises `BadBytes` or `Untrusted`.

    The certificate comes first, as its check is remembered; the payload is decoded last, once it is known whose it is.
    `judged` is what the realm's verifier has said of this very certificate at `wall_s`, where it was asked already.
    """
    principal, key = judged or identity.verifier.principal(sealed.certificate, wall_s)
    if principal.kind != signer:
        raise Untrusted(f"its certificate is not a {signer}'s")
    return _verified(sealed, identity, key, audience, max_bytes), principal


def open_kept(
    sealed: Sealed,
    identity: Identity,
    *,
    audience: bytes,
    signer: PrincipalKind,
    max_bytes: int = DATAGRAM_MAX_BYTES,
) -> tuple[Message, Principal]:
    """As `open_sealed`, for an envelope that was judged when it came and kept since: its leaf may have ended meanwhile,
    by time or because another grant took its place. A member who was revoked counts for nothing all the same."""
    certified = identity.verifier.certified(sealed.certificate)
    principal = certified.principal
    if principal.kind != signer:
        raise Untrusted(f"its certificate is not a {signer}'s")
    if not identity.verifier.is_member(principal.kind, principal.id):
        raise Untrusted(REVOKED)
    return _verified(sealed, identity, certified.key, audience, max_bytes), principal


def _verified(
    sealed: Sealed, identity: Identity, key: EllipticCurvePublicKey, audience: bytes, max_bytes: int
) -> Message:
    if not verify(sealed, key, realm_id=identity.realm.realm_id, audience=audience):
        raise BadBytes("signature", "not its certificate's, or not for this audience")
    return decode(MESSAGE_OF[sealed.kind], sealed.payload, max_bytes=max_bytes)
