"""As many as are counted do fit, and of exclusive VMs not one more."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from atomd.capacity.copies import COPIES_MAX, copies
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.placement import place
from matcher.wire.messages import Policy, VmAsk
from specs.ids import UserId
from tests.property.test_atomd_capacity_placement_rules import USERS, asks, machines, settled, users, vm


@settings(max_examples=120, deadline=None)
@given(
    hardware=machines(cores_max=5),
    before=st.lists(st.tuples(asks(slots_max=2), users), max_size=4),
    ask=asks(slots_max=3),
    is_shared=st.booleans(),
)
def test_as_many_as_are_counted_fit_one_after_the_other(
    hardware: Hardware, before: list[tuple[VmAsk, UserId]], ask: VmAsk, is_shared: bool
) -> None:
    ask = ask if is_shared else replace(ask, overprovision=1)
    residents: list[Claim] = settled(before, hardware)
    whose = {"user_id": USERS[0], "policy": Policy.PACK}
    if place(ask, hardware, residents, vm_id=vm(50), **whose) is None:  # type: ignore[arg-type]
        return
    found = copies(ask, hardware, residents, vm_id=vm(50), **whose)  # type: ignore[arg-type]
    assert 1 <= found.count <= COPIES_MAX
    assert found.at_least or found.runs_out
    one_by_one = 0
    while placed := place(ask, hardware, residents, vm_id=vm(100 + one_by_one), **whose):  # type: ignore[arg-type]
        residents.append(placed.claim)
        one_by_one += 1
    if ask.overprovision == 1:
        assert found.count == one_by_one or found.at_least
    else:
        assert found.count <= one_by_one * ask.overprovision
        assert one_by_one >= 1
