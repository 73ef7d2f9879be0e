"""A machine and its recording say the same; harmed, they say less and never fail."""

import json
import subprocess
from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomd.inventory import to_json
from atomd.inventory.document import to_table
from atomd.inventory.facts import Inventory
from atomd.inventory.reading import read_inventory_of
from atomd.inventory.recording import Recorded, record
from tests.zoo.machines import recordings

MACHINES = recordings()


def read(file: Path) -> Inventory:
    return read_inventory_of(Recorded(file), is_this_machine=False)


def unpacked(archive: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    return min((path.parent for path in folder.rglob("sys")), key=lambda path: len(path.parts))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda path: path.name)
def test_a_machine_its_archive_and_its_recording_say_the_same(machine: Path, tmp_path: Path) -> None:
    told = record(unpacked(machine, tmp_path / "machine"), tmp_path / "recorded.tar.gz")
    assert read(machine) == told
    assert read(tmp_path / "recorded.tar.gz") == told


Harm = Callable[[bytes], bytes | None]
HARMS: dict[str, Harm] = {
    "missing": lambda _: None,
    "cut": lambda data: data[: len(data) // 2],
    "nul": lambda data: data[:1] + b"\0" + data[1:],
    "empty": lambda _: b"",
    "binary": lambda data: bytes(255 - byte for byte in data),
    "huge": lambda data: data * 1000,
    "number": lambda _: b"9" * 30,
    "negative": lambda _: b"-1\n",
}


class Harmed(Recorded):
    """A copy of a machine with some of its files harmed, and folders that nobody may list."""

    def __init__(self, sound: Recorded, files: dict[int, str], denied: set[int]) -> None:
        self.__dict__ = {key: copy(value) for key, value in vars(sound).items()}
        for number, harm in files.items():
            name = sorted(self._files)[number % len(self._files)]
            harmed = HARMS[harm](self._files.pop(name))
            if harmed is not None:
                self._files[name] = harmed
        for number in denied:
            self._folders[sorted(self._folders)[number % len(self._folders)]] = set()


@cache
def sound(machine: Path) -> tuple[Recorded, Inventory]:
    return Recorded(machine), read(machine)


@pytest.mark.skipif(not MACHINES, reason="there are no recorded machines")
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(MACHINES),
    st.dictionaries(st.integers(0, 10_000), st.sampled_from(sorted(HARMS)), max_size=40),
    st.sets(st.integers(0, 10_000), max_size=3),
)
def test_a_harmed_machine_is_read_soundly(machine: Path, files: dict[int, str], denied: set[int]) -> None:
    tree, before = sound(machine)
    inventory = read_inventory_of(Harmed(tree, files, denied), is_this_machine=False)
    threads = [thread for core in inventory.cpu.cores for thread in core.threads]
    assert len(threads) == len(set(threads)), "a thread is in one core"
    assert all(set(each.threads) <= set(threads) for each in inventory.cpu.withheld)
    assert all(set(each.threads) <= set(threads) for each in inventory.cpu.caches)
    assert inventory.memory.ecc is not True or before.memory.ecc is True, "harm makes no memory better"
    json.dumps(to_json(inventory)).encode()
    to_table(inventory).encode()
