"""One VM's way onto one host, step by step."""

from random import Random

import pytest

from matcher.scheduler.choosing import Value
from matcher.scheduler.heard import LAPSE_MARGIN_S
from matcher.scheduler.listening import OFFERS_DEADLINE_S
from matcher.scheduler.outcomes import (
    Abandoned,
    AllRefused,
    Committed,
    Effect,
    Effects,
    Finished,
    Interrupted,
    NoHostFits,
    NoHostInReach,
    Outcome,
    Placed,
    SendAbandon,
    SendConfirm,
    SendPledge,
    SendReveal,
    Unknown,
    VolumeMissing,
)
from matcher.scheduler.placing import ABANDONS_MAX, ROUNDS_MAX, Placing
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
from specs.ids import HostId, OfferId, Vid, VmId

H1, H2 = HostId("1" * 64), HostId("2" * 64)
O1, O2 = OfferId("1" * 32), OfferId("2" * 32)
ROOT = Vid("a" * 32)
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
NO_ROOM = Refused("no-capacity", (Reason("slots", "1", "0 free", "wait"),))


class Client:
    """A placing, a clock, and everything that it ever asked for."""

    def __init__(
        self,
        *,
        volumes: tuple[Vid, ...] = (),
        prefer: HostId | None = None,
        stays: bool = False,
        value: Value | None = None,
        hosts_known: int = 0,
    ) -> None:
        errand = Errand(VmId("f" * 32), 2, ASK, volumes, hosts_known=hosts_known, name="web", specfile="{}")
        self.placing = Placing(errand, random=Random(1), prefer=prefer, stays=stays, value=value)
        self.now_s = 50.0
        self.sent: list[Effect] = []
        self.do(self.placing.start(self.now_s, wall_ms=1_000_000))

    def do(self, effects: Effects) -> list[type]:
        self.sent += effects
        return [type(effect) for effect in effects]

    def at(self, seconds: float) -> list[type]:
        """Go on for so long, or until something happens."""
        self.now_s += seconds
        return self.do(self.placing.tick(self.now_s))

    def on(self) -> list[type]:
        due_s = self.placing.next_deadline_s()
        assert due_s is not None
        return self.at(max(0.0, due_s - self.now_s))

    def to_the_end(self) -> Outcome:
        while self.placing.next_deadline_s() is not None:
            self.on()
        return self.outcome

    def vm(self, host_id: HostId, offer_id: OfferId, *, score: float = 0.5, expires_in_ms: int = 3000) -> None:
        pledge_id, host = self.pledge.pledge_id, f"h{host_id[0]}"
        offer = VmOffer(
            pledge_id, offer_id, host, 7443, 3, expires_in_ms, score, (0,), 1, 0, (), Arch.X86_64, Accelerator.KVM
        )
        self.do(self.placing.heard_vm(offer, host_id, f"10.0.0.{host_id[0]}", self.now_s))

    def volume(self, host_id: HostId) -> None:
        there = OfferedVolume(ROOT, "root", 64, ImageFormat.RAW, True, False, False, Reach.LOCAL)
        store = VolumeOffer(self.pledge.pledge_id, "c" * 32, f"h{host_id[0]}", 3, 3000, (there,))
        self.do(self.placing.heard_volume(store, host_id, f"10.0.0.{host_id[0]}", self.now_s))

    def unfit(self, host_id: HostId, reason: Reason) -> None:
        unfit = Unfit(self.pledge.pledge_id, f"h{host_id[0]}", Role.COMPUTE, 3, (reason,))
        self.do(self.placing.heard_unfit(unfit, host_id, self.now_s))

    def answer(self, offer_id: OfferId, answer: Committed | Refused) -> list[type]:
        return self.do(self.placing.confirm_answered(offer_id, answer, self.now_s))

    @property
    def pledge(self) -> Pledge:
        return [effect.pledge for effect in self.sent if isinstance(effect, SendPledge)][-1]

    @property
    def confirms(self) -> list[SendConfirm]:
        return [effect for effect in self.sent if isinstance(effect, SendConfirm)]

    @property
    def outcome(self) -> Outcome:
        return next(effect.outcome for effect in self.sent if isinstance(effect, Finished))

    def reveals(self, pledge: Pledge) -> list[tuple[str | None, str | None]]:
        mine = [e.reveal for e in self.sent if isinstance(e, SendReveal) and e.reveal.pledge_id == pledge.pledge_id]
        return [(opens(pledge.seal, reveal.secret), reveal.keep) for reveal in mine]


