"""What keeps guests' devices from the host: the IOMMU's groups, interrupt remapping and ACS.

Sources: Documentation/ABI/testing/sysfs-kernel-iommu_groups, Documentation/driver-api/vfio.rst, the parameters of vfio
and vfio_iommu_type1; PCI Express Base Specification, 7.7.11 (Access Control Services). A device that may write where it
likes, or raise any interrupt, is the host's owner: where nothing prevents it, nothing is given away.
"""

import re

from atomd.inventory.text import whole
from atomd.inventory.tree import Tree

GROUPS_DIR = "sys/kernel/iommu_groups"
NO_IOMMU = "no IOMMU (no passthrough on this host)"
NO_REMAPPING = "no passthrough on this host: its IOMMU does not remap interrupts, a device could raise any"
UNSAFE_INTERRUPTS = "no passthrough on this host: vfio_iommu_type1 has allow_unsafe_interrupts set"
NO_IOMMU_MODE = "no passthrough on this host: vfio has enable_unsafe_noiommu_mode set"

_MODPROBE_DIR = "etc/modprobe.d"
_INTERRUPTS_BYTES_MAX = 8 * 1024 * 1024  # a column for each CPU


def group_numbers(tree: Tree) -> dict[str, int]:
    """Address → IOMMU group."""
    groups = [name for name in tree.names(GROUPS_DIR) if re.match(r"\d{1,9}$", name)]
    return {address: int(group) for group in groups for address in tree.names(f"{GROUPS_DIR}/{group}/devices")}


def group_by_link(tree: Tree, folder: str) -> int | None:
    group = whole(tree.link_name(f"{folder}/iommu_group"))
    return None if group is None or group < 0 else group


def why_no_passthrough(tree: Tree) -> str | None:
    """Why no device at all may be given away, though there are groups."""
    if _is_set(tree, "vfio", "enable_unsafe_noiommu_mode"):
        return NO_IOMMU_MODE
    if _is_set(tree, "vfio_iommu_type1", "allow_unsafe_interrupts"):
        return UNSAFE_INTERRUPTS
    # Linux names the chips of remapped interrupts "IR-…"; an IO-APIC is x86's alone, MSIs of others are kept apart.
    interrupts = tree.text("proc/interrupts", _INTERRUPTS_BYTES_MAX) or ""
    return NO_REMAPPING if " IO-APIC" in interrupts and " IR-" not in interrupts else None


def _is_set(tree: Tree, module: str, parameter: str) -> bool:
    """As the kernel has it; where the module is not loaded yet, as it would be told."""
    now = tree.text(f"sys/module/{module}/parameters/{parameter}", 16)
    if now is not None:
        return now in ("Y", "1")
    switched_on = rf"{parameter}(?:=(?:[yY1]|on|true)\S*)?(?:\s|$)"
    if re.search(rf"(?:^|\s){module}\.{switched_on}", tree.text("proc/cmdline") or ""):
        return True
    texts = [tree.text(f"{_MODPROBE_DIR}/{name}") or "" for name in tree.names(_MODPROBE_DIR)]
    option = rf"^\s*options\s+{module}\s(?:.*\s)?{switched_on}"
    return any(re.search(option, text, re.MULTILINE) for text in texts)
