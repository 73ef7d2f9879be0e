"""The machine's PCI devices, and which of them a VM may have.

Sources: Documentation/ABI/testing/sysfs-bus-pci and sysfs-kernel-iommu_groups, Documentation/driver-api/vfio.rst. An
IOMMU group moves whole: one device that the host needs keeps its whole group, save for PCI bridges, which the kernel
leaves to the host while it hands out what is behind them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from atomd.inventory.addresses import ADDRESS
from atomd.inventory.config_space import CONFIG_BYTES, acs
from atomd.inventory.consoles import is_boot_console
from atomd.inventory.facts import FOR_GUESTS, SILENT, PciDevice
from atomd.inventory.in_use import NET_DIR, behind_link, devices_in_use
from atomd.inventory.iommu import NO_IOMMU, group_by_link, group_numbers, why_no_passthrough
from atomd.inventory.mdev import HAS_SOME, mdev_types
from atomd.inventory.text import printable
from atomd.inventory.tree import Tree

PCI_DIR = "sys/bus/pci/devices"
DEVICES_MAX = 65_536
DEPTH_MAX = 32  # of bridges behind bridges

_UNKNOWN_ID = "0000"  # no maker has this number
_NO_ANSWER = b"\xff" * 16  # what a bus says for a device that is dead or gone; a virtual function's ids alone are so
_PCI_BRIDGE = "0604"
_HOST_CLASSES = {
    "05": "is the host's memory",
    "06": "is a bridge, a part of the host",
    "0800": "is an interrupt controller of the host",
    "0801": "is a DMA controller of the host",
    "0802": "is a timer of the host",
    "0803": "is a clock of the host",
    "0806": "is the host's IOMMU",
    "0c05": "is the bus to the host's sensors and memory modules",
    "0c07": "is the way to the host's management controller",
    "1101": "counts what the host's processors do",
}
_HOST_DRIVERS = {"ccp": "is the host's security processor", "mei_me": "is the host's management engine"}


@dataclass(frozen=True, slots=True)
class _Use:
    """What a whole host tells about the use of its devices."""

    used: dict[str, str]
    storage_untold: str | None
    linked: frozenset[str]  # devices with an interface that we see


def read_pci(tree: Tree) -> tuple[PciDevice, ...]:
    groups = group_numbers(tree)
    found = dict(_folders(tree))
    if not found:
        return ()
    use = _read_use(tree)
    devices = [_device(tree, address, folder, groups, use) for address, folder in sorted(found.items(), key=_order)]
    return tuple(_whole_groups(devices, why_no_passthrough(tree)))


def _folders(tree: Tree) -> Iterator[tuple[str, str]]:
    """(address, folder); a recording may lack the bus and have the devices alone."""
    names = [name for name in tree.names(PCI_DIR) if ADDRESS.match(name)]
    for name in names[:DEVICES_MAX]:
        yield name, tree.real(f"{PCI_DIR}/{name}") or f"{PCI_DIR}/{name}"
    if not names:
        roots = [f"sys/devices/{name}" for name in tree.names("sys/devices") if name.startswith("pci")]
        yield from (item for root in roots for item in _walk(tree, root, DEPTH_MAX))


def _walk(tree: Tree, folder: str, depth_left: int) -> Iterator[tuple[str, str]]:
    for name in tree.names(folder) if depth_left else ():
        if ADDRESS.match(name) and tree.link(f"{folder}/{name}") is None:
            yield name, f"{folder}/{name}"
            yield from _walk(tree, f"{folder}/{name}", depth_left - 1)


def _order(item: tuple[str, str]) -> list[int]:
    return [int(part, 16) for part in re.split(r"[:.]", item[0])]


def _device(tree: Tree, address: str, folder: str, groups: dict[str, int], use: _Use) -> PciDevice:
    config = tree.data(f"{folder}/config", 64) or b""
    group = groups.get(address, group_by_link(tree, folder))
    device_class = _id(tree, f"{folder}/class", config[11:8:-1], 6)
    driver = tree.link_name(f"{folder}/driver")
    numa = tree.number(f"{folder}/numa_node")
    device = PciDevice(
        address=address,
        vendor=_id(tree, f"{folder}/vendor", config[1::-1], 4),
        model=_id(tree, f"{folder}/device", config[3:1:-1], 4),
        device_class=device_class,
        numa=None if numa is None or numa < 0 else numa,
        iommu_group=group,
        driver=None if driver is None else printable(driver),
        assignable=False,
        why_not=None,
        acs=acs(tree.data(f"{folder}/config", CONFIG_BYTES) or b"") if device_class.startswith(_PCI_BRIDGE) else None,
        mdev_types=mdev_types(tree, folder),
    )
    why_not = _why_not(tree, folder, device, use) or (SILENT if config.startswith(_NO_ANSWER) else None)
    return replace(device, assignable=why_not is None, why_not=why_not)


def _id(tree: Tree, path: str, from_config: bytes, digits: int) -> str:
    """An id from its file ("0x8086"), else from the device's configuration space, which begins with the ids."""
    text = (tree.text(path, 32) or "").lower().removeprefix("0x")
    if re.match(rf"[0-9a-f]{{1,{digits}}}$", text):
        return text.zfill(digits)
    return from_config.hex() if len(from_config) * 2 == digits else _UNKNOWN_ID.ljust(digits, "0")


