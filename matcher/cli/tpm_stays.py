"""What a VM's TPM holds is on one host, and is never lost without a person's word: what `start` says of that."""

from collections.abc import Iterator
from contextlib import contextmanager

from matcher.cli.failures import Exit, Failure
from matcher.wire.messages import VmView


def lost(name: str, host: str) -> Failure:
    """Of a VM whose host is gone."""
    said = f"what the TPM of {name} holds is on {host or 'the host where it was'}, and does not come along"
    helps = f"if its keys may be lost: electros start {name} --elsewhere --new-tpm"
    return Failure(Exit.FAILED, said, helps=helps, code="tpm-lost")


@contextmanager
def at_home(vm: VmView) -> Iterator[None]:
    """While it is placed on its own host alone. Raises `Failure`: what that host lacks, and the way elsewhere."""
    try:
        yield
    except Failure as failure:
        if failure.exit_code is not Exit.NO_HOST_FITS:
            raise
        said = f"{vm.host}, where the TPM of {vm.name} is, does not fit now"
        own = [host for host in failure.hosts if host.host_id == vm.host_id]
        helps = f"if its keys may be lost: electros start {vm.name} --new-tpm"
        raise Failure(Exit.NO_HOST_FITS, said, hosts=own, helps=helps) from None
