"""What a host would give for a pledge, and whether that can wait for its turn."""

from dataclasses import replace
from random import Random

import pytest

from atomd.answering import Face, Proposer
from atomd.capacity.hardware import Claim
from atomd.capacity.occupancy import KNOWN_MAX, RULES_MAX, LastOccupancy, Occupancy
from atomd.capacity.placement import admits, place, place_on
from atomd.capacity.quota import Quota
from atomd.inventory.facts import Core, PciDevice
from atomd.vms.admission import Admission
from matcher.offers.ledger import Ledger
from matcher.offers.offering import Nothing, Offering, Proposal
from matcher.trust.principal import Principal
from matcher.trust.realm import EVERYTHING
from matcher.wire.messages import PciAsk, Pledge, Policy, Role, VmAsk, VmOffer
from matcher.wire.realm import PciLimit
from matcher.wire.slots import LAST, SURVEY_MAX_S, slot_of, survey_s
from specs.ids import UserId, VmId
from tests.bench.packing.realm import machine, vm_ask
from tests.bench.packing.workload import Vm

ANN = Principal("user", "a" * 64, "ann", EVERYTHING)
BOB = Principal("user", "b" * 64, "bob", EVERYTHING)
HERE = VmId("e" * 32)
STORED = "d" * 32  # the one volume of this host
AWAY = "c" * 32
HARDWARE = machine(4, 8)


def ask(cores: int, gib: int = 1) -> VmAsk:
    return vm_ask(Vm(0.0, cores, gib, 1.0))


def pledge(cores: int, *, dry: bool = False, vm_id: str = "f" * 32, volumes: tuple[str, ...] = ()) -> Pledge:
    return Pledge("a" * 32, 0, (), dry, vm_id, 1, ask(cores), volumes, b"s" * 32, 3000, 0, Policy.PACK)


@pytest.fixture
def proposer() -> Proposer:
    quota = Quota(host="h1", kinds={}, vms=lambda user_id: [HERE] if user_id == ANN.id else [])
    admission = Admission(quota, is_member=lambda user_id: True)
    return Proposer(Face("h1", 7443, HARDWARE, False), lambda: None, admission, lambda: 0, lambda: {STORED})


@pytest.mark.parametrize(
    ("asked", "at_once"),
    [
        (pledge(1), False),
        (pledge(1, vm_id=HERE), True),
        (pledge(1, volumes=(AWAY, STORED)), True),
        (pledge(1, volumes=(AWAY,)), False),
    ],
)
def test_who_had_the_vm_and_who_has_one_of_its_volumes_does_not_wait(
    proposer: Proposer, asked: Pledge, at_once: bool
) -> None:
    proposal = proposer.propose(asked, ANN, ())
    assert isinstance(proposal, Proposal)
    assert proposal.at_once is at_once


@pytest.mark.parametrize(
    ("asked", "is_answered"),
    [
        (pledge(1), False),
        (pledge(1, vm_id=HERE), True),
        (pledge(1, volumes=(AWAY, STORED)), True),
        (pledge(1, volumes=(AWAY,)), False),
    ],
)
def test_in_a_large_realm_a_pledge_is_answered_when_it_is_heard_where_its_volume_is_and_elsewhere_in_turn(
    proposer: Proposer, asked: Pledge, is_answered: bool
) -> None:
    """However low the score: a VM with one of four cores is of no good class here."""
    ledger = Ledger[Claim](lambda residents, claim: admits(HARDWARE, residents, claim), lambda *_: True)
    offering = Offering(host="h1", role=Role.COMPUTE, proposer=proposer, ledger=ledger, random=Random(1))
    offering.hosts_known = 10_000
    answers = offering.hear(asked, ANN, 100.0)
    assert (answers is not None) is is_answered
    assert (offering.next_deadline_s() is None) is is_answered
    for answer in answers or ():
        assert isinstance(answer, VmOffer)
        assert slot_of(answer) > 0, "there was something to wait for"


def test_another_users_vm_is_none_that_was_here(proposer: Proposer) -> None:
    proposal = proposer.propose(pledge(1, vm_id=HERE), BOB, ())
    assert isinstance(proposal, Proposal)
    assert not proposal.at_once


def test_hardware_that_changes_is_offered_as_it_is_now() -> None:
    face = Face("h1", 7443, HARDWARE, False)
    admission = Admission(Quota(host="h1", kinds={}, vms=lambda user_id: []), is_member=lambda user_id: True)
    proposer = Proposer(face, lambda: None, admission, lambda: 0)
    assert isinstance(proposer.propose(pledge(1), ANN, ()), Proposal)
    face.hardware = replace(HARDWARE, cores=())
    assert proposer.propose(pledge(1), ANN, ()) == Nothing(())


