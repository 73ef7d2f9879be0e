"""The body of `atomd inventory`: a machine's inventory as text, or as a recording."""

import json
from pathlib import Path

from atomd.inventory.document import to_json, to_table
from atomd.inventory.reading import read_inventory, read_inventory_of
from atomd.inventory.recording import NoRecording, Recorded, record


class NoMachine(Exception):
    """There is nothing to read where the person pointed, or nowhere to write; the message is a sentence for them."""


def show(root: Path, output: str) -> str:
    """The machine under `root`, a folder or a recording, as "json" or "table". Raises `NoMachine`."""
    if root.is_file():
        try:
            inventory = read_inventory_of(Recorded(root), is_this_machine=False)
        except NoRecording as error:
            raise NoMachine(str(error)) from None
    elif root.is_dir():
        inventory = read_inventory(root)
    else:
        raise NoMachine(
            f'"{root}" is not there: --root wants a folder with a machine\'s proc/ and sys/, or a recording'
        )
    return json.dumps(to_json(inventory), indent=2) if output == "json" else to_table(inventory)


def keep(root: Path, file: Path) -> str:
    """Records the machine under `root`, a folder, in `file`; a sentence about it. Raises `NoMachine`."""
    if not root.is_dir():
        raise NoMachine(f'"{root}" is not a folder: only a machine that is there can be recorded')
    if file.exists():
        raise NoMachine(f'"{file}" is there already: choose another name')
    try:
        record(root, file)
    except OSError as error:
        raise NoMachine(f'"{file}" can\'t be written: {error.strerror or error}') from None
    return f"recorded in {file}, without serial numbers, addresses and names; look: atomd inventory --root {file}"
