"""What a member knows of its realm: the anchor, the revocations, the heartbeats. It only grows (I11).

    pinned root --signs--> anchor, epoch n --names--> issuers --sign--> revocations, heartbeats
                             '--its roots sign--> anchor, epoch n + m

A bundle is a value; `add` gives a larger one, or the same where there was nothing new. Whatever is added has been held
against what is here already, so that a bundle may come from anybody. An anchor that brings a new root is kept as a
*link*, so that a member who was away can follow from the root it knows to today's.
Revocations by an issuer that the root has dropped since stay in force here; the other issuers sign them anew, for those
who come later. No I/O, no clock.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

from cryptography import x509

from matcher.trust.certificates import Scope, Untrusted, check_issuer, check_root, load, public_key_of
from matcher.trust.documents import Signed, key_id, read_documents
from matcher.wire.framing import frame, unframe
from matcher.wire.messages import Message
from matcher.wire.realm import Anchor, Heartbeat, Revocation

BUNDLE_MAX_BYTES = 4 << 20
REVOCATIONS_MAX = 8192
LINKS_MAX = 16
ROOTS_MAX = 4
ISSUERS_MAX = 16
SCOPE_TO_REVOKE = {"host": Scope.HOSTS, "user": Scope.USERS}

Digest = bytes


@dataclass(frozen=True, slots=True)
class IssuerEntry:
    certificate: x509.Certificate
    scopes: frozenset[Scope]
    key_id: bytes


@dataclass(frozen=True)
class Bundle:
    """`anchors`: the links, oldest first, then the newest. `revocations` by the hash of their bytes; `heartbeats` by
    the issuer's key id."""

    anchors: tuple[Signed[Anchor], ...]
    revocations: dict[Digest, Signed[Revocation]]
    heartbeats: dict[bytes, Signed[Heartbeat]]

    @property
    def anchor(self) -> Anchor:
        return self.anchors[-1].says

    @cached_property
    def roots(self) -> tuple[x509.Certificate, ...]:
        return _roots(self.anchor)

    @cached_property
    def issuers(self) -> tuple[IssuerEntry, ...]:
        return _issuers(self.anchor, self.roots)

    @cached_property
    def digest(self) -> Digest:
        """Equal for two members who know the same; heartbeats, which come by themselves, aside."""
        known = sha256(self.anchors[-1].data)
        for each in sorted(self.revocations):
            known.update(each)
        return known.digest()

    def to_bytes(self) -> bytes:
        return frame(document.data for document in self.documents())

    def documents(self) -> tuple[Signed[Message], ...]:
        """All, in the order in which they can be added to an older bundle."""
        return (*self.anchors, *self.revocations.values(), *self.heartbeats.values())

    def heard_s(self) -> float | None:
        """Wall time of the newest word of an issuer, all of whose revocations are here; `None` if there is none."""
        complete = [beat.says.at_ms / 1000 for known, beat in self.heartbeats.items() if self._has_all(known, beat)]
        return max(complete, default=None)

    def add(self, document: Signed[Message]) -> "Bundle":
        """With one more document. Raises `Untrusted` where it is not what the realm's own sign."""
        says = document.says
        if isinstance(says, Anchor):
            return self._with_anchor(document)  # type: ignore[arg-type]
        if isinstance(says, Revocation):
            return self._with_revocation(document)  # type: ignore[arg-type]
        if isinstance(says, Heartbeat):
            return self._with_heartbeat(document)  # type: ignore[arg-type]
        raise Untrusted("a document of another kind")

    def merged(self, documents: Iterable[Signed[Message]]) -> "Bundle":
        """With all of them that the realm stands behind; the others are passed over."""
        bundle = self
        for document in documents:
            try:
                bundle = bundle.add(document)
            except Untrusted:
                continue
        return bundle

    def signer_in(self, document: Signed[Message], scope: Scope | None = None) -> IssuerEntry | None:
        """The issuer of today's anchor who signed this, if its scope is enough."""
        for issuer in self.issuers:
            if (scope is None or scope in issuer.scopes) and document.signed_by(public_key_of(issuer.certificate)):
                return issuer
        return None

    # ---- inside

    def _with_anchor(self, signed: Signed[Anchor]) -> "Bundle":
        new, now = signed.says, self.anchors[-1]
        if new.realm_id != now.says.realm_id:
            raise Untrusted("an anchor of another realm")
        if (new.epoch, signed.data) <= (now.says.epoch, now.data):  # two of one epoch: the same one counts everywhere
            return self
        if not any(signed.signed_by(public_key_of(root)) for root in self.roots):
            raise Untrusted("an anchor that no root of this realm has signed")
        _issuers(new, _roots(new))
        # Whoever knows only a root that signed the anchor before, and not this one, needs that one as a link.
        kept = self.anchors if _signers(now) - _signers(signed) else self.anchors[:-1]
        if len(kept) > LINKS_MAX:
            raise Untrusted("an anchor too many: this realm has changed its root too often")
        return replace(self, anchors=(*kept, signed))

    def _with_revocation(self, signed: Signed[Revocation]) -> "Bundle":
        digest = sha256(signed.data).digest()
        if digest in self.revocations:
            return self
        self._of_this_realm(signed.says.realm_id)
        if self.signer_in(signed, SCOPE_TO_REVOKE[signed.says.kind]) is None:
            raise Untrusted("a revocation that no issuer in scope has signed")
        if len(self.revocations) >= REVOCATIONS_MAX:
            raise Untrusted("a revocation too many")
        return replace(self, revocations={**self.revocations, digest: signed})

    def _with_heartbeat(self, signed: Signed[Heartbeat]) -> "Bundle":
        self._of_this_realm(signed.says.realm_id)
        issuer = self.signer_in(signed)
        if issuer is None:
            raise Untrusted("a heartbeat of no issuer of this realm")
        before = self.heartbeats.get(issuer.key_id)
        if before is not None and before.says.at_ms >= signed.says.at_ms:
            return self
        living = {each.key_id for each in self.issuers}
        kept = {known: beat for known, beat in self.heartbeats.items() if known in living}
        return replace(self, heartbeats={**kept, issuer.key_id: signed})

    def _of_this_realm(self, realm_id: str) -> None:
        if realm_id != self.anchor.realm_id:
            raise Untrusted("a document of another realm")

    def _has_all(self, issuer: bytes, beat: Signed[Heartbeat]) -> bool:
        return len(self.revocations_by(issuer)) >= beat.says.revocations

    def revocations_by(self, issuer: bytes) -> list[Signed[Revocation]]:
        return [r for r in self.revocations.values() if any(known == issuer for known, _ in r.signatures)]


