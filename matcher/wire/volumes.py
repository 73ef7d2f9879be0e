"""What is said to a storage host, by users and by compute hosts, and what it answers.

A volume's `vid` is made by the client, as a VM's id is: asked twice, it is made once.
"""

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Le, MaxLen
from pydantic import StringConstraints
from pydantic.types import Strict

from matcher.wire.messages import (
    VOLUME_MIB_MAX,
    VOLUMES_MAX,
    Address,
    Count,
    Fingerprint,
    Flag,
    Generation,
    Id,
    ImageFormat,
    Label,
    Line,
    Message,
    Refused,
    Word,
)

VOLUMES_LISTED_MAX = 4096  # in one answer
SEED_TEXT_MAX = 48 * 1024  # of each text; two of them fit a request

Iqn = Annotated[str, Strict(), StringConstraints(max_length=223, pattern=r"^iqn\.[a-z0-9.:-]+$")]  # RFC 3720, 3.2.6.3


@dataclass(frozen=True, slots=True)
class VolumeView(Message):
    """A volume as one user may see it. `owner` is null where nobody owns it; `vms` names those of this user's VMs that
    have it; `why` is a sentence about the state, or empty.

    `goes_with`: the VM with which it is removed. `sha256`: of the image that it was made from.
    `state`: "free", "attached" (to VMs of whomever), "busy" (it is being changed, or made for this very user), "bad"
    (it can't be given until somebody mends it).
    `used_mib`: what it takes of the disk now, where that is known; a folder's may be more than its size.
    `shared`: several servers serve its pool, and show it alike; `lent_by` is the one of them that has given it to a VM.
    """

    vid: Id
    name: Label
    size_mib: Count
    format: ImageFormat
    bootable: Flag
    private: Flag
    shareable: Flag
    readonly: Flag
    owner: Fingerprint | None
    host: Label
    host_id: Fingerprint
    pool: Line
    state: Word
    why: Line = ""
    vms: Annotated[tuple[Label, ...], MaxLen(64)] = ()
    goes_with: Id | None = None
    sha256: Fingerprint | None = None
    shared: Flag = False
    lent_by: Fingerprint | None = None
    used_mib: Count | None = None


@dataclass(frozen=True, slots=True)
class VolumeViews(Message):
    """`left_out` counts those that did not fit."""

    volumes: Annotated[tuple[VolumeView, ...], MaxLen(VOLUMES_LISTED_MAX)]
    left_out: Count = 0


@dataclass(frozen=True, slots=True)
class NewVolume(Message):
    """Make the volume `vid` in the room that `offer_id` holds. It is the caller's."""

    vid: Id
    offer_id: Id
    name: Label
    size_mib: Annotated[int, Strict(), Ge(1), Le(VOLUME_MIB_MAX)]
    format: ImageFormat
    bootable: Flag
    private: Flag
    shareable: Flag
    readonly: Flag


@dataclass(frozen=True, slots=True)
class ImportVolume(Message):
    """Make a volume from an image: what is at `url`, or, where that is empty, what is put at `/v1/uploads/VID` then.

    `new` has the format in which it is kept, and the size that it gets at least. `stated` is the image's own format,
    null where its first bytes shall tell; `sha256` its checksum, empty where nobody knows; `size_bytes` how long it is,
    0 where that is not known.
    """

    new: NewVolume
    url: Annotated[str, Strict(), StringConstraints(max_length=2048)] = ""
    stated: ImageFormat | None = None
    sha256: Annotated[str, Strict(), StringConstraints(max_length=64, pattern=r"^([0-9a-f]{64})?$")] = ""
    size_bytes: Annotated[int, Strict(), Ge(0), Le(2**60)] = 0


@dataclass(frozen=True, slots=True)
class ChangeVolume(Message):
    """What is null stays as it is."""

    name: Label | None = None
    size_mib: Annotated[int, Strict(), Ge(1), Le(VOLUME_MIB_MAX)] | None = None
    format: ImageFormat | None = None


@dataclass(frozen=True, slots=True)
class CloneVolume(Message):
    """Make `vid`, a copy on the same host, which shares blocks where the filesystem can. It is the caller's."""

    vid: Id
    name: Label
    private: Flag