@pytest.fixture
def confirming() -> Client:
    """Two hosts have offered; h1, the better, has been sent the confirm."""
    client = Client()
    client.vm(H1, O1, score=0.9)
    client.vm(H2, O2, score=0.1)
    assert client.on() == [SendReveal, SendConfirm]
    return client


def test_the_best_offer_is_confirmed_and_the_others_are_freed(confirming: Client) -> None:
    (confirm,) = confirming.confirms
    assert (confirm.host_id, confirm.address, confirm.port) == (H1, "10.0.0.1", 7443)
    sent = confirm.confirm
    assert (sent.vm_id, sent.generation, sent.offer_id, sent.host_id) == ("f" * 32, 2, O1, H1)
    assert (sent.name, sent.vm, sent.volumes, sent.specfile) == ("web", ASK, (), "{}")
    assert confirming.answer(O1, Committed()) == [SendReveal, Finished]
    assert confirming.reveals(confirming.pledge) == [("enough", None), ("done", O1)]
    outcome = confirming.outcome
    assert isinstance(outcome, Placed)
    assert (outcome.host_id, outcome.host, outcome.vm_id, outcome.generation) == (H1, "h1", "f" * 32, 2)


def test_a_margin_lets_a_better_host_answer_a_little_later() -> None:
    client = Client()
    client.at(0.008)
    client.vm(H1, O1, score=0.1)
    assert client.placing.next_deadline_s() == pytest.approx(50.008 + 0.016)
    client.at(0.012)
    client.vm(H2, O2, score=0.9)
    client.on()
    assert client.confirms[0].host_id == H2


def test_the_margin_is_at_least_ten_milliseconds_and_ends_at_the_deadline() -> None:
    quick, slow = Client(), Client()
    quick.vm(H1, O1)
    assert quick.placing.next_deadline_s() == pytest.approx(50.01)
    slow.at(0.2)
    slow.vm(H1, O1)
    assert slow.placing.next_deadline_s() == pytest.approx(50.3)


def test_when_every_known_host_has_offered_nobody_is_waited_for_nor_silenced() -> None:
    client = Client(volumes=(ROOT,), hosts_known=2)
    client.vm(H1, O1, score=0.9)
    client.volume(H1)
    assert client.placing.next_deadline_s() == pytest.approx(50.01), "the other one may be better"
    client.vm(H2, O2, score=0.1)
    assert client.at(0.0) == [SendConfirm]
    assert client.confirms[0].host_id == H1


def test_every_known_host_is_not_enough_without_the_volume() -> None:
    client = Client(volumes=(ROOT,), hosts_known=1)
    client.vm(H1, O1)
    assert client.at(0.2) == []
    client.volume(H1)
    assert client.at(0.0) == [SendConfirm]


def test_a_vm_waits_for_its_volume_and_the_confirm_names_it() -> None:
    client = Client(volumes=(ROOT,))
    client.vm(H1, O1, score=0.9)
    client.vm(H2, O2, score=0.1)
    assert client.placing.next_deadline_s() == pytest.approx(50.3)
    client.volume(H2)
    client.on()
    claim = client.confirms[0].confirm.volumes[0]
    assert (client.confirms[0].host_id, claim.vid, claim.server, claim.offer_id) == (H2, ROOT, H2, "c" * 32)


def test_the_preferred_host_is_waited_for_though_another_was_first() -> None:
    client = Client(prefer=H2)
    client.vm(H1, O1, score=0.9)
    assert client.at(0.2) == []
    client.vm(H2, O2, score=0.1)
    assert client.at(0.0) == [SendReveal, SendConfirm]
    assert client.confirms[0].host_id == H2


def test_a_preferred_host_that_does_not_offer_is_not_waited_for_long() -> None:
    client = Client(prefer=H2)
    client.vm(H1, O1)
    assert client.at(OFFERS_DEADLINE_S) == [SendReveal, SendConfirm]
    assert client.confirms[0].host_id == H1


