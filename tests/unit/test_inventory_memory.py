"""How much memory there is, where, and whether it corrects errors; unknown is never "no"."""

from pathlib import Path

import pytest

from atomd.inventory.facts import NumaNode
from atomd.inventory.memory import read_memory
from atomd.inventory.tree import Tree

MC = "sys/devices/system/edac/mc/mc0"
DMI = "run/udev/data/+dmi:id"


def tree(root: Path, files: dict[str, str]) -> Tree:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Tree(root)


def test_a_machine_without_numa_has_one_node_with_all_of_it(tmp_path: Path) -> None:
    memory = read_memory(tree(tmp_path, {"proc/meminfo": "MemTotal:        2097152 kB\nMemFree: 1 kB\n"}))
    assert (memory.total_mib, memory.numa, memory.ecc) == (2048, (NumaNode(0, 2048),), None)


def test_the_nodes_add_up_where_the_total_is_missing(tmp_path: Path) -> None:
    nodes = {f"sys/devices/system/node/node{n}/meminfo": f"Node {n} MemTotal: {n << 20} kB\n" for n in (1, 2)}
    memory = read_memory(tree(tmp_path, nodes))
    assert (memory.total_mib, memory.numa) == (3072, (NumaNode(1, 1024), NumaNode(2, 2048)))


@pytest.mark.parametrize(
    "text", ["", "MemTotal:", "MemTotal: -5 kB", "MemTotal: 9999999999999999 kB", f"MemTotal: {10**40} kB", "\0"]
)
def test_garbage_promises_nothing(tmp_path: Path, text: str) -> None:
    assert read_memory(tree(tmp_path, {"proc/meminfo": text})).total_mib == 0


@pytest.mark.parametrize(
    ("files", "ecc"),
    [
        ({}, None),
        ({f"{MC}/dimm0/dimm_edac_mode": "SECDED\n", f"{MC}/dimm1/dimm_edac_mode": "S4ECD4ED"}, True),
        ({f"{MC}/dimm0/dimm_edac_mode": "SECDED", f"{MC}/dimm1/dimm_edac_mode": "None"}, False),
        ({f"{MC}/dimm0/dimm_edac_mode": "SECDED", f"{MC}/dimm1/dimm_edac_mode": "Unknown"}, None),
        (
            {
                f"{MC}/dimm0/dimm_edac_mode": "SECDED",
                f"{MC}/dimm1/dimm_edac_mode": "None",
                f"{MC}/dimm1/size": "0",  # an empty slot
            },
            True,
        ),
        ({f"{MC}/csrow0/edac_mode": "SECDED"}, True),
        ({f"{MC}/csrow0/edac_mode": "EC"}, False),
        ({f"{MC}/mc_name": "ie31200"}, None),
        ({DMI: "E:ID_VENDOR=Dell\nE:MEMORY_ARRAY_EC_TYPE=Multi-bit ECC\n"}, True),
        ({DMI: "E:MEMORY_ARRAY_EC_TYPE=None\n"}, False),
        ({DMI: "E:MEMORY_ARRAY_EC_TYPE=Other\n"}, None),
        ({DMI: "E:MEMORY_ARRAY_EC_TYPE=Multi-bit ECC\n", f"{MC}/csrow0/edac_mode": "None"}, False),
    ],
)
def test_ecc_is_what_the_machine_says_and_else_unknown(tmp_path: Path, files: dict[str, str], ecc: bool | None) -> None:
    assert read_memory(tree(tmp_path, files)).ecc is ecc