def begin_bundle(signed: Signed[Anchor], pinned: x509.Certificate) -> Bundle:
    """A bundle of one anchor, signed by the root that is known already. Raises `Untrusted`."""
    check_root(pinned)
    if not signed.signed_by(public_key_of(pinned)):
        raise Untrusted("an anchor that the known root has not signed")
    bundle = Bundle((signed,), {}, {})
    _ = bundle.issuers
    return bundle


def read_bundle(data: bytes, pinned: x509.Certificate, *, own: bool = False) -> Bundle:
    """The bundle in `data`, from the first anchor that the pinned root stands behind. Raises `Untrusted`.

    `own`: from one's own disk, where each revocation was judged once, by an issuer that may be no more.
    """
    if len(data) > BUNDLE_MAX_BYTES:
        raise Untrusted("a bundle too long")
    documents = list(read_documents(data))
    anchors = [document for document in documents if isinstance(document.says, Anchor)]
    first = next((each for each in anchors if each.signed_by(public_key_of(pinned))), None)
    if first is None:
        raise Untrusted("a bundle that the known root has not signed")
    bundle = begin_bundle(first, pinned)  # type: ignore[arg-type]
    bundle = bundle.merged(documents)
    if own:
        kept = {sha256(each.data).digest(): each for each in documents if isinstance(each.says, Revocation)}
        bundle = replace(bundle, revocations={**kept, **bundle.revocations})  # type: ignore[dict-item]
    return bundle


def roots_in(data: bytes) -> list[x509.Certificate]:
    """All roots that a bundle's anchors name, by nobody's word yet. Raises `Untrusted`."""
    anchors = [document.says for document in read_documents(data) if isinstance(document.says, Anchor)]
    return [root for anchor in anchors for root in _roots(anchor)]


def _signers(signed: Signed[Anchor]) -> set[bytes]:
    """The key ids of those of its own roots that have signed it."""
    keys = [public_key_of(root) for root in _roots(signed.says)]
    return {key_id(key) for key in keys if signed.signed_by(key)}


def _roots(anchor: Anchor) -> tuple[x509.Certificate, ...]:
    roots = tuple(load(der) for der in unframe(anchor.roots))
    if not 1 <= len(roots) <= ROOTS_MAX:
        raise Untrusted("an anchor without a root, or with too many")
    for root in roots:
        check_root(root)
    return roots


def _issuers(anchor: Anchor, roots: tuple[x509.Certificate, ...]) -> tuple[IssuerEntry, ...]:
    entries = tuple(_issuer(load(der), roots) for der in unframe(anchor.issuers))
    if len(entries) > ISSUERS_MAX:
        raise Untrusted("an anchor with too many issuers")
    return entries


def _issuer(certificate: x509.Certificate, roots: tuple[x509.Certificate, ...]) -> IssuerEntry:
    """By the root that signed it. Raises `Untrusted`."""
    for root in roots:
        try:
            scopes = check_issuer(certificate, root)
        except Untrusted:
            continue
        return IssuerEntry(certificate, scopes, key_id(public_key_of(certificate)))
    raise Untrusted("an issuer that no root of its anchor has signed")
