"""The inventory for others: as the document `atomd.inventory/1`, and as a page for a person. Pure."""

from collections.abc import Iterable
from typing import Any

from atomd.inventory.cpuset import format_list
from atomd.inventory.facts import Core, Inventory, Memory, PciDevice

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
        },
        "memory": _memory(inventory.memory),
        "pci": [_device(device) for device in inventory.pci],
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
        ", ".join(_count(number, noun) for noun, number in parts.items()),
        f"memory {_mib(memory.total_mib)}, {_ECC[memory.ecc]}",
        "",
        *_columns(_node_rows(inventory)),
    ]
    if inventory.pci:
        page += ["", *_columns(_device_rows(inventory.pci))]
    return "\n".join(page)


def _core(core: Core) -> dict[str, Any]:
    return {"threads": list(core.threads), "socket": core.socket, "numa": core.numa, "class": core.core_class}


def _memory(memory: Memory) -> dict[str, Any]:
    numa = [{"number": node.number, "total_mib": node.total_mib} for node in memory.numa]
    return {"total_mib": memory.total_mib, "ecc": memory.ecc, "numa": numa}


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
        "assignable": device.assignable,
        "why_not": device.why_not,
    }


def _node_rows(inventory: Inventory) -> Iterable[tuple[str, ...]]:
    """One row for each NUMA node and class of core in it."""
    yield "NUMA", "MEMORY", "CORES", "CLASS", "THREADS"
    shares = {node.number: _mib(node.total_mib) for node in inventory.memory.numa}
    for node in sorted({core.numa for core in inventory.cpu.cores} | set(shares)):
        cores = [core for core in inventory.cpu.cores if core.numa == node]
        for core_class in sorted({core.core_class or "" for core in cores}) or [""]:
            same = [core for core in cores if (core.core_class or "") == core_class]
            threads = format_list(tuple(sorted(thread for core in same for thread in core.threads)))
            yield str(node), shares.pop(node, ""), str(len(same)), core_class or "-", threads or "-"


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
