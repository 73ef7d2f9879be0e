"""Mediated devices (mdev, vGPU): slices of a card that its own driver makes, each of one of the types that it knows.

Source: Documentation/driver-api/vfio-mediated-device.rst.
"""

from collections.abc import Collection
from dataclasses import replace

from atomd.inventory.addresses import mdev_uuid
from atomd.inventory.facts import MdevType, PciDevice
from atomd.inventory.text import printable
from atomd.inventory.tree import Tree

TYPES_MAX = 64
MDEV_MAX = 256  # of one card
FOR_QEMU = "vfio-pci"  # other kinds are for s390x's channels and crypto cards
HAS_SOME = "has mediated devices, which it would take along"
RETURNING = "is on its way back from a VM"

_DEVICES = "sys/bus/pci/devices"


def mdev_types(tree: Tree, folder: str) -> tuple[MdevType, ...]:
    """What the device in `folder` can make, by name; none where its driver makes nothing."""
    types = f"{folder}/mdev_supported_types"
    return tuple(_type(tree, f"{types}/{name}", printable(name, 64)) for name in tree.names(types)[:TYPES_MAX])


def foretold(tree: Tree, parent: PciDevice, type_id: str, held: Collection[str]) -> tuple[PciDevice, ...]:
    """Those that atomd has made of this parent, whatever their type, and so many of `type_id` as it could still make.
    One that is there and that no VM has is on its way back."""
    ours = [f"{parent.address}/{number}" for number in range(MDEV_MAX)]
    made = {address: of_type for address in ours if (of_type := type_of(tree, address)) is not None}
    could = next((each for each in parent.mdev_types if each.name == type_id and each.api == FOR_QEMU), None)
    free = [address for address in ours if address not in made][: could.available if could is not None else 0]
    like = replace(parent, iommu_group=None, driver=None, assignable=True, why_not=None, acs=None, mdev_types=())
    rows = [replace(like, address=address, mdev_type=type_id) for address in free]
    for address, of_type in made.items():
        row = replace(like, address=address, mdev_type=of_type)
        rows.append(row if address in held else replace(row, assignable=False, why_not=RETURNING))
    return tuple(sorted(rows, key=lambda row: int(row.address.rpartition("/")[2])))


def type_of(tree: Tree, address: str) -> str | None:
    """Of one that is there; `None` where it is not."""
    parent = address.partition("/")[0]
    return tree.link_name(f"{_DEVICES}/{parent}/{mdev_uuid(address)}/mdev_type")


def _type(tree: Tree, folder: str, name: str) -> MdevType:
    return MdevType(
        name=name,
        title=printable(tree.text(f"{folder}/name", 64) or ""),
        api=printable(tree.text(f"{folder}/device_api", 32) or ""),
        available=max(0, min(tree.number(f"{folder}/available_instances") or 0, MDEV_MAX)),
        made=len(tree.names(f"{folder}/devices")),
    )
