"""Who belongs, and for how long: leaves with small grants that are renewed, and revocations that each host learns of in
its own time."""

from dataclasses import dataclass
from random import Random

from matcher.trust.principal import Principal
from matcher.wire.realm import Grant, PciLimit, Verb
from specs.ids import UserId

WALL_S = 1_700_000_000.0  # when virtual time begins, by a clock that goes right
BACKDATE_S = 300.0
LEAF_S = 1800.0  # less than a clock jumps
RENEWS_S = (5.0, 40.0)  # each time with another grant
ALL = (Verb.PLEDGE, Verb.RUN, Verb.CONSOLE)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate, as far as anybody here looks at it."""

    principal: Principal
    starts_s: float
    ends_s: float

    @property
    def user_id(self) -> UserId:
        return UserId(self.principal.id)

    def is_in_time(self, wall_s: float) -> bool:
        return self.starts_s <= wall_s <= self.ends_s


def make_leaf(user_id: UserId, name: str, random: Random, wall_s: float) -> Leaf:
    principal = Principal("user", user_id, name, _grant(random))
    return Leaf(principal, wall_s - BACKDATE_S, wall_s + LEAF_S - BACKDATE_S)


def _grant(random: Random) -> Grant:
    """Small, so that it is reached all the time; now and then, none at all."""
    return Grant(
        ALL,
        slots=random.choice((None, 1, 2, 3, 4)),
        ram_mib=random.choice((None, 1024, 1536, 2048)),
        vms=random.choice((None, 1, 2, 3)),
        pci=random.choice(((), (PciLimit("10de", "*", 1),), (PciLimit("*", "*", 4),))),
        overprovision_min=random.choice((1, 1, 1, 2)),
        lease_max_s=random.choice((None, None, None, 60)),
    )
