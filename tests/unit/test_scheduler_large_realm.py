"""In a realm of thousands the client hears the best class, says *enough*, and spares all others."""

from dataclasses import replace
from random import Random

import pytest

from matcher.scheduler.choosing import Value, Volumes
from matcher.scheduler.listening import (
    HUSHES_S,
    MARGIN_MIN_S,
    OFFERS_DEADLINE_S,
    PEERS,
    RANKED_PEERS,
    STRAYS,
)
from matcher.scheduler.outcomes import Effect, Effects, SendConfirm, SendPledge, SendReveal
from matcher.scheduler.placing import Placing
from matcher.scheduler.pledging import Errand
from matcher.scheduler.surveying import DEADLINE_S, QUIET_S, REPEAT_S, Surveying
from matcher.wire.messages import (
    Accelerator,
    Arch,
    ImageFormat,
    OfferedVolume,
    Pledge,
    Reach,
    VmOffer,
    VolumeClaim,
    VolumeOffer,
)
from matcher.wire.seal import opens
from matcher.wire.slots import AT_ONCE_HOSTS, FLOORS, SLOT_S, slot_begins_s, survey_s
from specs.ids import HostId, Vid, VmId
from tests.unit.test_scheduler_placing import ASK, H2

MANY = 10_000
BEGUN_S = 50.0
H3 = HostId("3" * 64)
VID, OTHER = Vid("d" * 32), Vid("e" * 32)
OFFER = VmOffer("", "", "h", 1, 0, 3000, 0.0, (0,), 1, 0, (), Arch.X86_64, Accelerator.KVM)


class Client:
    def __init__(
        self,
        *,
        hosts_known: int = MANY,
        value: Value | None = None,
        prefer: HostId | None = None,
        volumes: tuple[Vid, ...] = (),
    ) -> None:
        errand = Errand(VmId("f" * 32), 1, ASK, volumes)
        self.placing = Placing(errand, random=Random(1), value=value, prefer=prefer)
        self.hosts_known, self.offers = hosts_known, 0
        self.sent: list[Effect] = self.placing.start(BEGUN_S, wall_ms=1_000_000)

    @property
    def pledge(self) -> Pledge:
        """The newest."""
        return [effect.pledge for effect in self.sent if isinstance(effect, SendPledge)][-1]

    def meanings(self) -> list[str | None]:
        """Of all that was revealed about the newest pledge."""
        reveals = [effect.reveal for effect in self.sent if isinstance(effect, SendReveal)]
        mine = [reveal for reveal in reveals if reveal.pledge_id == self.pledge.pledge_id]
        return [opens(self.pledge.seal, reveal.secret) for reveal in mine]

    def tick(self, after_s: float) -> None:
        self.sent += self.placing.tick(BEGUN_S + after_s)

    def offer(self, score: float, after_s: float = 0.001, host_id: HostId | None = None) -> None:
        self.offers += 1
        offer = replace(OFFER, pledge_id=self.pledge.pledge_id, offer_id=f"{self.offers:032x}", score=score)
        offer = replace(offer, hosts_known=self.hosts_known)
        host_id = self.last_host_id = host_id or HostId(f"{self.offers:064x}")
        self.sent += self.placing.heard_vm(offer, host_id, "10.0.0.1", BEGUN_S + after_s)

    def volume(self, host_id: HostId, reach: Reach = Reach.NETWORK, after_s: float = 0.001, *, vid: Vid = VID) -> None:
        """It has the one that was asked for."""
        there = OfferedVolume(vid, "v", 1024, ImageFormat.RAW, True, False, False, reach)
        store = VolumeOffer(self.pledge.pledge_id, host_id[:32], "h2", self.hosts_known, 3000, (there,), 7767)
        self.sent += self.placing.heard_volume(store, host_id, "10.0.0.2", BEGUN_S + after_s)

    def content_s(self) -> float:
        due_s = self.placing.next_deadline_s()
        assert due_s is not None
        return due_s - BEGUN_S

    def decide(self) -> Effects:
        return self.placing.tick(BEGUN_S + self.content_s())


def test_it_is_content_when_the_slot_of_the_best_class_heard_has_passed() -> None:
    client = Client()
    client.offer(FLOORS[3], 3.1 * SLOT_S)
    assert client.content_s() == pytest.approx(slot_begins_s(4))
    client.offer(0.9, 3.2 * SLOT_S)  # its turn had come long before: late
    assert client.content_s() == pytest.approx(slot_begins_s(1))


def test_what_was_lost_or_is_late_of_a_worse_class_is_not_waited_for() -> None:
    client = Client()
    client.offer(0.9)
    client.offer(0.1)
    assert client.content_s() == pytest.approx(SLOT_S)


