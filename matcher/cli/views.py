"""A VM as documents and rows: the one shape that `run`, `ps`, `inspect` and the rest print."""

import json
import time
from collections.abc import Sequence
from typing import Any

from matcher.cli.output import Table
from matcher.wire.messages import VmView, VmVolume
from specs.ids import dashed


def vm_document(vm: VmView) -> dict[str, Any]:
    return {
        "id": dashed(vm.id),
        "generation": vm.generation,
        "name": vm.name,
        "host": vm.host,
        "state": vm.state,
        "domain": vm.domain,
        "accelerator": vm.accelerator,
        "addresses": list(vm.addresses),
    } | ({"why": vm.why} if vm.why else {})


def vm_detail(vm: VmView) -> dict[str, Any]:
    """Everything that is known, for `inspect`."""
    return vm_document(vm) | {
        "user": vm.user,
        "host_id": vm.host_id,
        "arch": vm.arch,
        "vcpus": vm.vcpus,
        "topology": {"cores": vm.vcpus // max(1, vm.threads_per_core), "threads": vm.threads_per_core},
        "threads": list(vm.threads),
        "exclusive": vm.overprovision == 1,
        "overprovision": vm.overprovision,
        "numa": vm.numa if vm.numa >= 0 else None,
        "ram_mib": vm.ram_mib,
        "pci": list(vm.pci),
        "usb": list(vm.usb),
        "lease_ends": _utc(vm.lease_ends_s) if vm.lease_ends_s else None,
        "volumes": [_volume(volume, vm.host_id) for volume in vm.volumes],
        "specfile": _specfile(vm.specfile),
    }


def _volume(volume: VmVolume, host_id: str) -> dict[str, Any]:
    """`from` is the id of the host that has it, or "here": the VM's own."""
    return (
        {
            "vid": volume.vid,
            "format": volume.format.value,
            "readonly": volume.readonly,
            "bootable": volume.bootable,
            "from": volume.server if volume.server not in (None, host_id) else "here",
        }
        | ({"cdrom": True} if volume.cdrom else {})
        | ({"change": volume.change} if volume.change else {})
        | ({"change_s": volume.change_s} if volume.change_s else {})
    )


def vms_table(vms: Sequence[VmView]) -> Table:
    rows = [
        (
            vm.name,
            vm.host,
            vm.state + (f": {vm.why}" if vm.why else ""),
            " ".join(vm.addresses) or "-",
            _size(vm),
            vm.accelerator,
            vm.id[:8],
        )
        for vm in vms
    ]
    return Table(("NAME", "HOST", "STATE", "ADDRESS", "SIZE", "ACCEL", "ID"), rows, [vm.name for vm in vms])


def detail_table(vm: VmView) -> Table:
    """One field a line."""
    rows = []
    for key, value in vm_detail(vm).items():
        shown = json.dumps(value) if isinstance(value, dict | list | bool) or value is None else value
        rows.append((key, shown))
    return Table(("FIELD", "VALUE"), rows, [vm.name])


def _size(vm: VmView) -> str:
    return f"{vm.vcpus} vCPU, {vm.ram_mib} MiB"


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _specfile(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
