"""What the machine's devices are is looked at again and again, and noted where a crash must not forget it."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atomd import devices as module
from atomd.answering import Face
from atomd.devices import LOOK_S, Devices
from atomd.functions import Functions
from atomd.inventory.facts import PciDevice, UsbDevice
from atomd.inventory.usb import IN_A_PROGRAM
from atomd.journal import JournalError
from atomd.lent import RETURN_S
from atomd.mediated import Mediated
from matcher.net.audit import Audit
from tests.unit.test_atomd_capacity_fit import HOST, token
from tests.unit.test_atomd_lent import HELD, NIC, WITH_GUEST

USED = replace(NIC, assignable=False, why_not="carries the host's network link eth0, which is up")


class Machine:
    """Its devices, those that VMs hold, and an atomd's view of both."""

    def __init__(self, folder: Path, audit: Audit) -> None:
        self.path = folder / "devices.json"
        self.there: tuple[PciDevice, ...] = (NIC,)
        self.plugged: tuple[UsbDevice, ...] = ()
        self.held: set[str] = set()
        self.face = Face("h1", 7766, replace(HOST, pci=(NIC,)), False)
        self._audit = audit
        self.devices = self.restarted()

    def restarted(self) -> Devices:
        self.devices = Devices(
            self.path,
            self.face,
            held=lambda: frozenset(self.held),
            boot_id="1",
            audit=self._audit,
            functions=Functions({}),
            mediated=Mediated({}),
            reads=lambda: self.there,
            reads_usb=lambda: self.plugged,
        )
        return self.devices


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(module, "now_s", trio.current_time)
    audit = Audit(tmp_path / "audit", "h1")
    yield Machine(tmp_path, audit)
    audit.close()


async def never() -> None:
    await trio.sleep_forever()


