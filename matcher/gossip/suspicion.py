"""How long a silent host has to object, and how much this host trusts its own ears. After Lifeguard.

The first suspicion gives it the longest time. Each further host that finds it silent on its own shortens that, by the
logarithm, down to the shortest; who is alone with its suspicion may be the one that is unwell. Pure.
"""

from math import log, log10

SHORTEST_S = 4.0  # a host may be stopped for 3 s, and needs to be heard after it
SHORTEST_PER_DECADE_S = 1.0  # of hosts, as what it says has a longer way where there is no multicast
LONGEST_TIMES = 3.0
CONFIRMATIONS = 3
HEALTH_MAX = 8


def shortest_s(hosts: int) -> float:
    return SHORTEST_S + SHORTEST_PER_DECADE_S * log10(max(1, hosts))


def suspicion_s(hosts: int, witnesses: int) -> float:
    """For a host that so many find silent, in a realm of so many."""
    shortest = shortest_s(hosts)
    wanted = min(CONFIRMATIONS, hosts - 2)  # besides the suspect and the first
    if wanted < 1:
        return shortest  # nobody can say so
    confirmed = min(max(0, witnesses - 1), wanted)
    share = 1.0 - log(confirmed + 1) / log(wanted + 1)
    return shortest * (1.0 + (LONGEST_TIMES - 1.0) * share)


class Health:
    """Lifeguard's local health: 0 is well, up to 8 for who hears so little that it is to doubt itself. Waits and the
    time between probes grow by one more of themselves with each."""

    def __init__(self) -> None:
        self.score = 0

    @property
    def times(self) -> int:
        return self.score + 1

    def better(self) -> None:
        self.score = max(0, self.score - 1)

    def worse(self, by: int = 1) -> None:
        self.score = min(HEALTH_MAX, self.score + by)
