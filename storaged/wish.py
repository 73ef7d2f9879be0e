"""What a user's confirm asks of one storage host: all the volumes of a VM's new life, or one more for a VM that is
there. Pure.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from matcher.wire.messages import Confirm, ConfirmVolume, Message, VolumeClaim
from specs.ids import HostId, OfferId, Vid, VmId


@dataclass(frozen=True, slots=True)
class Wish:
    """`adds`: one volume more for a VM that is there."""

    vm_id: VmId
    generation: int
    host_id: HostId
    offer_id: OfferId
    name: str
    claims: tuple[VolumeClaim, ...]
    adds: bool

    @property
    def vids(self) -> tuple[Vid, ...]:
        return tuple(Vid(claim.vid) for claim in self.claims)

    def of(self, server: HostId, without: Collection[str] = ()) -> "Wish":
        """What is claimed from this server, but for what the VM has let go of since."""
        claims = (claim for claim in self.claims if claim.server == server and claim.vid not in without)
        return replace(self, claims=tuple(claims))


def wish_of(message: Message) -> Wish | None:
    """`None` where it is no confirm."""
    match message:
        case Confirm(offer_id=offer_id, volumes=claims):
            adds = False
        case ConfirmVolume(volume=claim):
            offer_id, claims, adds = claim.offer_id, (claim,), True
        case _:
            return None
    vm_id, host_id = VmId(message.vm_id), HostId(message.host_id)
    return Wish(vm_id, message.generation, host_id, OfferId(offer_id), message.name, claims, adds)
