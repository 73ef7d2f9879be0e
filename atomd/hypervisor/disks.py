"""Disks of a domain that runs, plugged in and taken out. Each function blocks; it belongs into `Connection.call`."""

from collections.abc import Sequence
from typing import Any

import libvirt

from atomd.hypervisor.disk_xml import Disks, one_disk_xml
from atomd.hypervisor.domains import DomainSecret, NotPlugged, StartFailed
from atomd.hypervisor.libvirt_words import explain_plug
from atomd.hypervisor.life import find
from atomd.hypervisor.secrets import lent
from atomd.hypervisor.translating import NOT_SURE, is_alive, plain_words
from matcher.wire.volumes import AttachedVolume
from specs.ids import VmId


def plug(connection: Any, *, vm_id: VmId, volume: AttachedVolume, secrets: Sequence[DomainSecret]) -> None:
    """The secrets as for a start: see `create`."""
    domain = find(connection, vm_id)
    disks = Disks(domain.XMLDesc())
    if disks.has(volume.vid):
        return
    with lent(connection, secrets):
        try:
            domain.attachDeviceFlags(one_disk_xml(volume, vm_id, disks.names), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except StartFailed as error:
            raise NotPlugged(str(error)) from error
        except libvirt.libvirtError as error:
            if not is_alive(connection) or error.get_error_code() in NOT_SURE:
                raise
            raise NotPlugged(explain_plug(plain_words(error))) from error


def ask_to_let_go(connection: Any, *, vm_id: VmId, vid: str) -> None:
    domain = find(connection, vm_id)
    disks = Disks(domain.XMLDesc())
    if (empty := disks.without_disc(vid)) is not None:
        domain.updateDeviceFlags(empty, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    elif disks.has(vid):
        domain.detachDeviceAlias(disks.alias(vid), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def is_without(connection: Any, *, vm_id: VmId, vid: str, settles: bool = False) -> bool:
    """`settles`: not before a change that is under way has ended, such as one of an atomd that has died in it. Changes
    of a domain wait for each other, one that names nothing too."""
    try:
        domain = find(connection, vm_id)
        if settles:
            try:
                domain.detachDeviceAlias("ua-none", libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as error:
                if not is_alive(connection) or error.get_error_code() in NOT_SURE:
                    raise
        return not Disks(domain.XMLDesc()).has(vid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return True
        raise
