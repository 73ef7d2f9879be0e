"""Which of a pledge's volumes this host has and can give, and why not the others that it has.

A volume that isn't here is no reason: it may be on another host. Another user's private volume is as if it weren't
here: neither offered nor named. A volume that is here but bad, twice, or in use is a reason for the person to read.
Pure.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from matcher.wire.messages import REASONS_MAX, ImageFormat, OfferedVolume, Pledge, Reach, Reason
from specs.ids import HostId, UserId, Vid, VmId
from specs.units import show_gb
from storaged.claims import Room, VolumeShare, holder_against, left_mib, shared
from storaged.volume import Conflict, PoolUse, Snapshot, Volume

OTHER_HOST_HINT = "detach it there; where that host is dead, its sysadmin must say so"
SHARED_HINT = "detach it there; where that server is dead: electros volume takeover VID --host-is-dead"


@dataclass(frozen=True, slots=True)
class VolumeFit:
    """`offered` in the order of the pledge; `share` is the claim on them, `None` when there is none to make."""

    offered: tuple[OfferedVolume, ...]
    reasons: tuple[Reason, ...]
    share: VolumeShare | None


def offer_volumes(
    pledge: Pledge,
    snapshot: Snapshot,
    residents: Collection[VolumeShare],
    *,
    user_id: UserId,
    host_id: HostId,
    reaches: Callable[[Volume], bool] = lambda _: False,
    doing: Callable[[Vid], str | None] = lambda _: None,
) -> VolumeFit:
    """What this host can say to the volume asks of `user_id`'s pledge; `residents` are all holds and attachments;
    `reaches` tells whether a volume can be used from other hosts, and `doing` what is being done to it, if anything."""
    claim = VolumeShare(VmId(pledge.vm_id), pledge.generation, user_id, ())
    given: list[Volume] = []
    reasons: list[Reason] = []
    for vid in dict.fromkeys(Vid(vid) for vid in pledge.volumes):
        answer = _answer(vid, snapshot, residents, claim, host_id)
        if isinstance(answer, Volume) and (job := doing(vid)) is not None:
            reasons.append(being_done(vid, job))
        elif isinstance(answer, Volume):
            given.append(answer)
        elif answer is not None:
            reasons.append(answer)
    share = VolumeShare(claim.vm_id, claim.generation, user_id, tuple(shared(volume) for volume in given))
    return VolumeFit(
        tuple(_offered(volume, reaches) for volume in given), tuple(reasons[:REASONS_MAX]), share if given else None
    )


def offer_room(
    pledge: Pledge, snapshot: Snapshot, residents: Collection[VolumeShare], *, user_id: UserId
) -> tuple[VolumeShare | None, int, tuple[Reason, ...]]:
    """The claim on room for the volume that `pledge` asks for, in the pool that has most of it; how many MiB are left
    there beside it; and, where there is no such pool, why."""
    assert pledge.room is not None
    asked = f"{show_gb(pledge.room.size_mib)} for a new volume"
    if not snapshot.pools:
        return None, 0, (Reason("pools", asked, "this host has none", ""),)
    pools = [use for use in snapshot.pools if not use.shared or pledge.room.format is ImageFormat.RAW]
    if not pools:
        return None, 0, (Reason("pools", asked, "its pools are shared by several servers, for raw images alone", ""),)
    lefts = {use.path: _left(use, pledge.room.format, left_mib(snapshot, use.path, residents)) for use in pools}
    pool = max(lefts, key=lambda path: lefts[path])
    if lefts[pool] < pledge.room.size_mib:
        withheld = next((use.withheld for use in snapshot.pools if use.withheld), "")
        has = withheld if withheld and not lefts[pool] else f"at most {show_gb(lefts[pool])} in one pool"
        return None, 0, (Reason("pools", asked, _cut(has, 120), "remove volumes, or give the host another pool"),)
    room = Room(pool, pledge.room.size_mib)
    claim = VolumeShare(VmId(pledge.vm_id), pledge.generation, user_id, (), room=room)
    return claim, lefts[pool] - room.size_mib, ()


def _left(use: PoolUse, image_format: ImageFormat, left_mib: int) -> int:
    """A folder is held to no size once it is there: one is made only where the filesystem has room for all of it."""
    return min(left_mib, use.free_mib) if image_format is ImageFormat.FOLDER else left_mib


def given_elsewhere(volume: Volume, host_id: HostId) -> bool:
    """Whether another server than this one has given it to a VM, by its own record."""
    return volume.exclusive and volume.right is not None and volume.right.held and volume.right.server != host_id


def in_use_reason(vid: Vid, holder: VolumeShare, claim: VolumeShare) -> Reason:
    """Why `claim` can't have the volume that `holder` has. Another user's VM stays nameless."""
    if holder.same_vm(claim):
        over = f"; generation {claim.generation} is over" * (holder.generation != claim.generation)
        has = f"this VM's generation {holder.generation} has it{over}"
        return reason(vid, has, "it was started again meanwhile: electros ps")
    if holder.user_id != claim.user_id:
        return reason(
            vid, "in use by another user's VM", "only one VM at a time may have a volume that is not shareable"
        )
    name = f'"{_shown(holder.vm_name)}"' if holder.vm_name else holder.vm_id
    return reason(vid, f"in use by your VM {name}", f"see that VM: electros inspect {holder.vm_id}")


def being_done(vid: Vid, doing: str) -> Reason:
    """It can't be had before a change of it has ended. `doing`: "resized", say."""
    return reason(vid, f"it is being {doing}", "wait until that has ended, and run it again")


