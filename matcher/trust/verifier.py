"""Judges leaves by what a bundle says: of this realm, by an issuer in scope, in its time, and not revoked.

The costly part of a judgement is good for as long as the anchor is, and remembered; time and revocations are asked each
time. Wall time comes in as an argument.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey

from matcher.trust.bundle import Bundle, IssuerEntry
from matcher.trust.certificates import (
    LEAF_MAX_BYTES,
    Scope,
    Untrusted,
    is_signed_by,
    issuer_id_in,
    load,
    public_key_of,
    read_leaf,
)
from matcher.trust.principal import Principal
from matcher.wire.realm import Verb
from specs.ids import RealmId

CACHE_MAX = 4096
REVOKED = "its certificate was revoked"


@dataclass(frozen=True, slots=True)
class Certified:
    """A leaf whose signature and form are good for as long as the anchor is; what time changes is asked each time."""

    principal: Principal
    key: PublicKey
    starts_s: float  # when leaf, issuer and root all are valid
    ends_s: float
    issued_s: float  # when the leaf itself starts


class Verifier:
    """One realm's judge. `bundle` may be replaced by a larger one at any time."""

    def __init__(self, bundle: Bundle) -> None:
        self._certified: dict[bytes, Certified] = {}
        self._revoked: dict[tuple[str, str], float] = {}
        self.bundle = bundle
        self._take()

    @property
    def realm_id(self) -> RealmId:
        return RealmId(self.bundle.anchor.realm_id)

    def learn(self, bundle: Bundle) -> None:
        """Judge by `bundle` from now on."""
        if bundle.anchors[-1].data != self.bundle.anchors[-1].data:
            self._certified.clear()
        is_same, self.bundle = bundle.revocations is self.bundle.revocations, bundle
        if not is_same:
            self._take()

    def principal(self, leaf_der: bytes, wall_s: float) -> tuple[Principal, PublicKey]:
        """Who holds this certificate, and the key that their signatures verify with. Raises `Untrusted`."""
        certified = self.certified(leaf_der)
        if self._is_revoked(certified):
            raise Untrusted(REVOKED)
        _check_time(certified, wall_s)
        return certified.principal, certified.key

    def renewing(self, leaf_der: bytes, wall_s: float) -> Certified:
        """Who may have a new leaf for this one: a member of today, in its time, even where the leaf itself was
        superseded by another grant. What it grants may be over. Raises `Untrusted`."""
        certified = self.certified(leaf_der)
        if not self.is_member(certified.principal.kind, certified.principal.id):
            raise Untrusted(REVOKED)
        _check_time(certified, wall_s)
        return certified

    def certified(self, leaf_der: bytes) -> Certified:
        """What this leaf certifies, whatever the time, revoked or not: no reason to trust anybody, which `principal`
        alone gives. Raises `Untrusted`."""
        certified = self._certified.get(leaf_der)
        if certified is None:
            certified = self._check(leaf_der)
            if len(self._certified) >= CACHE_MAX:
                self._certified.pop(next(iter(self._certified)))  # the oldest; it is checked anew when next seen
            self._certified[leaf_der] = certified
        return certified

    def is_member(self, kind: str, member_id: str) -> bool:
        """Whether this member, by kind and id, has not been revoked as a whole."""
        return self._revoked.get((kind, member_id)) != float("inf")

    def revoked_before_s(self, kind: str, member_id: str) -> float:
        """Leaves of this member that start before this wall time are revoked; 0 if none are, infinity if all are."""
        return self._revoked.get((kind, member_id), 0.0)

    def is_known_revoked(self, leaf_der: bytes) -> bool:
        """At the price of two look-ups: a leaf that was seen before, and is revoked."""
        certified = self._certified.get(leaf_der)
        return certified is not None and self._is_revoked(certified)

    def is_known(self, leaf_der: bytes) -> bool:
        """Whether judging this leaf is cheap, as it was seen before."""
        return leaf_der in self._certified

    # ---- inside

    def _take(self) -> None:
        """For each member, the time before which its leaves are revoked; for ever, where the member itself is."""
        self._revoked = {}
        for signed in self.bundle.revocations.values():
            says = signed.says
            before_s = float(says.before_s) if says.before_s else float("inf")
            member = (says.kind, says.id)
            self._revoked[member] = max(before_s, self._revoked.get(member, 0.0))

    def _is_revoked(self, certified: Certified) -> bool:
        principal = certified.principal
        before_s = self._revoked.get((principal.kind, principal.id))
        return before_s is not None and certified.issued_s < before_s

    def _check(self, leaf_der: bytes) -> Certified:
        if len(leaf_der) > LEAF_MAX_BYTES:
            raise Untrusted("its certificate is too long")
        leaf = load(leaf_der)
        issuer = next((each for each in self.bundle.issuers if _is_from(leaf, each)), None)
        if issuer is None:
            raise Untrusted("its certificate is from no issuer of this realm")
        principal = read_leaf(leaf)
        if not _scope_for(principal) <= issuer.scopes:
            raise Untrusted("its certificate is from an issuer that may not make such")
        chain = leaf, issuer.certificate, issuer.root
        ends_s = min(certificate.not_valid_after_utc.timestamp() for certificate in chain)
        until_s = principal.grant.until_s
        return Certified(
            principal,
            public_key_of(leaf),
            starts_s=max(certificate.not_valid_before_utc.timestamp() for certificate in chain),
            ends_s=ends_s if until_s is None else min(ends_s, until_s),
            issued_s=leaf.not_valid_before_utc.timestamp(),
        )


def _check_time(certified: Certified, wall_s: float) -> None:
    if wall_s < certified.starts_s:
        raise Untrusted("its certificate is not valid yet")
    if wall_s > certified.ends_s:
        raise Untrusted("its certificate has expired")


def _is_from(leaf: x509.Certificate, issuer: IssuerEntry) -> bool:
    """The identifier is only a hint, so that one signature is verified for a stranger's leaf, and not one for each
    issuer."""
    is_named = issuer_id_in(leaf) == issuer.key_id and leaf.issuer == issuer.certificate.subject
    return is_named and is_signed_by(leaf, issuer.certificate)


def _scope_for(principal: Principal) -> set[Scope]:
    """What an issuer must be allowed to do to make this member."""
    if principal.kind == "host":
        return {Scope.HOSTS}
    return {Scope.USERS, Scope.ADMINS} if principal.may(Verb.ADMIN) else {Scope.USERS}