def test_who_asks_how_many_would_fit_is_told_with_what_runs_out_first(proposer: Proposer) -> None:
    counted = proposer.propose(replace(pledge(1, dry=True), counts=True), ANN, ())
    assert isinstance(counted, Proposal)
    assert isinstance(counted.offer, VmOffer)
    assert (counted.offer.copies, counted.offer.copies_at_least, counted.offer.runs_out) == (4, False, ("slots",))
    for uncounted in (pledge(1, dry=True), replace(pledge(1), counts=True)):
        plain = proposer.propose(uncounted, ANN, ())
        assert isinstance(plain, Proposal)
        assert isinstance(plain.offer, VmOffer)
        assert plain.offer.copies == 0


def test_a_grant_counts_before_the_host_is_full(proposer: Proposer) -> None:
    few = Principal("user", "a" * 64, "ann", replace(EVERYTHING, slots=3))
    counted = proposer.propose(replace(pledge(1, dry=True), counts=True), few, ())
    assert isinstance(counted, Proposal)
    assert isinstance(counted.offer, VmOffer)
    assert (counted.offer.copies, counted.offer.runs_out) == (3, ("grant slots",))


def test_an_offer_of_ecc_memory_says_by_what_it_is_known() -> None:
    face = Face("h1", 7443, replace(HARDWARE, ecc=True, ecc_source="edac"), False)
    admission = Admission(Quota(host="h1", kinds={}, vms=lambda user_id: []), is_member=lambda user_id: True)
    proposer = Proposer(face, lambda: None, admission, lambda: 0)
    sources = []
    for ecc in (True, False):
        made = proposer.propose(replace(pledge(1), vm=replace(ask(1), ecc=ecc)), ANN, ())
        assert isinstance(made, Proposal)
        assert isinstance(made.offer, VmOffer)
        sources.append(made.offer.ecc_source)
    assert sources == ["edac", ""]


GPU, LESSER = PciAsk("10de", "24b0", 1), PciAsk("10de", "2531", 1)


def card(slot: int, model: str) -> PciDevice:
    return PciDevice(f"0000:{slot:02x}:00.0", "10de", model, "030000", 0, slot, None, True, None)


@pytest.mark.parametrize(
    ("cards", "granted", "choice", "taken"),
    [
        ((card(1, "24b0"), card(2, "2531")), (), 0, "0000:01:00.0"),
        ((card(2, "2531"),), (), 1, "0000:02:00.0"),
        ((card(1, "24b0"), card(2, "2531")), (PciLimit("10de", "2531", 1),), 1, "0000:02:00.0"),
        ((), (), 2, ""),
        ((card(1, "24b0"),), (PciLimit("10de", "2531", 1),), 2, ""),
    ],
)
def test_the_first_alternative_that_is_there_and_granted_is_offered(
    cards: tuple[PciDevice, ...], granted: tuple[PciLimit, ...], choice: int, taken: str
) -> None:
    face = Face("h1", 7443, replace(HARDWARE, pci=cards), False)
    kinds = {device.address: (device.vendor, device.model) for device in cards}
    admission = Admission(Quota(host="h1", kinds=kinds, vms=lambda user_id: []), is_member=lambda user_id: True)
    user = Principal("user", "a" * 64, "ann", replace(EVERYTHING, pci=granted) if granted else EVERYTHING)
    asked = replace(ask(1), pci=(GPU,), pci_else=((LESSER,), ()))
    made = Proposer(face, lambda: None, admission, lambda: 0).propose(replace(pledge(1), vm=asked), user, ())
    assert isinstance(made, Proposal)
    assert isinstance(made.offer, VmOffer)
    assert (made.offer.choice, made.offer.pci) == (choice, (taken,) if taken else ())
    assert (slot_of(made.offer) == LAST) is (choice > 0)


