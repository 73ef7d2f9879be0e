"""What a member knows of its realm: the anchor, the revocations, the heartbeats. It only grows (I11).

    pinned root --signs--> anchor, epoch n --names--> issuers --sign--> revocations, heartbeats
                             '--shares a root with--> anchor, epoch n + m

A bundle is a value; `add` gives a larger one, or the same where there was nothing new. Whatever is added has been held
against what is here already, so that a bundle may come from anybody, in any order and as often as they like.
An anchor is signed by all the roots that it names, and by nothing else, so that it has one form: nobody can strip a
signature from it, or add one. It follows an older one that shares a root with it. For each root there ever was, the
newest anchor that names it is kept, as a *link*: a member who was away can follow from the root it knows to today's.
Revocations by an issuer that the root has dropped since stay in force here; the other issuers sign them anew, for those
who come later. No I/O, no clock.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from matcher.trust.certificates import Scope, Untrusted, check_issuer, check_root, load, public_key_of
from matcher.trust.documents import Signed, key_id, read_documents, whole
from matcher.wire.codec import BadBytes
from matcher.wire.framing import frame
from matcher.wire.messages import Message
from matcher.wire.realm import BUNDLE_MAX_BYTES, Anchor, Heartbeat, Revocation

REVOCATIONS_MAX = 8192
SUPERSEDED_MAX = 6144  # of these, of leaves alone: however often grants change, members can be revoked
REVOCATION_MAX_BYTES = 512
LINKS_MAX = 16
ROOTS_MAX = 4
ISSUERS_MAX = 16
AHEAD_S = 7200.0  # how far another's clock may be ahead of ours; a heartbeat of next year would be the last one
SCOPE_TO_REVOKE = {"host": Scope.HOSTS, "user": Scope.USERS}

Digest = bytes


@dataclass(frozen=True, slots=True)
class IssuerEntry:
    certificate: x509.Certificate
    scopes: frozenset[Scope]
    key_id: bytes
    root: x509.Certificate  # the one that signed it

    @property
    def ends_s(self) -> float:
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def starts_s(self) -> float:
        return self.certificate.not_valid_before_utc.timestamp()


@dataclass(frozen=True, slots=True)
class Link:
    """An anchor whose form and signatures are good, and what its certificates say. Who follows it is another matter."""

    signed: Signed[Anchor]
    roots: tuple[x509.Certificate, ...]
    issuers: tuple[IssuerEntry, ...]
    root_ids: frozenset[Digest]

    @property
    def age(self) -> tuple[int, bytes]:
        """The higher counts; of two of one epoch, the same one everywhere."""
        return self.signed.says.epoch, self.signed.payload


@dataclass(frozen=True)
class Bundle:
    """`links`: oldest first, today's anchor last. `revocations` by the hash of their bytes; `heartbeats` by the
    issuer's key id."""

    links: tuple[Link, ...]
    revocations: dict[Digest, Signed[Revocation]]
    heartbeats: dict[bytes, Signed[Heartbeat]]

    @property
    def anchor(self) -> Anchor:
        return self.links[-1].signed.says

    @property
    def anchors(self) -> tuple[Signed[Anchor], ...]:
        return tuple(link.signed for link in self.links)

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        return self.links[-1].roots

    @property
    def issuers(self) -> tuple[IssuerEntry, ...]:
        return self.links[-1].issuers

    @cached_property
    def digest(self) -> Digest:
        """Equal for two members who know the same, as far as both can: heartbeats, which come by themselves, links, and
        revocations that only those take up who came early enough (`orphans`) aside."""
        known = sha256(self.links[-1].signed.data)
        for each in sorted(self.revocations.keys() - self.orphans.keys()):
            known.update(each)
        return known.digest()

    @cached_property
    def orphans(self) -> dict[Digest, Signed[Revocation]]:
        """Revocations that no issuer of today stands behind; they are in force here all the same."""
        scopes = {issuer.key_id: issuer.scopes for issuer in self.issuers}
        return {
            digest: signed
            for digest, signed in self.revocations.items()
            if SCOPE_TO_REVOKE[signed.says.kind] not in scopes.get(signed.signatures[0][0], ())
        }

    def to_bytes(self) -> bytes:
        return frame(document.data for document in self.documents())

    def documents(self) -> tuple[Signed[Message], ...]:
        """All, in the order in which they can be added to an older bundle."""
        return (*self.anchors, *self.revocations.values(), *self.heartbeats.values())

    def heard_s(self, wall_s: float | None = None) -> float | None:
        """Wall time of the newest word of an issuer of today, all of whose revocations are here; `None`: there is none.

        With `wall_s`, what comes from a future that is none does not count.
        """
        return max((beat.says.at_ms / 1000 for beat in self._complete if not _is_ahead(beat, wall_s)), default=None)

    @cached_property
    def _complete(self) -> tuple[Signed[Heartbeat], ...]:
        """Of issuers of today, those all of whose revocations are here."""
        beats = ((issuer.key_id, self.heartbeats.get(issuer.key_id)) for issuer in self.issuers)
        return tuple(
            beat for key, beat in beats if beat is not None and self._counts.get(key, 0) >= beat.says.revocations
        )

    def add(self, document: Signed[Message], wall_s: float | None = None) -> "Bundle":
        """With one more document. Raises `Untrusted` where it is not what the realm's own sign.

        `wall_s` is now: with it, a heartbeat from the future is not taken.
        """
        growing = _Growing(self, wall_s)
        growing.add(document)
        return growing.done()

    def merged(self, documents: Iterable[Signed[Message]], wall_s: float | None = None) -> "Bundle":
        """With all of them that the realm stands behind; the others are passed over. Their order does not matter."""
        growing = _Growing(self, wall_s)
        for document in _sorted(documents):
            try:
                growing.add(document)
            except Untrusted:
                continue
        return growing.done()

    def united(self, own: "Bundle") -> "Bundle":
        """With all that another bundle of this same member holds: its revocations were judged when they came, maybe by
        an issuer that is no more."""
        grown = self.merged(own.documents())
        if own.revocations.keys() <= grown.revocations.keys():
            return grown
        return Bundle(grown.links, {**own.revocations, **grown.revocations}, grown.heartbeats)

    def signer_in(self, document: Signed[Message], scope: Scope | None = None) -> IssuerEntry | None:
        """The issuer of today's anchor who signed this, and nobody else did, if its scope is enough."""
        return _signer(self.issuers, document, scope)

    def revocations_by(self, issuer: bytes) -> list[Signed[Revocation]]:
        """By the issuer's key id."""
        return [r for r in self.revocations.values() if r.signatures[0][0] == issuer]

    @cached_property
    def revoked_ms(self) -> tuple[int, ...]:
        """When members were revoked, each as a whole; oldest first."""
        return tuple(sorted(signed.says.at_ms for signed in self.revocations.values() if not signed.says.before_s))

    @cached_property
    def _superseded(self) -> int:
        return sum(signed.says.before_s > 0 for signed in self.revocations.values())

    @cached_property
    def _counts(self) -> dict[bytes, int]:
        counts: dict[bytes, int] = {}
        for signed in self.revocations.values():
            issuer = signed.signatures[0][0]
            counts[issuer] = counts.get(issuer, 0) + 1
        return counts


