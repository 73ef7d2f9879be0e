"""What is still to be passed on: each statement some λ · log n times, least told first, packed to the MTU.

A newer statement of the same thing takes the place of the older. Pure.
"""

from dataclasses import dataclass
from math import ceil, log10

from matcher.gossip.roster import Charge, Record

TIMES = 4  # λ; memberlist's, whose defaults Serf has
RUMORS_MAX = 512

Told = Record | Charge


@dataclass(slots=True)
class _Rumor:
    told: Told
    left: int


class Rumors:
    def __init__(self) -> None:
        self._rumors: dict[tuple[bytes, ...], _Rumor] = {}  # newest last

    def __len__(self) -> int:
        return len(self._rumors)

    def add(self, told: Told, hosts: int) -> None:
        self._rumors.pop(_topic(told), None)
        while len(self._rumors) >= RUMORS_MAX:
            del self._rumors[next(iter(self._rumors))]
        self._rumors[_topic(told)] = _Rumor(told, TIMES * ceil(log10(hosts + 1)))

    def drop_claims(self, about: bytes) -> None:
        """It has objected."""
        for topic in [topic for topic in self._rumors if len(topic) > 1 and topic[0] == about]:
            del self._rumors[topic]

    def take(self, room_bytes: int) -> tuple[Told, ...]:
        """As many as fit, those that were told least often first."""
        chosen: list[Told] = []
        for topic, rumor in sorted(self._rumors.items(), key=lambda item: -item[1].left):
            if len(rumor.told.proof) > room_bytes:
                break
            room_bytes -= len(rumor.told.proof)
            chosen.append(rumor.told)
            rumor.left -= 1
            if rumor.left <= 0:
                del self._rumors[topic]
        return tuple(chosen)


def _topic(told: Told) -> tuple[bytes, ...]:
    if isinstance(told, Record):
        return (told.short,)
    return told.about, told.by, told.claim.says.encode()
