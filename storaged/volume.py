"""What a scan of the pools found: volumes that can be given, volumes that can't and why, and how full the pools are.

The index makes a `Snapshot`; everything else only reads it, and what is asked for a pledge or a query is a look-up,
however many volumes there are.
Pure.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from matcher.wire.messages import ImageFormat
from specs.ids import HostId, UserId, Vid, VmId
from specs.units import show_gb

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
    """A volume in good order. `path` is its `.elimg` folder, absolute; `pool` the pool's root, a prefix of it;
    `pool_id` that of `PoolUse`."""

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
    goes_with: VmId | None = None
    sha256: str | None = None
    note: str = ""  # worth telling a person, no reason to refuse
    pool_id: str | None = None

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
    private_to: UserId | None = None  # whose it is, where it is private and that could be read
    withheld: Volume | None = None  # what it is, where nothing is wrong but its pool

    def visible_to(self, user_id: UserId) -> bool:
        return self.private_to in (None, user_id)


Found = Volume | BadVolume


@dataclass(frozen=True, slots=True)
class Conflict:
    """One vid at several places: which of them is meant, only a person can say."""

    vid: Vid
    paths: tuple[str, ...]
    copies: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Counts of what the scan passed over."""

    symlinks: int = 0
    specials: int = 0  # FIFOs, sockets, devices
    hidden: int = 0  # folders whose name starts with a dot: snapshots, trash
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class PoolUse:
    """One pool that is here, and what of it is given away. Volumes are thin: their virtual sizes count against the
    limit, whatever their images take; what the filesystem has free is another matter, and both must suffice."""

    path: str  # as `Volume.pool`
    pool_id: str | None  # `None` where it has no `pool.json` yet
    limit_mib: int | None  # of the virtual sizes together; `None`: no limit
    promised_mib: int  # the virtual sizes of the volumes here, those included that can't be given
    volumes: int
    volumes_max: int
    free_mib: int = field(compare=False)  # what the filesystem has for storaged; others' writes move it
    withheld: str = ""  # why nothing may be written here; empty where it may
    shared: bool = False  # several servers serve it, by leases

    @property
    def left_mib(self) -> int | None:
        """How much may still be promised; `None` where there is no limit."""
        return None if self.limit_mib is None else max(0, self.limit_mib - self.promised_mib)


def how_full(promised_mib: int, limit_mib: int | None, free_mib: int) -> str:
    """For a sysadmin: what of a pool is given away, and what its filesystem has."""
    limit = "no limit" if limit_mib is None else f"of at most {show_gb(limit_mib)}"
    return f"{show_gb(promised_mib)} promised, {limit}; {show_gb(free_mib)} free on its filesystem"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one scan found. A vid is a key of at most one of the three mappings."""

    volumes: Mapping[Vid, Volume] = field(default_factory=dict)
    bad: Mapping[Vid, BadVolume] = field(default_factory=dict)
    conflicts: Mapping[Vid, Conflict] = field(default_factory=dict)
    nameless: tuple[BadVolume, ...] = ()  # bad, and without a vid to ask for
    problems: tuple[str, ...] = ()  # sentences: a pool that is missing, a limit that was reached
    ignored: Ignored = Ignored()
    pools: tuple[PoolUse, ...] = ()  # those that are here, in the order of the settings
    _private: Mapping[UserId | None, int] = field(init=False, repr=False, compare=False)
    _owned_mib: Mapping[UserId, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        counts, owned_mib = Counter[UserId | None](), Counter[UserId]()
        for volume in self.volumes.values():
            counts[volume.owner] += volume.private
            if volume.owner is not None:
                owned_mib[volume.owner] += volume.size_mib
        object.__setattr__(self, "_private", counts)
        object.__setattr__(self, "_owned_mib", owned_mib)

    def is_shared(self, pool: str) -> bool:
        """Whether several servers serve the pool whose root this is."""
        return any(use.shared and use.path == pool for use in self.pools)

    def is_leased(self, volume: Volume) -> bool:
        """Whether who gives it needs its lease: one of several servers, and a volume that has one writer."""
        return volume.exclusive and self.is_shared(volume.pool)

    def visible_count(self, user_id: UserId) -> int:
        """How many of the volumes `user_id` may know of."""
        return len(self.volumes) - sum(self._private.values()) + self._private.get(user_id, 0)

    def owned_mib(self, user_id: UserId) -> int:
        """The virtual sizes of a user's own volumes together."""
        return self._owned_mib.get(user_id, 0)


def shown(path: str) -> str:
    """A path for people and JSON: bytes that aren't UTF-8 and characters that don't show are escaped."""
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)
