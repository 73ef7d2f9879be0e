"""A dry pledge: every host answers, with an offer or with all its reasons, and nothing is held.

    (new) --start--> ASKING --quiet, or the deadline--> FINISHED

In a large realm the answers are spread (`matcher.wire.slots`), and waited for so much longer.

For `electros pledge`, and for the reasons when a placement finds no host. The pledge is repeated once on the way, for
hosts that lost it. Pure: callers pass `now_s`, one monotonic clock, and the wall clock at the start.
"""

from random import Random

from matcher.scheduler.choosing import Value, choices, ranked
from matcher.scheduler.explaining import host_reasons
from matcher.scheduler.heard import Answers
from matcher.scheduler.outcomes import Effects, Finished, Interrupted, SendPledge, Surveyed
from matcher.scheduler.pledging import Errand, make_pledge
from matcher.wire.messages import Clock, Role, Unfit, VmOffer, VolumeOffer
from matcher.wire.slots import survey_s
from specs.ids import HostId

QUIET_S = 0.3  # nobody has said anything new for so long
DEADLINE_S = 1.0
REPEAT_S = 0.15  # hosts take what comes sooner as the same pledge by another way


class Surveying:
    """One survey; perform the effects that each call returns, in order, and call `tick` at `next_deadline_s`."""

    def __init__(
        self,
        errand: Errand,
        *,
        random: Random,
        value: Value | None = None,
        quiet_s: float = QUIET_S,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._errand, self._random, self._value = errand, random, value
        self._quiet_s, self._deadline_s = quiet_s, deadline_s
        self._answers: Answers | None = None
        self._started_s = 0.0
        self._wall_ms = 0
        self._repeated = False
        self.finished = False

    @property
    def answers(self) -> Answers:
        assert self._answers is not None, "start first"
        return self._answers

    def start(self, now_s: float, *, wall_ms: int) -> Effects:
        assert self._answers is None, "a survey starts once"
        pledge, _ = make_pledge(self._errand, random=self._random, wall_ms=wall_ms, dry=True)
        self._answers = Answers(pledge, now_s)
        self._started_s, self._wall_ms = now_s, wall_ms
        return [SendPledge(pledge)]

    def heard_vm(self, offer: VmOffer, host_id: HostId, address: str, now_s: float) -> Effects:
        if not self.finished:
            self.answers.vm(offer, host_id, address, now_s)
        return []

    def heard_volume(self, offer: VolumeOffer, host_id: HostId, address: str, now_s: float) -> Effects:
        if not self.finished:
            self.answers.volume(offer, host_id, address, now_s)
        return []

    def heard_unfit(self, unfit: Unfit, host_id: HostId, now_s: float) -> Effects:
        if not self.finished:
            self.answers.unfit(unfit, host_id, now_s)
        return []

    def heard_clock(self, clock: Clock, host_id: HostId, now_s: float) -> Effects:
        if not self.finished:
            self.answers.clock(clock, host_id, now_s)
        return []

    def next_deadline_s(self) -> float | None:
        if self.finished:
            return None
        end_s = self._end_s()
        return end_s if self._repeated else min(end_s, self._spread_s() + REPEAT_S)

    def tick(self, now_s: float) -> Effects:
        if self.finished:
            return []
        if now_s >= self._end_s():
            self.finished = True
            return [Finished(self.surveyed(now_s))]
        if not self._repeated and now_s >= self._spread_s() + REPEAT_S:
            self._repeated = True
            return [SendPledge(self.answers.pledge)]
        return []

    def interrupt(self, now_s: float) -> Effects:
        """Nothing is held, so nothing has to be told to anybody."""
        if self.finished:
            return []
        self.finished = True
        return [Finished(Interrupted())]

    def _end_s(self) -> float:
        quiet_s = max(self.answers.latest_s, self._spread_s()) + self._quiet_s
        return min(quiet_s, self._spread_s() + self._deadline_s)

    def _spread_s(self) -> float:
        """When the last host may have answered."""
        return self._started_s + survey_s(self.answers.hosts_known)

    def surveyed(self, now_s: float) -> Surveyed:
        """What is known so far; nothing in it lapses, since nothing is held."""
        first_of = {choice.host_id: choice for choice in reversed(list(choices(self.answers, now_s=float("-inf"))))}
        best = tuple(ranked(first_of.values(), value=self._value))
        wall_ms = self._wall_ms + round((now_s - self._started_s) * 1000)
        served = {choice.host_id for choice in best}
        served |= {HostId(claim.server) for choice in best for claim in choice.claims}
        served -= {host_id for host_id, role in self.answers.unfits if role is Role.COMPUTE}
        unfits = host_reasons(self.answers, wall_ms=wall_ms, now_s=now_s, served=served)
        return Surveyed(best, unfits, self.answers.hosts_known)
