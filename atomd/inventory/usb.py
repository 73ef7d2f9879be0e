"""The machine's USB devices, and which of them a VM may have.

Sources: Documentation/ABI/stable/sysfs-bus-usb and testing/sysfs-bus-usb, Documentation/driver-api/usb/usb.rst; USB
2.0, 9.6 (descriptors) and the classes of usb.org. Hubs are the way to other devices and nobody's own. No IOMMU is
needed: the host's own controller moves the bytes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from atomd.inventory.addresses import USB_PORT, addresses_in, ports_in
from atomd.inventory.consoles import keyboards, mice, screens
from atomd.inventory.disks import BLOCK_DIRS, disks_in_use
from atomd.inventory.facts import UsbDevice
from atomd.inventory.in_use import NET_DIR, links_in_use
from atomd.inventory.text import printable, whole
from atomd.inventory.tree import Tree

USB_DIR = "sys/bus/usb/devices"
DEVICES_MAX = 4096
NAME_MAX = 80
IN_A_PROGRAM = "is in use by a program of the host, or another VM"

_HUB, _STORAGE = "09", "08"
_BOOT_KEYBOARD, _BOOT_MOUSE = "030101", "030102"
_PROGRAMS_DRIVER = "usbfs"  # what the kernel calls a program that has claimed an interface
_LENT_DRIVER = "usbip-host"
_NET_DRIVERS = {
    *("aqc111", "asix", "ax88179_178a", "cdc_eem", "cdc_ether", "cdc_mbim", "cdc_ncm", "cdc_subset", "dm9601"),
    *("huawei_cdc_ncm", "ipheth", "lan78xx", "mcs7830", "pegasus", "qmi_wwan", "r8152", "rndis_host", "rtl8150"),
    *("smsc75xx", "smsc95xx", "sr9700", "sr9800"),
}


@dataclass(frozen=True, slots=True)
class UsbRules:
    """What the sysadmin says of kinds of devices ("1050:0407", "051d:*"): `lend` though they type or point, as tokens
    do, since they are nobody's console; `keep` for the host."""

    lend: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Interface:
    kind: str  # class, subclass, protocol
    driver: str | None


@dataclass(frozen=True, slots=True)
class _Use:
    """What a whole host tells about the use of its devices, by their ports."""

    used: dict[str, str]
    typed: dict[str, str]
    storage_untold: str | None
    linked: frozenset[str]  # devices with an interface that we see


NO_RULES = UsbRules()


def read_usb(tree: Tree, rules: UsbRules = NO_RULES) -> tuple[UsbDevice, ...]:
    names = tree.names(USB_DIR)
    ports = [name for name in names if USB_PORT.match(name)][:DEVICES_MAX]
    if not ports:
        return ()
    interfaces = _interfaces(tree, names)
    use = _read_use(tree)
    found = [_device(tree, port, interfaces.get(port, ())) for port in sorted(ports, key=_order)]
    return tuple(
        _judged(tree, device, interfaces.get(device.address, ()), use, rules) for device in found if device is not None
    )


def is_said(device: UsbDevice, kinds: frozenset[str]) -> bool:
    """Whether a list of kinds names the device."""
    return not kinds.isdisjoint({f"{device.vendor}:{device.model}", f"{device.vendor}:*"})


def _order(port: str) -> list[int]:
    return [int(part) for part in re.split(r"[-.]", port)]


def _interfaces(tree: Tree, names: list[str]) -> dict[str, tuple[_Interface, ...]]:
    """Of each port; "3-1.4:1.0" is an interface of what is plugged in at 3-1.4."""
    found: dict[str, tuple[_Interface, ...]] = {}
    for name in names:
        port, colon, _ = name.partition(":")
        if colon:
            folder = f"{USB_DIR}/{name}"
            parts = (tree.text(f"{folder}/bInterface{part}", 8) or "" for part in ("Class", "SubClass", "Protocol"))
            interface = _Interface("".join(parts).lower(), tree.link_name(f"{folder}/driver"))
            found[port] = (*found.get(port, ()), interface)
    return found


