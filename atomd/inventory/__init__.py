"""Facts about the machine, read from /sys and /proc under any root; reads files, nothing else."""

from atomd.inventory.document import to_json
from atomd.inventory.reading import read_inventory

__all__ = ["read_inventory", "to_json"]