class _Growing:
    """A bundle while documents are added to it: each of its maps is copied once, however many come."""

    def __init__(self, bundle: Bundle, wall_s: float | None) -> None:
        self._before, self._wall_s = bundle, wall_s
        self._links, self._revocations, self._heartbeats = bundle.links, bundle.revocations, bundle.heartbeats
        self._superseded = bundle._superseded

    def done(self) -> Bundle:
        before = self._before
        is_old = self._revocations is before.revocations and self._heartbeats is before.heartbeats
        if is_old and self._links == before.links:
            return before
        return Bundle(self._links, self._revocations, self._heartbeats)

    def add(self, document: Signed[Message]) -> None:
        if isinstance(document.says, Anchor):
            self._add_anchor(cast(Signed[Anchor], document))
        elif isinstance(document.says, Revocation):
            self._add_revocation(cast(Signed[Revocation], document))
        elif isinstance(document.says, Heartbeat):
            self._add_heartbeat(cast(Signed[Heartbeat], document))
        else:
            raise Untrusted("a document of another kind")

    def _add_anchor(self, signed: Signed[Anchor]) -> None:
        self._of_this_realm(signed.says.realm_id)
        age = (signed.says.epoch, signed.payload)
        if any(link.age == age for link in self._links):
            return
        today = self._links[-1]
        if age < today.age and not _is_missing(signed, self._links):
            return
        link = read_link(signed)
        if age > today.age and not link.root_ids & today.root_ids:
            raise Untrusted("an anchor that no root of this realm has signed")
        if age < today.age and not any(link.root_ids & later.root_ids for later in self._links if later.age > age):
            raise Untrusted("an older anchor that nothing here follows")  # whoever has a root of long ago could make it
        self._links = _kept((*self._links, link))

    def _add_revocation(self, signed: Signed[Revocation]) -> None:
        digest = sha256(signed.data).digest()
        if digest in self._revocations:
            return
        self._of_this_realm(signed.says.realm_id)
        if len(signed.data) > REVOCATION_MAX_BYTES:
            raise Untrusted("a revocation too long")
        if _signer(self._links[-1].issuers, signed, SCOPE_TO_REVOKE[signed.says.kind]) is None:
            raise Untrusted("a revocation that no issuer in scope has signed")
        is_partial = signed.says.before_s > 0
        if len(self._revocations) >= REVOCATIONS_MAX or (is_partial and self._superseded >= SUPERSEDED_MAX):
            raise Untrusted("a revocation too many")
        if self._revocations is self._before.revocations:
            self._revocations = dict(self._revocations)
        self._revocations[digest] = signed
        self._superseded += is_partial

    def _add_heartbeat(self, signed: Signed[Heartbeat]) -> None:
        self._of_this_realm(signed.says.realm_id)
        if _is_ahead(signed, self._wall_s):
            raise Untrusted("a heartbeat from the future")
        issuer = _signer(self._links[-1].issuers, signed, None)
        if issuer is None:
            raise Untrusted("a heartbeat of no issuer of this realm")
        before = self._heartbeats.get(issuer.key_id)
        if before is not None and _beat_age(before) >= _beat_age(signed) and not _is_ahead(before, self._wall_s):
            return
        living = {each.key_id for each in self._links[-1].issuers}
        kept = {known: beat for known, beat in self._heartbeats.items() if known in living}
        self._heartbeats = {**kept, issuer.key_id: signed}

    def _of_this_realm(self, realm_id: str) -> None:
        if realm_id != self._links[-1].signed.says.realm_id:
            raise Untrusted("a document of another realm")