def test_a_ranking_of_ones_own_hears_all_hosts_out() -> None:
    client = Client(value=lambda choice: float(choice.host_id == H2))
    client.vm(H1, O1)
    client.at(0.2)
    client.vm(H2, O2)
    client.on()
    assert client.confirms[0].host_id == H2


def test_a_stopped_vm_goes_back_to_its_host() -> None:
    client = Client(prefer=H2)
    client.vm(H1, O1, score=0.9)
    client.vm(H2, O2, score=0.1)
    client.on()
    assert client.confirms[0].host_id == H2


def test_a_vm_that_stays_is_placed_on_its_host_or_nowhere() -> None:
    client = Client(prefer=H2, stays=True)
    client.vm(H1, O1)
    client.vm(H2, O2)
    client.on()
    assert [confirm.host_id for confirm in client.confirms] == [H2]
    alone = Client(prefer=H2, stays=True)
    while alone.placing.next_deadline_s() is not None:
        alone.vm(H1, O1)
        alone.on()
    assert alone.confirms == []
    assert isinstance(alone.outcome, NoHostFits | NoHostInReach)


def test_a_pledge_that_was_not_answered_is_sent_once_more() -> None:
    client = Client()
    first = client.pledge
    assert client.on() == [SendPledge]
    assert client.pledge == first
    client.vm(H1, O1)
    assert client.on() == [SendReveal, SendConfirm]


def test_with_no_answer_at_all_no_host_is_in_reach() -> None:
    client = Client()
    assert client.to_the_end() == NoHostInReach()
    assert client.now_s == pytest.approx(50.9)


def test_when_nobody_fits_holds_are_freed_and_a_dry_pledge_asks_why() -> None:
    client = Client(volumes=(ROOT,))
    client.vm(H1, O1)
    held = client.pledge
    client.on()
    assert client.on() == [SendReveal, SendPledge]
    assert client.reveals(held) == [("done", None)]
    assert client.pledge.dry
    assert client.pledge.pledge_id != held.pledge_id
    client.unfit(H2, Reason("ram", "64 GiB", "2 GiB free", "", "ram.ramsize=2048"))
    client.volume(H2)
    outcome = client.to_the_end()
    assert isinstance(outcome, NoHostFits)
    assert [unfit.host for unfit in outcome.unfits] == ["h1", "h2"]  # h1 was heard before
    assert [(near.host, near.edits) for near in outcome.nearest] == [("h2", ("ram.ramsize=2048",))]


def test_a_volume_nobody_has_is_named() -> None:
    client = Client(volumes=(ROOT,))
    client.vm(H1, O1)
    outcome = client.to_the_end()
    assert isinstance(outcome, VolumeMissing)
    assert outcome.vids == (ROOT,)


def test_if_it_fits_after_all_the_pledge_is_made_anew() -> None:
    client = Client()
    client.on()
    client.on()
    client.vm(H1, O1)  # dry: holds nothing
    while client.pledge.dry:
        client.on()
    client.vm(H1, O2)
    client.on()
    assert client.confirms[0].confirm.offer_id == O2


def test_hosts_that_fit_and_never_hold_are_named_at_last() -> None:
    client = Client()
    for _ in range(ROUNDS_MAX):
        while not client.pledge.dry:
            client.on()
        client.vm(H1, O1)
        while client.pledge.dry and client.placing.next_deadline_s() is not None:
            client.on()
    assert isinstance(client.outcome, NoHostFits)
    assert client.outcome.unfits[0].reasons[0].has == "it fits, and did not offer when asked to hold"


def test_after_a_refusal_the_next_offer_is_taken(confirming: Client) -> None:
    assert confirming.answer(O1, NO_ROOM) == [SendConfirm]
    assert confirming.confirms[-1].host_id == H2
    confirming.answer(O2, Committed())
    assert isinstance(confirming.outcome, Placed)


def test_when_all_refuse_the_pledge_is_made_anew_a_few_times(confirming: Client) -> None:
    confirming.answer(O1, NO_ROOM)
    assert confirming.answer(O2, NO_ROOM) == [SendReveal, SendPledge]
    for number in range(3, ROUNDS_MAX + 2):
        offer_id = OfferId(f"{number}" * 32)
        confirming.vm(H1, offer_id)
        confirming.on()
        confirming.answer(offer_id, NO_ROOM)
    assert isinstance(confirming.outcome, AllRefused)
    assert {(refused.host, refused.reasons) for refused in confirming.outcome.refused} == {
        ("h1", NO_ROOM.reasons),
        ("h2", NO_ROOM.reasons),
    }


