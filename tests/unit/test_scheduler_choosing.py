"""The host and the volumes' servers are chosen together, best first."""

from dataclasses import replace

import pytest

from matcher.scheduler.choosing import Choice, choices, ranked
from matcher.scheduler.heard import ANSWERS_MAX, Answers
from matcher.scheduler.ranking import compile_ranking
from matcher.wire.messages import (
    Accelerator,
    Address,
    Arch,
    ImageFormat,
    OfferedVolume,
    Pledge,
    Policy,
    Reach,
    VmOffer,
    VolumeOffer,
)
from specs.ids import HostId, OfferId

H1, H2, H3 = (HostId(digit * 64) for digit in "123")
ROOT, DATA = "a" * 32, "b" * 32
PLEDGE = Pledge("0" * 32, 1, (), False, "f" * 32, 1, None, (), b"", 3000, 0, Policy.PACK)


def vm(host_id: HostId, **changes: object) -> VmOffer:
    offer = VmOffer(
        PLEDGE.pledge_id, host_id[:32], f"h{host_id[0]}", 7443, 3, 3000, 0.5, (0,), 1, 0, (), Arch.X86_64,
        Accelerator.KVM,
    )  # fmt: skip
    return replace(offer, **changes)  # type: ignore[arg-type]


def stored(host_id: HostId, *vids: str, reach: Reach = Reach.LOCAL, port: int = 7767) -> VolumeOffer:
    volumes = tuple(OfferedVolume(vid, "v", 64, ImageFormat.RAW, True, False, False, reach) for vid in vids)
    return VolumeOffer(PLEDGE.pledge_id, f"{host_id[0]}" * 31 + "e", f"h{host_id[0]}", 3, 3000, volumes, port)


def heard(
    offers: dict[HostId, VmOffer],
    stores: dict[HostId, VolumeOffer],
    asked: tuple[str, ...] = (),
    stores_at: str = "10.0.0.1",
) -> Answers:
    answers = Answers(replace(PLEDGE, volumes=asked), 0.0)
    for host_id, offer in offers.items():
        answers.vm(offer, host_id, "10.0.0.1", 0.001)
    for host_id, store in stores.items():
        answers.volume(store, host_id, stores_at, 0.001)
    return answers


def order(answers: Answers, now_s: float = 0.01, **how: object) -> list[HostId]:
    return [choice.host_id for choice in ranked(choices(answers, now_s=now_s), **how)]  # type: ignore[arg-type]


def test_a_local_volume_binds_the_vm_to_its_host() -> None:
    answers = heard({H1: vm(H1, score=0.9), H2: vm(H2, score=0.1)}, {H2: stored(H2, ROOT)}, (ROOT,))
    assert order(answers) == [H2]


def test_volumes_on_two_hosts_leave_no_choice() -> None:
    answers = heard({H1: vm(H1), H2: vm(H2)}, {H1: stored(H1, ROOT), H2: stored(H2, DATA)}, (ROOT, DATA))
    assert order(answers) == []


def test_a_volume_at_home_beats_one_across_the_network() -> None:
    stores = {H2: stored(H2, ROOT, reach=Reach.NETWORK)}
    answers = heard({H1: vm(H1, score=0.9), H2: vm(H2, score=0.1)}, stores, (ROOT,))
    assert order(answers) == [H2, H1]
    assert [c.volumes_away for c in ranked(choices(answers, now_s=0.01))] == [0, 1]


def test_a_claim_on_another_host_says_where_that_one_can_be_asked_and_one_at_home_does_not() -> None:
    stores = {H1: stored(H1, DATA), H2: stored(H2, ROOT, reach=Reach.NETWORK)}
    (choice,) = choices(heard({H1: vm(H1)}, stores, (ROOT, DATA), stores_at="10.0.0.2"), now_s=0.01)
    assert [claim.door for claim in choice.claims] == [Address("10.0.0.2", 7767), None]


@pytest.mark.parametrize("address", ["fe80::2%7", "169.254.0.2"])
def test_a_server_heard_at_an_address_of_the_clients_own_link_can_not_be_asked_by_others(address: str) -> None:
    stores = {H2: stored(H2, ROOT, reach=Reach.NETWORK)}
    assert order(heard({H1: vm(H1), H2: vm(H2)}, stores, (ROOT,), stores_at=address)) == [H2]


def test_a_server_without_a_door_gives_to_its_own_host_alone() -> None:
    stores = {H2: stored(H2, ROOT, reach=Reach.NETWORK, port=0)}
    assert order(heard({H1: vm(H1), H2: vm(H2)}, stores, (ROOT,))) == [H2]


def test_claims_name_the_servers_in_the_order_asked() -> None:
    stores = {H1: stored(H1, DATA, ROOT), H2: stored(H2, ROOT, reach=Reach.NETWORK)}
    (choice,) = choices(heard({H1: vm(H1)}, stores, (ROOT, DATA)), now_s=0.01)
    assert [(claim.vid, claim.server) for claim in choice.claims] == [(ROOT, H1), (DATA, H1)]