def _device(tree: Tree, port: str, interfaces: tuple[_Interface, ...]) -> UsbDevice | None:
    """`None` for a hub; yet unjudged."""
    folder = f"{USB_DIR}/{port}"
    device_class = "".join(_hex(tree, folder, f"bDevice{part}", 2) for part in ("Class", "SubClass", "Protocol"))
    if device_class.startswith(_HUB) or any(each.kind.startswith(_HUB) for each in interfaces):
        return None
    said = (tree.text(f"{folder}/{part}", 256) or "" for part in ("manufacturer", "product"))
    controllers = addresses_in(tree.real(folder) or "")
    driver = next((each.driver for each in interfaces if each.driver), None)
    return UsbDevice(
        address=port,
        vendor=_hex(tree, folder, "idVendor", 4),
        model=_hex(tree, folder, "idProduct", 4),
        device_class=device_class,
        name=printable(" ".join(said), NAME_MAX).strip(),
        bus=_number(tree, f"{folder}/busnum"),
        number=_number(tree, f"{folder}/devnum"),
        controller=controllers[-1] if controllers else None,
        driver=None if driver is None else printable(driver),
        assignable=False,
        why_not=None,
    )


def _hex(tree: Tree, folder: str, name: str, digits: int) -> str:
    text = (tree.text(f"{folder}/{name}", 16) or "").lower()
    return text if re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) else "0" * digits


def _number(tree: Tree, path: str) -> int | None:
    """As a bus has them: of one byte, or few digits."""
    number = whole(tree.text(path, 16))
    return number if number is not None and 0 < number < 1000 else None


def _read_use(tree: Tree) -> _Use:
    disks, untold = disks_in_use(tree)
    used: dict[str, str] = {}
    places = [(tree.real(f"{folder}/{disk}"), disk) for disk in sorted(disks) for folder in BLOCK_DIRS]
    ways = [(path or "", f"holds the host's own disk {printable(disk)}") for path, disk in places]
    for link, why in links_in_use(tree):
        ways += [(path, f"carries the host's network link {printable(link)}, {why}") for path in _places(tree, link)]
    ways += screens(tree)
    for path, why in ways:
        for port in ports_in(path):
            used.setdefault(port, why)
    return _Use(used, _typed(tree), untold, frozenset(_linked(tree)))


def _typed(tree: Tree) -> dict[str, str]:
    found = {port: "points" for folder in mice(tree) for port in ports_in(tree.real(folder) or "")}
    return found | {port: "types" for folder, _ in keyboards(tree) for port in ports_in(tree.real(folder) or "")}


def _linked(tree: Tree) -> Iterator[str]:
    for link in tree.names(NET_DIR):
        for path in _places(tree, link):
            yield from ports_in(path)


def _places(tree: Tree, link: str) -> list[str]:
    return [path for path in (tree.real(f"{NET_DIR}/{link}"), tree.real(f"{NET_DIR}/{link}/device")) if path]


def _judged(tree: Tree, device: UsbDevice, interfaces: tuple[_Interface, ...], use: _Use, rules: UsbRules) -> UsbDevice:
    reasons = _reasons(tree, device, interfaces, use, rules)
    why_not = next(reasons, None)
    return replace(device, assignable=why_not is None, why_not=why_not)


def _reasons(
    tree: Tree, device: UsbDevice, interfaces: tuple[_Interface, ...], use: _Use, rules: UsbRules
) -> Iterator[str]:
    """Why it cannot be given away, the weightiest first."""
    kinds, drivers = {each.kind for each in interfaces}, {each.driver for each in interfaces}
    if device.vendor == "0000" or device.bus is None or device.number is None:
        yield "does not say what it is"
    if device.address in use.used:
        yield use.used[device.address]
    if is_said(device, rules.keep):
        yield "is kept for the host, as atomd.toml says"
    if tree.text(f"{USB_DIR}/{device.address}/authorized", 8) == "0":
        yield "is not authorized on this host (USBGuard, or the like)"
    if _PROGRAMS_DRIVER in drivers:
        yield IN_A_PROGRAM
    if _LENT_DRIVER in drivers:
        yield "is lent to another machine (usbip)"
    how = (
        "types" if _BOOT_KEYBOARD in kinds else use.typed.get(device.address, "points" if _BOOT_MOUSE in kinds else "")
    )
    if how and not is_said(device, rules.lend):
        yield f"{how}, as the host's console may: atomd.toml's [usb] lend can say that it is none"
    if use.storage_untold and any(each.kind.startswith(_STORAGE) and each.driver for each in interfaces):
        yield use.storage_untold
    if (hidden := drivers & _NET_DRIVERS) and device.address not in use.linked:
        driver = min(filter(None, hidden))
        yield f"has a driver ({driver}) and no link that can be seen: another namespace may use it"
