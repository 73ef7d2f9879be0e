"""Whether the machine's memory corrects errors, and who says so.

By falling trust: EDAC (the memory controller's driver: Documentation/driver-api/edac.rst), udev's record of the
firmware's tables (systemd's dmi_memory_id), and those tables themselves, which dmidecode reads as well (DMTF DSP0134,
SMBIOS, 7.17, "Physical Memory Array"). All may be silent; and only root may read the last.
"""

import re

from atomd.inventory.paths import DMI_RECORD, EDAC_DIR, SMBIOS_TABLES
from atomd.inventory.smbios import is_whole, memory_arrays
from atomd.inventory.tree import Tree

_CORRECTING = {"SECDED", "S2ECD2ED", "S4ECD4ED", "S8ECD8ED", "S16ECD16ED"}
_NOT_CORRECTING = {"None", "PARITY", "EC"}  # EC notices errors and corrects none
_EC_TYPES = {"Single-bit ECC": True, "Multi-bit ECC": True, "None": False, "Parity": False, "CRC": False}
_TABLES_BYTES_MAX = 1024 * 1024
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
    """True where every module that a memory controller knows is in a correcting mode; one that is silent may not be."""
    modes: set[str | None] = set()
    for controller in tree.names(EDAC_DIR):
        if re.match(r"mc\d+$", controller):
            modes |= _modes(tree, f"{EDAC_DIR}/{controller}")
    if modes & _NOT_CORRECTING:
        return False
    return True if modes and modes <= _CORRECTING else None


def _modes(tree: Tree, controller: str) -> set[str | None]:
    """Of its modules, else of its rows; `None` for what is silent. An empty slot has a mode too, which says nothing."""
    parts = tree.names(controller)
    for kind, mode, size in (("(?:dimm|rank)", "dimm_edac_mode", "size"), ("csrow", "edac_mode", "size_mb")):
        places = [f"{controller}/{part}" for part in parts if re.match(rf"{kind}\d+$", part)]
        if places:
            return {tree.text(f"{place}/{mode}") for place in places if tree.number(f"{place}/{size}") != 0}
    return set() if tree.number(f"{controller}/size_mb") == 0 else {None}


def _by_udev(tree: Tree) -> bool | None:
    found = re.search(r"^E:MEMORY_ARRAY_EC_TYPE=(.+)$", tree.text(DMI_RECORD) or "", re.MULTILINE)
    return _EC_TYPES.get(found[1].strip()) if found else None


def _by_smbios(tree: Tree) -> bool | None:
    """True where every array of the system's memory corrects, and none can have been cut off."""
    data = tree.data(SMBIOS_TABLES, _TABLES_BYTES_MAX) or b""
    arrays = [_CORRECTIONS.get(table[6]) for table in memory_arrays(data) if table[5] == _FOR_SYSTEM]
    if False in arrays:
        return False
    return True if arrays and None not in arrays and is_whole(data) else None
