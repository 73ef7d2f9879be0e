"""A domain's life, from its creation to its end, and how it is seen. Each function blocks; it belongs into
`Connection.call`."""

import contextlib
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import libvirt

from atomd.hypervisor.disk_xml import NAME_PREFIX
from atomd.hypervisor.domain_xml import GUEST_AGENT, NAMESPACE, domain_name, read_tag
from atomd.hypervisor.domains import (
    DomainExists,
    DomainSecret,
    DomainState,
    NotNow,
    ObservedDomain,
    StartFailed,
    TargetAway,
)
from atomd.hypervisor.libvirt_words import TARGET_AWAY, explain_start
from atomd.hypervisor.secrets import lent
from atomd.hypervisor.translating import PAUSED, STATES, is_alive, plain_words
from specs.ids import VmId, dashed

AGENT_S = 2  # the guest's agent is the guest's: it may never answer
ADDRESSES_MAX = 16


def find(connection: Any, vm_id: VmId) -> Any:
    """By name, not by UUID: the name is ours alone."""
    return connection.lookupByName(domain_name(vm_id))


def create(connection: Any, *, xml: str, vm_id: VmId, secrets: Sequence[DomainSecret], paused: bool) -> None:
    try:
        with lent(connection, secrets):
            connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)
    except libvirt.libvirtError as error:
        if not is_alive(connection):
            raise
        with contextlib.suppress(libvirt.libvirtError):
            if find(connection, vm_id).isActive():
                raise DomainExists(f"{domain_name(vm_id)} runs already") from error
        why = explain_start(plain_words(error))
        raise (TargetAway if why == TARGET_AWAY else StartFailed)(why) from error


def destroy(domain: Any) -> None:
    """A libvirtd that has just come back may find the domain gone under its hands: QEMU has ended, which is what was
    asked for. (No event tells of it then.)"""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def erase(connection: Any, *, xml: str, vm_id: VmId) -> None:
    """libvirt removes UEFI's variables and a TPM's state with the domain that they are of, if it is a persistent one;
    so this is one for a moment. (Its folders are closed to us, and named otherwise by other distributions.)"""
    with contextlib.suppress(libvirt.libvirtError):
        domain = connection.lookupByUUIDString(dashed(vm_id))
        if domain.name() != domain_name(vm_id):
            return  # a sysadmin's, whose UUID the client chose: beside it, ours has never started
        if domain.isActive():
            raise NotNow(f"{domain_name(vm_id)} runs")
    domain = connection.defineXML(xml)
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_TPM)


def observe_all(connection: Any) -> tuple[ObservedDomain, ...]:
    observed = (_observe(domain) for domain in connection.listAllDomains(0))
    return tuple(domain for domain in observed if domain is not None)


def _observe(domain: Any) -> ObservedDomain | None:
    """`None` where it ended while we looked."""
    try:
        state, because = domain.state()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    try:
        metadata = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE)
    except libvirt.libvirtError:
        metadata = None
    name = domain.name()
    vm_id = VmId(domain.UUIDString().replace("-", ""))
    tag = read_tag(metadata or "")
    agrees = tag.vm_id == vm_id and name == domain_name(vm_id)
    return ObservedDomain(
        vm_id=vm_id,
        name=name,
        generation=tag.generation if agrees else None,
        user_id=tag.user_id if agrees else None,
        state=STATES.get(state, DomainState.UNKNOWN),
        ours=name.startswith(NAME_PREFIX) or metadata is not None,
        why=PAUSED.get(because) if state == libvirt.VIR_DOMAIN_PAUSED else None,
    )


def addresses(domain: Any) -> tuple[str, ...]:
    leased = _interface_addresses(domain, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
    if leased or GUEST_AGENT not in domain.XMLDesc():
        return leased
    with contextlib.suppress(libvirt.libvirtError):
        domain.agentSetResponseTimeout(AGENT_S)
        return _interface_addresses(domain, libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    return ()


def _interface_addresses(domain: Any, source: int) -> tuple[str, ...]:
    """The guest may say what it likes: only what is an address, and of use to somebody else, is taken."""
    found = {}
    for interface in domain.interfaceAddresses(source).values():
        for entry in interface.get("addrs") or ():
            with contextlib.suppress(ValueError):
                address = ip_address(entry["addr"])
                if not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast):
                    found[str(address)] = address.version
    return tuple(sorted(found, key=lambda text: (found[text], text)))[:ADDRESSES_MAX]