SeedText = Annotated[str, Strict(), StringConstraints(max_length=SEED_TEXT_MAX)]
SnapshotName = Annotated[str, Strict(), StringConstraints(max_length=40)]


@dataclass(frozen=True, slots=True)
class NewSeed(Message):
    """Make the volume `new` a cloud-init seed (NoCloud), private and read-only. What is null is left out.

    `goes_with`: the VM with which it is removed.
    """

    new: NewVolume
    user_data: SeedText = field(repr=False)
    meta_data: SeedText | None = field(default=None, repr=False)
    network_config: SeedText | None = field(default=None, repr=False)
    goes_with: Id | None = None


@dataclass(frozen=True, slots=True)
class StoppedVm(Message):
    """The caller's word that this life of a VM, which has the volume, is over: a higher generation alone runs again."""

    vm_id: Id
    generation: Generation


@dataclass(frozen=True, slots=True)
class TakeSnapshot(Message):
    """Keep the volume's state of now. `of`: the VM that has it."""

    name: SnapshotName
    of: StoppedVm | None = None


@dataclass(frozen=True, slots=True)
class RollBack(Message):
    """Give the volume the state that the snapshot has; what was written since is lost. `of`: the VM that
    has it."""

    name: SnapshotName
    of: StoppedVm | None = None


@dataclass(frozen=True, slots=True)
class DropSnapshot(Message):
    name: SnapshotName


@dataclass(frozen=True, slots=True)
class SnapshotView(Message):
    """`taken_s`: since 1970, by the clock of its host."""

    name: SnapshotName
    size_mib: Count
    taken_s: Annotated[int, Strict(), Ge(0), Le(2**40)]


@dataclass(frozen=True, slots=True)
class Snapshots(Message):
    """Of one volume, the oldest first."""

    snapshots: Annotated[tuple[SnapshotView, ...], MaxLen(64)]


@dataclass(frozen=True, slots=True)
class RemoveVolume(Message):
    """For good, its snapshots too."""


