"""The PCI devices that the host itself lives on, each with a sentence for a person.

Disks with something mounted; links that are up or carry others; what the host is seen and typed on by. Where use cannot
be told, the device counts as used: taking a host's root disk away from it costs more than a device less to offer.
"""

import re
from collections.abc import Iterator

from atomd.inventory.addresses import addresses_in
from atomd.inventory.consoles import consoles_in_use
from atomd.inventory.disks import controllers, disks_in_use
from atomd.inventory.text import printable
from atomd.inventory.tree import Tree

NET_DIR = "sys/class/net"

_IFF_UP = 1


def devices_in_use(tree: Tree) -> tuple[dict[str, str], str | None]:
    """Address → why the host needs it; and why no storage at all may be given away, where that is so."""
    disks, untold = disks_in_use(tree)
    used: dict[str, str] = {}
    for disk in sorted(disks):
        for address in controllers(tree, disk):
            used.setdefault(address, f"holds the host's own disk {printable(disk)}")
    for link, why in links_in_use(tree):
        for address in behind_link(tree, link):
            used.setdefault(address, f"carries the host's network link {printable(link)}, {why}")
    for path, why in consoles_in_use(tree):
        for address in addresses_in(path):
            used.setdefault(address, why)
    return used, untold


def behind_link(tree: Tree, link: str) -> list[str]:
    """The PCI devices of a network interface: it is a link itself, or, before 2.6.26, a folder with a link."""
    paths = (tree.real(f"{NET_DIR}/{link}"), tree.real(f"{NET_DIR}/{link}/device"))
    return [address for path in paths for address in addresses_in(path or "")]


def links_in_use(tree: Tree) -> Iterator[tuple[str, str]]:
    """Interfaces with the way in which they are used."""
    for name in tree.names(NET_DIR):
        folder = f"{NET_DIR}/{name}"
        state, carrier = tree.text(f"{folder}/operstate"), tree.number(f"{folder}/carrier")
        flags = _hex(tree.text(f"{folder}/flags"))
        if state == "up" or carrier == 1:
            yield name, "which is up"
        elif master := tree.link_name(f"{folder}/master"):
            yield name, f"a part of {printable(master)}"
        elif upper := _upper(tree, folder):
            yield name, f"which {printable(upper)} lies on"
        elif flags is not None and flags & _IFF_UP:
            yield name, "which is switched on"
        elif flags is None and state in (None, "", "unknown"):
            yield name, "which may be up: its state cannot be read"


def _upper(tree: Tree, folder: str) -> str | None:
    """What lies on a link (a VLAN, macvlan, bond, bridge, team, Open vSwitch): sysfs-class-net, `upper_<name>`."""
    return next((name.removeprefix("upper_") for name in tree.names(folder) if name.startswith("upper_")), None)


def _hex(text: str | None) -> int | None:
    digits = (text or "").removeprefix("0x")
    return int(digits, 16) if re.match(r"[0-9a-fA-F]{1,8}$", digits) else None
