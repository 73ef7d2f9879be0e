"""In whatever order VMs come, go and change places in the ledger, whatever becomes of devices: what is kept up says
what counting everybody anew says, down to the share that the next one gets."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atomd.capacity import occupancy
from atomd.capacity.fit import fit_on
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.occupancy import LastOccupancy, Occupancy
from atomd.capacity.placement import place_on
from matcher.wire.messages import Policy, VmAsk
from specs.ids import UserId
from tests.property.test_atomd_capacity_placement_rules import (
    asks,
    claims_on,
    machines,
    machines_of_caches,
    policies,
    users,
    vm,
)


def told(now: Occupancy, wanted: list[tuple[VmAsk, UserId, Policy]]) -> dict[str, Any]:
    """All that placement and reasons are made of, and these themselves."""
    seats = now.seats
    assert now.free_total_mib == sum(max(0, mib) for mib in now.free_mib.values()), "an overdrawn node lends nothing"
    return {
        "threads": (seats.thread_vms, seats.thread_limit),
        "cores": (seats.core_vms, seats.core_limit, seats.load()),
        "memory": (now.free_mib, now.free_total_mib, now.free_pages),
        "devices": (now.taken_pci, now.taken_usb, now.free_groups(), now.free_usb(), now.free_kinds()),
        "open": [now.open_units(ask, user_id) for ask, user_id, _ in wanted],
        "counts": [_counts(now, ask, user_id) for ask, user_id, _ in wanted],
        "fits": [fit_on(ask, now, vm_id=vm(99), user_id=each, policy=policy) for ask, each, policy in wanted],
    }


def _counts(now: Occupancy, ask: VmAsk, user_id: UserId) -> dict[Hashable, tuple[int, int]]:
    cells = [cell for cells in now.openings(ask, user_id).cells.values() for cell in cells]
    assert all(cell.count == len(cell.units) for cell in cells)
    return {(cell.kind, cell.node): (cell.count, cell.used) for cell in cells}


class KeptUp(RuleBasedStateMachine):
    hardware: Hardware
    residents: list[Claim]
    wanted: list[tuple[VmAsk, UserId, Policy]]

    @initialize(
        hardware=machines(cores_max=2) | machines(cores_max=6) | machines_of_caches(),
        wanted=st.lists(st.tuples(asks(slots_max=3), users, policies), min_size=1, max_size=4),
        remembers=st.sampled_from([2, 4096]),
    )
    def begin(self, hardware: Hardware, wanted: list[tuple[VmAsk, UserId, Policy]], remembers: int) -> None:
        self.hardware, self.residents, self.wanted = hardware, [], wanted
        self.last = LastOccupancy(hardware)
        self.forgets, occupancy.CHANGES_MAX = occupancy.CHANGES_MAX, remembers

    def teardown(self) -> None:
        if hasattr(self, "forgets"):
            occupancy.CHANGES_MAX = self.forgets

    @rule(ask=asks(slots_max=3), user_id=users, policy=policies)
    def come(self, ask: VmAsk, user_id: UserId, policy: Policy) -> None:
        now = self.last.of(self.residents, self.hardware)
        placed = place_on(ask, now, vm_id=vm(len(self.residents)), user_id=user_id, policy=policy)
        if placed is not None:
            self.residents.append(placed.claim)

    @rule(data=st.data())
    def be_there_against_the_rules(self, data: st.DataObject) -> None:
        """As those are that a host readmits, and those on hardware that shrank."""
        like = data.draw(st.sampled_from([None, *self.residents]))
        self.residents.append(data.draw(claims_on(self.hardware, like)))

    @precondition(lambda self: self.residents)
    @rule(data=st.data(), user_id=users, overprovision=st.integers(1, 8), smt=st.booleans())
    def sit_down_on_the_same(self, data: st.DataObject, user_id: UserId, overprovision: int, smt: bool) -> None:
        like = data.draw(st.sampled_from(self.residents))
        number = vm(len(self.residents))
        other = replace(like, vm_id=number, user_id=user_id, overprovision=overprovision, smt=smt)
        self.residents.append(other)

    @precondition(lambda self: self.residents)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, len(self.residents)))):
            self.residents.pop(data.draw(st.integers(0, len(self.residents) - 1)))

    @precondition(lambda self: self.residents)
    @rule(data=st.data())
    def change_places(self, data: st.DataObject) -> None:
        """A hold that is committed stands before others."""
        places = st.integers(0, len(self.residents) - 1)
        self.residents.insert(data.draw(places), self.residents.pop(data.draw(places)))

    @precondition(lambda self: self.hardware.pci)
    @rule(data=st.data())
    def go_into_quarantine(self, data: st.DataObject) -> None:
        device = data.draw(st.sampled_from(self.hardware.pci))
        kept = replace(device, assignable=False, why_not="does not answer")
        rest = tuple(each for each in self.hardware.pci if each is not device)
        self.hardware = replace(self.hardware, pci=rest, pci_refused=(*self.hardware.pci_refused, kept))

    @invariant()
    def it_is_as_if_counted_anew(self) -> None:
        if hasattr(self, "last"):
            kept_up = self.last.of(self.residents, self.hardware)
            assert told(kept_up, self.wanted) == told(Occupancy(self.hardware, self.residents), self.wanted)


TestKeptUp = KeptUp.TestCase
TestKeptUp.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
