"""In whatever order answers come, get lost or come twice, a VM is never put on two hosts, and there is always an end.

Hosts are modelled by what DESIGN.md has them promise: an offer is committed once, refused for good, or abandoned for
good; a confirm may be acted upon long after it was sent.
"""

from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from matcher.scheduler.outcomes import (
    Abandoned,
    Committed,
    Effects,
    Finished,
    Interrupted,
    Outcome,
    Placed,
    SendAbandon,
    SendConfirm,
    SendPledge,
    SendReveal,
    Unknown,
)
from matcher.scheduler.placing import ABANDONS_MAX, CONFIRM_S, ROUNDS_MAX, Phase, Placing
from matcher.scheduler.pledging import Errand
from matcher.wire.messages import (
    Accelerator,
    Arch,
    Firmware,
    ImageFormat,
    OfferedVolume,
    Pledge,
    Reach,
    Reason,
    Refused,
    Role,
    Unfit,
    VmAsk,
    VmOffer,
    VolumeOffer,
)
from matcher.wire.seal import opens
from specs.ids import HostId, OfferId, Vid, VmId, new_id

HOSTS = tuple(HostId(digit * 64) for digit in "abc")
VM_ID, VID = VmId("d" * 32), Vid("e" * 32)
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
REFUSED = Refused("no-capacity", (Reason("slots", "1", "0 free", "wait"),))
HOLD_MAX_S = 10.0
# Each round: two sends and a survey; confirms start while holds live; each may end in a whole abandon.
END_S = ROUNDS_MAX * (1.0 + HOLD_MAX_S + CONFIRM_S + ABANDONS_MAX + 1.0)


Word = TypeVar("Word", Committed | Refused, Abandoned | Refused)


@dataclass(slots=True)
class Host:
    holds: dict[OfferId, float] = field(default_factory=dict)  # until
    committed: set[OfferId] = field(default_factory=set)
    closed: set[OfferId] = field(default_factory=set)  # refused or abandoned, for good

    def confirm(self, offer_id: OfferId, now_s: float, *, willing: bool) -> Committed | Refused:
        if offer_id in self.committed:
            return Committed()
        if offer_id in self.closed or self.holds.pop(offer_id, now_s) <= now_s or not willing:
            self.closed.add(offer_id)
            return REFUSED
        self.committed.add(offer_id)
        return Committed()

    def abandon(self, offer_id: OfferId) -> Abandoned:
        if offer_id in self.committed:
            return Abandoned(committed=True)
        self.closed.add(offer_id)
        self.holds.pop(offer_id, None)
        return Abandoned()


@dataclass(slots=True)
class Attempt:
    effect: SendConfirm
    arrived: bool = False


