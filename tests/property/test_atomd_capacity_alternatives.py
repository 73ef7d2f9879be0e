"""Of several lists of devices, the first for which there is any place is the one that is offered, and where there is a
place for one of them, an offer is made: held against every share that there is."""

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from atomd.answering import Face, Proposer
from atomd.capacity.hardware import Hardware
from atomd.capacity.placement import admits
from atomd.capacity.quota import Quota
from atomd.vms.admission import Admission
from matcher.offers.offering import Nothing
from matcher.trust.principal import Principal
from matcher.trust.realm import EVERYTHING
from matcher.wire.messages import PciAsk, Pledge, Policy, VmAsk, VmOffer
from specs.ids import UserId
from tests.property.test_atomd_capacity_placement_rules import (
    KINDS,
    OPEN_KINDS,
    USERS,
    is_what_was_asked,
    machines_of_devices,
    plain,
    policies,
    settled,
    some_share_exists,
    users,
)

ANN = Principal("user", USERS[0], "ann", EVERYTHING)

entries = st.builds(
    lambda kind, quantity: PciAsk(kind[0], kind[1], quantity, kind[2]),
    st.sampled_from([*((*kind, "") for kind in KINDS), *OPEN_KINDS]),
    st.integers(1, 3),
)
lists = st.lists(entries, max_size=2).map(tuple)


def proposer(hardware: Hardware) -> Proposer:
    admission = Admission(Quota(host="h1", kinds={}, vms=lambda user_id: []), is_member=lambda user_id: True)
    return Proposer(Face("h1", 7443, hardware, False), lambda: None, admission, lambda: 0)


@settings(max_examples=200, deadline=None)
@given(
    hardware=machines_of_devices(),
    before=st.lists(st.tuples(plain, users), max_size=3),
    ask=plain,
    wanted=st.lists(lists, min_size=2, max_size=4),
    policy=policies,
)
def test_the_first_that_fits_is_offered_and_one_wherever_one_fits(
    hardware: Hardware,
    before: list[tuple[VmAsk, UserId]],
    ask: VmAsk,
    wanted: list[tuple[PciAsk, ...]],
    policy: Policy,
) -> None:
    residents = settled(before, hardware, policy)
    ask = replace(ask, pci=wanted[0], pci_else=tuple(wanted[1:]))
    each = [replace(ask, pci=pci, pci_else=()) for pci in wanted]
    fitting = [at for at, one in enumerate(each) if some_share_exists(one, hardware, residents, USERS[0])]
    event(f"the first that fits: {fitting[:1]}")
    pledge = Pledge("a" * 32, 0, (), False, "f" * 32, 1, ask, (), b"s" * 32, 3000, 0, policy)
    proposal = proposer(hardware).propose(pledge, ANN, residents)
    if not fitting:
        assert isinstance(proposal, Nothing)
        return
    assert not isinstance(proposal, Nothing)
    assert isinstance(proposal.offer, VmOffer)
    assert proposal.offer.choice == fitting[0]
    assert admits(hardware, residents, proposal.claim)
    is_what_was_asked(each[fitting[0]], proposal.claim, hardware)
