"""The offers that nobody can take any more: abandoned by their user, or refused for good. Pure.

Copies of a confirm may come late, so that each gets the answer that the first one got. Both memories have a limit and
forget their oldest: the hold behind such an offer is freed at once, so that forgetting is harmless.
"""

from matcher.wire.messages import Refused
from specs.ids import OfferId

REFUSALS_MAX = 1024
ABANDONED_MAX = 4096


class Closed:
    """In the order of arrival."""

    def __init__(self) -> None:
        self._abandoned: dict[OfferId, None] = {}
        self._refusals: dict[OfferId, Refused] = {}

    def abandon(self, offer_id: OfferId) -> None:
        while len(self._abandoned) >= ABANDONED_MAX:
            del self._abandoned[next(iter(self._abandoned))]
        self._abandoned[offer_id] = None

    def not_abandoned(self, offer_id: OfferId) -> None:
        """The journal could not take it."""
        self._abandoned.pop(offer_id, None)

    def is_abandoned(self, offer_id: OfferId) -> bool:
        return offer_id in self._abandoned

    def refuse(self, offer_id: OfferId, refusal: Refused) -> None:
        while len(self._refusals) >= REFUSALS_MAX:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[offer_id] = refusal

    def settle(self, offer_id: OfferId, refusal: Refused) -> None:
        """As `refuse`, unless that was done before."""
        if offer_id not in self._refusals:
            self.refuse(offer_id, refusal)

    def reopen(self, offer_id: OfferId) -> None:
        """The promise stands after all."""
        self._refusals.pop(offer_id, None)

    def is_refused(self, offer_id: OfferId) -> bool:
        return offer_id in self._refusals

    def refusal(self, offer_id: OfferId) -> Refused | None:
        return self._refusals.get(offer_id)
