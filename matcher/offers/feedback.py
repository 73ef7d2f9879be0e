"""How long a host waits with its answer, so that a client in a realm of thousands hears few, the best first.

Within its slot (see `matcher.wire.slots`) a host waits a random time z in [0, T] with the density

    f(z) = 1 / (e^L - 1) * L / T * e^(L z / T)        so, for u uniform in [0, 1):  z = T / L * ln(1 + u (e^L - 1))

after Nonnenmacher and Biersack, "Scalable Feedback for Large Groups", IEEE/ACM Transactions on Networking 7(3), 1999:
almost all wait until the end of the slot, a few come early, and their number grows by e^(L c / T) in the time c that it
takes until *enough* is heard, whether ten hosts are of the class or ten thousand. L = 1.1 ln N + 0.8 is their fit of
the best parameter for N hosts; N is known to within a factor, and that is enough.

The chance u is a hash of (pledge, host): nothing to remember, and a repeated pledge meets the same wait. Pure.
"""

from hashlib import blake2s
from math import exp, log

from matcher.wire.slots import TIMER_S, is_spread, slot_begins_s, survey_s

CHANCE_BYTES = 6


def wait_s(slot: int, hosts_known: int, chance: float) -> float:
    """From the pledge to the answer of a host whose class has this slot."""
    return slot_begins_s(slot) + _timer_s(hosts_known, chance) if is_spread(hosts_known) else 0.0


def survey_wait_s(hosts_known: int, chance: float) -> float:
    """The same for a dry pledge, which all answer: evenly, as fast as a client can read."""
    return survey_s(hosts_known) * chance


def chance_of(pledge_id: str, host: str) -> float:
    """In [0, 1), another one for each pledge and host."""
    digest = blake2s(f"{pledge_id} {host}".encode(), digest_size=CHANCE_BYTES, person=b"atm-wait").digest()
    return int.from_bytes(digest) / (1 << 8 * CHANCE_BYTES)


def _timer_s(hosts: int, chance: float) -> float:
    steepness = 1.1 * log(hosts) + 0.8
    return TIMER_S / steepness * log(1 + chance * (exp(steepness) - 1))
