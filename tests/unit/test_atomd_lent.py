"""A device that a VM had is offered again once it is as it was before."""

from dataclasses import replace

import pytest

from atomd.inventory.facts import SILENT, PciDevice
from atomd.lent import RETURN_S, RETURNING, Lending, Lent

NIC = PciDevice("0000:02:00.0", "8086", "1572", "020000", 0, 5, "i40e", True, None)
WITH_GUEST = replace(NIC, driver="vfio-pci")
THERE = {NIC.address: NIC}
HELD = {NIC.address}
BOOT = "1"


@pytest.fixture
def lending() -> Lending:
    lending = Lending((), BOOT)
    lending.lend([NIC])
    return lending


def test_a_device_that_no_vm_had_is_judged_as_it_is() -> None:
    assert Lending((), BOOT).judged(NIC, ()) is NIC


def test_a_device_that_a_vm_has_stays_as_it_is_however_long(lending: Lending) -> None:
    for now_s in (0, 1000):
        lending.look({NIC.address: WITH_GUEST}, HELD, now_s)
    assert lending.judged(WITH_GUEST, HELD) is WITH_GUEST
    assert lending.rows == (Lent(NIC.address, "i40e", BOOT),)


def test_a_device_with_its_driver_again_is_free(lending: Lending) -> None:
    lending.look(THERE, (), 0)
    assert not lending.rows
    assert lending.judged(NIC, ()) is NIC


def test_a_device_on_its_way_back_is_not_offered_yet(lending: Lending) -> None:
    lending.look({NIC.address: WITH_GUEST}, (), 0)
    assert lending.judged(WITH_GUEST, ()).why_not == RETURNING
    assert not lending.judged(WITH_GUEST, ()).assignable
    lending.look(THERE, (), RETURN_S - 1)
    assert lending.judged(NIC, ()) is NIC


@pytest.mark.parametrize(
    ("there", "why"),
    [
        ({}, "is not on the bus any more"),
        ({NIC.address: replace(NIC, assignable=False, why_not=SILENT)}, "does not answer"),
        ({NIC.address: WITH_GUEST}, "lacks its driver (i40e)"),
        ({NIC.address: replace(NIC, driver=None)}, "lacks its driver (i40e)"),
    ],
)
def test_a_device_that_does_not_come_back_is_in_quarantine_also_after_it_did(
    lending: Lending, there: dict[str, PciDevice], why: str
) -> None:
    lending.look(there, (), 0)
    assert not lending.rows[0].why, "it has its time"
    lending.look(there, (), RETURN_S)
    lending.look(THERE, (), RETURN_S + 1)
    assert lending.judged(NIC, ()).why_not == f"is in quarantine: it {why} since a VM had it"
    assert lending.readmit(NIC.address)
    assert not lending.readmit(NIC.address)
    assert lending.judged(NIC, ()) is NIC


def test_its_time_begins_when_the_last_vm_has_ended(lending: Lending) -> None:
    lending.look({}, (), 0)
    lending.look({NIC.address: WITH_GUEST}, HELD, RETURN_S - 1)
    lending.look({}, (), RETURN_S)
    assert not lending.rows[0].why


def test_a_device_without_a_driver_is_back_whoever_holds_it() -> None:
    for driver in (None, "vfio-pci"):
        lending = Lending((), BOOT)
        lending.lend([replace(NIC, driver=driver)])
        lending.look({NIC.address: WITH_GUEST}, (), 0)
        assert not lending.rows


def test_a_start_that_is_tried_again_does_not_take_the_guests_driver_for_its_own(lending: Lending) -> None:
    lending.lend([WITH_GUEST])
    assert lending.rows[0].driver == "i40e"


def test_after_a_crash_a_device_is_still_awaited(lending: Lending) -> None:
    again = Lending(lending.rows, BOOT)
    again.look({NIC.address: WITH_GUEST}, (), 0)
    again.look({NIC.address: WITH_GUEST}, (), RETURN_S)
    assert again.rows[0].why


def test_a_reboot_of_the_host_brings_all_back_but_for_those_in_quarantine(lending: Lending) -> None:
    assert not Lending(lending.rows, "2").rows
    broken = tuple(replace(row, why="does not answer") for row in lending.rows)
    assert Lending(broken, "2").rows == broken
