"""Mediated devices are foretold, made for a VM and removed after it; those of others are left alone."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atomd import devices as module
from atomd.answering import Face
from atomd.devices import Devices
from atomd.functions import Functions
from atomd.inventory.addresses import mdev_uuid
from atomd.inventory.facts import MdevType, PciDevice
from atomd.inventory.mdev import HAS_SOME, RETURNING, mdev_types
from atomd.inventory.tree import Tree
from atomd.mediated import MAKES, MAY_NOT, Mediated
from matcher.net.audit import Audit
from tests.unit.test_atomd_capacity_fit import HOST

CARD = PciDevice("0000:3b:00.0", "10de", "1b38", "030200", 1, 17, "nvidia", True, None)
FIRST, SECOND = f"{CARD.address}/0", f"{CARD.address}/1"
FOLDER = f"sys/bus/pci/devices/{CARD.address}"
TYPE, OTHER = "nvidia-63", "nvidia-64"


class Driver(Mediated):
    """As the kernel and the card's driver answer what is written: one type at a time, two of it at most."""

    def _write(self, path: Path, text: str) -> None:
        super()._write(path, text)
        card = self._root / FOLDER
        if path.name == "create":
            of_type = path.parent
            if int((of_type / "available_instances").read_text()) == 0:
                raise OSError(28, os.strerror(28))
            made = card / text
            made.mkdir()
            (made / "remove").touch()
            (made / "mdev_type").symlink_to(f"../mdev_supported_types/{of_type.name}")
            (of_type / "devices" / text).symlink_to(f"../../../{text}")
        else:
            (path.parent / "mdev_type").resolve().joinpath("devices", path.parent.name).unlink()
            shutil.rmtree(path.parent)
        self.count()

    def count(self) -> None:
        types = self._root / FOLDER / "mdev_supported_types"
        made = {each.name: len(list((each / "devices").iterdir())) for each in types.iterdir()}
        for name, count in made.items():
            others = sum(made.values()) - count
            (types / name / "available_instances").write_text(f"{0 if others else 2 - count}\n")


class Card:
    """One that makes mediated devices, and what VMs hold of it."""

    def __init__(self, root: Path, audit: Audit) -> None:
        self.root, self.audit = root, audit
        self.held: set[str] = set()
        for name in (TYPE, OTHER):
            of_type = root / FOLDER / "mdev_supported_types" / name
            (of_type / "devices").mkdir(parents=True)
            files = {"create": "", "name": "GRID P40-2Q", "device_api": "vfio-pci", "available_instances": "2"}
            for file, text in files.items():
                (of_type / file).write_text(f"{text}\n")
        self.driver = Driver({CARD.address: TYPE}, root)
        self.face = Face("h1", 7766, replace(HOST, pci=(), pci_refused=()), False)
        self.devices = self.restarted()

    def there(self) -> tuple[PciDevice, ...]:
        types = mdev_types(Tree(self.root), FOLDER)
        has_some = any(each.made for each in types)
        return (replace(CARD, mdev_types=types, assignable=not has_some, why_not=HAS_SOME if has_some else None),)

    def restarted(self, type_id: str = TYPE) -> Devices:
        self.driver = Driver({CARD.address: type_id}, self.root)
        self.devices = Devices(
            self.root / "devices.json",
            self.face,
            held=lambda: frozenset(self.held),
            boot_id="1",
            audit=self.audit,
            functions=Functions({}),
            mediated=self.driver,
            reads=self.there,
            reads_usb=tuple,
        )
        return self.devices

    def offered(self) -> list[str]:
        return [device.address for device in self.face.hardware.pci]

    def why_not(self) -> dict[str, str | None]:
        return {device.address: device.why_not for device in self.face.hardware.pci_refused}

    def made(self, of_type: str = TYPE) -> set[str]:
        return {each.name for each in (self.root / FOLDER / "mdev_supported_types" / of_type / "devices").iterdir()}


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    monkeypatch.setattr(module, "now_s", trio.current_time)
    audit = Audit(tmp_path / "audit", "h1")
    yield Card(tmp_path, audit)
    audit.close()


def test_a_card_says_what_it_can_make(card: Card) -> None:
    assert mdev_types(Tree(card.root), FOLDER) == tuple(
        MdevType(name, "GRID P40-2Q", "vfio-pci", available=2, made=0) for name in (TYPE, OTHER)
    )


