"""What a machine is, as plain facts. Pure.

`None` means *unknown*: what could not be read is never guessed, and unknown is not "no".
The JSON form is `atomd.inventory/1`.
"""

from dataclasses import dataclass

FOR_GUESTS = ("vfio-pci", "pci-stub")  # drivers that hold a device for a guest
SILENT = "does not answer"  # why nobody may have such a device


@dataclass(frozen=True, slots=True)
class Core:
    """One physical core: its online hardware threads, siblings as the kernel lists them, in ascending order. `max_mhz`
    is the most that cpufreq will ever let it run at."""

    threads: tuple[int, ...]
    socket: int
    numa: int  # 0 on a machine without NUMA
    core_class: str | None = None  # "performance" or "efficiency" on hybrid machines
    die: int | None = None  # within its socket
    max_mhz: int | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache and the online threads that share it. `kind` is "data", "instruction" or "unified"."""

    level: int
    kind: str
    size_kib: int | None
    threads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Withheld:
    """Online threads that are for no VM; `why` completes "they are …"."""

    threads: tuple[int, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Cpu:
    """`flags` as the kernel names them, lowercase; `level` is "x86-64-v1" to "-v4", or `None` off x86-64."""

    model: str
    flags: frozenset[str]
    level: str | None
    cores: tuple[Core, ...]
    caches: tuple[Cache, ...] = ()
    withheld: tuple[Withheld, ...] = ()


@dataclass(frozen=True, slots=True)
class HugePages:
    """Pages of one size that the kernel keeps on a node, and those of them that nobody uses now."""

    size_kib: int
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Pages:
    """So many huge pages of one size on one node."""

    node: int
    size_kib: int
    count: int

    @property
    def mib(self) -> int:
        return self.count * self.size_kib // 1024


@dataclass(frozen=True, slots=True)
class NumaNode:
    """`distances` maps nodes to how far they are, 10 being this node itself, as the firmware says (ACPI's SLIT)."""

    number: int
    total_mib: int
    hugepages: tuple[HugePages, ...] = ()  # by ascending size
    distances: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """`ecc` is true only where the machine says so, by the way of `ecc_source`; `None` where it says nothing."""

    total_mib: int
    ecc: bool | None
    numa: tuple[NumaNode, ...]  # at least one
    ecc_source: str = ""  # "edac", "udev", "smbios", or empty


@dataclass(frozen=True, slots=True)
class MdevType:
    """One type of mediated device that a card can make: `available` more of them now, beside the `made` ones."""

    name: str  # "nvidia-63", as the kernel has it
    title: str  # "GRID P40-2Q", as its driver calls it, or empty
    api: str  # "vfio-pci"
    available: int
    made: int


@dataclass(frozen=True, slots=True)
class PciDevice:
    """`assignable` where a VM may have it; else `why_not` is a sentence for a person. `acs`, of bridges alone: whether
    devices behind it are kept from each other ("on", "off", or "none" where it cannot). `mdev_type` is of a mediated
    device alone, which is otherwise as the card that makes it; `mdev_types` is what a card can make."""

    address: str  # 0000:3b:00.0; of a mediated device 0000:3b:00.0/3
    vendor: str  # four lowercase hex digits, as `model`
    model: str
    device_class: str  # six lowercase hex digits
    numa: int | None
    iommu_group: int | None
    driver: str | None
    assignable: bool
    why_not: str | None
    acs: str | None = None
    mdev_type: str = ""
    mdev_types: tuple[MdevType, ...] = ()


@dataclass(frozen=True, slots=True)
class UsbDevice:
    """A USB device that is no hub. `assignable` and `why_not` as of a PCI device. `number` is the kernel's, on its bus,
    for as long as it stays plugged in."""

    address: str  # 3-1.4: the bus, then the port of each hub on the way
    vendor: str  # four lowercase hex digits, as `model`
    model: str
    device_class: str  # six lowercase hex digits: class, subclass, protocol; 000000 where its interfaces say
    name: str  # as it calls itself, for people
    bus: int | None
    number: int | None
    controller: str | None  # the PCI device that it hangs on
    driver: str | None  # of its first interface that has one
    assignable: bool
    why_not: str | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be read, and the file that would have told it, from the machine's root."""

    fact: str
    path: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """`arch` is the kernel's machine name ("x86_64", "aarch64", "ppc64le", "s390x", "riscv64")."""

    arch: str
    cpu: Cpu
    memory: Memory
    pci: tuple[PciDevice, ...]
    unknown: tuple[Unknown, ...] = ()
    usb: tuple[UsbDevice, ...] = ()