def test_the_loser_of_a_race_is_told_who_refused_and_why(confirming: Client) -> None:
    confirming.answer(O1, NO_ROOM)
    confirming.answer(O2, NO_ROOM)
    while not confirming.pledge.dry:
        confirming.on()
    confirming.unfit(H1, Reason("slots", "1", "0 free", "wait"))
    outcome = confirming.to_the_end()
    assert isinstance(outcome, NoHostFits)
    assert [refused.host for refused in outcome.refused] == ["h1", "h2"]


@pytest.mark.parametrize("code", ["name-taken", "running", "old-generation", "denied"])
def test_a_refusal_of_the_errand_itself_is_final(confirming: Client, code: str) -> None:
    assert confirming.answer(O1, Refused(code, NO_ROOM.reasons)) == [SendReveal, Finished]
    assert isinstance(confirming.outcome, AllRefused)


def test_a_refusal_without_reasons_still_tells_something(confirming: Client) -> None:
    confirming.answer(O1, Refused("denied", ()))
    assert isinstance(confirming.outcome, AllRefused)
    assert confirming.outcome.refused[0].reasons[0].has == "refused: denied"


def test_a_door_that_is_shut_to_a_repeat_says_nothing_of_the_confirm_before(confirming: Client) -> None:
    """The user was revoked, or the host's clock jumped, between a confirm that was not answered and the next."""
    assert confirming.on() == [SendConfirm]
    assert confirming.answer(O1, Refused("denied", ())) == []
    assert confirming.to_the_end() == Unknown(H1, "h1", "10.0.0.1", VmId("f" * 32), 2)


def test_a_host_that_is_still_deciding_has_not_answered(confirming: Client) -> None:
    assert confirming.answer(O1, Refused("unavailable", NO_ROOM.reasons)) == []
    assert [confirming.on() for _ in range(5)][-1] == [SendAbandon]
    assert {confirm.host_id for confirm in confirming.confirms} == {H1}


def test_an_unanswered_confirm_is_repeated_then_abandoned_and_no_other_host_is_asked(confirming: Client) -> None:
    steps = [confirming.on() for _ in range(5)]
    assert steps == [[SendConfirm]] * 4 + [[SendAbandon]]
    assert {confirm.host_id for confirm in confirming.confirms} == {H1}
    assert confirming.to_the_end() == Unknown(H1, "h1", "10.0.0.1", VmId("f" * 32), 2)
    assert sum(isinstance(effect, SendAbandon) for effect in confirming.sent) == ABANDONS_MAX
    assert {confirm.host_id for confirm in confirming.confirms} == {H1}


def test_a_broken_connection_leaves_the_confirm_in_doubt(confirming: Client) -> None:
    assert confirming.do(confirming.placing.confirm_failed(O1, confirming.now_s, sent=True)) == []
    assert confirming.on() == [SendConfirm]
    assert confirming.confirms[-1] == confirming.confirms[0]


def test_a_host_that_was_never_reached_is_not_in_doubt(confirming: Client) -> None:
    assert confirming.do(confirming.placing.confirm_failed(O1, confirming.now_s, sent=False)) == [SendConfirm]
    assert confirming.confirms[-1].host_id == H2


def test_one_attempt_that_was_not_sent_says_nothing_about_the_other(confirming: Client) -> None:
    confirming.on()  # the second attempt
    assert confirming.do(confirming.placing.confirm_failed(O1, confirming.now_s, sent=False)) == []


def in_doubt(client: Client) -> None:
    while client.on() != [SendAbandon]:
        pass


def test_an_acknowledged_abandon_lets_go_of_the_host(confirming: Client) -> None:
    in_doubt(confirming)
    confirming.do(confirming.placing.abandon_answered(O1, Abandoned(), confirming.now_s))
    confirming.vm(H2, OfferId("3" * 32))  # the first offer has lapsed meanwhile
    confirming.on()
    assert confirming.confirms[-1].host_id == H2