def begin_bundle(signed: Signed[Anchor], pinned: x509.Certificate) -> Bundle:
    """A bundle of one anchor, signed by the root that is known already. Raises `Untrusted`."""
    check_root(pinned)
    link = read_link(signed)
    if _root_id(pinned) not in link.root_ids:
        raise Untrusted("an anchor that the known root has not signed")
    return Bundle((link,), {}, {})


def read_bundle(data: bytes, pinned: x509.Certificate, *, own: bool = False) -> Bundle:
    """The bundle in `data`, as far as the pinned root stands behind it. Raises `Untrusted`.

    `own`: from one's own disk, where each revocation was judged once, by an issuer that may be no more.
    """
    documents = _documents(data)
    bundle: Bundle | None = None
    for anchor in sorted(_anchors(documents), key=lambda each: each.says.epoch):
        if anchor.signed_by(public_key_of(pinned)):
            bundle = begin_bundle(anchor, pinned)
            break
    if bundle is None:
        raise Untrusted("a bundle that the known root has not signed")
    if not own:
        return bundle.merged(documents)
    revocations = [cast(Signed[Revocation], each) for each in documents if isinstance(each.says, Revocation)]
    judged = {sha256(each.data).digest(): each for each in revocations if each.says.realm_id == bundle.anchor.realm_id}
    return Bundle(bundle.links, judged, {}).merged(each for each in documents if not isinstance(each.says, Revocation))


def roots_in(data: bytes) -> list[x509.Certificate]:
    """All roots that a bundle's anchors name, by nobody's word yet. Raises `Untrusted`."""
    return [root for anchor in _anchors(_documents(data)) for root in _roots(anchor.says)]


def read_link(signed: Signed[Anchor]) -> Link:
    """An anchor, if all the roots that it names have signed it, and nothing else. Raises `Untrusted`."""
    roots = _roots(signed.says)
    keys = [public_key_of(root) for root in roots]
    if [known for known, _ in signed.signatures] != [key_id(key) for key in keys]:
        raise Untrusted("an anchor that others than its roots have signed")
    if not all(signed.signed_by(key) for key in keys):
        raise Untrusted("an anchor that not all of its roots have signed")
    return Link(signed, roots, _issuers(signed.says, roots), frozenset(_root_id(root) for root in roots))