async def test_what_the_host_uses_by_now_is_not_offered_any_more(machine: Machine, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.1  # it is looked in a thread, which the clock does not see
    async with trio.open_nursery() as nursery:
        await nursery.start(machine.devices.keep, never)
        assert machine.face.hardware.pci == (NIC,)
        machine.there = (USED,)
        await trio.sleep(LOOK_S + 1)
        assert (machine.face.hardware.pci, machine.face.hardware.pci_refused) == ((), (USED,))
        machine.there = (NIC,)
        await trio.sleep(LOOK_S + 1)
        assert machine.face.hardware.pci == (NIC,)
        nursery.cancel_scope.cancel()


async def test_hardware_that_has_not_changed_is_the_same_object(machine: Machine) -> None:
    await machine.devices.look()
    hardware = machine.face.hardware
    await machine.devices.look()
    assert machine.face.hardware is hardware


async def test_a_recorded_machine_is_left_as_it_is(machine: Machine) -> None:
    machine.face.pretended = True
    machine.there = ()
    async with trio.open_nursery() as nursery:
        await nursery.start(machine.devices.keep, never)
    assert machine.face.hardware.pci == (NIC,)


async def test_a_device_that_became_the_hosts_own_is_not_given_away(machine: Machine) -> None:
    machine.there = (USED,)
    said = await machine.devices.lend([NIC.address])
    assert said == f"device {NIC.address} can't be given to the VM: it {USED.why_not}"
    machine.there = ()
    said = await machine.devices.lend([NIC.address])
    assert said == f"device {NIC.address} can't be given to the VM: it is not in the machine any more"
    assert not machine.path.exists()


async def test_what_is_lent_is_on_the_disk_before_the_vm_starts(machine: Machine) -> None:
    machine.held |= HELD
    assert await machine.devices.lend([NIC.address]) is None
    assert json.loads(machine.path.read_text())["lent"] == [
        {"address": NIC.address, "driver": "i40e", "boot_id": "1", "why": ""}
    ]


async def test_a_start_that_is_tried_again_has_its_device_already(machine: Machine) -> None:
    machine.held |= HELD
    await machine.devices.lend([NIC.address])
    machine.there = (WITH_GUEST,)
    assert await machine.devices.lend([NIC.address]) is None


async def test_a_note_that_can_not_be_written_is_no_start(machine: Machine, tmp_path: Path) -> None:
    machine.held |= HELD
    (tmp_path / "gone").mkdir()
    machine.devices._path = tmp_path / "gone" / "on" / "devices.json"
    assert "can't be noted" in (await machine.devices.lend([NIC.address]) or "")


async def test_a_vm_without_devices_waits_for_nothing(machine: Machine) -> None:
    machine.there = ()
    assert await machine.devices.lend(()) is None
    assert machine.face.hardware.pci == (NIC,), "it was not looked"


async def test_a_device_that_does_not_come_back_is_withheld_until_a_person_says_so(
    machine: Machine, autojump_clock: MockClock, tmp_path: Path
) -> None:
    machine.held |= HELD
    await machine.devices.lend([NIC.address])
    machine.there = (WITH_GUEST,)
    machine.held.clear()
    await machine.restarted().look()
    await trio.sleep(RETURN_S)
    await machine.devices.look()
    (refused,) = machine.face.hardware.pci_refused
    assert refused.why_not == "is in quarantine: it lacks its driver (i40e) since a VM had it"
    assert "device.quarantined" in (tmp_path / "audit").read_text()
    machine.there = (NIC,)
    await machine.restarted().look()
    assert not machine.face.hardware.pci, "neither its driver nor a restart lets it out"
    assert machine.devices.readmit(NIC.address)
    assert machine.face.hardware.pci == (NIC,)
    assert not machine.restarted().quarantined


async def test_a_device_in_quarantine_is_not_given_to_a_vm_that_had_it_before(
    machine: Machine, autojump_clock: MockClock
) -> None:
    machine.held |= HELD
    await machine.devices.lend([NIC.address])
    machine.held.clear()
    machine.there = (WITH_GUEST,)
    await machine.devices.look()
    await trio.sleep(RETURN_S)
    await machine.devices.look()
    machine.held |= HELD
    assert "in quarantine" in (await machine.devices.lend([NIC.address]) or "")


async def test_kinds_stay_known_of_what_a_vm_has_though_nobody_else_may_have_it(machine: Machine) -> None:
    machine.there = (USED,)
    await machine.devices.look()
    assert machine.devices.kinds == {NIC.address: (NIC.vendor, NIC.model)}


def test_a_damaged_note_stops_the_daemon(machine: Machine) -> None:
    machine.path.write_text("[{")
    with pytest.raises(JournalError, match="makes no sense"):
        machine.restarted()


TOKEN, PORT, KIND = token("3-1"), "3-1", ("1050", "0407")
OPEN = replace(TOKEN, assignable=False, why_not=IN_A_PROGRAM)


async def test_what_is_plugged_in_is_offered_and_what_is_pulled_out_is_not(machine: Machine) -> None:
    machine.plugged = (TOKEN, replace(OPEN, address="3-2"))
    await machine.devices.look()
    assert machine.face.hardware.usb == (TOKEN,)
    assert [device.address for device in machine.face.hardware.usb_refused] == ["3-2"]
    assert machine.devices.kinds[PORT] == KIND
    machine.plugged = ()
    await machine.devices.look()
    assert machine.face.hardware.usb == ()


async def test_a_usb_device_is_given_as_the_kernel_numbers_it_now(machine: Machine) -> None:
    machine.held |= {PORT}
    machine.plugged = (replace(TOKEN, number=99),)
    assert await machine.devices.plug([PORT], Counter([KIND])) == machine.plugged
    assert await machine.devices.plug([], Counter()) == ()


async def test_a_usb_device_that_is_gone_or_used_or_another_is_no_start(machine: Machine) -> None:
    machine.held |= {PORT}
    assert await machine.devices.plug([PORT], Counter([KIND])) == "the USB device at 3-1 is not plugged in any more"
    machine.plugged = (OPEN,)
    expected = f"the USB device at 3-1 can't be given to the VM: it {IN_A_PROGRAM}"
    assert await machine.devices.plug([PORT], Counter([KIND])) == expected
    machine.plugged = (replace(TOKEN, model="0406"),)
    said = await machine.devices.plug([PORT], Counter([KIND]))
    assert said == "another USB device is plugged in at 3-1 than the one that was promised"


async def test_what_a_vm_has_open_is_its_own_and_no_programs(machine: Machine) -> None:
    machine.held |= {PORT}
    machine.plugged = (OPEN,)
    await machine.devices.look()
    assert machine.face.hardware.usb == (TOKEN,)
    machine.held.clear()
    await machine.devices.look()
    assert machine.face.hardware.usb_refused == (OPEN,)


async def test_who_has_what_was_pulled_out_is_not_charged_for_what_came_in_its_place(machine: Machine) -> None:
    machine.plugged = (TOKEN,)
    await machine.devices.look()
    machine.held |= {PORT}
    machine.plugged = (replace(TOKEN, model="0406"),)
    await machine.devices.look()
    assert machine.devices.kinds[PORT] == KIND