async def test_they_are_offered_before_they_are_there_and_the_card_is_not(card: Card) -> None:
    await card.devices.look()
    assert card.offered() == [FIRST, SECOND]
    assert {device.mdev_type for device in card.face.hardware.pci} == {TYPE}
    assert {device.iommu_group for device in card.face.hardware.pci} == {None}
    assert card.why_not() == {CARD.address: MAKES}
    assert card.made() == set()


async def test_each_is_made_for_its_vm_and_removed_after_it(card: Card) -> None:
    card.held.add(SECOND)
    assert await card.devices.lend([SECOND]) is None
    assert card.made() == {mdev_uuid(SECOND)}
    assert card.offered() == [FIRST, SECOND]
    card.held.add(FIRST)
    assert await card.devices.lend([FIRST]) is None
    assert card.made() == {mdev_uuid(FIRST), mdev_uuid(SECOND)}
    card.held.clear()
    await card.devices.look()
    assert card.made() == set()
    assert card.offered() == [FIRST, SECOND]


async def test_after_a_crash_ours_are_known_and_those_of_nobody_removed(card: Card) -> None:
    card.held |= {FIRST, SECOND}
    assert await card.devices.lend([FIRST, SECOND]) is None
    card.held.remove(FIRST)
    await card.restarted().look()
    assert card.made() == {mdev_uuid(SECOND)}
    assert card.offered() == [FIRST, SECOND]


async def test_those_of_others_stay_and_leave_fewer_to_offer(card: Card) -> None:
    card.driver._write(card.root / FOLDER / "mdev_supported_types" / TYPE / "create", "of-another")
    await card.devices.look()
    assert card.offered() == [FIRST]
    assert card.made() == {"of-another"}


async def test_another_type_is_offered_once_the_vms_of_the_first_have_ended(card: Card) -> None:
    card.held.add(FIRST)
    assert await card.devices.lend([FIRST]) is None
    await card.restarted(OTHER).look()
    assert [(each.address, each.mdev_type) for each in card.face.hardware.pci] == [(FIRST, TYPE)]
    card.held.clear()
    await card.devices.look()
    assert {each.mdev_type for each in card.face.hardware.pci} == {OTHER}


async def test_one_that_can_t_be_removed_yet_is_offered_to_nobody(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    card.held.add(FIRST)
    assert await card.devices.lend([FIRST]) is None
    (card.root / FOLDER / mdev_uuid(FIRST) / "remove").unlink()
    card.held.clear()
    await card.devices.look()
    assert card.offered() == [SECOND]
    assert card.why_not() == {CARD.address: MAKES, FIRST: RETURNING}


async def test_a_vm_whose_device_can_t_be_made_is_told_so(card: Card) -> None:
    await card.devices.look()
    card.driver._write(card.root / FOLDER / "mdev_supported_types" / TYPE / "create", "one")
    card.driver._write(card.root / FOLDER / "mdev_supported_types" / TYPE / "create", "two")
    card.held.add(FIRST)
    said = await card.devices.lend([FIRST])
    assert said == "the device that it was to have could not be made: No space left on device"


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("device_api", "vfio-ccw", f"is to make mediated devices of type {TYPE}, which are not for PCI (vfio-ccw)"),
        ("", "", f"is to make mediated devices of type {TYPE}, and its driver has no such type"),
    ],
)
async def test_a_card_that_can_t_make_them_says_why(card: Card, file: str, text: str, why: str) -> None:
    of_type = card.root / FOLDER / "mdev_supported_types" / TYPE
    if file:
        (of_type / file).write_text(text)
    else:
        shutil.rmtree(of_type)
    await card.devices.look()
    assert card.offered() == []
    assert card.why_not() == {CARD.address: why}


async def test_a_card_that_atomd_may_not_write_to_offers_none_and_says_why(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    await card.devices.look()
    assert card.offered() == []
    assert card.why_not() == {CARD.address: MAY_NOT}


async def test_none_is_in_quarantine_after_its_vm(card: Card, autojump_clock: MockClock) -> None:
    card.held.add(FIRST)
    assert await card.devices.lend([FIRST]) is None
    card.held.clear()
    for _ in range(4):
        await card.devices.look()
        await trio.sleep(10)
    assert card.devices.quarantined == ()
