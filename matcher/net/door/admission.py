"""Who may hold a connection, and how much members may ask: limits of the front door, each with its number.

Strangers never keep anybody out: they have shares of their own, in which the oldest makes room for the newest. Members
have connections, requests and a rate, each for themselves. Pure: `now_s` is one monotonic clock.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Generic, TypeVar

from matcher.net.token_bucket import Rate

REQUESTS = Rate(per_s=50.0, burst=200.0)  # of one member
JOINS = Rate(per_s=0.5, burst=20.0)  # from one address

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the front door bears. `silent`: connected and said nothing yet; `shaking`: in the TLS handshake;
    `refused`: those whose certificate was revoked, and who are told so."""

    silent_max: int = 512
    shaking_max: int = 64
    refused_max: int = 64
    joining_max: int = 16
    per_address_max: int = 64  # strangers of one address, in each of their shares
    joining_per_address_max: int = 4
    connections_max: int = 1024  # of members
    connections_per_member_max: int = 64
    requests_max: int = 256  # in flight
    requests_per_member_max: int = 16
    consoles_max: int = 256
    consoles_per_member_max: int = 16
    requests_rate: Rate = REQUESTS
    joins_rate: Rate = JOINS
    rates_max: int = 4096  # members or addresses whose rates are remembered
    handshake_s: float = 5.0  # from the connection's first moment to the end of TLS
    request_s: float = 5.0  # from the first byte of a request to its last
    idle_s: float = 5.0  # between requests
    taking_s: float = 5.0  # for the other side to take 64 KiB of an answer
    console_taking_s: float = 60.0  # the same at a console, where a person may hold the screen
    join_s: float = 10.0  # for all of joining
    watch_s: float = 0.25  # between two looks at who was revoked


class Share(Generic[T]):
    """At most so many of a kind, and so many of one address; the oldest is out first."""

    def __init__(self, holders_max: int, per_address_max: int) -> None:
        assert per_address_max > 0
        assert holders_max > 0
        self._max, self._per_address_max = holders_max, per_address_max
        self._holders: dict[T, str] = {}  # in order of arrival
        self._of_address: dict[str, dict[T, None]] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def enter(self, holder: T, address: str) -> T | None:
        """Let `holder` in; gives who has to leave for it."""
        source = source_of(address)
        there = self._of_address.get(source, {})
        out: T | None = None
        if len(there) >= self._per_address_max:
            out = next(iter(there))
        elif len(self._holders) >= self._max:
            out = next(iter(self._holders))
        if out is not None:
            self.leave(out)
        self._holders[holder] = source
        self._of_address.setdefault(source, {})[holder] = None
        return out

    def leave(self, holder: T) -> None:
        """Whoever has left already may leave again."""
        source = self._holders.pop(holder, None)
        if source is None:
            return
        there = self._of_address[source]
        del there[holder]
        if not there:
            del self._of_address[source]


class Places:
    """So many in all and so many of each member; who finds no place is refused."""

    def __init__(self, all_max: int, per_member_max: int) -> None:
        self._all_max, self._per_member_max = all_max, per_member_max
        self._taken: Counter[str] = Counter()
        self._all = 0

    def __len__(self) -> int:
        return self._all

    def enter(self, member_id: str) -> str | None:
        """Take a place; or why there is none, as a phrase."""
        if self._taken[member_id] >= self._per_member_max:
            return f"you have {self._per_member_max} already"
        if self._all >= self._all_max:
            return f"{self._all_max} are there already"
        self._taken[member_id] += 1
        self._all += 1
        return None

    def leave(self, member_id: str) -> None:
        assert self._taken[member_id] > 0, "who leaves was there"
        self._all -= 1
        self._taken[member_id] -= 1
        if not self._taken[member_id]:
            del self._taken[member_id]


def source_of(address: str) -> str:
    """What counts as one address: an IPv6 user has a whole /64."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return (parsed.packed[:8] + bytes(8)).hex()
    return address
