"""In a large realm, what is byte-identical is judged once, and all hosts have the one that came of it.

Ten thousand hosts hear one datagram; each of them checks its signature and decodes it, and comes to the same. What
they come to is frozen, and hangs on nothing but what is named here as its key, so that they can have it together:
signatures, documents, leaves under one anchor, bundles that have grown by the same words. Replay windows, budgets,
revocations and clocks stay each host's own. `test_sim_large` holds runs with it against runs without.
"""

import gc
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard, TypeVar
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.occupancy import LastOccupancy, Occupancy
from matcher.trust import bundle as bundles
from matcher.trust import documents, identity, opening, tag_keys, verifier
from matcher.trust.bundle import Bundle, IssuerEntry
from matcher.trust.certificates import Scope
from matcher.trust.documents import Signed
from matcher.trust.tag_keys import TagKeys
from matcher.trust.verifier import Certified, Verifier
from matcher.wire.envelope import Sealed
from matcher.wire.messages import Message
from matcher.wire.realm import Heartbeat, TagKey

KEPT = 50_000  # of each sort

Found = TypeVar("Found")


class Memory:
    """The newest answers by what was asked; `held` are things whose `id` is in a key, and which so must live."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, tuple[Any, object]] = OrderedDict()

    def once(self, key: Hashable, held: object, find: Callable[[], Found]) -> Found:
        """What `find` raises is not kept."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = find(), held
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        found: Found = known[0]
        return found


@contextmanager
def shared() -> Iterator[None]:
    """While this is open, in this process. Nobody looks for cycles meanwhile: there are few, and each look at all that
    thousands of hosts are took half of a run's time."""
    with ExitStack() as stack:
        stack.enter_context(_uncollected())
        for target, name, replacement in (
            (documents, "read_document", _reading(documents.read_document)),
            (opening, "_verified", _verifying(opening._verified)),
            (verifier.Verifier, "_check", _checking(Verifier._check)),
            (bundles, "_signer", _signing(bundles._signer)),
            (bundles.Bundle, "merged", _merging(Bundle.merged)),
            (tag_keys.TagKeys, "merged", _keying(TagKeys.merged)),
            (LastOccupancy, "of", _counting(LastOccupancy.of)),
            (identity, "read_bundle", _loading(bundles.read_bundle)),
        ):
            stack.enter_context(patch.object(target, name, replacement))
        yield


@contextmanager
def _uncollected() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _reading(read: Callable[[bytes], Signed[Message]]) -> Callable[[bytes], Signed[Message]]:
    memory = Memory()
    return lambda data: memory.once(data, None, lambda: read(data))


def _verifying(verified: Callable[..., Message]) -> Callable[..., Message]:
    """The certificate stands in for the key: whoever asks has judged it."""
    memory = Memory()

    def once(sealed: Sealed, identity: Any, key: Any, audience: bytes, max_bytes: int) -> Message:
        asked = sealed.kind, sealed.certificate, sealed.signature, sealed.payload, audience, max_bytes
        return memory.once(asked, None, lambda: verified(sealed, identity, key, audience, max_bytes))

    return once


def _checking(check: Callable[[Verifier, bytes], Certified]) -> Callable[[Verifier, bytes], Certified]:
    memory = Memory()

    def once(self: Verifier, leaf: bytes) -> Certified:
        return memory.once((self.bundle.anchors[-1].data, leaf), None, lambda: check(self, leaf))

    return once


def _signing(signer: Callable[..., IssuerEntry | None]) -> Callable[..., IssuerEntry | None]:
    memory = Memory()

    def once(issuers: tuple[IssuerEntry, ...], document: Signed[Message], scope: Scope | None) -> IssuerEntry | None:
        key = id(issuers), document.data, scope
        return memory.once(key, issuers, lambda: signer(issuers, document, scope))

    return once


def _merging(merged: Callable[..., Bundle]) -> Callable[..., Bundle]:
    memory, same = Memory(), Memory()

    def once(self: Bundle, others: Iterable[Signed[Message]], wall_s: float | None = None) -> Bundle:
        listed = list(others)
        beats = [each for each in (*listed, *self.heartbeats.values()) if _is_heartbeat(each)]
        ahead = tuple(bundles._is_ahead(beat, wall_s) for beat in beats)
        key = id(self), tuple(each.data for each in listed), ahead
        return memory.once(key, self, lambda: _one_of(same, merged(self, listed, wall_s), self))

    return once


def _is_heartbeat(each: Signed[Any]) -> TypeGuard[Signed[Heartbeat]]:
    return isinstance(each.says, Heartbeat)


def _one_of(same: Memory, found: Bundle, before: Bundle) -> Bundle:
    """Of all that hold the same, in the same order, the first."""
    if found is before:
        return found
    beats = tuple((known, beat.data) for known, beat in found.heartbeats.items())
    return same.once((tuple(each.data for each in found.anchors), tuple(found.revocations), beats), None, lambda: found)


def _keying(merged: Callable[..., TagKeys]) -> Callable[..., TagKeys]:
    """News seldom bring a key, and then there is nothing to be ranked."""
    memory = Memory()

    def once(self: TagKeys, others: Iterable[Signed[Message]], bundle: Bundle) -> TagKeys:
        keys = [each for each in others if isinstance(each.says, TagKey)]
        asked = id(self), tuple(key.data for key in keys), id(bundle.links)
        return memory.once(asked, (self, bundle.links), lambda: merged(self, keys, bundle))

    return once


def _counting(of: Callable[..., Occupancy]) -> Callable[..., Occupancy]:
    """Hosts that are alike and empty answer alike."""
    memory = Memory()

    def once(self: LastOccupancy, residents: Collection[Claim], hardware: Hardware) -> Occupancy:
        if residents:
            return of(self, residents, hardware)
        # One object for all that are equal: see `World`.
        return memory.once(id(hardware), hardware, lambda: Occupancy(hardware, ()))

    return once


def _loading(load: Callable[..., Bundle]) -> Callable[..., Bundle]:
    memory = Memory()

    def once(data: bytes, pinned: x509.Certificate, *, own: bool = False) -> Bundle:
        key = data, pinned.public_bytes(Encoding.DER), own
        return memory.once(key, None, lambda: load(data, pinned, own=own))

    return once