class PlacingRules(RuleBasedStateMachine):
    """The network and the hosts, played by hypothesis."""

    @initialize(
        seed=st.integers(0, 2**32),
        volumes=st.booleans(),
        prefer=st.sampled_from([None, *HOSTS]),
        hold_s=st.sampled_from([3.0, HOLD_MAX_S]),
    )
    def begin(self, seed: int, volumes: bool, prefer: HostId | None, hold_s: float) -> None:
        self.random = Random(seed)
        self.hold_s = hold_s
        self.now_s = 1000.0
        self.hosts = {host_id: Host() for host_id in HOSTS}
        self.pledges: list[Pledge] = []
        self.done: set[str] = set()
        self.kept: set[str | None] = set()
        self.attempts: list[Attempt] = []
        self.abandons: list[SendAbandon] = []
        self.answers: list[tuple[OfferId, Committed | Refused]] = []
        self.until: dict[OfferId, float] = {}
        self.released: set[OfferId] = set()  # what the client may let go of, by what it was told
        self.outcomes: list[Outcome] = []
        errand = Errand(VM_ID, 1, ASK, volumes=(VID,) if volumes else (), name="web")
        self.placing = Placing(errand, random=self.random, prefer=prefer)
        self.began_s = self.now_s
        self.perform(self.placing.start(self.now_s, wall_ms=1_700_000_000_000))

    def perform(self, effects: Effects) -> None:
        for effect in effects:
            assert not self.outcomes, "nothing follows the outcome"
            match effect:
                case SendPledge(pledge):
                    if pledge not in self.pledges:
                        self.pledges.append(pledge)
                case SendReveal(reveal):
                    pledge = next(pledge for pledge in self.pledges if pledge.pledge_id == reveal.pledge_id)
                    if opens(pledge.seal, reveal.secret) == "done":
                        self.done.add(reveal.pledge_id)
                        self.kept.add(reveal.keep)
                    else:
                        assert opens(pledge.seal, reveal.secret) == "enough"
                case SendConfirm():
                    self.check_free(OfferId(effect.confirm.offer_id))
                    self.check_live(effect)
                    self.attempts.append(Attempt(effect))
                case SendAbandon():
                    self.abandons.append(effect)
                case Finished(outcome):
                    self.outcomes.append(outcome)

    def check_free(self, offer_id: OfferId) -> None:
        """Every other offer that was ever confirmed has been let go of by its host's own word."""
        others = {OfferId(attempt.effect.confirm.offer_id) for attempt in self.attempts} - {offer_id}
        assert others <= self.released, "two hosts at once"
        assert offer_id not in self.released, "an offer that is gone does not come back"

    def check_live(self, effect: SendConfirm) -> None:
        """A first confirm finds its hold alive, if the network is quick."""
        offer_id = OfferId(effect.confirm.offer_id)
        if all(attempt.effect.confirm.offer_id != offer_id for attempt in self.attempts):
            assert self.until[offer_id] > self.now_s, "the offer has lapsed"

    @rule(host_id=st.sampled_from(HOSTS), which=st.integers(0, 9), score=st.sampled_from([0.1, 0.9]))
    def offer(self, host_id: HostId, which: int, score: float) -> None:
        """An answer to the newest pledge, or to an older one: with the volume, or without."""
        pledge = self.pledges[-1 - (which // 8) % len(self.pledges)]
        offer_id = OfferId(new_id(self.random))
        host = self.hosts[host_id]
        if not pledge.dry:
            host.holds[offer_id] = self.until[offer_id] = self.now_s + self.hold_s
        vm = VmOffer(
            pledge.pledge_id, offer_id, "h", 7443, 3, int(self.hold_s * 1000), score, (0,), 1, 0, (), Arch.X86_64,
            Accelerator.KVM,
        )  # fmt: skip
        for _ in range(1 + which % 2):
            self.perform(self.placing.heard_vm(vm, host_id, "10.0.0.1", self.now_s))
        if pledge.volumes and which % 4:
            there = OfferedVolume(VID, "root", 64, ImageFormat.RAW, True, False, False, Reach.LOCAL)
            volume = VolumeOffer(pledge.pledge_id, new_id(self.random), "h", 3, int(self.hold_s * 1000), (there,))
            self.perform(self.placing.heard_volume(volume, host_id, "10.0.0.1", self.now_s))

    @rule()
    def all_offer(self) -> None:
        """As on a good day, so that the days that end badly are not the only ones."""
        for host_id, score in zip(HOSTS, (0.1, 0.5, 0.9), strict=True):
            self.offer(host_id, 1, score)

    @rule(host_id=st.sampled_from(HOSTS), role=st.sampled_from(Role))
    def unfit(self, host_id: HostId, role: Role) -> None:
        unfit = Unfit(self.pledges[-1].pledge_id, "h", role, 3, REFUSED.reasons)
        self.perform(self.placing.heard_unfit(unfit, host_id, self.now_s))

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.3, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.perform(self.placing.tick(self.now_s))

    @rule()
    def wait_for_the_deadline(self) -> None:
        due_s = self.placing.next_deadline_s()
        if due_s is not None:
            self.now_s = max(self.now_s, due_s)
            self.perform(self.placing.tick(self.now_s))

    @precondition(lambda self: self.placing.phase is Phase.CONFIRMING)
    @rule(willing=st.sampled_from([None, False, True]), word=st.sampled_from(["none", "noted", "busy", "confirm"]))
    def silence(self, willing: bool | None, word: str) -> None:
        """The confirm may have come and been acted upon, but no word of it gets back before the client abandons."""
        if willing is not None:
            self.arrive(self.attempts[-1], willing=willing)
        while self.placing.phase is Phase.CONFIRMING:
            self.wait_for_the_deadline()
        if word in ("noted", "busy"):
            self.abandon(self.abandons[-1], noted=word == "noted")
        elif word == "confirm" and willing is not None:
            self.answer(*self.answers[-1])

    @precondition(lambda self: self.placing.phase is Phase.CONFIRMING)
    @rule(again=st.booleans())
    def broken_connection(self, again: bool) -> None:
        """The confirm has come; its connection breaks, or the next attempt finds none."""
        attempt = self.attempts[-1]
        offer_id = OfferId(attempt.effect.confirm.offer_id)
        self.arrive(attempt, willing=True)
        if again:
            self.wait_for_the_deadline()
            if self.attempts[-1] is attempt:
                return
            self.attempts.pop()
        self.perform(self.placing.confirm_failed(offer_id, self.now_s, sent=not again))

    @rule()
    def lost_races(self) -> None:
        """Round after round."""
        for _ in range(ROUNDS_MAX + 1):
            if self.placing.phase is Phase.COLLECTING:
                self.all_offer()
                self.wait_for_the_deadline()
                self.all_refuse()

    @precondition(lambda self: self.placing.phase is Phase.CONFIRMING)
    @rule()
    def all_refuse(self) -> None:
        """Somebody else was faster, everywhere."""
        while self.placing.phase is Phase.CONFIRMING:
            self.arrive(self.attempts[-1], willing=False)
            self.answer(*self.answers[-1])

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), willing=st.booleans())
    def confirm_arrives(self, data: st.DataObject, willing: bool) -> None:
        """Now, later, or once more."""
        attempt = data.draw(st.sampled_from(self.attempts[-3:]))
        self.arrive(attempt, willing=willing)

    def arrive(self, attempt: Attempt, *, willing: bool) -> None:
        attempt.arrived = True
        offer_id = OfferId(attempt.effect.confirm.offer_id)
        host = self.hosts[attempt.effect.host_id]
        self.answers.append((offer_id, host.confirm(offer_id, self.now_s, willing=willing)))

    @precondition(lambda self: self.abandons)
    @rule(data=st.data(), noted=st.booleans())
    def abandon_arrives(self, data: st.DataObject, noted: bool) -> None:
        self.abandon(data.draw(st.sampled_from(self.abandons[-3:])), noted=noted)

    def abandon(self, sent: SendAbandon, *, noted: bool = True) -> None:
        offer_id = OfferId(sent.abandon.offer_id)
        answer = self.hosts[sent.host_id].abandon(offer_id) if noted else Refused("busy", ())
        self.perform(self.placing.abandon_answered(offer_id, self.told(offer_id, answer), self.now_s))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def confirm_is_answered(self, data: st.DataObject) -> None:
        """Any answer that was ever given may come now, or again."""
        self.answer(*data.draw(st.sampled_from(self.answers[-3:])))

    def answer(self, offer_id: OfferId, answer: Committed | Refused) -> None:
        self.perform(self.placing.confirm_answered(offer_id, self.told(offer_id, answer), self.now_s))

    def told(self, offer_id: OfferId, answer: Word) -> Word:
        """What the client is about to hear frees it, or does not."""
        if (isinstance(answer, Refused) and answer.code != "busy") or answer == Abandoned():
            self.released.add(offer_id)
        return answer

    @precondition(lambda self: any(not attempt.arrived for attempt in self.attempts))
    @rule(data=st.data(), sent=st.booleans())
    def confirm_fails(self, data: st.DataObject, sent: bool) -> None:
        """No connection (it never arrives), or one that broke (it may)."""
        attempt = data.draw(st.sampled_from([attempt for attempt in self.attempts if not attempt.arrived][-3:]))
        offer_id = OfferId(attempt.effect.confirm.offer_id)
        if not sent:
            attempt.arrived = True  # never again
            mine = [other for other in self.attempts if other.effect.confirm.offer_id == offer_id]
            self.attempts.remove(attempt)
            if len(mine) == 1 and not any(offer == offer_id for offer, _ in self.answers):
                self.released.add(offer_id)
        self.perform(self.placing.confirm_failed(offer_id, self.now_s, sent=sent))

    @rule(chance=st.integers(0, 9))
    def interrupt(self, chance: int) -> None:
        """Seldom, or hardly anything else would be seen."""
        if chance == 9:
            self.perform(self.placing.interrupt(self.now_s))

    @precondition(lambda self: self.placing.phase is Phase.CONFIRMING)
    @rule(chance=st.integers(0, 3), arrives=st.booleans())
    def interrupt_in_the_confirm(self, chance: int, arrives: bool) -> None:
        """Ctrl-C just before the confirm arrives, or just after."""
        if chance == 3:
            if arrives:
                self.arrive(self.attempts[-1], willing=True)
            self.perform(self.placing.interrupt(self.now_s))

    @invariant()
    def one_host_at_most(self) -> None:
        assert sum(len(host.committed) for host in self.hosts.values()) <= 1, "the VM is on two hosts"

    @invariant()
    def the_outcome_comes_once(self) -> None:
        assert len(self.outcomes) == (self.placing.phase is Phase.FINISHED)

    def teardown(self) -> None:
        if not hasattr(self, "placing"):
            return
        quiet_s = self.now_s
        for _ in range(200):
            due_s = self.placing.next_deadline_s()
            if due_s is None:
                break
            assert due_s >= self.now_s or self.now_s == quiet_s, "time does not go back"
            self.now_s = max(self.now_s, due_s)
            self.perform(self.placing.tick(self.now_s))
        assert self.outcomes, "it ends once time goes on"
        assert self.now_s <= quiet_s + END_S, "it ends in bounded time"
        self.check_holds()
        self.check_truth(self.outcomes[0])

    def check_holds(self) -> None:
        """No hold is left to others to find out: each pledge that could hold was ended by *done*."""
        pledged = {pledge.pledge_id for pledge in self.pledges if not pledge.dry}
        assert pledged == self.done
        assert len(pledged) <= ROUNDS_MAX

    def check_truth(self, outcome: Outcome) -> None:
        """What the person is told is so, even after the last datagram has found its way."""
        for attempt in list(self.attempts):
            self.arrive(attempt, willing=True)
        self.one_host_at_most()
        committed = {(host_id, offer) for host_id, host in self.hosts.items() for offer in host.committed}
        left = outcome.left if isinstance(outcome, Interrupted) else outcome
        if isinstance(left, Placed):
            assert committed == {(left.host_id, left.offer.offer_id)}
            assert self.kept - {None} == {left.offer.offer_id}
        elif isinstance(left, Unknown):
            assert {host_id for host_id, _ in committed} <= {left.host_id}
        else:
            assert not committed, "it was told that nothing runs"


TestPlacing = PlacingRules.TestCase
TestPlacing.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