def test_the_highest_score_wins_and_kvm_comes_before_emulation() -> None:
    offers = {H1: vm(H1, score=0.3), H2: vm(H2, score=0.6), H3: vm(H3, score=1.0, accelerator=Accelerator.TCG)}
    assert order(heard(offers, {})) == [H2, H1, H3]


def test_the_preferred_host_comes_first_and_those_that_refused_last() -> None:
    answers = heard({H1: vm(H1, score=0.9), H2: vm(H2, score=0.5), H3: vm(H3, score=0.1)}, {})
    assert order(answers, prefer=H3) == [H3, H1, H2]
    assert order(answers, prefer=H3, last={H3, H1}) == [H2, H3, H1]


def test_a_pretended_host_comes_after_every_real_one() -> None:
    answers = heard({H1: vm(H1, score=1.0, pretended=True), H2: vm(H2, score=0.0)}, {})
    assert order(answers, prefer=H1) == [H2, H1]


def test_an_earlier_alternative_beats_all_that_speaks_for_a_later_one() -> None:
    offers = {H1: vm(H1, score=0.9, choice=1), H2: vm(H2, score=0.1), H3: vm(H3, choice=2)}
    assert order(heard(offers, {})) == [H2, H1, H3]
    assert order(heard(offers, {}), value=lambda choice: choice.vm.offer.score) == [H2, H1, H3]
    assert order(heard(offers, {}), prefer=H3)[0] == H3, "where it ran before"


def test_a_persons_ranking_decides_alone() -> None:
    answers = heard({H1: vm(H1, score=0.9), H2: vm(H2, score=0.1), H3: vm(H3, score=0.5)}, {})
    assert order(answers, value=compile_ranking("-score").value) == [H2, H3, H1]
    assert order(answers, value=compile_ranking("1 / (score - 0.1)").value)[-1] == H2  # no value: worst


def test_equal_hosts_are_told_apart_the_same_way_by_all_and_differently_for_each_pledge() -> None:
    hosts = [HostId(f"{number:064x}") for number in range(20)]

    def first(pledge_id: str) -> HostId:
        answers = Answers(replace(PLEDGE, pledge_id=pledge_id), 0.0)
        for number, host_id in enumerate(hosts):
            answers.vm(vm(host_id, pledge_id=pledge_id, offer_id=f"{number:032x}"), host_id, "10.0.0.1", 0.0)
        return ranked(choices(answers, now_s=0.0))[0].host_id

    firsts = [first(f"{number:032x}") for number in range(100)]
    assert firsts[7] == first(f"{7:032x}")
    assert len(set(firsts)) > 10


def test_an_offer_is_no_choice_from_shortly_before_its_end() -> None:
    answers = heard({H1: vm(H1, expires_in_ms=3000)}, {})
    assert order(answers, now_s=2.7) == [H1]
    assert order(answers, now_s=2.9) == []


def test_a_volume_offer_lapses_as_well() -> None:
    answers = heard({H1: vm(H1, expires_in_ms=9000)}, {H1: stored(H1, ROOT)}, (ROOT,))
    assert order(answers, now_s=2.7) == [H1]
    assert order(answers, now_s=2.9) == []


def test_offers_already_tried_are_left_out() -> None:
    answers = heard({H1: vm(H1), H2: vm(H2)}, {})
    assert [c.host_id for c in choices(answers, now_s=0.01, without={OfferId(H1[:32])})] == [H2]


def test_answers_to_another_pledge_and_repeats_are_not_heard() -> None:
    answers = heard({H1: vm(H1)}, {})
    assert answers.vm(vm(H2, pledge_id="9" * 32), H2, "10.0.0.2", 0.0) is None
    assert answers.vm(vm(H1, score=0.1), H1, "10.0.0.1", 0.5) is None
    assert [c.vm.offer.score for c in choices(answers, now_s=0.6)] == [0.5]


def test_a_flood_of_answers_ends_at_a_limit() -> None:
    answers = Answers(PLEDGE, 0.0)
    for number in range(ANSWERS_MAX + 5):
        answers.vm(vm(H1, offer_id=f"{number:032x}"), H1, "10.0.0.1", 0.0)
    assert len(answers.vms) == ANSWERS_MAX


def test_the_largest_count_of_hosts_is_remembered() -> None:
    answers = heard({H1: vm(H1, hosts_known=7), H2: vm(H2, hosts_known=3)}, {})
    assert answers.hosts_known == 7


def test_a_choice_counts_its_volumes() -> None:
    (choice,) = choices(heard({H1: vm(H1)}, {H1: stored(H1, ROOT)}, (ROOT,)), now_s=0.01)
    assert isinstance(choice, Choice)
    assert (choice.volumes_here, choice.volumes_away) == (1, 0)