def test_a_refused_abandon_does_not(confirming: Client) -> None:
    in_doubt(confirming)
    assert confirming.do(confirming.placing.abandon_answered(O1, Refused("busy", ()), confirming.now_s)) == []
    assert isinstance(confirming.to_the_end(), Unknown)


def test_an_abandon_that_comes_too_late_finds_the_vm_placed(confirming: Client) -> None:
    in_doubt(confirming)
    confirming.do(confirming.placing.abandon_answered(O1, Abandoned(committed=True), confirming.now_s))
    assert isinstance(confirming.outcome, Placed)
    assert confirming.outcome.host_id == H1


def test_an_answer_that_comes_while_abandoning_still_counts(confirming: Client) -> None:
    in_doubt(confirming)
    confirming.answer(O1, Committed())
    assert isinstance(confirming.outcome, Placed)


def test_a_late_answer_about_another_offer_changes_nothing(confirming: Client) -> None:
    confirming.answer(O1, NO_ROOM)
    assert confirming.answer(O1, Committed()) == []
    assert confirming.answer(O1, NO_ROOM) == []


def test_a_client_that_stood_still_does_not_take_offers_that_lapsed() -> None:
    client = Client()
    client.vm(H1, O1, expires_in_ms=3000)
    assert client.at(3.0 - LAPSE_MARGIN_S + 0.01) == [SendReveal, SendPledge]
    assert client.confirms == []


def test_a_client_that_always_stands_still_says_so() -> None:
    client = Client()
    for number in range(1, ROUNDS_MAX + 1):
        client.vm(H1, OfferId(f"{number}" * 32))
        client.at(5.0)
    assert isinstance(client.outcome, NoHostFits)
    assert client.outcome.unfits[0].reasons[0].has == "each lapsed first"


@pytest.mark.parametrize("steps", range(4))
def test_interrupted_before_the_confirm_frees_what_is_held(steps: int) -> None:
    client = Client()
    for _ in range(steps):
        client.on()
    held = next(effect.pledge for effect in client.sent if isinstance(effect, SendPledge))
    client.do(client.placing.interrupt(client.now_s))
    assert client.outcome == Interrupted()
    assert client.reveals(held) == [("done", None)]
    assert client.placing.next_deadline_s() is None
    assert client.placing.interrupt(client.now_s) == []


def test_interrupted_in_the_confirm_abandons_and_finishes(confirming: Client) -> None:
    assert confirming.do(confirming.placing.interrupt(confirming.now_s)) == [SendAbandon]
    confirming.do(confirming.placing.abandon_answered(O1, Abandoned(), confirming.now_s))
    assert confirming.outcome == Interrupted()
    assert confirming.reveals(confirming.pledge)[-1] == ("done", None)


def test_interrupted_after_the_commit_the_vm_stays_and_is_named(confirming: Client) -> None:
    confirming.do(confirming.placing.interrupt(confirming.now_s))
    confirming.do(confirming.placing.abandon_answered(O1, Abandoned(committed=True), confirming.now_s))
    assert isinstance(confirming.outcome, Interrupted)
    assert isinstance(confirming.outcome.left, Placed)
    assert confirming.reveals(confirming.pledge)[-1] == ("done", O1)


@pytest.mark.parametrize("insists", [False, True])
def test_interrupted_with_no_word_from_the_host_it_is_named_as_unknown(confirming: Client, insists: bool) -> None:
    confirming.do(confirming.placing.interrupt(confirming.now_s))
    if insists:
        confirming.do(confirming.placing.interrupt(confirming.now_s))
    assert confirming.to_the_end() == Interrupted(Unknown(H1, "h1", "10.0.0.1", VmId("f" * 32), 2))
    assert confirming.now_s <= 50.01 + (0 if insists else ABANDONS_MAX) + 0.01


def test_interrupted_and_refused_nothing_is_left(confirming: Client) -> None:
    confirming.do(confirming.placing.interrupt(confirming.now_s))
    confirming.answer(O1, NO_ROOM)
    assert confirming.outcome == Interrupted()
    assert len(confirming.confirms) == 1


def test_the_count_of_hosts_is_learned_and_goes_into_the_next_pledge(confirming: Client) -> None:
    assert confirming.placing.hosts_known == 3
    confirming.answer(O1, NO_ROOM)
    confirming.answer(O2, NO_ROOM)
    assert confirming.pledge.hosts_known == 3
