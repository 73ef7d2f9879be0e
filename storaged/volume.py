"""What a scan of the pools found: volumes that can be given, volumes that can't and why.

The index makes a `Snapshot`; everything else only reads it.
Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from matcher.wire.messages import ImageFormat
from specs.ids import HostId, UserId, Vid, VmId

COUNTER_MAX = 2**53  # of epochs: what every JSON reader keeps exactly
IMAGE_PATH_MAX_BYTES = 4000  # less than PATH_MAX; as `AttachedVolume.path` allows


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """The fencing number of a volume: grows by one with each new right to write. `nonce` (16 hex digits, random) tells
    two histories apart that counted to the same number, as after a restored backup."""

    counter: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Right:
    """The right to write one volume, as kept inside its `.elimg`: a VM on `host_id` has it from `server`, whose
    storaged wrote this. When `held` is false, the VM named was the last."""

    vid: Vid
    epoch: Epoch
    server: HostId
    host_id: HostId
    user_id: UserId
    vm_id: VmId
    generation: int
    held: bool


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume in good order. `path` is its `.elimg` folder, absolute; `pool` the pool's root, a prefix of it."""

    vid: Vid
    name: str
    size_mib: int
    format: ImageFormat
    bootable: bool
    private: bool
    shareable: bool
    readonly: bool
    owner: UserId | None
    pool: str
    path: str
    image: str
    right: Right | None = None  # when scanned; read again before it counts
    note: str = ""  # worth telling a person, no reason to refuse

    @property
    def exclusive(self) -> bool:
        """At most one VM may have it: it can be written, and nobody promised to share."""
        return not self.shareable and not self.readonly

    def visible_to(self, user_id: UserId) -> bool:
        return not self.private or self.owner == user_id


@dataclass(frozen=True, slots=True)
class BadVolume:
    """Something named like a volume that can't be used. `vid` is `None` where even the name is wrong."""

    path: str  # for people: escaped where it wasn't printable
    reason: str
    vid: Vid | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """One vid at several places: which of them is meant, only a person can say."""

    vid: Vid
    paths: tuple[str, ...]
    copies: tuple[Volume, ...]  # those of them in good order


@dataclass(frozen=True, slots=True)
class Ignored:
    """Counts of what the scan passed over."""

    symlinks: int = 0
    specials: int = 0  # FIFOs, sockets, devices
    hidden: int = 0  # folders whose name starts with a dot: snapshots, trash
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one scan found. A vid is a key of at most one of the three mappings."""

    volumes: Mapping[Vid, Volume] = field(default_factory=dict)
    bad: Mapping[Vid, BadVolume] = field(default_factory=dict)
    conflicts: Mapping[Vid, Conflict] = field(default_factory=dict)
    nameless: tuple[BadVolume, ...] = ()  # bad, and without a vid to ask for
    problems: tuple[str, ...] = ()  # sentences: a pool that is missing, a limit that was reached
    ignored: Ignored = Ignored()