def test_enough_of_the_best_class_are_enough_and_that_is_said_before_the_rest_is_read() -> None:
    client = Client()
    for number in range(PEERS):
        client.offer(0.1)
        assert len(client.sent) == 1
        client.offer(0.95, number / 1000)
    (reveal,) = [effect.reveal for effect in client.sent if isinstance(effect, SendReveal)]
    assert reveal.pledge_id == client.pledge.pledge_id
    assert opens(client.pledge.seal, reveal.secret) == "enough"
    client.offer(0.99, PEERS / 1000)  # on its way already
    (confirm,) = client.decide()
    assert isinstance(confirm, SendConfirm)
    assert confirm.host_id == client.last_host_id


def test_a_host_that_offers_again_is_no_second_host() -> None:
    client = Client()
    for _ in range(PEERS):
        client.offer(0.95, host_id=H2)
    assert client.content_s() == pytest.approx(SLOT_S)
    client.offer(FLOORS[2], 0.002, H2)
    assert client.content_s() == pytest.approx(slot_begins_s(3)), "what it says last counts"


def test_the_count_of_hosts_is_learned_from_the_first_offer() -> None:
    small, large = Client(hosts_known=AT_ONCE_HOSTS), Client(hosts_known=AT_ONCE_HOSTS + 1)
    for client in (small, large):
        client.offer(0.1)
    assert small.content_s() == pytest.approx(0.001 + MARGIN_MIN_S)
    assert large.content_s() == pytest.approx(slot_begins_s(7))


def test_all_turns_pass_before_the_deadline() -> None:
    assert slot_begins_s(8) < OFFERS_DEADLINE_S


def test_where_a_person_ranks_hosts_many_are_heard_and_not_all() -> None:
    client = Client(value=lambda choice: 1.0)
    for _ in range(RANKED_PEERS - 1):
        client.offer(0.95)
    assert client.content_s() == pytest.approx(OFFERS_DEADLINE_S)
    client.offer(0.1, 0.07)
    assert client.content_s() == pytest.approx(0.07)


def test_a_preferred_host_answers_at_once_or_is_not_waited_for() -> None:
    client = Client(prefer=H2)
    client.offer(0.9)
    assert client.content_s() == pytest.approx(SLOT_S)
    client.offer(0.1, 0.002, H2)
    assert client.content_s() == pytest.approx(0.002)
    confirm = client.decide()[-1]
    assert isinstance(confirm, SendConfirm)
    assert confirm.host_id == H2


def test_the_host_that_has_the_volume_is_waited_for_a_moment_and_then_taken_whatever_its_score() -> None:
    client = Client(volumes=(VID,))
    client.volume(H2)
    for _ in range(PEERS):
        client.offer(0.95)
    assert client.content_s() == pytest.approx(MARGIN_MIN_S)
    client.offer(0.1, 0.002, H2)
    assert client.content_s() == pytest.approx(0.002)
    confirm = client.decide()[-1]
    assert isinstance(confirm, SendConfirm)
    assert confirm.host_id == H2


@pytest.mark.parametrize("reach", list(Reach))
def test_where_the_volume_is_and_fits_nobody_else_is_waited_for(reach: Reach) -> None:
    """Where others can't reach it, all that they offer is in vain, and they are thousands."""
    client = Client(volumes=(VID,))
    client.volume(H2, reach)
    client.offer(0.95)
    client.offer(0.1, 0.002, H2)
    assert client.content_s() == pytest.approx(0.002)
    (reveal,) = [effect.reveal for effect in client.sent if isinstance(effect, SendReveal)]
    assert opens(client.pledge.seal, reveal.secret) == "enough"
    confirm = client.decide()[-1]
    assert isinstance(confirm, SendConfirm)
    assert confirm.host_id == H2


def test_where_the_host_that_has_the_volume_runs_no_vms_another_is_taken() -> None:
    client = Client(volumes=(VID,))
    client.volume(H2)
    for _ in range(PEERS):
        client.offer(0.95)
    confirm = client.decide()[-1]
    assert isinstance(confirm, SendConfirm)
    assert confirm.host_id != H2
    assert [claim.server for claim in confirm.confirm.volumes] == [H2]


@pytest.mark.parametrize("reach", [None, Reach.LOCAL])
def test_where_the_volume_is_out_of_reach_the_others_are_silenced_as_if_they_could_have_it(reach: Reach | None) -> None:
    """It is lost, or nobody has it, or the host that has it is full: what thousands would hold is held in vain."""
    client = Client(volumes=(VID,))
    if reach is not None:
        client.volume(H2, reach)
    for _ in range(PEERS):
        assert client.meanings() == []
        client.offer(0.95)
    assert client.meanings() == ["enough"]
    assert client.content_s() == pytest.approx(OFFERS_DEADLINE_S)


