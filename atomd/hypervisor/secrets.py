"""What opens disks, with libvirt for as long as one call takes."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import libvirt

from atomd.hypervisor.disk_xml import NAME_PREFIX, secret_xml
from atomd.hypervisor.domains import DomainSecret


@contextlib.contextmanager
def lent(connection: Any, secrets: Sequence[DomainSecret]) -> Iterator[None]:
    """libvirt has them meanwhile."""
    kept = []
    try:
        for secret in secrets:
            kept.append(connection.secretDefineXML(secret_xml(secret.usage)))
            kept[-1].setValue(secret.value.encode())
        yield
    finally:
        for each in kept:
            with contextlib.suppress(libvirt.libvirtError):  # it goes with libvirtd at the latest
                each.undefine()


def forget_secrets(connection: Any) -> None:
    """Those that an atomd which died in a start has left. A start that is under way on another connection may lose
    its own, and fails; that connection has broken, and its start is unknown and comes again."""
    with contextlib.suppress(libvirt.libvirtError):  # a libvirtd without secrets has none of ours
        for secret in connection.listAllSecrets(0):
            if secret.usageID().startswith(NAME_PREFIX):
                secret.undefine()
