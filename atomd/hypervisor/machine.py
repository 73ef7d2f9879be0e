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
    known = _domain_capabilities(connection, host)
    return Capabilities(
        hypervisor_version=_version(connection.getVersion()),
        libvirt_version=_version(connection.getLibVersion()),
        host_arch=host,
        archs=frozenset(arch for arch, platform in PLATFORMS.items() if platform.libvirt_arch in emulated),
        firmwares=frozenset() if known is None else firmwares_of(known, host),
        tpm=known is not None and has_tpm(known),
    )


def _domain_capabilities(connection: Any, host_arch: str) -> Any:
    """Of the machine that guests of the host's own kind get; firmware and TPMs are the same with either accelerator."""
    platform = _platform(host_arch)
    if platform is None:
        return None
    return etree.fromstring(connection.getDomainCapabilities(None, host_arch, platform.machine, "qemu", 0))


def _platform(host_arch: str) -> Any:
    return next((platform for platform in PLATFORMS.values() if platform.libvirt_arch == host_arch), None)


def firmwares_of(known: Any, host_arch: str) -> frozenset[Firmware]:
    """What guests can boot by, as libvirt's domain capabilities have it. `secure` there is a firmware that has secure
    boot, and SMM to keep its variables from the guest's kernel."""
    platform = _platform(host_arch)
    uefi = platform.has_uefi and "efi" in _values(known, "os/enum[@name='firmware']")
    found = {Firmware.BIOS} if uefi or not platform.uefi_only else set()  # it means UEFI where there is nothing else
    if uefi:
        found.add(Firmware.UEFI)
    if uefi and "yes" in _values(known, "os/loader/enum[@name='secure']"):
        found.add(Firmware.UEFI_SECURE)
    return frozenset(found)


def has_tpm(known: Any) -> bool:
    """libvirt names the emulator only where swtpm and swtpm_setup are there, with the versions that they can do."""
    models = _values(known, "devices/tpm[@supported='yes']/enum[@name='backendModel']")
    versions = _values(known, "devices/tpm[@supported='yes']/enum[@name='backendVersion']")
    return "emulator" in models and "2.0" in versions


def _values(known: Any, enum: str) -> set[str]:
    return {value.text or "" for value in known.iterfind(f"{enum}/value")}


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
