"""PCI addresses, as sysfs writes them. Pure."""

import re

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")


def addresses_in(path: str) -> list[str]:
    """The PCI devices on a path of sysfs, the nearest to the root first."""
    return [part for part in path.split("/") if ADDRESS.match(part)]