def _read_use(tree: Tree) -> _Use:
    used, storage_untold = devices_in_use(tree)
    linked = frozenset(address for link in tree.names(NET_DIR) for address in behind_link(tree, link))
    return _Use(used, storage_untold, linked)


def _why_not(tree: Tree, folder: str, device: PciDevice, use: _Use) -> str | None:
    """Why the device itself cannot be given away; what its group says comes after."""
    if own := _own_part(device):
        return own
    if device.address in use.used:
        return use.used[device.address]
    if is_boot_console(tree, folder):
        return "is the console that the host started on"
    if tree.link(f"{folder}/virtfn0") is not None:
        return "has virtual functions, which are given away instead of it"
    if any(each.made for each in device.mdev_types):
        return HAS_SOME
    if device.vendor == _UNKNOWN_ID or device.vendor == "ffff":
        return "does not say what it is"
    if device.driver is None or device.driver in FOR_GUESTS:
        return None
    if device.device_class.startswith("01") and use.storage_untold:
        return use.storage_untold
    if device.device_class.startswith("02") and device.address not in use.linked:
        return f"has a driver ({device.driver}) and no link that can be seen: another namespace may use it"
    return None


def _own_part(device: PciDevice) -> str | None:
    """What no host can do without, used or not."""
    classes = (sentence for prefix, sentence in _HOST_CLASSES.items() if device.device_class.startswith(prefix))
    return next(classes, _HOST_DRIVERS.get(device.driver or ""))


def _whole_groups(devices: list[PciDevice], why_none: str | None) -> Iterator[PciDevice]:
    """A device needs a group, and a group in which the host needs nothing. `why_none`: no device is given away."""
    keepers: dict[int, PciDevice] = {}
    for device in devices:
        if device.iommu_group is not None and device.why_not and not device.device_class.startswith(_PCI_BRIDGE):
            keepers.setdefault(device.iommu_group, device)
    no_group = NO_IOMMU if all(device.iommu_group is None for device in devices) else "is in no IOMMU group"
    for device in devices:
        if device.iommu_group is None:
            yield replace(device, assignable=False, why_not=no_group)
        elif device.assignable and why_none:
            yield replace(device, assignable=False, why_not=why_none)
        elif device.assignable and (keeper := keepers.get(device.iommu_group)):
            why_not = f"shares IOMMU group {device.iommu_group} with {keeper.address}, which {keeper.why_not}"
            yield replace(device, assignable=False, why_not=why_not)
        else:
            yield device
