"""What a hypervisor says about domains, and what it may answer: the words between `hypervisor` and the rest.

`HypervisorLike` is what the daemon holds: libvirt on a host, a fake in tests. One contract suite keeps both to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from matcher.wire.messages import Arch, Firmware
from matcher.wire.volumes import AttachedVolume
from specs.ids import UserId, VmId

if TYPE_CHECKING:
    import trio


UNPLUG_S = 10.0  # for a guest to let go of a disk; one that does so later is seen by a look


class DomainState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    SHUTTING_DOWN = "shutting-down"  # the guest is powering off
    SHUT_OFF = "shut-off"
    CRASHED = "crashed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ObservedDomain:
    """A domain as it is now. `ours`: our name or our metadata. The tag's parts are `None` where they are missing,
    garbled, or disagree with the name; `vm_id` is the domain's UUID without dashes, whoever's it is. `why` is told of a
    paused one, as far as it is known."""

    vm_id: VmId
    name: str
    generation: int | None
    user_id: UserId | None
    state: DomainState
    ours: bool
    why: "Why | None" = None


@dataclass(frozen=True, slots=True)
class DomainSecret:
    """What opens a disk: the domain's XML refers to it by its `usage`. It is with the hypervisor for as long as the
    start takes, and is neither listed nor read back."""

    usage: str
    value: str = field(repr=False)


class What(StrEnum):
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"  # libvirt says it at every start as well, before `STARTED`
    SHUTTING_DOWN = "shutting-down"  # the guest obeys the power button, or powers itself off
    STOPPED = "stopped"
    CRASHED = "crashed"  # the guest's kernel panicked; a `STOPPED` follows


class Why(StrEnum):
    """For `STOPPED` and `PAUSED`: who or what did it."""

    POWERED_OFF = "powered-off"  # by the guest itself
    DESTROYED = "destroyed"  # by us, or by somebody with virsh
    CRASHED = "crashed"  # the guest's kernel panicked
    FAILED = "failed"  # QEMU died, or never came up
    IO_ERROR = "io-error"  # paused, until its disk works again
    ASKED = "asked"  # paused by somebody
    OTHER = "other"  # saved, migrated, restored: by somebody with virsh


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """Something happened to a domain of ours. `detail` is for people."""

    vm_id: VmId
    what: What
    why: Why | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Resync:
    """What was known may be stale: connected anew, or events were lost. Look at `domains()` again."""


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The hypervisor can't be asked; VMs live on. A `Resync` follows when it can."""

    reason: str


Event = DomainEvent | Resync | ConnectionLost


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`archs` are those whose emulator is installed; `firmwares` those that guests of the host's own architecture can
    boot by, and `tpm` whether they can have a TPM 2.0."""

    hypervisor_version: str
    libvirt_version: str
    host_arch: str
    archs: frozenset[Arch]
    firmwares: frozenset[Firmware]
    tpm: bool = False


class HypervisorError(Exception):
    """Base of all; the text is a sentence for people."""


class HypervisorDown(HypervisorError):
    """It can't be asked now. Nothing was changed."""


class Unknown(HypervisorError):
    """It was asked to change something and the answer never came: it may have happened, or may still happen. Never
    take this for a failure; look by UUID."""


class DomainExists(HypervisorError):
    """There is one already with this vm_id, and it runs."""


class NoDomain(HypervisorError):
    """There is none of ours with this vm_id."""


class StartFailed(HypervisorError):
    """It did not start, and won't: the sentence says why."""


class TargetAway(StartFailed):
    """It did not start, since a volume's host does not answer for iSCSI now: it may be back in a moment."""


class NotNow(HypervisorError):
    """It can't do that now; nothing was changed."""


class NotPlugged(HypervisorError):
    """The domain does not take the disk, and has not got it: the sentence says why."""


class ConsoleBusy(HypervisorError):
    """Somebody is at the console; `force` takes it over."""


class NoNetwork(HypervisorError):
    """The network that VMs are to be on is not there and can't be started."""


class Console(Protocol):
    """A guest's serial terminal. Bytes that nobody reads in time are dropped, the oldest first; the log has all."""

    async def receive(self) -> bytes:
        """What has arrived, at least one byte; `b""` when the console has ended."""

    async def send(self, data: bytes) -> None:
        """Type; raises `trio.ClosedResourceError` once it has ended."""

    async def aclose(self) -> None: ...


class HypervisorLike(Protocol):
    """All of it may raise `HypervisorDown`; what changes something may raise `Unknown`."""

    @property
    def events(self) -> "trio.MemoryReceiveChannel[Event]": ...

    @property
    def down(self) -> str | None:
        """Why it can't be asked now, as a sentence; `None` while it can."""

    async def domains(self) -> tuple[ObservedDomain, ...]: ...

    async def start(self, xml: str, secrets: Sequence[DomainSecret] = (), *, paused: bool = False) -> None:
        """Raises `DomainExists` or `StartFailed`. Whatever comes of it, no secret stays behind. `paused`: QEMU has all
        images open, and the guest begins with `resume`."""

    async def shutdown(self, vm_id: VmId) -> None:
        """Press the power button; the guest decides. Raises `NoDomain` or `NotNow`, as the others do."""

    async def reboot(self, vm_id: VmId) -> None: ...

    async def resume(self, vm_id: VmId) -> None: ...

    async def destroy(self, vm_id: VmId) -> None:
        """End it now; QEMU still writes out what the guest has flushed."""

    async def plug(self, vm_id: VmId, volume: AttachedVolume, secrets: Sequence[DomainSecret] = ()) -> None:
        """Give the running domain one disk more; nothing where it has it. Raises `NotPlugged` or `NoDomain`. As for a
        start, no secret stays behind."""

    async def unplug(self, vm_id: VmId, vid: str, *, asks: bool) -> bool:
        """Whether the domain has this disk no more. With `asks`, the guest is asked to let go of it, and has
        `UNPLUG_S`. A domain that is not there has no disks."""

    async def erase(self, xml: str) -> None:
        """Forget what firmware and TPM have kept here for a VM that has no domain: see `state_xml`. Nothing where
        there is none. Raises `NotNow` where something can't be removed."""

    async def addresses(self, vm_id: VmId) -> tuple[str, ...]:
        """Numeric, as far as known: none before the guest has asked for one."""

    async def open_console(self, vm_id: VmId, *, force: bool = False) -> Console:
        """Raises `ConsoleBusy`, unless `force` takes it over from whoever has it."""

    async def capabilities(self) -> Capabilities: ...

    async def ensure_network(self, name: str) -> bool:
        """Start it where it is defined but not active (Debian leaves `default` so); whether it was not. Raises
        `NoNetwork`."""
