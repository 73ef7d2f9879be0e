"""A host's hardware, indexed: what never changes while a `Hardware` lasts, built once for each and kept. Pure."""

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from atomd.capacity.devices import DeviceKind, kind_of
from atomd.capacity.hardware import Hardware
from atomd.inventory.facts import PciDevice

LAYOUTS_MAX = 256
NO_LIMIT = 1 << 30

_BRIDGES = ("0600", "0604")  # VFIO lets host and PCI-to-PCI bridges stay with the host (kernel, vfio.rst)


def group_key(device: PciDevice) -> str:
    """The IOMMU group of a device; one without a group is alone in its own."""
    return device.address if device.iommu_group is None else f"group {device.iommu_group}"


def blocks_group(device: PciDevice) -> bool:
    """Whether a device that stays with the host keeps its whole IOMMU group there."""
    return device.iommu_group is not None and not device.device_class.startswith(_BRIDGES)


@dataclass(frozen=True, slots=True)
class PciGroup:
    """Devices that move together: every assignable function of one IOMMU group."""

    addresses: tuple[str, ...]
    kinds: tuple[DeviceKind, ...]  # of each address
    numa: int | None


@dataclass(frozen=True, slots=True)
class Unit:
    """What one slot takes: a core with all its threads, or one thread. `vms` sit on it, `core_vms` on its core."""

    threads: tuple[int, ...]
    core: int  # index in `Hardware.cores`
    vms: int
    core_vms: int
    limit: int  # the strictest overprovision on it so far


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """What divides a node further: which socket, or which last-level cache, each core is of."""

    of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A `Hardware`, indexed; what is of each core stands in the order of `Hardware.cores`."""

    core_of: dict[int, int]  # thread -> index in `Hardware.cores`
    idle_cores: tuple[tuple[Unit, ...], ...]  # each core as a unit, with nobody on it
    idle_threads: tuple[tuple[Unit, ...], ...]  # and its threads
    levels: tuple[Level, ...]  # sockets, then caches: those that divide some node here
    total_mib: int
    groups: tuple[PciGroup, ...]  # usable ones alone
    blocked: dict[str, PciDevice]  # assignable address -> the device of the host that keeps its group


@lru_cache(maxsize=LAYOUTS_MAX)
def layout_of(hardware: Hardware) -> Layout:
    blockers = {group_key(device): device for device in hardware.pci_refused if blocks_group(device)}
    members: defaultdict[str, list[PciDevice]] = defaultdict(list)
    for device in hardware.pci:
        members[group_key(device)].append(device)
    cores = list(enumerate(hardware.cores))
    return Layout(
        core_of={thread: index for index, core in cores for thread in core.threads},
        idle_cores=tuple((Unit(core.threads, index, 0, 0, NO_LIMIT),) for index, core in cores),
        idle_threads=tuple(
            tuple(Unit((each,), index, 0, 0, NO_LIMIT) for each in core.threads) for index, core in cores
        ),
        levels=tuple(Level(of) for of in (_sockets(hardware), _caches(hardware)) if _divides(of, hardware)),
        total_mib=sum(mib for _, mib in hardware.ram_mib),
        groups=tuple(_group(devices) for key, devices in members.items() if key not in blockers),
        blocked={device.address: blockers[key] for key in members.keys() & blockers.keys() for device in members[key]},
    )


def _sockets(hardware: Hardware) -> tuple[int, ...]:
    return tuple(core.socket for core in hardware.cores)


def _caches(hardware: Hardware) -> tuple[int, ...]:
    """Cores of which it is not known are as if they shared one."""
    cache_of = {thread: number for number, threads in enumerate(hardware.caches) for thread in threads}
    return tuple(cache_of.get(core.threads[0], -1) for core in hardware.cores)


def _divides(of: tuple[int, ...], hardware: Hardware) -> bool:
    nodes = [core.numa for core in hardware.cores]
    return len(set(zip(nodes, of, strict=True))) > len(set(nodes))


def _group(devices: list[PciDevice]) -> PciGroup:
    ordered = sorted(devices, key=lambda device: device.address)
    nodes = {device.numa for device in devices}
    return PciGroup(
        addresses=tuple(device.address for device in ordered),
        kinds=tuple(kind_of(device) for device in ordered),
        numa=nodes.pop() if len(nodes) == 1 else None,
    )
