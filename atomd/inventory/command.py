"""The body of `atomd inventory`: a machine's inventory as text."""

import json
from pathlib import Path

from atomd.inventory.document import to_json, to_table
from atomd.inventory.reading import read_inventory


class NoMachine(Exception):
    """There is nothing to read where the person pointed; the message is a sentence for them."""


def show(root: Path, output: str) -> str:
    """The machine under `root` as "json" or "table"; raises `NoMachine` where `root` is no folder."""
    if not root.is_dir():
        raise NoMachine(f'"{root}" is not a folder: --root wants one that holds a machine\'s proc/ and sys/')
    inventory = read_inventory(root)
    return json.dumps(to_json(inventory), indent=2) if output == "json" else to_table(inventory)
