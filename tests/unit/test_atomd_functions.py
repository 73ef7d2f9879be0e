"""Virtual functions are foretold, made for a VM and given back; those of others are left alone."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atomd import devices as module
from atomd.answering import Face
from atomd.devices import Devices
from atomd.functions import IDLE_S, MAKES, MAY_NOT, Functions
from atomd.inventory.facts import PciDevice
from atomd.inventory.sriov import foretold
from atomd.inventory.tree import Tree
from atomd.mediated import Mediated
from matcher.net.audit import Audit
from tests.unit.test_atomd_capacity_fit import HOST

CARD = PciDevice("0000:3b:00.0", "8086", "1572", "020000", 1, 17, "i40e", True, None)
FIRST, SECOND = "0000:3b:02.0", "0000:3b:02.1"
FOLDER = f"sys/bus/pci/devices/{CARD.address}"
FILES = {
    "sriov_totalvfs": "64",
    "sriov_numvfs": "0",
    "sriov_offset": "16",
    "sriov_stride": "1",
    "sriov_vf_device": "154c",
    "sriov_drivers_autoprobe": "1",
}


class Card:
    """A card that makes functions as the kernel would, and what VMs hold of it."""

    def __init__(self, root: Path, audit: Audit) -> None:
        self.root = root
        self.audit = audit
        self.group_of_functions: int | None = None  # `None`: each in one of its own
        self.held: set[str] = set()
        (root / FOLDER).mkdir(parents=True)
        for name, text in FILES.items():
            self.write(name, text)
        self.face = Face("h1", 7766, replace(HOST, pci=(), pci_refused=()), False)
        self.devices = self.restarted()

    def write(self, name: str, text: str) -> None:
        (self.root / FOLDER / name).write_text(f"{text}\n")

    def says(self, name: str) -> str:
        return (self.root / FOLDER / name).read_text().strip()

    def there(self) -> tuple[PciDevice, ...]:
        made = [f"0000:3b:{2 + n // 8:02x}.{n % 8}" for n in range(int(self.says("sriov_numvfs")))]
        for name in (self.root / FOLDER).glob("virtfn*"):
            name.unlink()
        for number, address in enumerate(made):
            (self.root / FOLDER / f"virtfn{number}").symlink_to(f"../{address}")
        shares = self.group_of_functions is not None
        like = replace(CARD, model="154c", driver=None, assignable=not shares, why_not="shares" if shares else None)
        group = self.group_of_functions
        return (CARD, *(replace(like, address=a, iommu_group=group or 30 + n) for n, a in enumerate(made)))

    def restarted(self) -> Devices:
        self.devices = Devices(
            self.root / "devices.json",
            self.face,
            held=lambda: frozenset(self.held),
            boot_id="1",
            audit=self.audit,
            functions=Functions({CARD.address: 2}, self.root),
            mediated=Mediated({}),
            reads=self.there,
        )
        return self.devices

    def offered(self) -> list[str]:
        return [device.address for device in self.face.hardware.pci]


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    monkeypatch.setattr(module, "now_s", trio.current_time)
    audit = Audit(tmp_path / "audit", "h1")
    yield Card(tmp_path, audit)
    audit.close()


def test_functions_are_foretold_over_the_ends_of_devices_and_buses(card: Card) -> None:
    tree = Tree(card.root)
    assert [each.address for each in foretold(tree, CARD, 2)] == [FIRST, SECOND]
    card.write("sriov_offset", "255")
    card.write("sriov_stride", "2")
    assert [each.address for each in foretold(tree, CARD, 2)] == ["0000:3b:1f.7", "0000:3c:00.1"]
    assert foretold(tree, CARD, 1)[0] == replace(
        CARD, address="0000:3b:1f.7", model="154c", iommu_group=None, driver=None
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sriov_offset", "0"),
        ("sriov_offset", "99999"),
        ("sriov_stride", "-1"),
        ("sriov_vf_device", ""),
        ("sriov_vf_device", "zz"),
    ],
)
def test_what_cannot_be_foretold_is_not_offered(card: Card, name: str, text: str) -> None:
    card.write(name, text)
    assert foretold(Tree(card.root), CARD, 2) == ()


@pytest.mark.parametrize("driver", [None, "vfio-pci"])
def test_a_card_without_its_driver_makes_none(card: Card, driver: str | None) -> None:
    assert foretold(Tree(card.root), replace(CARD, driver=driver), 2) == ()


async def test_they_are_offered_before_they_are_there_and_the_card_is_not(card: Card) -> None:
    await card.devices.look()
    assert card.offered() == [FIRST, SECOND]
    assert [(each.address, each.why_not) for each in card.face.hardware.pci_refused] == [(CARD.address, MAKES)]
    assert card.says("sriov_numvfs") == "0"


async def test_a_card_that_atomd_may_not_write_to_offers_none_and_says_why(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    await card.devices.look()
    assert card.offered() == []
    assert [each.why_not for each in card.face.hardware.pci_refused] == [MAY_NOT]


async def test_no_more_are_offered_than_the_card_can_make(card: Card) -> None:
    card.write("sriov_totalvfs", "1")
    await card.devices.look()
    assert card.offered() == [FIRST]
    card.write("sriov_totalvfs", "0")
    await card.devices.look()
    assert card.offered() == []


async def test_the_first_vm_makes_all_without_drivers_and_a_second_makes_none(card: Card) -> None:
    card.held.add(FIRST)
    assert await card.devices.lend([FIRST]) is None
    assert (card.says("sriov_numvfs"), card.says("sriov_drivers_autoprobe")) == ("2", "0")
    card.held.add(SECOND)
    card.write("sriov_drivers_autoprobe", "seen")
    assert await card.devices.lend([SECOND]) is None
    assert card.says("sriov_drivers_autoprobe") == "seen"


async def test_they_are_given_back_a_while_after_the_last_vm_also_over_a_restart(
    card: Card, autojump_clock: MockClock
) -> None:
    card.held.add(FIRST)
    await card.devices.lend([FIRST])
    await card.restarted().look()
    await trio.sleep(IDLE_S)
    await card.devices.look()
    assert card.says("sriov_numvfs") == "2", "a VM has one"
    card.held.clear()
    for _ in range(2):
        await card.devices.look()
    assert card.says("sriov_numvfs") == "2", "the next VM may want one"
    await trio.sleep(IDLE_S)
    await card.devices.look()
    assert (card.says("sriov_numvfs"), card.says("sriov_drivers_autoprobe")) == ("0", "1")
    assert card.offered() == [FIRST, SECOND]
    card.held.add(SECOND)
    assert await card.devices.lend([SECOND]) is None
    assert card.says("sriov_numvfs") == "2"


async def test_functions_that_others_have_made_are_neither_changed_nor_taken_back(
    card: Card, autojump_clock: MockClock
) -> None:
    card.write("sriov_numvfs", "1")
    await card.devices.look()
    assert card.offered() == [FIRST]
    assert "not in the machine" in (await card.devices.lend([SECOND]) or "")
    await trio.sleep(IDLE_S * 2)
    await card.devices.look()
    assert card.says("sriov_numvfs") == "1"


async def test_functions_that_share_a_group_fail_the_vm_and_stay_to_be_seen(
    card: Card, autojump_clock: MockClock
) -> None:
    card.group_of_functions = 17
    card.held.add(FIRST)
    assert await card.devices.lend([FIRST]) == f"device {FIRST} can't be given to the VM: it shares"
    card.held.clear()
    for _ in range(2):
        await card.devices.look()
        await trio.sleep(IDLE_S)
    assert card.says("sriov_numvfs") == "2"
    assert card.offered() == []


async def test_a_card_that_does_not_obey_is_why_the_vm_does_not_start(card: Card) -> None:
    card.held.add(FIRST)
    await card.devices.look()
    (card.root / FOLDER / "sriov_drivers_autoprobe").unlink()
    said = await card.devices.lend([FIRST])
    assert said == "the device that it was to have could not be made: No such file or directory"
