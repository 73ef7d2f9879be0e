"""One VM's volumes, seen from its host: which servers to ask for them, and what their answers come to. Pure.

Each server is asked for the volumes that the user's words claim from it, and judges them by those words. What comes
back from another host is looked at twice: it may name an iSCSI target, and never a file of this host or a format that
leads QEMU to one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from matcher.wire.messages import REASONS_MAX, Address, ImageFormat, Reason, Refused, VolumeClaim
from matcher.wire.volumes import Attached, AttachedVolume, ChapSecret
from specs.ids import HostId

# What a storage host says when a volume has a new holder, or none: nothing brings it back to this life of the VM.
TAKEN_OVER = frozenset(
    {"generation-over", "volume-in-use", "volume-held-elsewhere", "volume-not-held", "other-volumes", "let-go"}
)
# And where it could not do it, or not all of it, for now: the volume may be attached, and is if asked long enough.
# ("busy": it is being rolled back, say.)
ASK_AGAIN = frozenset({"unavailable", "journal", "storage-unwritable", "busy"})


HOT_MAX = 8  # volumes more than at the start, for a VM that runs


@dataclass(frozen=True, slots=True)
class Silent:
    """No answer that counts; `why` is a sentence. Where nobody was `asked`, nothing has happened anywhere."""

    why: str
    asked: bool = True


Answer = Attached | Refused | Silent


def servers_of(claims: Iterable[VolumeClaim]) -> dict[HostId, Address | None]:
    """In the order of the claims, each with the door that its first claim names."""
    servers: dict[HostId, Address | None] = {}
    for claim in claims:
        servers.setdefault(HostId(claim.server), claim.door)
    return servers


def may_be_a_host(ip: str) -> bool:
    """Whether another host can be at this address: who names it must not make this host talk to itself, to a group, or
    to what means another machine on each link (link-local ones, where clouds keep their secrets as well)."""
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    here = address.is_loopback or address.is_unspecified or address.is_link_local
    return not (here or address.is_multicast or address.is_reserved)  # an IPv4 address in IPv6 is reserved


def together(answers: Sequence[Answer]) -> Answer:
    """Those of one server, to several envelopes, as one."""
    given = [answer for answer in answers if isinstance(answer, Attached)]
    if len(given) < len(answers):
        return next(answer for answer in answers if not isinstance(answer, Attached))
    volumes = tuple(volume for answer in given for volume in answer.volumes)
    return Attached(volumes, tuple(secret for answer in given for secret in answer.secrets))


def joined(claims: Sequence[VolumeClaim], answers: Mapping[HostId, Answer], own: HostId) -> Answer:
    """One answer for all servers, the volumes in the order of the claims, and as the user wants this VM to have them. A
    refusal counts before a silence: who else has granted is to be told that nothing came of it."""
    refusals = [answer for answer in answers.values() if isinstance(answer, Refused)]
    if refusals:
        reasons = [reason for refused in refusals for reason in refused.reasons]
        return Refused(refusals[0].code, tuple(reasons[:REASONS_MAX]))
    volumes: dict[str, AttachedVolume] = {}
    secrets: list[ChapSecret] = []
    for server, answer in answers.items():
        assert not isinstance(answer, Refused)
        if isinstance(answer, Silent):
            return answer
        claimed = [claim.vid for claim in claims if claim.server == server]
        if not _is_good(claimed, answer, is_own=server == own):
            return Silent(f"storaged of host {server[:16]} gives what was not asked for")
        volumes |= {volume.vid: volume for volume in answer.volumes}
        secrets += answer.secrets
    return Attached(tuple(_wanted(volumes[claim.vid], claim) for claim in claims), tuple(secrets))


def one_of(answer: Answer, vid: str) -> Answer:
    """What it says of one volume."""
    if not isinstance(answer, Attached):
        return answer
    volumes = tuple(volume for volume in answer.volumes if volume.vid == vid)
    return Attached(volumes, tuple(secret for secret in answer.secrets if secret.vid == vid))


def some_may_be_attached(claims: Iterable[VolumeClaim], answer: Silent | Refused) -> bool:
    """Whether a detach has to follow: who was silent may have attached, and who could not export what it had attached;
    and of several servers the others have."""
    if isinstance(answer, Silent):
        return answer.asked
    return answer.code in ASK_AGAIN or len(servers_of(claims)) > 1


def _wanted(volume: AttachedVolume, claim: VolumeClaim) -> AttachedVolume:
    return replace(volume, readonly=volume.readonly or claim.readonly or claim.cdrom, cdrom=claim.cdrom)


def _is_good(claimed: list[str], answer: Attached, *, is_own: bool) -> bool:
    if sorted(claimed) != sorted(volume.vid for volume in answer.volumes):
        return False
    opened = {secret.vid for secret in answer.secrets}
    targets = {volume.vid for volume in answer.volumes if volume.iscsi is not None}
    if is_own:  # a file, or what this host's storaged exports alone
        return targets == opened and all(volume.nfs is None for volume in answer.volumes)
    return targets == opened and all(_is_export(volume) for volume in answer.volumes)


def _is_export(volume: AttachedVolume) -> bool:
    """Raw alone, or a folder: a qcow2 header may name files, and would be read on this host."""
    if volume.path:
        return False
    if volume.format is ImageFormat.FOLDER:
        return volume.nfs is not None and volume.iscsi is None and may_be_a_host(volume.nfs.server.ip)
    target = volume.iscsi
    is_raw = volume.format is ImageFormat.RAW and volume.nfs is None
    return is_raw and target is not None and may_be_a_host(target.portal.ip)


def is_away(volumes: Iterable[AttachedVolume]) -> bool:
    """Whether any of them comes over the network."""
    return any(volume.iscsi is not None or volume.nfs is not None for volume in volumes)


def is_folder(volume: AttachedVolume) -> bool:
    """No disk: files that VMs share."""
    return volume.format is ImageFormat.FOLDER


def has_own_images(volumes: Iterable[AttachedVolume]) -> bool:
    """Whether any of them is a file of the VM's own host, which nobody can cut from it."""
    return any(volume.iscsi is None and not volume.readonly and not volume.shareable for volume in volumes)


def why_not_begun(vm_volumes: Iterable[AttachedVolume], answer: Answer) -> str | None:
    """Why a guest that has not begun must not, in a sentence; `None` where it may, now or later."""
    if isinstance(answer, Silent) or (isinstance(answer, Refused) and answer.code in ASK_AGAIN):
        return None
    if isinstance(answer, Refused):
        return f"its volumes were taken over: {told(answer.reasons)}"
    return None if is_same(vm_volumes, answer.volumes) else "its volumes were taken over"


def is_same(before: Iterable[AttachedVolume], now: Iterable[AttachedVolume]) -> bool:
    """Whether a domain that has `before` open goes on with `now`: the same targets in the same epochs."""
    return {_key(volume) for volume in before} == {_key(volume) for volume in now}


def _key(volume: AttachedVolume) -> tuple[object, ...]:
    target, folder = volume.iscsi, volume.nfs
    way = target and (target.target, target.lun, target.initiator, target.user)
    return volume.vid, volume.path, way, folder and folder.path


def told(reasons: Iterable[Reason]) -> str:
    """Reasons as one sentence about a VM."""
    return "; ".join(f"{reason.resource}: {reason.has}" for reason in reasons)
