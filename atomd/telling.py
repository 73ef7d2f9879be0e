"""What a compute host tells its realm of what is free on it; see `matcher.wire.gossip.Digest`."""

from collections.abc import Awaitable, Callable
from hashlib import blake2b

from atomd.answering import Face
from atomd.capacity.hardware import Claim
from atomd.capacity.occupancy import capacity
from atomd.compute import Compute
from matcher.offers.ledger import Ledger
from matcher.wire.gossip import Digest
from matcher.wire.messages import Role

LEVEL = "x86-64-v"


def digest(face: Face, ledger: Ledger[Claim], compute: Compute) -> Digest:
    """What is committed counts as taken, what is only held does not: holds lapse sooner than they could be told."""
    hardware, committed = face.hardware, list(ledger.committed())
    room = capacity(hardware, committed)
    devices = len(hardware.pci) + len(hardware.usb)
    taken = sum(len(claim.pci) + len(claim.usb) for claim in committed)
    return Digest(
        roles=(Role.COMPUTE,),
        arch="+".join(sorted(hardware.archs))[:64],
        level=max((flag for flag in hardware.guest_flags if flag.startswith(LEVEL)), default=""),
        slots=room.threads_total,
        slots_free=room.threads_free,
        ram_mib=room.ram_total_mib,
        ram_free_mib=max(0, room.ram_free_mib),
        devices=devices,
        devices_free=max(0, devices - taken),
        vms=len(compute.vms),
        drained=compute.drained,
        like=_like(face),
        accelerator="pretended" if face.pretended else hardware.accelerator.value,
    )


async def tell_changes(changed: Callable[[], Awaitable[None]], look: Callable[[], None]) -> None:
    """At once, whenever some VM has changed."""
    while True:
        await changed()
        look()


def _like(face: Face) -> str:
    hardware = face.hardware
    said = "\n".join((hardware.cpu_model, *sorted(hardware.guest_flags)))
    return blake2b(said.encode(), digest_size=4).hexdigest()