@dataclass(frozen=True, slots=True)
class VolumeProgress(Message):
    """One line of the answer to what takes long: "doing", with what is done of how much; at the end "done" with the
    volume and the last step, or "refused". The steps of a copy are "copy", of so many MiB of data, or "share"."""

    event: Word
    step: Label = ""
    done_mib: Count = 0
    total_mib: Count = 0
    volume: VolumeView | None = None
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class Attach(Message):
    """atomd to the storaged of its own host: the user's signed `Confirm` or `ConfirmVolume`, as received. It is asked
    for those of the volumes that the confirm claims from this server, but for those that the VM has let go of since."""

    confirm: Annotated[bytes, Strict(), MaxLen(128 * 1024)]
    without: Annotated[tuple[Id, ...], MaxLen(VOLUMES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class IscsiTarget(Message):
    """A volume's export to one host, in one epoch: where to log in, as whom, and as what."""

    portal: Address
    target: Iqn
    lun: Annotated[int, Strict(), Ge(0), Le(255)]
    initiator: Iqn
    user: Word  # of CHAP; its secret travels beside


NfsPath = Annotated[str, Strict(), StringConstraints(max_length=70, pattern=r"^/vol\.[0-9a-f]{32}\.\d+\.[0-9a-f]{16}$")]


@dataclass(frozen=True, slots=True)
class NfsFolder(Message):
    """A folder's export to one host, in one epoch: whoever comes from that host's address may mount it."""

    server: Address
    path: NfsPath


@dataclass(frozen=True, slots=True)
class AttachedVolume(Message):
    """A volume as the domain may use it: an absolute path on this host, or (then `path` is empty) an iSCSI target or a
    folder of another host; and the format that the metadata states. `cdrom` is the user's wish alone."""

    vid: Id
    path: Annotated[str, Strict(), StringConstraints(max_length=4096)]
    format: ImageFormat
    readonly: Flag
    shareable: Flag
    bootable: Flag
    iscsi: IscsiTarget | None = None
    nfs: NfsFolder | None = None
    cdrom: Flag = False


@dataclass(frozen=True, slots=True)
class ChapSecret(Message):
    """What opens a volume's target in this epoch. Kept in memory and in libvirt alone: never in a journal, a log or an
    argument of a program."""

    vid: Id
    secret: Annotated[str, Strict(), StringConstraints(max_length=64)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attached(Message):
    """`secrets` has one for each volume with a target."""

    volumes: Annotated[tuple[AttachedVolume, ...], MaxLen(VOLUMES_MAX)]
    secrets: Annotated[tuple[ChapSecret, ...], MaxLen(VOLUMES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Detach(Message):
    """The VM no longer uses its volumes, nor will the confirm of this offer attach any. Where `vids` names some, it is
    about those alone, and the VM goes on with the others. `gone`: it was removed, and what goes with it goes now."""

    vm_id: Id
    generation: Generation
    offer_id: Id
    vids: Annotated[tuple[Id, ...], MaxLen(VOLUMES_MAX)] = ()
    gone: Flag = False


@dataclass(frozen=True, slots=True)
class Detached(Message):
    pass


@dataclass(frozen=True, slots=True)
class Asked(Message):
    """atomd to the storaged of its own host: a pledge that is too long for a datagram, as received by HTTPS."""

    pledge: Annotated[bytes, Strict(), MaxLen(128 * 1024)]


@dataclass(frozen=True, slots=True)
class Replies(Message):
    """storaged's sealed answers, framed one after the other."""

    framed: Annotated[bytes, Strict(), MaxLen(128 * 1024)]


@dataclass(frozen=True, slots=True)
class Forget(Message):
    """A sysadmin to storaged: no other host uses this volume, and its content is right as it is."""

    vid: Id


@dataclass(frozen=True, slots=True)
class Forgotten(Message):
    """What was done, as a sentence."""

    said: Line


@dataclass(frozen=True, slots=True)
class AskVolumesUsed(Message):
    """atomd to storaged: how much of this host's volumes a user has."""

    user_id: Fingerprint


@dataclass(frozen=True, slots=True)
class VolumesUsed(Message):
    """Their own volumes and those attached, each once."""

    mib: Annotated[int, Strict(), Ge(0), Le(2**40)]


VID_PREFIX_BYTES = 6
VIDS_TOLD_MAX = 8192


@dataclass(frozen=True, slots=True)
class AskVolumesHere(Message):
    """atomd to storaged: which volumes are here, once that is something else than what has this digest (`known`; empty
    at first), or after a while."""

    known: Annotated[bytes, Strict(), MaxLen(16)]


@dataclass(frozen=True, slots=True)
class VolumesHere(Message):
    """The first bytes of each volume's id, one after the other, `VID_PREFIX_BYTES` of each; `more`: there are more
    than can be told."""

    prefixes: Annotated[bytes, Strict(), MaxLen(64 * 1024)]
    digest: Annotated[bytes, Strict(), MaxLen(16)]
    more: Flag


PoolPath = Annotated[str, Strict(), StringConstraints(max_length=4096)]


@dataclass(frozen=True, slots=True)
class SharePool(Message):
    """A sysadmin to storaged: the pool is one that several servers serve from now on; or, where `shared` is false, this
    server's alone, as no other uses it any more."""

    path: PoolPath
    shared: Flag


@dataclass(frozen=True, slots=True)
class AskPools(Message):
    """A sysadmin to storaged: which pools there are."""


@dataclass(frozen=True, slots=True)
class PoolRow(Message):
    """One pool of the settings that is here. `why`: nothing is given for writing because of that; empty where it is.
    `promised_mib`: its volumes' sizes together, of `limit_mib` at most, null where there is no limit; `free_mib`: what
    its filesystem has left."""

    path: PoolPath
    pool_id: Id | None
    shared: Flag
    volumes: Count
    why: Line
    promised_mib: Count = 0
    limit_mib: Count | None = None
    free_mib: Count = 0


@dataclass(frozen=True, slots=True)
class PoolRows(Message):
    pools: Annotated[tuple[PoolRow, ...], MaxLen(64)]
