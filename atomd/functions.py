"""Virtual functions (SR-IOV), made when a VM is to have one and given back when none has.

A device makes all of them at once, and only while it has none. So those of a maker that the sysadmin allows in
`atomd.toml` are foretold, and offered before they are there; the first VM makes them, and they go a while after the
last one has ended. A maker with functions that atomd has not made is left alone: they are others', or are offered as
the devices that they are.
"""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from atomd.inventory.facts import PciDevice
from atomd.inventory.sriov import foretold, functions_made, functions_max, functions_of
from atomd.inventory.tree import Tree

IDLE_S = 60.0  # some cards lose their link for a moment when functions come or go
MAKES = "makes virtual functions for VMs"
MAY_NOT = "is to make virtual functions, and atomd may not write its sriov_numvfs"  # systemd shows /sys read-only

log = logging.getLogger("atomd")


@dataclass(frozen=True, slots=True)
class Made:
    """By atomd, under this boot of the host."""

    maker: str
    boot_id: str


class Functions:
    """`allowed`: address of a maker → how many. Reads and writes sysfs under `root`; blocks for a moment."""

    def __init__(self, allowed: Mapping[str, int], root: Path = Path("/")) -> None:
        self._allowed, self._root = dict(allowed), root

    def with_foretold(self, there: Collection[PciDevice]) -> tuple[PciDevice, ...]:
        """All devices, and those that could be made. A maker is nobody's."""
        devices = {device.address: device for device in there}
        for address, count in self._allowed.items():
            maker = devices.get(address)
            if maker is None:
                continue
            tree = Tree(self._root)
            if not os.access(self._path(address, "sriov_numvfs"), os.W_OK):
                devices[address] = replace(maker, assignable=False, why_not=maker.why_not or MAY_NOT)
                continue
            if functions_made(tree, address) == 0:
                could = foretold(tree, maker, min(count, functions_max(tree, address)))
                devices = {device.address: device for device in could} | devices
            if maker.assignable:
                devices[address] = replace(maker, assignable=False, why_not=MAKES)
        return tuple(devices.values())

    def maker_of(self, address: str, there: Mapping[str, PciDevice]) -> str | None:
        """Which maker would have to make this function; `None` where it is there."""
        tree = Tree(self._root)
        could = [maker for maker in self._allowed if maker in there and functions_made(tree, maker) == 0]
        for maker in could:
            count = min(self._allowed[maker], functions_max(tree, maker))
            if address in {device.address for device in foretold(tree, there[maker], count)}:
                return maker
        return None

    def children(self, maker: str) -> tuple[str, ...]:
        return functions_of(Tree(self._root), maker)

    def make(self, maker: str) -> None:
        """Without drivers of the host's, which would only take them up as links of its own. Raises `OSError`."""
        tree = Tree(self._root)
        count = min(self._allowed[maker], functions_max(tree, maker))
        self._write(maker, "sriov_drivers_autoprobe", 0)
        self._write(maker, "sriov_numvfs", count)
        log.info("%s has made %d virtual functions", maker, count)

    def give_back(self, maker: str) -> None:
        """Raises `OSError`."""
        self._write(maker, "sriov_numvfs", 0)
        self._write(maker, "sriov_drivers_autoprobe", 1)
        log.info("%s has no virtual functions any more", maker)

    def _write(self, maker: str, name: str, value: int) -> None:
        with self._path(maker, name).open("r+") as file:  # never one that is not there
            file.write(str(value))

    def _path(self, maker: str, name: str) -> Path:
        return self._root / "sys/bus/pci/devices" / maker / name
