"""One VM's way onto one host, as the client drives it: collect, choose, confirm, and never at two hosts at once.

    (new) --start--> COLLECTING --content--> CONFIRMING --committed--> FINISHED: placed
                      ^  |                    |  |  ^ '--5 s pass, or Ctrl-C--> ABANDONING --noted--.
                      |  | no choice,         |  |  '---next offer------------------+---------------|
                      |  | asked twice        |  '--refused, or nothing was sent----'               |
                      |  v                    '--no offer left, once more (3 times)--> COLLECTING   |
                      | EXPLAINING --reasons--> FINISHED: no host fits                              |
                      '--it would fit after all                      FINISHED: unknown <--no answer-'

When what came is enough to choose from, and when all others had better be silent, `matcher.scheduler.listening` knows.

The rule at the heart: a confirm that was sent and not answered is *in doubt*. Only a typed refusal, or an abandon that
the host has noted, lets go of that host; where neither comes, the outcome is `Unknown`, and no second host is asked.
An abandon may be answered with "committed already": then the VM is there, and that is the outcome.
Pure: callers pass `now_s`, one monotonic clock, and the wall clock once, at the start.
"""

from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import assert_never

from matcher.scheduler.choosing import Choice, Value, choices, ranked
from matcher.scheduler.explaining import explain, reason
from matcher.scheduler.heard import Answers
from matcher.scheduler.listening import Listening
from matcher.scheduler.outcomes import (
    Abandoned,
    AllRefused,
    Committed,
    Effects,
    Finished,
    HostReasons,
    Interrupted,
    NoHostFits,
    Outcome,
    Placed,
    SendAbandon,
    SendConfirm,
    SendPledge,
    SendReveal,
    Unknown,
)
from matcher.scheduler.pledging import Errand, make_pledge
from matcher.scheduler.surveying import Surveying
from matcher.wire.messages import Abandon, Clock, Confirm, Refused, Reveal, Unfit, VmOffer, VolumeOffer
from specs.ids import HostId, OfferId

SENDS_MAX = 2  # of one pledge, or of two, one after another: datagrams get lost
ROUNDS_MAX = 3  # pledges for one errand
CONFIRM_S = 5.0
CONFIRM_REPEAT_S = 1.0
CONNECT_S = 0.8  # for whoever performs `SendConfirm`: a host gone silent is found out before the confirm is repeated
ABANDON_REPEAT_S = 1.0
ABANDONS_MAX = 4
EXPLAIN_S = 0.3

# Refusals about the errand itself: another host must not be asked instead.
FINAL_CODES = frozenset({"name-taken", "running", "old-generation", "not-found", "denied"})


class Phase(Enum):
    NEW = "new"
    COLLECTING = "collecting"
    CONFIRMING = "confirming"
    ABANDONING = "abandoning"
    EXPLAINING = "explaining"
    FINISHED = "finished"


@dataclass(slots=True)
class _Doubt:
    """One offer between our first confirm and the host's word."""

    choice: Choice
    confirm: Confirm
    give_up_s: float
    again_s: float
    confirms: int = 1
    unsent: int = 0  # confirms of which no byte can have reached the host
    abandons: int = 0


