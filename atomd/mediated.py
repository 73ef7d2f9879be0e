"""Mediated devices (vGPU), each made when a VM is to have it and removed when none has.

A card makes them in types, and most cards all of one type at a time; so the sysadmin says in `atomd.toml` which cards
make which. What could be made is foretold and offered before it is there. Devices of others, as of `mdevctl`, are left
alone.
"""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from atomd.inventory.addresses import is_mediated, mdev_uuid
from atomd.inventory.facts import PciDevice
from atomd.inventory.mdev import FOR_QEMU, HAS_SOME, MDEV_MAX, foretold, type_of
from atomd.inventory.tree import Tree

MAKES = "makes mediated devices for VMs"
MAY_NOT = "is to make mediated devices, and atomd may not write to it"  # systemd shows /sys read-only

log = logging.getLogger("atomd")


class Mediated:
    """`allowed`: address of a card → the type that it makes. Reads and writes sysfs under `root`; blocks for a
    moment."""

    def __init__(self, allowed: Mapping[str, str], root: Path = Path("/")) -> None:
        self._allowed, self._root = dict(allowed), root

    def with_foretold(self, there: Collection[PciDevice], held: Collection[str]) -> tuple[PciDevice, ...]:
        """All devices, and those that could be made. A card that makes some is nobody's."""
        devices = {device.address: device for device in there}
        for address, type_id in self._allowed.items():
            parent = devices.get(address)
            if parent is None:
                continue
            could = foretold(Tree(self._root), parent, type_id, held)
            lacks = self._lacks(parent, type_id)
            if lacks is not None:
                could = tuple(device for device in could if device.address in held)
            devices |= {device.address: device for device in could}
            if parent.assignable or parent.why_not == HAS_SOME or lacks is not None:
                devices[address] = replace(parent, assignable=False, why_not=lacks or MAKES)
        return tuple(devices.values())

    def make(self, addresses: Collection[str]) -> bool:
        """Those among them that are not there yet; false where there are none such. Raises `OSError`."""
        tree = Tree(self._root)
        missing = [each for each in addresses if self._is_ours(each) and type_of(tree, each) is None]
        for address in missing:
            parent = address.partition("/")[0]
            self._write(self._types(parent) / self._allowed[parent] / "create", mdev_uuid(address))
            log.info("mediated device %s of type %s is made", address, self._allowed[parent])
        return bool(missing)

    def give_back(self, held: Collection[str]) -> bool:
        """Ours that no VM has; false where there is none. One that stays is tried again at the next look."""
        tree = Tree(self._root)
        ours = [f"{parent}/{number}" for parent in self._allowed for number in range(MDEV_MAX)]
        idle = [each for each in ours if each not in held and type_of(tree, each) is not None]
        for address in idle:
            try:
                self._write(self._folder(address.partition("/")[0]) / mdev_uuid(address) / "remove", "1")
                log.info("mediated device %s is removed", address)
            except OSError as error:
                log.error("mediated device %s is still there: %s", address, error.strerror)
        return bool(idle)

    def _lacks(self, parent: PciDevice, type_id: str) -> str | None:
        """Why it can't make any, for its sysadmin."""
        apis = {each.name: each.api for each in parent.mdev_types}
        if type_id not in apis:
            return f"is to make mediated devices of type {type_id}, and its driver has no such type"
        if apis[type_id] != FOR_QEMU:
            return f"is to make mediated devices of type {type_id}, which are not for PCI ({apis[type_id]})"
        if not os.access(self._types(parent.address) / type_id / "create", os.W_OK):
            return MAY_NOT
        return None

    def _is_ours(self, address: str) -> bool:
        return is_mediated(address) and address.partition("/")[0] in self._allowed

    def _types(self, parent: str) -> Path:
        return self._folder(parent) / "mdev_supported_types"

    def _folder(self, parent: str) -> Path:
        return self._root / "sys/bus/pci/devices" / parent

    def _write(self, path: Path, text: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never one that is not there
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
