"""Whether the machine's memory corrects errors, and who says so.

By falling trust: EDAC (the memory controller's driver: Documentation/driver-api/edac.rst), udev's record of the
firmware's tables (systemd's dmi_memory_id), and those tables themselves, which dmidecode reads as well (DMTF DSP0134,
SMBIOS, 7.17, "Physical Memory Array"). All may be silent; and only root may read the last.
"""

import re
from collections.abc import Iterator

from atomd.inventory.paths import EDAC_DIR
from atomd.inventory.tree import Tree

DMI_RECORD = "run/udev/data/+dmi:id"
SMBIOS_TABLES = "sys/firmware/dmi/tables/DMI"

_CORRECTING = {"SECDED", "S2ECD2ED", "S4ECD4ED", "S8ECD8ED", "S16ECD16ED"}
_NOT_CORRECTING = {"None", "PARITY", "EC"}  # EC notices errors and corrects none
_EC_TYPES = {"Single-bit ECC": True, "Multi-bit ECC": True, "None": False, "Parity": False, "CRC": False}
_TABLES_BYTES_MAX = 1024 * 1024
_HEADER_BYTES = 4
_ARRAY_TYPE, _ARRAY_BYTES_MIN = 16, 7
_FOR_SYSTEM = 3  # of uses of an array: not video, flash or cache
_CORRECTIONS = {3: False, 4: False, 5: True, 6: True, 7: False}  # none, parity, single-bit ECC, multi-bit ECC, CRC


def read_ecc(tree: Tree) -> tuple[bool | None, str]:
    """True where the memory corrects errors, `None` where nobody says; and which source told, or nothing."""
    for source, read in (("edac", _by_edac), ("udev", _by_udev), ("smbios", _by_smbios)):
        corrects = read(tree)
        if corrects is not None:
            return corrects, source
    return None, ""


def _by_edac(tree: Tree) -> bool | None:
    """True where every module that a memory controller knows is in a correcting mode."""
    modes: set[str] = set()
    for controller in tree.names(EDAC_DIR):
        folder = f"{EDAC_DIR}/{controller}"
        parts = tree.names(folder) if re.match(r"mc\d+$", controller) else []
        modules = [part for part in parts if re.match(r"(dimm|rank)\d+$", part)]
        rows = [part for part in parts if re.match(r"csrow\d+$", part)]
        modes |= {mode for name in modules if (mode := _mode(tree, f"{folder}/{name}", "dimm_edac_mode", "size"))}
        if not modules:
            modes |= {mode for name in rows if (mode := _mode(tree, f"{folder}/{name}", "edac_mode", "size_mb"))}
    if modes and modes <= _CORRECTING:
        return True
    return False if modes & _NOT_CORRECTING else None


def _mode(tree: Tree, folder: str, mode: str, size: str) -> str | None:
    """An empty slot has a mode too, which says nothing."""
    return None if tree.number(f"{folder}/{size}") == 0 else tree.text(f"{folder}/{mode}")


def _by_udev(tree: Tree) -> bool | None:
    found = re.search(r"^E:MEMORY_ARRAY_EC_TYPE=(.+)$", tree.text(DMI_RECORD) or "", re.MULTILINE)
    return _EC_TYPES.get(found[1].strip()) if found else None


def _by_smbios(tree: Tree) -> bool | None:
    """True where every array of the system's memory corrects."""
    tables = _arrays(tree.data(SMBIOS_TABLES, _TABLES_BYTES_MAX) or b"")
    arrays = [_CORRECTIONS.get(table[6]) for table in tables if table[5] == _FOR_SYSTEM]
    if False in arrays:
        return False
    return True if arrays and None not in arrays else None


def memory_arrays(data: bytes) -> bytes:
    """Of the firmware's tables those alone that tell of error correction, without their strings."""
    return b"".join(table + b"\0\0" for table in _arrays(data))


def _arrays(data: bytes) -> Iterator[bytes]:
    return (table for table in _tables(data) if table[0] == _ARRAY_TYPE and len(table) >= _ARRAY_BYTES_MIN)


def _tables(data: bytes) -> Iterator[bytes]:
    """Each without its strings, which end at two NULs."""
    at = 0
    while at + _HEADER_BYTES <= len(data):
        length = data[at + 1]
        end = data.find(b"\0\0", at + length)
        if length < _HEADER_BYTES or end < 0:
            return
        yield data[at : at + length]
        at = end + 2
