"""What a machine is, as plain facts. Pure.

`None` means *unknown*: what could not be read is never guessed, and unknown is not "no".
The JSON form is `atomd.inventory/1`.
"""

from dataclasses import dataclass

FOR_GUESTS = ("vfio-pci", "pci-stub")  # drivers that hold a device for a guest
SILENT = "does not answer"  # why nobody may have such a device


@dataclass(frozen=True, slots=True)
class Core:
    """One physical core: its online hardware threads, siblings as the kernel lists them, in ascending order."""

    threads: tuple[int, ...]
    socket: int
    numa: int  # 0 on a machine without NUMA
    core_class: str | None = None  # "performance" or "efficiency" on hybrid machines


@dataclass(frozen=True, slots=True)
class Cpu:
    """`flags` as the kernel names them, lowercase; `level` is "x86-64-v1" to "-v4", or `None` off x86-64."""

    model: str
    flags: frozenset[str]
    level: str | None
    cores: tuple[Core, ...]


@dataclass(frozen=True, slots=True)
class NumaNode:
    number: int
    total_mib: int


@dataclass(frozen=True, slots=True)
class Memory:
    """`ecc` is true only where the machine says so; `None` where it says nothing."""

    total_mib: int
    ecc: bool | None
    numa: tuple[NumaNode, ...]  # at least one


@dataclass(frozen=True, slots=True)
class PciDevice:
    """`assignable` where a VM may have it; else `why_not` is a sentence for a person. `acs`, of bridges alone: whether
    devices behind it are kept from each other ("on", "off", or "none" where it cannot)."""

    address: str  # 0000:3b:00.0
    vendor: str  # four lowercase hex digits, as `model`
    model: str
    device_class: str  # six lowercase hex digits
    numa: int | None
    iommu_group: int | None
    driver: str | None
    assignable: bool
    why_not: str | None
    acs: str | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """`arch` is the kernel's machine name ("x86_64", "aarch64", "ppc64le", "s390x", "riscv64")."""

    arch: str
    cpu: Cpu
    memory: Memory
    pci: tuple[PciDevice, ...]
