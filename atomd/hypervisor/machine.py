"""What libvirt can do on this machine, and its networks. Each function blocks; it belongs into `Connection.call`."""

from typing import Any

import libvirt
from lxml import etree

from atomd.hypervisor.domain_xml import PLATFORMS
from atomd.hypervisor.domains import Capabilities, NoNetwork
from atomd.hypervisor.translating import is_alive, plain_words
from matcher.wire.messages import Firmware


def capabilities(connection: Any) -> Capabilities:
    everything = etree.fromstring(connection.getCapabilities())
    emulated = {arch.get("name") for arch in everything.iterfind("guest/arch")}
    host = everything.findtext("host/cpu/arch") or ""
    return Capabilities(
        hypervisor_version=_version(connection.getVersion()),
        libvirt_version=_version(connection.getLibVersion()),
        host_arch=host,
        archs=frozenset(arch for arch, platform in PLATFORMS.items() if platform.libvirt_arch in emulated),
        firmwares=_firmwares(connection, host),
    )


def _firmwares(connection: Any, host_arch: str) -> frozenset[Firmware]:
    platform = next((p for p in PLATFORMS.values() if p.libvirt_arch == host_arch), None)
    if platform is None:
        return frozenset()
    known = etree.fromstring(connection.getDomainCapabilities(None, host_arch, platform.machine, "qemu", 0))
    offered = {value.text for value in known.iterfind("os/enum[@name='firmware']/value")}
    uefi = "efi" in offered and platform.has_uefi
    return frozenset({Firmware.BIOS} if not platform.uefi_only else set()) | ({Firmware.UEFI} if uefi else set())


def start_network(connection: Any, *, name: str) -> bool:
    """Whether it was not active before."""
    hint = "define it, or name another one in atomd's configuration"
    try:
        network = connection.networkLookupByName(name)
    except libvirt.libvirtError as error:
        raise NoNetwork(f"libvirt has no network {name!r}: {hint}") from error
    try:
        if network.isActive():
            return False
        network.create()
    except libvirt.libvirtError as error:
        if is_alive(connection) and not network.isActive():
            raise NoNetwork(f"libvirt can't start its network {name!r}: {plain_words(error)}") from error
    return True


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
