"""Whether memory corrects errors, by whichever source says so; unknown is never "no"."""

from pathlib import Path

import pytest

from atomd.inventory.ecc import read_ecc
from atomd.inventory.paths import SMBIOS_TABLES
from atomd.inventory.tree import Tree

MC = "sys/devices/system/edac/mc/mc0"
DMI = "run/udev/data/+dmi:id"


def tree(root: Path, files: dict[str, str]) -> Tree:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Tree(root)


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
        ({f"{MC}/dimm0/dimm_edac_mode": "SECDED", f"{MC}/dimm1/size": "8192"}, None),  # a module of which nobody says
        ({f"{MC}/dimm0/dimm_edac_mode": "SECDED", f"{MC}/dimm1/dimm_edac_mode": ""}, None),
        ({f"{MC}/dimm0/dimm_edac_mode": "SECDED", f"{MC[:-1]}1/mc_name": "skx"}, None),  # nor of a controller
        ({f"{MC}/dimm0/dimm_edac_mode": "SECDED", f"{MC[:-1]}1/size_mb": "0"}, True),  # one without memory
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
    assert read_ecc(tree(tmp_path, files))[0] is ecc


def table(kind: int, body: bytes, *, strings: bytes = b"") -> bytes:
    """One of the firmware's tables: type, length, handle, body; its strings, and two NULs."""
    return bytes([kind, 4 + len(body), 0, 0]) + body + (strings or b"\0") + b"\0"


def array(correction: int, *, use: int = 3) -> bytes:
    """A physical memory array (DSP0134, 7.17): location, use, correction, capacity, error handle, slots."""
    return table(16, bytes([3, use, correction]) + bytes(8))


END = table(127, b"")
BOARD = table(2, bytes(4), strings=b"Board\0\x10\x05 16\0")
TWO_KINDS = BOARD + array(6) + array(3) + END


@pytest.mark.parametrize(
    ("tables", "ecc"),
    [
        (BOARD + array(6) + END, True),
        (array(5) + array(6) + END, True),
        (array(6) + array(3) + END, False),
        (array(6) + array(2) + END, None),
        (array(4) + END, False),
        (array(6) + array(3, use=4) + END, True),  # the video card's own
        (array(6, use=5) + END, None),
        (BOARD + END, None),
        (BOARD[:5] + array(6), None),
        (array(6)[:6], None),
        (array(6), None),  # cut: the next might have been one that corrects nothing
        (array(4), False),
        (bytes([16, 0, 0, 0]) + array(6), None),  # a table without a length has no end
        (b"", None),
    ],
)
def test_the_firmwares_own_tables_are_asked_last(tmp_path: Path, tables: bytes, ecc: bool | None) -> None:
    machine = tree(tmp_path, {})
    (tmp_path / SMBIOS_TABLES).parent.mkdir(parents=True)
    (tmp_path / SMBIOS_TABLES).write_bytes(tables)
    assert read_ecc(machine)[0] is ecc


def test_the_first_source_that_says_anything_is_believed_and_named(tmp_path: Path) -> None:
    machine = tree(tmp_path, {})
    assert read_ecc(machine) == (None, "")
    (tmp_path / SMBIOS_TABLES).parent.mkdir(parents=True)
    (tmp_path / SMBIOS_TABLES).write_bytes(array(6) + END)
    assert read_ecc(machine) == (True, "smbios")
    tree(tmp_path, {DMI: "E:MEMORY_ARRAY_EC_TYPE=None\n"})
    assert read_ecc(machine) == (False, "udev")
    tree(tmp_path, {f"{MC}/dimm0/dimm_edac_mode": "SECDED"})
    assert read_ecc(machine) == (True, "edac")


@pytest.mark.parametrize("end", range(len(TWO_KINDS)))
def test_tables_that_were_cut_never_say_yes(tmp_path: Path, end: int) -> None:
    machine = tree(tmp_path, {})
    (tmp_path / SMBIOS_TABLES).parent.mkdir(parents=True)
    (tmp_path / SMBIOS_TABLES).write_bytes(TWO_KINDS[:end])
    assert read_ecc(machine)[0] is not True