@pytest.mark.parametrize(
    ("granted", "taken"),
    [
        ((), ("0000:02:00.0",)),
        ((PciLimit("10de", "24b0", 1),), ("0000:01:00.0", "0000:01:00.1")),
        ((PciLimit("10de", "24b0", 1), PciLimit("10de", "2531", 1)), ("0000:02:00.0",)),
        ((PciLimit("10de", "1111", 1),), None),
    ],
)
def test_who_leaves_the_model_open_gets_one_that_they_may_have(
    granted: tuple[PciLimit, ...], taken: tuple[str, ...] | None
) -> None:
    """Though another one would bring less along."""
    sound = replace(card(1, "228b"), address="0000:01:00.1", device_class="040300")
    cards = (card(1, "24b0"), sound, card(2, "2531"))
    face = Face("h1", 7443, replace(HARDWARE, pci=cards), False)
    kinds = {device.address: (device.vendor, device.model) for device in cards}
    admission = Admission(Quota(host="h1", kinds=kinds, vms=lambda user_id: []), is_member=lambda user_id: True)
    user = Principal("user", "a" * 64, "ann", replace(EVERYTHING, pci=granted) if granted else EVERYTHING)
    asked = replace(pledge(1), vm=replace(ask(1), pci=(PciAsk("", "", 1, "03"),)))
    made = Proposer(face, lambda: None, admission, lambda: 0).propose(asked, user, ())
    assert (made.offer.pci if isinstance(made, Proposal) and isinstance(made.offer, VmOffer) else None) == taken
    if taken is None:
        assert isinstance(made, Nothing)
        assert [reason.resource for reason in made.reasons] == ["grant pci 10de:2531"]


def test_where_no_alternative_fits_the_last_one_is_explained_without_edits_that_would_miss_it() -> None:
    face = Face("h1", 7443, HARDWARE, False)
    admission = Admission(Quota(host="h1", kinds={}, vms=lambda user_id: []), is_member=lambda user_id: True)
    asked = replace(pledge(1, dry=True), vm=replace(ask(1), pci=(GPU,), pci_else=((LESSER,),)))
    said = Proposer(face, lambda: None, admission, lambda: 0).propose(asked, ANN, ())
    assert isinstance(said, Nothing)
    assert [(reason.resource, reason.edit) for reason in said.reasons] == [("pci 10de:2531", "")]


def test_reasons_are_looked_for_where_they_will_be_said(proposer: Proposer) -> None:
    said, unsaid = proposer.propose(pledge(9, dry=True), ANN, ()), proposer.propose(pledge(9), ANN, ())
    assert isinstance(said, Nothing)
    assert [reason.resource for reason in said.reasons] == ["slots"]
    assert unsaid == Nothing(())


def test_a_host_that_starts_nothing_now_still_tells_who_only_asks_what_else_it_lacks() -> None:
    quota = Quota(host="h1", kinds={}, vms=lambda user_id: [])
    admission = Admission(quota, is_member=lambda user_id: True)
    stuck = Proposer(Face("h1", 7443, HARDWARE, False), lambda: "libvirt is silent", admission, lambda: 0)
    for cores, resources in ((9, ["hypervisor", "slots"]), (1, ["hypervisor"])):
        said, other = stuck.propose(pledge(cores, dry=True), ANN, ()), stuck.propose(pledge(cores), ANN, ())
        assert isinstance(said, Nothing)
        assert isinstance(other, Nothing)
        assert [reason.resource for reason in said.reasons] == resources
        assert [reason.resource for reason in other.reasons] == ["hypervisor"]


def test_what_was_counted_is_counted_anew_when_residents_change() -> None:
    siblings = replace(HARDWARE, cores=tuple(Core((2 * core, 2 * core + 1), 0, 0) for core in range(4)))
    random, last = Random(1), LastOccupancy(siblings)
    residents: tuple[Claim, ...] = ()
    for number in range(300):
        whose = {"vm_id": VmId(f"{number:032x}"), "user_id": UserId(random.choice((ANN, BOB)).id)}
        wanted, policy = ask(random.choice((1, 2, 4))), random.choice(tuple(Policy))
        placed = place(wanted, siblings, residents, policy=policy, **whose)  # type: ignore[arg-type]
        assert last.of(residents) is last.of(tuple(residents))
        assert place_on(wanted, last.of(residents), policy=policy, **whose) == placed  # type: ignore[arg-type]
        changes = random.random()
        if changes < 0.5:
            continue
        if placed is not None and changes < 0.8:
            residents = (*residents, placed.claim)
        elif residents:
            residents = residents[1:]


def test_what_an_occupancy_keeps_is_bounded() -> None:
    now = Occupancy(HARDWARE, ())
    for number in range(KNOWN_MAX * 3):
        assert now.once(number, lambda number=number: number) == number  # type: ignore[misc]
    assert len(now._known) <= KNOWN_MAX
    for number in range(RULES_MAX * 2):
        assert now.open_units(replace(ask(1), min_frequency_mhz=number), UserId(ANN.id)) is not None
    assert len(now._openings) == RULES_MAX


def test_nobody_is_made_to_wait_long_by_a_number_of_hosts_that_is_made_up() -> None:
    assert survey_s(2**31 - 1) == SURVEY_MAX_S