def _documents(data: bytes) -> list[Signed[Message]]:
    """Whole, as half a bundle looks like one without revocations. Raises `Untrusted`."""
    if len(data) > BUNDLE_MAX_BYTES:
        raise Untrusted("a bundle too long")
    try:
        whole(data)
    except BadBytes as error:
        raise Untrusted("a bundle that was cut short") from error
    return list(read_documents(data))


def _sorted(documents: Iterable[Signed[Message]]) -> Iterator[Signed[Message]]:
    """Anchors first, as they tell who may sign the others: upwards, to follow, then downwards, for links. Each
    revocation before the heartbeats that count it."""
    documents = list(documents)
    anchors = sorted(_anchors(documents), key=lambda each: (each.says.epoch, each.payload))
    yield from anchors
    yield from reversed(anchors)
    yield from (each for each in documents if isinstance(each.says, Revocation))
    yield from (each for each in documents if isinstance(each.says, Heartbeat))


def _anchors(documents: Iterable[Signed[Message]]) -> list[Signed[Anchor]]:
    return [cast(Signed[Anchor], each) for each in documents if isinstance(each.says, Anchor)]


def _kept(links: Iterable[Link]) -> tuple[Link, ...]:
    """Today's anchor, and for each root of before the newest that names it; the oldest go where these are too many."""
    by_age = sorted(links, key=lambda link: link.age)
    newest = {root_id: link.age for link in by_age for root_id in link.root_ids}
    return tuple(link for link in by_age if link.age in newest.values())[-LINKS_MAX - 1 :]


def _is_missing(signed: Signed[Anchor], links: tuple[Link, ...]) -> bool:
    """Whether an older anchor tells of a root that no later one names; before anything costly is done about it."""
    if len(links) > LINKS_MAX and signed.says.epoch < links[0].signed.says.epoch:
        return False
    later = {root for link in links if link.age > (signed.says.epoch, signed.payload) for root in link.root_ids}
    return any(sha256(der).digest() not in later for der in _parts(signed.says.roots))


def _signer(issuers: tuple[IssuerEntry, ...], document: Signed[Message], scope: Scope | None) -> IssuerEntry | None:
    if len(document.signatures) != 1:  # else whoever passes it on could make many of it, each another one
        return None
    for issuer in issuers:
        if (scope is None or scope in issuer.scopes) and document.signed_by(public_key_of(issuer.certificate)):
            return issuer
    return None


def _is_ahead(beat: Signed[Heartbeat], wall_s: float | None) -> bool:
    return wall_s is not None and beat.says.at_ms / 1000 > wall_s + AHEAD_S


def _beat_age(beat: Signed[Heartbeat]) -> tuple[int, int, bytes]:
    return beat.says.at_ms, beat.says.revocations, beat.data


def _root_id(root: x509.Certificate) -> Digest:
    return sha256(root.public_bytes(Encoding.DER)).digest()


def _parts(framed: bytes) -> list[bytes]:
    try:
        return whole(framed)
    except BadBytes as error:
        raise Untrusted("an anchor that was cut short") from error


def _roots(anchor: Anchor) -> tuple[x509.Certificate, ...]:
    parts = _parts(anchor.roots)
    if not 1 <= len(parts) <= ROOTS_MAX or len({*parts}) != len(parts):
        raise Untrusted("an anchor without a root, or with too many")
    roots = tuple(load(der) for der in parts)
    for root in roots:
        check_root(root)
    return roots


def _issuers(anchor: Anchor, roots: tuple[x509.Certificate, ...]) -> tuple[IssuerEntry, ...]:
    parts = _parts(anchor.issuers)
    if len(parts) > ISSUERS_MAX:
        raise Untrusted("an anchor with too many issuers")
    return tuple(_issuer(load(der), roots) for der in parts)


def _issuer(certificate: x509.Certificate, roots: tuple[x509.Certificate, ...]) -> IssuerEntry:
    """By the root that signed it. Raises `Untrusted`."""
    for root in roots:
        try:
            scopes = check_issuer(certificate, root)
        except Untrusted:
            continue
        return IssuerEntry(certificate, scopes, key_id(public_key_of(certificate)), root)
    raise Untrusted("an issuer that no root of its anchor has signed")
