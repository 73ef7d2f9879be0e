"""One pledge while its answers come: when they are enough to choose from, and when all others had better be silent.

In a small realm all answer at once, and the client waits for those as near as the first. In a large one the best hosts
answer first (`matcher.wire.slots`), and it is content when the slot of the best class heard has passed, or when enough
of that class have offered; so it says *enough* before most hosts' turn has come.

What no turn brings are volumes: who has one answers at once, or has nothing to give. So where offers for the VM have
come and the volumes have not, *enough* is said as if they had, and volumes alone are waited for: a host that has one
answers the pledge before it hears that. Those that did not hear it go on, and of thousands they are hundreds: when
their offers come, it is said again, a few times.

Each offer is looked at once, however many there are; a volume's has all looked at again. Pure: callers pass `now_s`.
"""

from dataclasses import dataclass, field

from matcher.scheduler.choosing import Volumes
from matcher.scheduler.heard import Answers, Heard
from matcher.wire.messages import Pledge, Reveal, VmOffer, VolumeOffer
from matcher.wire.seal import Seal
from matcher.wire.slots import CLASSES, GAP_S, LAST, is_spread, slot_begins_s, slot_of
from specs.ids import HostId, PledgeId, Vid

OFFERS_DEADLINE_S = 0.3
MARGIN_MIN_S = 0.01  # after the first complete choice, for those that are as near as the first
PEERS = 4  # offers of the best class that are enough to choose among
RANKED_PEERS = 256  # offers of any class, where a person ranks them otherwise than the hosts do
# Until nobody offers who has heard it, each time that it was said; after the last, nobody is told any more. A tenth of
# the hosts may not hear it, then a hundredth; where it takes longer than thought, a word in vain does no harm.
HUSHES_S = (GAP_S, GAP_S, 2 * GAP_S, 4 * GAP_S)
STRAYS = 2  # offers that come later than that; a single one may have been on its way


@dataclass(slots=True)
class _Turns:
    """Hosts by the slot of what they offer."""

    slots: dict[HostId, int] = field(default_factory=dict)
    counts: list[int] = field(default_factory=lambda: [0] * CLASSES)

    def add(self, host_id: HostId, slot: int) -> None:
        before = self.slots.get(host_id)
        if before is not None:
            self.counts[before] -= 1
        self.slots[host_id] = slot
        self.counts[slot] += 1

    def best(self) -> int:
        return next(slot for slot, count in enumerate(self.counts) if count)


