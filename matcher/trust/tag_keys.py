"""The realm's keys for the tags of datagrams: today's, and for a while the one before. No I/O, no clock.

They only keep outsiders' floods cheap, and say nothing of who sent what. A new one is made when a host is removed, so
that it becomes an outsider here as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from matcher.trust.bundle import Bundle
from matcher.trust.certificates import Scope
from matcher.trust.documents import Signed, read_documents
from matcher.wire.envelope import TAG_KEY_BYTES, RealmSecret
from matcher.wire.framing import frame
from matcher.wire.messages import Message
from matcher.wire.realm import TagKey
from specs.ids import RealmId

OVERLAP_S = 600.0  # members who have not heard of the new key are understood so long; then they ask by HTTPS
KEPT = 2


@dataclass(frozen=True, slots=True)
class TagKeys:
    """Newest first; never empty."""

    documents: tuple[Signed[TagKey], ...]

    def secret(self, realm_id: RealmId, wall_s: float) -> RealmSecret:
        """What makes and judges tags at this time."""
        newest, *older = [signed.says for signed in self.documents]
        is_over = wall_s > newest.at_ms / 1000 + OVERLAP_S
        return RealmSecret(realm_id, newest.key, newest.number, () if is_over else tuple(each.key for each in older))

    def to_bytes(self) -> bytes:
        return frame(signed.data for signed in self.documents)

    def merged(self, documents: Iterable[Signed[Message]], bundle: Bundle) -> "TagKeys":
        """With those keys among `documents` that an issuer in scope has signed; the same where none is newer."""
        found = _keys(documents, bundle)
        newest = _newest((*self.documents, *found))
        return self if newest == self.documents else TagKeys(newest)


def read_tag_keys(framed: bytes, bundle: Bundle, *, own: bool = False) -> TagKeys | None:
    """The keys in framed documents, as far as the realm's issuers stand behind them; `None` if that leaves none.

    `own`: from one's own disk, where each was judged once, by an issuer that may be no more.
    """
    documents = list(read_documents(framed))
    found = [d for d in documents if isinstance(d.says, TagKey)] if own else _keys(documents, bundle)
    newest = _newest(found)  # type: ignore[arg-type]
    return TagKeys(newest) if newest else None


def _keys(documents: Iterable[Signed[Message]], bundle: Bundle) -> list[Signed[TagKey]]:
    return [d for d in documents if isinstance(d.says, TagKey) and _is_sound(d, bundle)]  # type: ignore[misc]


def _is_sound(document: Signed[Message], bundle: Bundle) -> bool:
    says = document.says
    assert isinstance(says, TagKey)
    is_ours = says.realm_id == bundle.anchor.realm_id and len(says.key) == TAG_KEY_BYTES
    return is_ours and bundle.signer_in(document, Scope.HOSTS) is not None


def _newest(documents: Iterable[Signed[TagKey]]) -> tuple[Signed[TagKey], ...]:
    """The last few; of two with one number, the same one everywhere."""
    by_number: dict[int, Signed[TagKey]] = {}
    for document in sorted(documents, key=lambda d: (d.says.number, d.says.key)):
        by_number[document.says.number] = document
    return tuple(by_number[number] for number in sorted(by_number, reverse=True)[:KEPT])
