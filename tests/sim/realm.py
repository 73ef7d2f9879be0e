"""Who belongs, and for how long: users' leaves with small grants that are renewed."""

from dataclasses import dataclass
from random import Random

from matcher.trust.certificates import BACKDATE_S
from matcher.trust.principal import Principal
from matcher.wire.realm import Grant, PciLimit, Verb
from specs.ids import UserId
from tests.sim.papers import user_id

LEAF_S = 1500.0  # less than a clock jumps
RENEWS_S = (5.0, 40.0)  # each time with another grant
ALL = (Verb.PLEDGE, Verb.RUN, Verb.CONSOLE)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate, as far as anybody here looks at it: a real one for each grant would take half of a run's time."""

    principal: Principal
    starts_s: float
    ends_s: float

    @property
    def user_id(self) -> UserId:
        return UserId(self.principal.id)

    def is_in_time(self, wall_s: float) -> bool:
        return self.starts_s <= wall_s <= self.ends_s


def make_leaf(key_name: str, name: str, random: Random, wall_s: float, not_before_s: float = 0.0) -> Leaf:
    grant = _grant(random)
    starts_s, ends_s = max(int(wall_s) - BACKDATE_S, int(not_before_s)), int(wall_s) + LEAF_S
    return Leaf(Principal("user", user_id(key_name), name, grant), starts_s, ends_s)


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