def reason(vid: Vid, has: str, hint: str = "") -> Reason:
    """A `Reason` about one volume, cut to what a message may hold."""
    return Reason(resource=f"volume {vid}", asked="to attach it", has=_cut(has, 120), hint=_cut(hint, 160))


def _answer(
    vid: Vid, snapshot: Snapshot, residents: Collection[VolumeShare], claim: VolumeShare, host_id: HostId
) -> Volume | Reason | None:
    if vid in snapshot.conflicts:
        return _conflict(snapshot.conflicts[vid], claim.user_id)
    if vid in snapshot.bad:
        bad = snapshot.bad[vid]
        if not bad.visible_to(claim.user_id):
            return None
        return reason(vid, f"unusable: {bad.reason}", f"to mend in {_cut_middle(bad.path, 120)}")
    volume = snapshot.volumes.get(vid)
    if volume is None or not volume.visible_to(claim.user_id):
        return None
    if given_elsewhere(volume, host_id):
        hint = SHARED_HINT if snapshot.is_leased(volume) else OTHER_HOST_HINT
        return reason(vid, "given away by another host, by its own record", hint)
    holder = holder_against(claim, shared(volume), residents)
    return volume if holder is None else in_use_reason(vid, holder, claim)


def _conflict(conflict: Conflict, user_id: UserId) -> Reason | None:
    if not all(copy.visible_to(user_id) for copy in conflict.copies):
        return None
    first, second = (_cut_middle(path, 48) for path in conflict.paths[:2])
    has = f"{len(conflict.paths)} copies: {first} and {second}"
    return reason(conflict.vid, has, "nobody knows which is right: keep one, and move the other out of the pools")


def _offered(volume: Volume, reaches: Callable[[Volume], bool]) -> OfferedVolume:
    return OfferedVolume(
        vid=volume.vid,
        name=volume.name,
        size_mib=volume.size_mib,
        format=volume.format,
        bootable=volume.bootable,
        readonly=volume.readonly,
        shareable=volume.shareable,
        reach=Reach.NETWORK if reaches(volume) else Reach.LOCAL,
    )


def _shown(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _cut_middle(path: str, most: int) -> str:
    """A path too long is cut where it says least: what tells two copies apart stands at its ends."""
    half = most // 2
    return path if len(path) <= most else f"{path[: most - half - 1]}…{path[-half:]}"
