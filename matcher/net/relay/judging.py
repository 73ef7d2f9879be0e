"""What of a user's words a relay sends on: theirs alone, signed for an address lent to them, and not too often.

    length, tag, kind -> signature, by the caller -> the place that it is for -> what the user may still ask
    a word about a pledge -> one of this line's, whose seal it opens

Nothing here waits, and callers pass `now_s` and `wall_s`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from matcher.net.intake import FRESH_MS, verb_lacking
from matcher.net.token_bucket import Rate, TokenBuckets
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.trust.principal import Principal
from matcher.wire.codec import BadBytes, decode
from matcher.wire.envelope import REALM, Kind, unseal
from matcher.wire.messages import Message, Pledge, Query, Reveal
from matcher.wire.relay import Place
from matcher.wire.seal import opens

QUESTIONS = Rate(per_s=10, burst=64)  # of one user, each copy for another place
PLEDGES_MAX = 32  # of one line, that words can be about
USERS_MAX = 4096


class NotPassed(Exception):
    """Why, in a few words: for a counter, and for whoever asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Passed:
    """A datagram to send as it is. `place` is the one that it is for, of those that were lent; -1: for all. `is_new`:
    no copy of this pledge has gone from here before."""

    data: bytes
    message: Message
    place: int
    is_new: bool = False


class Shares:
    """What each user may have sent on, by all their lines together."""

    def __init__(self) -> None:
        self._questions = TokenBuckets(QUESTIONS, keys_max=USERS_MAX)

    def take(self, user_id: str, now_s: float) -> bool:
        return self._questions.take(user_id, now_s)


class Judge:
    """One line's."""

    def __init__(self, identity: Identity, caller: Principal, places: Sequence[Place], shares: Shares) -> None:
        self._identity, self._caller, self._shares = identity, caller, shares
        self._places = {place.reply: number for number, place in enumerate(places)}
        self._pledges: OrderedDict[str, tuple[bytes, set[int]]] = OrderedDict()  # seals, and where they have gone

    def passes(self, data: bytes, *, now_s: float, wall_s: float) -> Passed:
        """Raises `NotPassed`."""
        try:
            sealed = unseal(data, realm=self._identity.realm)
            if sealed.kind is Kind.REVEAL:
                return self._word(data, decode(Reveal, sealed.payload), now_s)
            if sealed.kind not in (Kind.PLEDGE, Kind.QUERY):
                raise NotPassed("neither a pledge nor a query")
            question, who = open_sealed(sealed, self._identity, audience=REALM, signer="user", wall_s=wall_s)
        except (BadBytes, Untrusted) as error:
            raise NotPassed(error.reason) from None
        assert isinstance(question, Pledge | Query)
        if who.id != self._caller.id:
            raise NotPassed("it is signed by somebody else")
        return self._question(data, question, who, now_s, wall_s)

    def _question(self, data: bytes, question: Pledge | Query, who: Principal, now_s: float, wall_s: float) -> Passed:
        place = self._places.get(question.reply)
        if place is None:
            raise NotPassed("it names an address that was not lent here")
        off_s = abs(question.sent_at_ms / 1000 - wall_s)
        if off_s * 1000 > FRESH_MS:
            raise NotPassed(f"it is {off_s:.0f} s off this host's clock")
        if (verb := verb_lacking(question, who)) is not None:
            raise NotPassed(f"your grant lacks {verb}")
        if not self._shares.take(who.id, now_s):
            raise NotPassed("you ask too often")
        is_new = isinstance(question, Pledge) and self._note(question, place)
        return Passed(data, question, place, is_new)

    def _note(self, pledge: Pledge, place: int) -> bool:
        _, gone_to = self._pledges.setdefault(pledge.pledge_id, (pledge.seal, set()))
        is_new = place not in gone_to
        gone_to.add(place)
        while len(self._pledges) > PLEDGES_MAX:
            self._pledges.popitem(last=False)
        return is_new

    def _word(self, data: bytes, reveal: Reveal, now_s: float) -> Passed:
        seal, _ = self._pledges.get(reveal.pledge_id, (b"", None))
        if opens(seal, reveal.secret) is None:
            raise NotPassed("a word about no pledge of this line")
        if not self._shares.take(self._caller.id, now_s):
            raise NotPassed("you ask too often")
        return Passed(data, reveal, -1)
