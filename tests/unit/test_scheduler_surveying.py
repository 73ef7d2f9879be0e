"""A survey hears everybody, holds nothing, and ends when it is quiet."""

from dataclasses import replace
from random import Random

from matcher.scheduler.outcomes import Finished, Interrupted, SendPledge, Surveyed
from matcher.scheduler.pledging import Errand
from matcher.scheduler.surveying import DEADLINE_S, QUIET_S, REPEAT_S, Surveying
from matcher.wire.messages import Accelerator, Arch, Clock, Firmware, Reason, Role, Unfit, VmAsk, VmOffer
from specs.ids import HostId, VmId

H1, H2 = HostId("1" * 64), HostId("2" * 64)
ASK = VmAsk(1, True, 1, (Arch.X86_64,), (), 512, False, (), Firmware.BIOS, True)
RAM = Reason("ram", "64 GiB", "2 GiB free", "", "")


def begun() -> tuple[Surveying, str]:
    survey = Surveying(Errand(VmId("f" * 32), 1, ASK), random=Random(1))
    (sent,) = survey.start(0.0, wall_ms=1000)
    assert isinstance(sent, SendPledge)
    assert sent.pledge.dry
    return survey, sent.pledge.pledge_id


def offer(pledge_id: str) -> VmOffer:
    return VmOffer(pledge_id, "e" * 32, "h1", 7443, 5, 0, 0.5, (0,), 1, 0, (), Arch.X86_64, Accelerator.KVM)


def test_it_repeats_once_and_ends_when_nothing_new_is_heard() -> None:
    survey, pledge_id = begun()
    assert survey.heard_vm(offer(pledge_id), H1, "10.0.0.1", 0.002) == []
    assert survey.heard_unfit(Unfit(pledge_id, "h2", Role.COMPUTE, 2, (RAM,)), H2, 0.004) == []
    assert survey.next_deadline_s() == REPEAT_S
    assert [type(effect) for effect in survey.tick(REPEAT_S)] == [SendPledge]
    assert survey.next_deadline_s() == 0.004 + QUIET_S
    assert survey.tick(0.2) == []
    (finished,) = survey.tick(0.004 + QUIET_S)
    assert isinstance(finished, Finished)
    assert isinstance(finished.outcome, Surveyed)
    assert [choice.host_id for choice in finished.outcome.choices] == [H1]
    assert [unfit.host for unfit in finished.outcome.unfits] == ["h2"]
    assert finished.outcome.hosts_known == 5


def test_it_ends_at_its_deadline_even_if_hosts_go_on_talking() -> None:
    survey, pledge_id = begun()
    for step in range(1, 10):
        survey.heard_vm(replace(offer(pledge_id), offer_id=f"{step:032x}"), H1, "10.0.0.1", step / 10)
        assert not any(isinstance(effect, Finished) for effect in survey.tick(step / 10))
    assert [type(effect) for effect in survey.tick(DEADLINE_S)] == [Finished]
    assert survey.next_deadline_s() is None


def test_after_its_end_it_is_deaf_and_silent() -> None:
    survey, pledge_id = begun()
    (finished,) = survey.interrupt(0.1)
    assert finished == Finished(Interrupted())
    survey.heard_vm(offer(pledge_id), H1, "10.0.0.1", 0.2)
    survey.heard_clock(Clock(pledge_id, "h2", 0), H2, 0.2)
    assert len(survey.answers) == 0
    assert survey.tick(9.0) == survey.interrupt(9.0) == []
