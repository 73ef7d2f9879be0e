"""What claims of others come to. Whoever they are about may object; nobody is gone on hearsay alone.

    alive --silent for one--> SUSPECT --nothing heard of it here for its time--> GONE
    alive, suspect --refused for two--> DOWN --and then silent, as above--> GONE --refused here--> DOWN

A claim counts for the incarnation that it names and no other. *Gone* is believed at once only of a host that has been
silent here as well, for the shortest time that a suspicion takes; else it is one more suspicion. Pure.
"""

from random import Random

from matcher.gossip.roster import RANK, Charge, Roster, Trouble
from matcher.gossip.suspicion import shortest_s, suspicion_s
from matcher.wire.gossip import HostState, Says

SPREAD_S = 1.5  # so that not all hosts give up one at the same moment
REFUSALS = 2  # witnesses
NEARLY = 0.9  # of the shortest time: others may have heard of it a little earlier


class Judge:
    def __init__(self, roster: Roster, random: Random) -> None:
        self._roster, self._random = roster, random

    def concerns(self, charge: Charge) -> bool:
        """Whether it can change anything here."""
        record = self._roster.records.get(charge.about)
        return (
            record is not None
            and record.host_id == charge.claim.about
            and record.alive.incarnation == charge.claim.incarnation
            and charge.by in self._roster.records
            and charge.by != charge.about
            and RANK[self._roster.state(charge.about)] < RANK[HostState.GONE]
        )

    def weigh(self, charge: Charge, now_s: float) -> bool:
        """Whether it says something new; the state may have climbed, and the time for an objection be shorter."""
        if not self.concerns(charge):
            return False
        short = charge.about
        trouble = self._roster.trouble(short, now_s)
        if not trouble.note(charge):
            return False
        if charge.claim.says is Says.REFUSED:
            if trouble.witnesses(Says.REFUSED) >= self._refusals_needed():
                self.down(short, now_s)
        elif charge.claim.says is Says.GONE and self._silent_enough(trouble, now_s):
            self._roster.set_state(short, HostState.GONE, now_s)
        else:
            self._suspect(short, trouble, now_s)
        return True

    def down(self, short: bytes, now_s: float) -> None:
        """Its machine answers: whatever was said of its silence is over."""
        trouble = self._roster.trouble(short, now_s)
        trouble.silent_s = trouble.due_s = float("inf")
        trouble.last_ping = None
        trouble.forget(Says.SUSPECT, Says.GONE)
        self._roster.set_state(short, HostState.DOWN, now_s, is_back=trouble.state is HostState.GONE)

    def slept(self, late_s: float) -> None:
        """This host was stopped for so long: what it did not hear meanwhile says nothing about others."""
        for trouble in self._roster.troubles.values():
            trouble.silent_s += late_s
            trouble.due_s += late_s
            trouble.last_ping = None

    # ---- inside

    def _suspect(self, short: bytes, trouble: Trouble, now_s: float) -> None:
        if trouble.silent_s == float("inf"):
            trouble.silent_s = now_s
            trouble.patience_s = self._random.uniform(0.0, SPREAD_S)
        hosts = len(self._roster.ring)
        witnesses = trouble.witnesses(Says.SUSPECT, Says.GONE)
        trouble.due_s = trouble.silent_s + suspicion_s(hosts, witnesses) + trouble.patience_s
        self._roster.set_state(short, HostState.SUSPECT, now_s)

    def _silent_enough(self, trouble: Trouble, now_s: float) -> bool:
        return now_s - trouble.silent_s >= NEARLY * shortest_s(len(self._roster.ring))

    def _refusals_needed(self) -> int:
        """Where there is no third host, nobody can confirm it."""
        return REFUSALS if len(self._roster.ring) > 2 else 1