class Placing:
    """One errand; perform the effects that each call returns, in order, and call `tick` at `next_deadline_s`.

    `prefer` is the host where a stopped VM ran before; `stays`: it has something there that no other host has, and no
    other one's offer is heard. `value` is a person's own ranking.
    """

    def __init__(
        self,
        errand: Errand,
        *,
        random: Random,
        prefer: HostId | None = None,
        stays: bool = False,
        value: Value | None = None,
    ) -> None:
        assert errand.vm is not None, "there is a VM to place"
        self._errand, self._vm = errand, errand.vm
        self._random, self._prefer, self._value = random, prefer, value
        self._only = prefer if stays else None
        self._rounds = 0
        self._round: Listening | None = None
        self._doubt: _Doubt | None = None
        self._survey: Surveying | None = None
        self._tried: set[OfferId] = set()
        self._refused: dict[HostId, HostReasons] = {}
        self._interrupted = False
        self._started_s = self._wall_ms = 0.0
        self._hosts_known = errand.hosts_known
        self.phase = Phase.NEW

    # ---- inputs

    def start(self, now_s: float, *, wall_ms: int) -> Effects:
        assert self.phase is Phase.NEW, "an errand starts once"
        self._started_s, self._wall_ms = now_s, wall_ms
        return self._pledge(now_s)

    def heard_vm(self, offer: VmOffer, host_id: HostId, address: str, now_s: float) -> Effects:
        if not self._listens or self._only not in (None, host_id):
            return []
        if self._survey is not None:
            self._survey.answers.vm(offer, host_id, address, now_s)
            return []
        return self._heard(self._current.heard_vm(offer, host_id, address, now_s), now_s)

    def heard_volume(self, offer: VolumeOffer, host_id: HostId, address: str, now_s: float) -> Effects:
        if not self._listens:
            return []
        if self._survey is not None:
            self._survey.answers.volume(offer, host_id, address, now_s)
            return []
        return self._heard(self._current.heard_volume(offer, host_id, address, now_s), now_s)

    def heard_unfit(self, unfit: Unfit, host_id: HostId, now_s: float) -> Effects:
        if self._listens:
            self._answers.unfit(unfit, host_id, now_s)
        return []

    def heard_clock(self, clock: Clock, host_id: HostId, now_s: float) -> Effects:
        if self._listens:
            self._answers.clock(clock, host_id, now_s)
        return []

    def confirm_answered(self, offer_id: OfferId, answer: Committed | Refused, now_s: float) -> Effects:
        """The host's word on a confirm, whichever attempt it answers, and even when an abandon is on its way: a host
        that has committed does not take it back."""
        doubt = self._in_doubt(offer_id)
        if doubt is None:
            return []
        match answer:
            case Committed():
                return self._placed(doubt)
            case Refused(code="unavailable"):  # the host is still deciding: that is no word yet
                return []
            case Refused(code="denied") if doubt.confirms > 1:  # the door's word on the user, not on an earlier attempt
                return []
            case Refused():
                self._note(doubt.choice, answer)
                return self._let_go(now_s, final=answer.code in FINAL_CODES)
        assert_never(answer)

    def confirm_failed(self, offer_id: OfferId, now_s: float, *, sent: bool) -> Effects:
        """One attempt ended without an answer. `sent`: some of it may have reached the host."""
        doubt = self._in_doubt(offer_id)
        if doubt is None or sent:
            return []
        doubt.unsent += 1
        if doubt.unsent < doubt.confirms:
            return []
        where = f"{doubt.choice.vm.address} port {doubt.choice.vm.offer.front_door_port}"
        hint = "is the port closed by a firewall, or has atomd just stopped?"
        unreached = reason("front door", f"an answer at {where}", "no connection could be made", hint)
        self._note(doubt.choice, Refused("unreachable", (unreached,)))
        return self._let_go(now_s)

    def abandon_answered(self, offer_id: OfferId, answer: Abandoned | Refused, now_s: float) -> Effects:
        """A refused abandon was not noted, so the doubt stays, and the abandon is repeated."""
        doubt = self._in_doubt(offer_id)
        if doubt is None or self.phase is not Phase.ABANDONING or isinstance(answer, Refused):
            return []
        if answer.committed:
            return self._placed(doubt)
        silent = reason("confirm", f"an answer in {CONFIRM_S:.0f} s", "none came", "see atomd's log on that host")
        self._note(doubt.choice, Refused("abandoned", (silent,)))
        return self._let_go(now_s)

    def interrupt(self, now_s: float) -> Effects:
        """Ctrl-C. What is held is freed; a confirm in doubt is abandoned first, unless the person insists."""
        if self.phase in (Phase.NEW, Phase.FINISHED):
            return self._finish(Interrupted()) if self.phase is Phase.NEW else []
        if self._doubt is None:
            return self._finish(Interrupted())
        if self._interrupted:
            return self._finish(Interrupted(self._unknown(self._doubt)))
        self._interrupted = True
        return self._abandon(self._doubt, now_s) if self.phase is Phase.CONFIRMING else []

    # ---- time

    def next_deadline_s(self) -> float | None:
        """When to call `tick`; `None` when all is over."""
        if self._doubt is not None:
            return min(self._doubt.again_s, self._doubt.give_up_s)
        if self.phase is Phase.COLLECTING:
            return self._current.next_deadline_s()
        return self._survey.next_deadline_s() if self.phase is Phase.EXPLAINING and self._survey is not None else None

    def tick(self, now_s: float) -> Effects:
        due_s = self.next_deadline_s()
        if due_s is None or now_s < due_s:
            return []
        match self.phase:
            case Phase.COLLECTING:
                return self._collected(self._current, now_s)
            case Phase.CONFIRMING if self._doubt is not None:
                return self._still_unanswered(self._doubt, now_s)
            case Phase.ABANDONING if self._doubt is not None:
                return self._still_in_doubt(self._doubt, now_s)
            case Phase.EXPLAINING if self._survey is not None:
                return self._surveyed(self._survey, now_s)
        raise AssertionError(f"a deadline in {self.phase}")

    # ---- collecting

    @property
    def hosts_known(self) -> int:
        """The largest count of hosts that any host has told; worth remembering for the next errand."""
        return max(self._hosts_known, self._answers.hosts_known if self._round or self._survey else 0)

    @property
    def _listens(self) -> bool:
        return self.phase not in (Phase.NEW, Phase.FINISHED)

    @property
    def _current(self) -> Listening:
        assert self._round is not None
        return self._round

    @property
    def _answers(self) -> Answers:
        return self._survey.answers if self._survey is not None else self._current.answers

    def _pledge(self, now_s: float, *, sends: int = 1) -> Effects:
        """A new pledge, with an id and a seal of its own."""
        self._hosts_known = self.hosts_known
        pledge, seal = make_pledge(
            self._errand, random=self._random, wall_ms=self._wall_at(now_s), dry=False, hosts_known=self._hosts_known
        )
        self._rounds += 1
        self._survey = None
        self._round = Listening(
            pledge,
            seal,
            now_s,
            prefer=self._prefer,
            is_ranked=self._value is not None,
            hosts_asked=self._errand.hosts_known,
            sends=sends,
        )
        self.phase = Phase.COLLECTING
        return [SendPledge(pledge)]

    def _heard(self, is_news: bool, now_s: float) -> Effects:
        """What comes while a confirm is on its way is not chosen, and may have to be silenced."""
        return self._enough(now_s) if is_news and self._current.wants_silence(now_s) else []

    def _collected(self, current: Listening, now_s: float) -> Effects:
        if current.content_s is not None:
            return self._choose(now_s)
        if not current.is_over(now_s):
            return self._enough(now_s)
        return self._ask_again(current, now_s) or [*self._done(), *self._explain(now_s)]

    def _ask_again(self, current: Listening, now_s: float) -> Effects:
        """Where nothing could be chosen: by another pledge, if hosts were told to be silent about this one."""
        if current.sends >= SENDS_MAX:
            return []
        if not current.said_enough:
            current.sent_again(now_s)
            return [SendPledge(current.pledge)]
        if self._rounds >= ROUNDS_MAX:
            return []
        return [*self._done(), *self._pledge(now_s, sends=current.sends + 1)]

    # ---- choosing

    def _choose(self, now_s: float) -> Effects:
        """Confirm the best offer that is left, or pledge again."""
        complete = choices(self._current.answers, now_s=now_s, without=self._tried)
        best = ranked(complete, prefer=self._prefer, last=self._refused, value=self._value)
        if not best:
            return self._again(now_s)
        enough = [] if self._current.said_enough else self._enough(now_s)
        return [*enough, *self._confirm(best[0], now_s)]

    def _again(self, now_s: float) -> Effects:
        if self._rounds < ROUNDS_MAX:
            return [*self._done(), *self._pledge(now_s)]
        return self._finish(AllRefused(tuple(self._refused.values()))) if self._refused else self._give_up(now_s)

    def _give_up(self, now_s: float) -> Effects:
        """Offers came and lapsed each time before they could be taken: this machine is too slow, or stands still."""
        lapsed = reason(
            "offer", "to be confirmed in time", "each lapsed first", "is this machine overloaded or paused?"
        )
        hosts = {heard.host_id: heard.offer.host for heard in self._current.answers.vms.values()}
        return self._finish(NoHostFits(tuple(HostReasons(host_id, host, (lapsed,)) for host_id, host in hosts.items())))

    # ---- confirming

    def _confirm(self, choice: Choice, now_s: float) -> Effects:
        errand, offer = self._errand, choice.vm.offer
        confirm = Confirm(
            vm_id=errand.vm_id,
            generation=errand.generation,
            pledge_id=offer.pledge_id,
            offer_id=offer.offer_id,
            host_id=choice.host_id,
            name=errand.name,
            vm=self._vm,
            volumes=tuple(map(errand.wished, choice.claims)),
            specfile=errand.specfile,
        )
        self._tried.add(OfferId(offer.offer_id))
        self._doubt = _Doubt(choice, confirm, now_s + CONFIRM_S, now_s + CONFIRM_REPEAT_S)
        self.phase = Phase.CONFIRMING
        return [self._send_confirm(self._doubt)]

    def _still_unanswered(self, doubt: _Doubt, now_s: float) -> Effects:
        if now_s >= doubt.give_up_s:
            return self._abandon(doubt, now_s)
        doubt.confirms += 1
        doubt.again_s = now_s + CONFIRM_REPEAT_S
        return [self._send_confirm(doubt)]

    def _send_confirm(self, doubt: _Doubt) -> SendConfirm:
        heard = doubt.choice.vm
        return SendConfirm(heard.host_id, heard.address, heard.offer.front_door_port, doubt.confirm)

    def _in_doubt(self, offer_id: OfferId) -> _Doubt | None:
        """The open doubt, if it is about this offer; what is late for another one changes nothing."""
        return self._doubt if self._doubt is not None and self._doubt.confirm.offer_id == offer_id else None

    def _note(self, choice: Choice, refused: Refused) -> None:
        reasons = refused.reasons or (
            reason("offer", "to be kept", f"refused: {refused.code}", "see atomd's log there"),
        )
        self._refused[choice.host_id] = HostReasons(choice.host_id, choice.vm.offer.host, reasons)

    def _let_go(self, now_s: float, *, final: bool = False) -> Effects:
        """The host will not run this offer: the one way from a confirm to another host."""
        self._doubt = None
        if self._interrupted:
            return self._finish(Interrupted())
        return self._finish(AllRefused(tuple(self._refused.values()))) if final else self._choose(now_s)

    # ---- abandoning

    def _abandon(self, doubt: _Doubt, now_s: float) -> Effects:
        self.phase = Phase.ABANDONING
        doubt.abandons += 1
        doubt.again_s = doubt.give_up_s = now_s + ABANDON_REPEAT_S
        heard = doubt.choice.vm
        abandon = Abandon(self._errand.vm_id, self._errand.generation, heard.offer.offer_id, heard.host_id)
        return [SendAbandon(heard.host_id, heard.address, heard.offer.front_door_port, abandon)]

    def _still_in_doubt(self, doubt: _Doubt, now_s: float) -> Effects:
        if doubt.abandons < ABANDONS_MAX:
            return self._abandon(doubt, now_s)
        unknown = self._unknown(doubt)
        return self._finish(Interrupted(unknown) if self._interrupted else unknown)

    def _unknown(self, doubt: _Doubt) -> Unknown:
        heard = doubt.choice.vm
        return Unknown(heard.host_id, heard.offer.host, heard.address, self._errand.vm_id, self._errand.generation)

    # ---- explaining

    def _explain(self, now_s: float) -> Effects:
        """Hosts that do not fit are silent unless the pledge is dry."""
        self._hosts_known = self.hosts_known
        errand = replace(self._errand, hosts_known=self._hosts_known)
        self._survey = Surveying(errand, random=self._random, quiet_s=EXPLAIN_S, deadline_s=EXPLAIN_S)
        self.phase = Phase.EXPLAINING
        return self._survey.start(now_s, wall_ms=self._wall_at(now_s))

    def _surveyed(self, survey: Surveying, now_s: float) -> Effects:
        effects = survey.tick(now_s)
        if not survey.finished:
            return effects
        survey.answers.absorb(self._current.answers)
        found, refused = survey.surveyed(now_s), tuple(self._refused.values())
        real = [choice for choice in found.choices if not choice.vm.offer.pretended]
        if real and self._rounds < ROUNDS_MAX:
            return self._pledge(now_s)  # offers were lost on the way, or room has just become free
        if real:
            return self._finish(NoHostFits((*map(_unheld, real), *found.unfits), (), refused))
        return self._finish(explain(survey.answers, wall_ms=self._wall_at(now_s), now_s=now_s, refused=refused))

    # ---- ending

    def _placed(self, doubt: _Doubt) -> Effects:
        heard = doubt.choice.vm
        placed = Placed(
            heard.host_id, heard.offer.host, heard.address, heard.offer, self._errand.vm_id, self._errand.generation
        )
        return self._finish(Interrupted(placed) if self._interrupted else placed, keep=OfferId(heard.offer.offer_id))

    def _finish(self, outcome: Outcome, *, keep: OfferId | None = None) -> Effects:
        self._doubt = None
        freed = self._done(keep)
        self.phase = Phase.FINISHED
        return [*freed, Finished(outcome)]

    def _enough(self, now_s: float) -> Effects:
        reveal = self._current.enough(now_s)
        return [SendReveal(reveal)] if reveal is not None else []

    def _done(self, keep: OfferId | None = None) -> Effects:
        """Free every hold of this round but the one that was taken. A hold in doubt is freed as well: if the confirm
        has come it is no hold any more, and if not, it had better not come."""
        if self._round is None or self.phase is Phase.EXPLAINING:
            return []
        return [SendReveal(Reveal(self._current.pledge.pledge_id, self._current.seal.done, keep))]

    def _wall_at(self, now_s: float) -> int:
        return round(self._wall_ms + (now_s - self._started_s) * 1000)


def _unheld(choice: Choice) -> HostReasons:
    hint = "try again in a few seconds: a host holds few pledges of one person at a time"
    unheld = reason("offer", "a hold", "it fits, and did not offer when asked to hold", hint)
    return HostReasons(choice.host_id, choice.vm.offer.host, (unheld,))
