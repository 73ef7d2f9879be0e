"""What a VM takes of a host's volumes, and whether it may have it beside the others.

    exclusive (writable, not shareable)   one VM
    shareable, or readonly                any number

The same VM of the same user, placed again with a higher generation, supersedes its own older claim. Ids of VMs are
made by clients, so that a claim under another user's `vm_id` is another VM's.
Pure.
"""

from collections.abc import Collection
from dataclasses import dataclass

from specs.ids import UserId, Vid, VmId
from storaged.volume import Snapshot, Volume


@dataclass(frozen=True, slots=True)
class SharedVolume:
    """One volume of a claim, with its rules at the time it was claimed."""

    vid: Vid
    writable: bool
    shareable: bool

    @property
    def exclusive(self) -> bool:
        return self.writable and not self.shareable


@dataclass(frozen=True, slots=True)
class VolumeShare:
    """One VM's claim on volumes of this host. `vm_name` is for its own user's eyes, and may be empty."""

    vm_id: VmId
    generation: int
    user_id: UserId
    volumes: tuple[SharedVolume, ...]
    vm_name: str = ""

    def same_vm(self, other: "VolumeShare") -> bool:
        return self.vm_id == other.vm_id and self.user_id == other.user_id


def shared(volume: Volume) -> SharedVolume:
    return SharedVolume(volume.vid, writable=not volume.readonly, shareable=volume.shareable)


def holder_against(claim: VolumeShare, wanted: SharedVolume, residents: Collection[VolumeShare]) -> VolumeShare | None:
    """The first resident that keeps `claim` from `wanted`: another VM where one may be, or this VM's next life."""
    for resident in residents:
        has = next((volume for volume in resident.volumes if volume.vid == wanted.vid), None)
        if resident.same_vm(claim):
            if resident.generation > claim.generation:
                return resident
        elif has is not None and (has.exclusive or wanted.exclusive):
            return resident
    return None


def admits(snapshot: Snapshot, residents: Collection[VolumeShare], claim: VolumeShare) -> bool:
    """Whether `claim` may stand beside `residents`: every volume is here, in order, as claimed, visible to its user,
    and free. Judges each claim anew, whoever proposed it."""
    vids = {wanted.vid for wanted in claim.volumes}
    return (
        bool(vids)
        and len(vids) == len(claim.volumes)
        and all(
            _stands(snapshot, wanted, claim.user_id) and holder_against(claim, wanted, residents) is None
            for wanted in claim.volumes
        )
    )


def _stands(snapshot: Snapshot, wanted: SharedVolume, user_id: UserId) -> bool:
    volume = snapshot.volumes.get(wanted.vid)
    return volume is not None and volume.visible_to(user_id) and shared(volume) == wanted