class Listening:
    """`prefer` and `is_ranked` are the person's; `hosts_asked` is how many the client knew of, or 0."""

    def __init__(
        self,
        pledge: Pledge,
        seal: Seal,
        now_s: float,
        *,
        prefer: HostId | None = None,
        is_ranked: bool = False,
        hosts_asked: int = 0,
        sends: int = 1,
    ) -> None:
        self.pledge, self.seal = pledge, seal
        self.answers = Answers(pledge, now_s)
        self.sends = sends  # of what the errand asks for, by this pledge and those before it that met no choice
        self.content_s: float | None = None  # when to choose
        self._quiet_s: float | None = None  # when to say *enough*, though there may be nothing to choose yet
        self._sent_s = now_s
        self._prefer, self._is_ranked, self._hosts_asked = prefer, is_ranked, hosts_asked
        self._asked = tuple(map(Vid, pledge.volumes))
        self._volumes = Volumes(PledgeId(pledge.pledge_id), self._asked, ())
        self._offering, self._complete = _Turns(), _Turns()
        self._is_home = False  # one has offered that has all volumes itself
        self._has_alternatives = pledge.vm is not None and bool(pledge.vm.pci_else)
        self._has_first = False  # one has offered the first of them: nothing that comes later is wanted more;
        self._counts_first = False  # and that was thought of when `content_s` was set
        self._enough_s: float | None = None  # when it was said last
        self._enoughs = self._strays = 0

    # ---- inputs

    def heard_vm(self, offer: VmOffer, host_id: HostId, address: str, now_s: float) -> bool:
        """Whether it is news."""
        heard = self.answers.vm(offer, host_id, address, now_s)
        if heard is not None:
            self._offering.add(host_id, slot_of(offer))
            self._strays += self._is_stray(now_s)
            self._look(heard)
            self._judge(now_s)
        return heard is not None

    def heard_volume(self, offer: VolumeOffer, host_id: HostId, address: str, now_s: float) -> bool:
        heard = self.answers.volume(offer, host_id, address, now_s)
        if heard is not None:
            self._look_again()
            self._judge(now_s)
        return heard is not None

    def sent_again(self, now_s: float) -> None:
        self.sends += 1
        self._sent_s = now_s

    # ---- what follows

    @property
    def is_large(self) -> bool:
        return is_spread(self.answers.hosts_known)

    @property
    def said_enough(self) -> bool:
        return self._enough_s is not None

    def next_deadline_s(self) -> float:
        quiet_s = self._quiet_s if not self.said_enough else None
        due_s = self.content_s if self.content_s is not None else quiet_s
        deadline_s = self._sent_s + OFFERS_DEADLINE_S
        return deadline_s if due_s is None else min(due_s, deadline_s)

    def is_over(self, now_s: float) -> bool:
        return now_s >= self._sent_s + OFFERS_DEADLINE_S

    def wants_silence(self, now_s: float) -> bool:
        """Whether *enough* is to be said at once, though more may wait to be read: for the first time, or again."""
        if not self.is_large:
            return False
        if self.said_enough:
            return self._strays >= STRAYS
        return any(due_s is not None and due_s <= now_s for due_s in (self.content_s, self._quiet_s))

    def enough(self, now_s: float) -> Reveal | None:
        """To be sent; `None` where all have offered: there is nobody to be silenced, only hosts to be woken up."""
        if self._all_offer():
            return None
        self._enough_s = now_s
        self._enoughs += 1
        self._strays = 0
        return Reveal(self.pledge.pledge_id, self.seal.enough)

    # ---- inside

    def _look(self, heard: Heard[VmOffer]) -> None:
        claims = self._volumes.claims(heard.host_id)
        if claims is not None:
            self._complete.add(heard.host_id, slot_of(heard.offer))
            is_first = heard.offer.choice == 0
            self._has_first |= is_first
            self._is_home |= is_first and bool(claims) and all(claim.server == heard.host_id for claim in claims)

    def _look_again(self) -> None:
        self._volumes = Volumes(PledgeId(self.pledge.pledge_id), self._asked, self.answers.volumes.values())
        self._complete, self._is_home, self._has_first = _Turns(), False, False
        for heard in self.answers.vms.values():
            self._look(heard)

    def _is_stray(self, now_s: float) -> bool:
        if self._enough_s is None or self._enoughs > len(HUSHES_S):
            return False
        return now_s >= self._enough_s + HUSHES_S[self._enoughs - 1]

    def _judge(self, now_s: float) -> None:
        if self.is_large and self._offering.slots:
            self._quiet_s = self._turns_end_s(self._complete if self._complete.slots else self._offering, now_s)
        if not self._complete.slots:
            return
        waits_less = self._has_first and not self._counts_first
        if self.content_s is None or self._prefer is not None or self.is_large or waits_less:
            self.content_s = self._chosen_turn_s(now_s) if self.is_large else self._near_s(now_s)
            self._counts_first = self._has_first
        if self._prefer in self._complete.slots:
            self.content_s = now_s
        elif self._all_offer():
            self.content_s = min(self.content_s, now_s)

    def _all_offer(self) -> bool:
        """Every host that the client knew of: nobody is left to be waited for."""
        return len(self._offering.slots) >= self._hosts_asked > 0

    def _near_s(self, now_s: float) -> float:
        """Those as near as the first are waited for. Where a person said which host is best, all are heard: on a busy
        link the best may be the last to answer."""
        if self._prefer is not None or self._is_ranked or (self._has_alternatives and not self._has_first):
            return self._sent_s + OFFERS_DEADLINE_S
        to_first_s = (self.answers.first_s or now_s) - self._sent_s
        return now_s + max(MARGIN_MIN_S, 2 * to_first_s)

    def _chosen_turn_s(self, now_s: float) -> float:
        """A preferred host, or one that has a volume, answers at once, if at all."""
        if self._is_home and self._prefer is None and not self._is_ranked:
            return now_s  # all volumes at home: no score beats that
        ends_s = self._turns_end_s(self._complete, now_s)
        if not self._homes_offer():
            ends_s = max(ends_s, self._sent_s + MARGIN_MIN_S)
        if self._enough_s is None:
            return ends_s
        return min(ends_s, max(now_s, self._enough_s + MARGIN_MIN_S))  # who has heard it offers no more

    def _turns_end_s(self, turns: _Turns, now_s: float) -> float:
        """When the turn of all those has passed that could be better than the best of these, or as good; at once, where
        enough of its class are there."""
        if self._is_ranked:
            return now_s if len(turns.slots) >= RANKED_PEERS else self._sent_s + OFFERS_DEADLINE_S
        best = turns.best()
        if turns.counts[best] >= PEERS and not (best == LAST and self._has_alternatives):
            return now_s
        return self._sent_s + slot_begins_s(best + 1)

    def _homes_offer(self) -> bool:
        """Whether no host that stores an asked volume could still offer, as it does at once, and better than all."""
        homes = {heard.host_id for heard in self.answers.volumes.values()}
        return homes <= self._offering.slots.keys()
