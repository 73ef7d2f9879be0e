"""Addresses of PCI devices and ports of USB devices, as sysfs writes them. Pure."""

import re
from hashlib import sha256

from specs.ids import dashed

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")
USB_PORT = re.compile(r"\d{1,3}-\d{1,3}(\.\d{1,3}){0,5}$")  # the bus, then the port of each hub on the way


def is_mediated(address: str) -> bool:
    """Of a mediated device that atomd makes: `PARENT/N`."""
    return "/" in address


def mdev_uuid(address: str) -> str:
    """It follows from its address, so that after any crash it is known which ones are atomd's."""
    return dashed(sha256(f"atomos {address}".encode()).hexdigest()[:32])


def addresses_in(path: str) -> list[str]:
    """The PCI devices on a path of sysfs, the nearest to the root first."""
    return [part for part in path.split("/") if ADDRESS.match(part)]


def ports_in(path: str) -> list[str]:
    """The USB devices on a path of sysfs, hubs among them."""
    return [part for part in path.split("/") if USB_PORT.match(part)]
