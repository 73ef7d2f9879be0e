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

FREE_MIN_MIB = 256  # a pool with less has no room for anything new


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
class Room:
    """For a volume that is to be made in the pool whose root is `pool`."""

    pool: str
    size_mib: int


@dataclass(frozen=True, slots=True)
class VolumeShare:
    """One VM's claim on volumes of this host. `vm_name` is for its own user's eyes, and may be empty. Where `room` is
    there, it is a claim on that alone, and `vm_id` stands for the vid of the volume to be made."""

    vm_id: VmId
    generation: int
    user_id: UserId
    volumes: tuple[SharedVolume, ...]
    vm_name: str = ""
    room: Room | None = None

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
    if claim.room is not None:
        return not claim.volumes and claim.room.size_mib <= left_mib(snapshot, claim.room.pool, residents)
    vids = {wanted.vid for wanted in claim.volumes}
    return (
        bool(vids)
        and len(vids) == len(claim.volumes)
        and all(
            _stands(snapshot, wanted, claim.user_id) and holder_against(claim, wanted, residents) is None
            for wanted in claim.volumes
        )
    )


def left_mib(snapshot: Snapshot, pool: str, residents: Collection[VolumeShare], *, more: int = 1) -> int:
    """How much the pool may still give to `more` volumes than it has, beside all that is promised of it; 0 where it
    may have no more."""
    use = next((use for use in snapshot.pools if use.path == pool), None)
    if use is None or use.withheld:
        return 0
    rooms = [resident.room.size_mib for resident in residents if resident.room and resident.room.pool == pool]
    if use.free_mib < FREE_MIN_MIB or (more and use.volumes + len(rooms) + more > use.volumes_max):
        return 0
    limit_mib = use.free_mib if use.left_mib is None else use.left_mib
    return max(0, limit_mib - sum(rooms))


def _stands(snapshot: Snapshot, wanted: SharedVolume, user_id: UserId) -> bool:
    volume = snapshot.volumes.get(wanted.vid)
    return volume is not None and volume.visible_to(user_id) and shared(volume) == wanted
