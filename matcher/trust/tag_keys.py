"""The realm's keys for the tags of datagrams: today's, and for a while the one before. No I/O, no clock.

They only keep outsiders' floods cheap, and say nothing of who sent what. A new one is made when a member is revoked, so
that they become an outsider here as well; after a user, not before the one before is over, so that revoking many does
not leave everybody behind.
A key whose issuer the root has dropped stands behind all that an issuer of today has signed, whatever its number: who
has not heard of it before will never take it, and two who tag with different keys do not hear each other. An issuer of
today signs such a key anew (`orphan`); until then it is understood.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from matcher.trust.bundle import Bundle
from matcher.trust.certificates import Scope
from matcher.trust.documents import Signed, read_documents
from matcher.wire.envelope import TAG_KEY_BYTES, RealmSecret
from matcher.wire.framing import frame
from matcher.wire.messages import Message
from matcher.wire.realm import TagKey
from specs.ids import RealmId

OVERLAP_S = 600.0  # members who have not heard of the new key are understood so long; then they ask by HTTPS
KEPT = 4  # today's and the one before, each perhaps twice, where two issuers have made one at the same time


@dataclass(frozen=True, slots=True)
class TagKeys:
    """Newest first; never empty."""

    documents: tuple[Signed[TagKey], ...]

    def secret(self, realm_id: RealmId, wall_s: float) -> RealmSecret:
        """What makes and judges tags at this time. A new key of a time to come ends the overlap at once: else a wrong
        clock would keep the older one good for as long."""
        newest, *older = [signed.says for signed in self.documents]
        if any(each.number > newest.number for each in older):  # told with the last of them, which is today's
            return RealmSecret(realm_id, newest.key, newest.number, (*(each.key for each in older), newest.key))
        is_over = abs(wall_s - newest.at_ms / 1000) > OVERLAP_S
        return RealmSecret(realm_id, newest.key, newest.number, () if is_over else tuple(each.key for each in older))

    def orphan(self, bundle: Bundle) -> Signed[TagKey] | None:
        """The key of the highest number, if no issuer of today stands behind it."""
        highest = max(self.documents, key=lambda each: each.says.number)
        same = [each for each in self.documents if each.says.number == highest.says.number]
        return None if any(_is_todays(each, bundle) for each in same) else highest

    def are_outdated(self, bundle: Bundle, wall_s: float) -> bool:
        """Whether somebody was revoked since today's key was made, and so may know it. Revocations of a time to come do
        not count yet: else a wrong clock would make keys without end."""
        made_ms, revoked_ms = self.documents[0].says.at_ms, bundle.revoked_ms
        return bisect_right(revoked_ms, made_ms) < bisect_right(revoked_ms, int(wall_s * 1000))

    def to_bytes(self) -> bytes:
        return frame(signed.data for signed in self.documents)

    def merged(self, documents: Iterable[Signed[Message]], bundle: Bundle) -> "TagKeys":
        """With those keys among `documents` that an issuer in scope has signed; the same where none is newer."""
        return self.united(_keys(documents, bundle), bundle)

    def united(self, judged: Iterable[Signed[TagKey]], bundle: Bundle) -> "TagKeys":
        """With keys that were judged before, as those on one's own disk; the same where none is newer."""
        newest = _newest((*self.documents, *judged), bundle)
        return self if newest == self.documents else TagKeys(newest)


def read_tag_keys(framed: bytes, bundle: Bundle, *, own: bool = False) -> TagKeys | None:
    """The keys in framed documents, as far as the realm's issuers stand behind them; `None` if that leaves none.

    `own`: from one's own disk, where each was judged once, by an issuer that may be no more.
    """
    documents = list(read_documents(framed))
    found = _formed(documents, bundle.anchor.realm_id) if own else _keys(documents, bundle)
    newest = _newest(found, bundle)
    return TagKeys(newest) if newest else None


def _keys(documents: Iterable[Signed[Message]], bundle: Bundle) -> list[Signed[TagKey]]:
    formed = _formed(documents, bundle.anchor.realm_id)
    return [document for document in formed if bundle.signer_in(document, Scope.HOSTS) is not None]


def _formed(documents: Iterable[Signed[Message]], realm_id: str) -> list[Signed[TagKey]]:
    """Those that would be keys of this realm, if the right one had signed them."""
    keys = [cast(Signed[TagKey], document) for document in documents if isinstance(document.says, TagKey)]
    return [key for key in keys if key.says.realm_id == realm_id and len(key.says.key) == TAG_KEY_BYTES]


def _newest(documents: Iterable[Signed[TagKey]], bundle: Bundle) -> tuple[Signed[TagKey], ...]:
    """Those of the highest number and of the one before. Of two with one number, the same one comes first everywhere,
    and the other is accepted as an older one is: some may have it alone for a while."""

    def rank(document: Signed[TagKey]) -> tuple[bool, int, bytes, bytes]:
        return _is_todays(document, bundle), document.says.number, document.says.key, document.data

    by_key = {(document.says.number, document.says.key): document for document in sorted(documents, key=rank)}
    ranked = sorted(by_key.values(), key=rank, reverse=True)
    return tuple(document for document in ranked if document.says.number >= ranked[0].says.number - 1)[:KEPT]


def _is_todays(document: Signed[TagKey], bundle: Bundle) -> bool:
    """Of one that was judged before: whether its issuer may make keys still."""
    scopes = {issuer.key_id: issuer.scopes for issuer in bundle.issuers}
    return Scope.HOSTS in scopes.get(document.signatures[0][0], ())
