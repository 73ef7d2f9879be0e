"""When answers to a pledge may come: what hosts keep to, and clients count on.

    pledge |-- slot 0: the best --|-- slot 1 --| ... |-- slot 7: the worst, those that emulate, and refusals --|

In a small realm everybody answers at once: that is quickest, and no more answers than a client wants to hear. In a
larger one a host waits for the slot of its class, and the client says *enough* before the next one begins. A dry pledge
is answered by all; there the answers are spread so that none is lost where they all arrive. Pure.
"""

from matcher.wire.messages import Accelerator, VmOffer

CLASSES = 8
AT_ONCE_HOSTS = 64  # known; up to here nobody waits
TIMER_S = 0.028  # within which a class answers; some times what it takes from an answer to *enough* at a host
GAP_S = 0.006  # then silence, so that *enough*, said when the slot has passed, comes before the next one's many
SLOT_S = TIMER_S + GAP_S
ANSWER_S = 0.0003  # what one more answer takes to be checked and read by a client (measured: 0.25 ms)
SURVEY_MAX_S = 5.0  # whatever number of hosts one of them, or a client, claims to know

# From which score on an offer is of the class. In a realm of thousands the best hosts lie near to 1, and there the
# classes must tell them apart; in one of a hundred, or where most hosts are idle, the best may score 0.1.
FLOORS = (0.8, 0.55, 0.38, 0.27, 0.2, 0.13, 0.06)
LAST = CLASSES - 1


def is_spread(hosts_known: int) -> bool:
    """Whether hosts wait for their turn."""
    return hosts_known > AT_ONCE_HOSTS


def slot_of(offer: VmOffer) -> int:
    """The slot of the offer's class, 0 for the best. Emulation costs a guest so much that its hosts come last, as do
    those that have a later alternative alone."""
    if offer.accelerator is not Accelerator.KVM or offer.choice:
        return LAST
    return next((slot for slot, floor in enumerate(FLOORS) if offer.score >= floor), LAST)


def slot_begins_s(slot: int) -> float:
    """After the pledge."""
    return slot * SLOT_S


def survey_s(hosts_known: int) -> float:
    """For how long a dry pledge is answered."""
    return min((hosts_known - AT_ONCE_HOSTS) * ANSWER_S, SURVEY_MAX_S) if is_spread(hosts_known) else 0.0
