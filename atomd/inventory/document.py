"""The inventory for others: as the document `atomd.inventory/1`, and as a page for a person. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from atomd.inventory.cpuset import format_list
from atomd.inventory.facts import Cache, Core, Cpu, Inventory, Memory, NumaNode, PciDevice, UsbDevice

SCHEMA = "atomd.inventory/1"
_SEPARATES = {"off": "; ACS is off", "none": "; without ACS"}
_ECC = {True: "ECC", False: "no ECC", None: "ECC unknown"}


def to_json(inventory: Inventory) -> dict[str, Any]:
    """`null` is unknown. MiB are whole; flags are sorted; cores and devices come in ascending order."""
    cpu = inventory.cpu
    return {
        "schema": SCHEMA,
        "arch": inventory.arch,
        "cpu": {
            "model": cpu.model,
            "flags": sorted(cpu.flags),
            "level": cpu.level,
            "cores": [_core(core) for core in cpu.cores],
            "caches": [_cache(cache) for cache in cpu.caches],
            "withheld": [{"threads": list(each.threads), "why": each.why} for each in cpu.withheld],
        },
        "memory": _memory(inventory.memory),
        "pci": [_device(device) for device in inventory.pci],
        "usb": [_usb_device(device) for device in inventory.usb],
        "unknown": [{"fact": each.fact, "path": each.path} for each in inventory.unknown],
    }


def to_table(inventory: Inventory) -> str:
    cpu, memory = inventory.cpu, inventory.memory
    parts = {
        "core": len(cpu.cores),
        "thread": sum(len(core.threads) for core in cpu.cores),
        "socket": len({core.socket for core in cpu.cores}),
        "NUMA node": len(memory.numa),
    }
    page = [
        f"{cpu.model}  ({', '.join(filter(None, [inventory.arch, cpu.level]))})",
        ", ".join(_count(number, noun) for noun, number in parts.items()) + _frequency(cpu.cores),
        *([f"caches {', '.join(_cache_counts(cpu.caches))}"] if cpu.caches else []),
        f"memory {_mib(memory.total_mib)}, {_ecc(memory)}",
        "",
        *_columns(_node_rows(inventory)),
    ]
    if inventory.pci:
        page += ["", *_columns(_device_rows(inventory.pci))]
    if any(device.mdev_types for device in inventory.pci):
        page += ["", *_columns(_mediated_rows(inventory.pci))]
    if inventory.usb:
        page += ["", *_columns(_usb_rows(inventory.usb))]
    if notes := [*_withheld(cpu), *_missing(inventory)]:
        page += ["", *notes]
    return "\n".join(page)


def _core(core: Core) -> dict[str, Any]:
    return {
        "threads": list(core.threads),
        "socket": core.socket,
        "die": core.die,
        "numa": core.numa,
        "class": core.core_class,
        "max_mhz": core.max_mhz,
    }


def _cache(cache: Cache) -> dict[str, Any]:
    return {"level": cache.level, "kind": cache.kind, "size_kib": cache.size_kib, "threads": list(cache.threads)}


def _memory(memory: Memory) -> dict[str, Any]:
    return {
        "total_mib": memory.total_mib,
        "ecc": memory.ecc,
        "ecc_source": memory.ecc_source or None,
        "numa": [_node(node) for node in memory.numa],
    }


def _node(node: NumaNode) -> dict[str, Any]:
    pages = [{"size_kib": each.size_kib, "total": each.total, "free": each.free} for each in node.hugepages]
    distances = [{"number": number, "distance": distance} for number, distance in node.distances]
    return {"number": node.number, "total_mib": node.total_mib, "hugepages": pages, "distances": distances}


def _device(device: PciDevice) -> dict[str, Any]:
    return {
        "address": device.address,
        "vendor": device.vendor,
        "model": device.model,
        "class": device.device_class,
        "numa": device.numa,
        "iommu_group": device.iommu_group,
        "acs": device.acs,
        "driver": device.driver,
        "mdev_types": [asdict(each) for each in device.mdev_types],
        "assignable": device.assignable,
        "why_not": device.why_not,
    }


def _usb_device(device: UsbDevice) -> dict[str, Any]:
    return {
        "address": device.address,
        "vendor": device.vendor,
        "model": device.model,
        "class": device.device_class,
        "name": device.name,
        "bus": device.bus,
        "number": device.number,
        "controller": device.controller,
        "driver": device.driver,
        "assignable": device.assignable,
        "why_not": device.why_not,
    }


def _ecc(memory: Memory) -> str:
    return _ECC[memory.ecc] + (f" (by {memory.ecc_source})" if memory.ecc_source else "")


def _frequency(cores: Iterable[Core]) -> str:
    mhz = {core.max_mhz for core in cores if core.max_mhz is not None}
    if not mhz:
        return ""
    return f", up to {max(mhz)} MHz" if len(mhz) == 1 else f", up to {min(mhz)} to {max(mhz)} MHz"


def _cache_counts(caches: Iterable[Cache]) -> Iterable[str]:
    """ "8 x L3 16 MiB": those of one level, kind and size together."""
    same = Counter((cache.level, cache.kind, cache.size_kib) for cache in caches)
    for (level, kind, size_kib), count in sorted(same.items(), key=lambda item: (item[0][:2], item[0][2] or 0)):
        size = "" if size_kib is None else f" {size_kib // 1024} MiB" if size_kib >= 1024 else f" {size_kib} KiB"
        yield f"{count} x L{level}{'' if kind == 'unified' else kind[0]}{size}"


def _huge_pages(node: NumaNode) -> str:
    return ", ".join(f"{each.total} x {_mib(each.size_kib // 1024)}" for each in node.hugepages) or "-"


def _withheld(cpu: Cpu) -> Iterable[str]:
    for each in cpu.withheld:
        yield f"threads {format_list(each.threads)} are for no VM: they are {each.why}"


def _missing(inventory: Inventory) -> Iterable[str]:
    for each in inventory.unknown:
        yield f"{each.fact} is unknown: it would be told by {each.path}"


def _node_rows(inventory: Inventory) -> Iterable[tuple[str, ...]]:
    """One row for each NUMA node and class of core in it."""
    yield "NUMA", "MEMORY", "HUGE PAGES", "CORES", "CLASS", "THREADS"
    shares = {node.number: (_mib(node.total_mib), _huge_pages(node)) for node in inventory.memory.numa}
    for node in sorted({core.numa for core in inventory.cpu.cores} | set(shares)):
        cores = [core for core in inventory.cpu.cores if core.numa == node]
        for core_class in sorted({core.core_class or "" for core in cores}) or [""]:
            same = [core for core in cores if (core.core_class or "") == core_class]
            threads = format_list(tuple(sorted(thread for core in same for thread in core.threads)))
            yield str(node), *shares.pop(node, ("", "")), str(len(same)), core_class or "-", threads or "-"


def _device_rows(devices: Iterable[PciDevice]) -> Iterable[tuple[str, ...]]:
    yield "PCI", "DEVICE", "CLASS", "NUMA", "GROUP", "DRIVER", "FOR VMS"
    for device in devices:
        yield (
            device.address,
            f"{device.vendor}:{device.model}",
            device.device_class,
            _or_dash(device.numa),
            _or_dash(device.iommu_group),
            _or_dash(device.driver),
            "yes" if device.assignable else f"no: {device.why_not}{_SEPARATES.get(device.acs or '', '')}",
        )


def _mediated_rows(devices: Iterable[PciDevice]) -> Iterable[tuple[str, ...]]:
    """What cards can make, where some can."""
    yield "MAKES", "TYPE", "NAME", "MADE", "MORE"
    for device in devices:
        for each in device.mdev_types:
            yield device.address, each.name, each.title or "-", str(each.made), str(each.available)


def _usb_rows(devices: Iterable[UsbDevice]) -> Iterable[tuple[str, ...]]:
    yield "USB", "DEVICE", "NAME", "DRIVER", "FOR VMS"
    for device in devices:
        kind, why = f"{device.vendor}:{device.model}", f"no: {device.why_not}"
        yield device.address, kind, device.name or "-", _or_dash(device.driver), "yes" if device.assignable else why


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _mib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib} MiB" if mib else "unknown"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