def test_few_of_the_best_class_have_their_turn_before_they_are_silenced_for_want_of_a_volume() -> None:
    client = Client(volumes=(VID,))
    client.offer(FLOORS[1], 1.1 * SLOT_S)
    assert client.content_s() == pytest.approx(slot_begins_s(2))
    client.tick(slot_begins_s(2))
    assert client.meanings() == ["enough"]


def test_a_volume_that_comes_when_others_were_silenced_is_taken_by_one_that_had_offered() -> None:
    client = Client(volumes=(VID,))
    for number in range(PEERS):
        client.offer(0.9 + number / 100)
    best = client.last_host_id
    client.volume(H2, after_s=0.015)
    assert client.content_s() == pytest.approx(0.015)
    confirm = client.decide()[-1]
    assert isinstance(confirm, SendConfirm)
    assert confirm.host_id == best
    assert client.meanings() == ["enough"]


def test_where_all_others_are_silent_the_one_that_can_have_the_volumes_is_taken_before_its_turn_ends() -> None:
    client = Client(volumes=(VID, OTHER))
    for _ in range(PEERS):
        client.offer(0.95)
    client.offer(0.1, 0.002, H2)
    client.volume(H2, Reach.LOCAL, 0.003)
    client.volume(H3, Reach.NETWORK, 0.004, vid=OTHER)
    assert client.content_s() == pytest.approx(0.001 + MARGIN_MIN_S)
    confirm = client.decide()[-1]
    assert isinstance(confirm, SendConfirm)
    assert confirm.host_id == H2


def test_who_was_silenced_is_asked_by_another_pledge_since_nobody_would_answer_this_one_again() -> None:
    client = Client(volumes=(VID,))
    client.offer(0.95)
    client.tick(SLOT_S)
    first = client.pledge
    client.tick(OFFERS_DEADLINE_S)
    assert client.meanings() == []
    assert client.pledge.pledge_id != first.pledge_id
    assert not client.pledge.dry
    client.offer(0.95, OFFERS_DEADLINE_S + 0.001)
    client.tick(OFFERS_DEADLINE_S + SLOT_S)
    assert client.meanings() == ["enough"]
    client.tick(2 * OFFERS_DEADLINE_S)
    assert client.pledge.dry, "twice is enough; now each says why not"


def test_those_who_did_not_hear_enough_are_told_again_a_few_times() -> None:
    client = Client()
    for _ in range(PEERS):
        client.offer(0.95, 0.009)
    said_s = 0.009
    for times, hush_s in enumerate(HUSHES_S, start=1):
        hushed_s = said_s + hush_s
        for _ in range(STRAYS):
            client.offer(0.95, hushed_s - 0.001)  # on its way when it was said
        for _ in range(STRAYS):
            assert client.meanings() == ["enough"] * times
            client.offer(0.95, hushed_s + 0.001)
        said_s = hushed_s + 0.001
    for _ in range(100):
        client.offer(0.95, 0.2)
    assert client.meanings() == ["enough"] * (len(HUSHES_S) + 1)


def test_they_are_told_again_while_a_confirm_is_on_its_way_which_is_the_only_one() -> None:
    client = Client()
    for _ in range(PEERS):
        client.offer(0.95, 0.009)
    client.tick(0.009)
    for _ in range(STRAYS):
        client.offer(0.95, 0.02)
    assert client.meanings() == ["enough", "enough"]
    assert sum(isinstance(effect, SendConfirm) for effect in client.sent) == 1


def test_in_a_small_realm_nobody_is_told_twice() -> None:
    client = Client(hosts_known=AT_ONCE_HOSTS)
    client.offer(0.95)
    client.tick(client.content_s())
    for _ in range(AT_ONCE_HOSTS - 1):
        client.offer(0.95, 0.05)
    assert client.meanings() == ["enough"]


def test_each_offer_is_looked_at_once_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    claims = Volumes.claims

    def counted(self: Volumes, host_id: HostId) -> tuple[VolumeClaim, ...] | None:
        nonlocal looked
        looked += 1
        return claims(self, host_id)

    monkeypatch.setattr(Volumes, "claims", counted)
    client = Client()
    for _ in range(1000):
        client.offer(0.95)
    assert looked == 1000


def test_a_survey_waits_for_as_long_as_answers_are_spread() -> None:
    survey = Surveying(Errand(VmId("f" * 32), 1, ASK, hosts_known=MANY), random=Random(1))
    survey.start(BEGUN_S, wall_ms=0)
    assert survey.tick(BEGUN_S + DEADLINE_S) == []
    repeat_s = BEGUN_S + survey_s(MANY) + REPEAT_S
    assert survey.next_deadline_s() == repeat_s
    assert len(survey.tick(repeat_s)) == 1
    assert survey.next_deadline_s() == BEGUN_S + survey_s(MANY) + QUIET_S
