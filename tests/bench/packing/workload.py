"""What is asked for, and on which machines: an Azure-like mix of sizes and lifetimes, and hosts of four shapes.

Cores <= 2 58 %, 4 23 %, 8 12.5 %, 16 5.5 %, 32 1 %; 1 to 8 GiB a core; 65 % live an hour at most, 88 % 20 hours, 8 %
more than 100 (shares read off the plots of AzurePublicDataset V2, 2019).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

HOURS = 60.0  # nobody lives longer; the first so many are not counted
SHAPES = ((16, 64), (32, 128), (32, 256), (64, 256))


@dataclass(frozen=True, slots=True)
class Vm:
    at_h: float
    cores: int
    gib: int
    life_h: float

    @property
    def core_h(self) -> float:
        return self.cores * self.life_h


def fleet(count: int, random: Random) -> list[tuple[int, int]]:
    """(cores, GiB) of each host."""
    return [random.choice(SHAPES) for _ in range(count)]


def draw(random: Random) -> tuple[int, int, float]:
    """(cores, GiB, hours)."""
    size, life = random.random(), 0.0
    cores = next(c for c, up_to in ((1, 0.25), (2, 0.58), (4, 0.81), (8, 0.935), (16, 0.99), (32, 2)) if size < up_to)
    gib = cores * random.choices((1, 2, 4, 8), (10, 25, 45, 20))[0]
    kind = random.random()
    if kind < 0.65:
        life = random.expovariate(1 / 0.4)
    else:
        life = random.uniform(*((1, 20) if kind < 0.88 else (20, 100) if kind < 0.92 else (100, 1000)))
    return cores, gib, min(life, HOURS)


def rate_h(hosts: list[tuple[int, int]], load: float, random: Random) -> float:
    """VMs an hour, so that the scarcer of cores and RAM is asked for to `load`."""
    drawn = [draw(random) for _ in range(20_000)]
    cores = sum(c * life for c, _, life in drawn) / len(drawn) / sum(c for c, _ in hosts)
    gib = sum(g * life for _, g, life in drawn) / len(drawn) / sum(g for _, g in hosts)
    return load / max(cores, gib)


def arrivals(rate: float, hours: float, together: int, random: Random) -> Iterator[list[Vm]]:
    """Groups of so many that come at one moment, until the time is over."""
    at_h = 0.0
    while at_h < hours:
        drawn = []
        for _ in range(together):
            at_h += random.expovariate(rate)
            drawn.append(draw(random))
        yield [Vm(at_h, *each) for each in drawn]


def batch(hosts: list[tuple[int, int]], demand: float, random: Random) -> list[Vm]:
    """VMs one second apart that all stay, until the scarcer of cores and RAM is asked for to `demand`."""
    cores, gib = (float(sum(shape[side] for shape in hosts)) for side in (0, 1))
    drawn: list[Vm] = []
    while True:
        c, g, _ = draw(random)
        cores -= c / demand
        gib -= g / demand
        if min(cores, gib) < 0:
            return drawn
        drawn.append(Vm(len(drawn) / 3600, c, g, HOURS))
