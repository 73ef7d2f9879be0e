"""What the scheduler asks for and what it ends with: closed unions of plain values. Pure."""

from dataclasses import dataclass

from matcher.scheduler.choosing import Choice
from matcher.wire.messages import Abandon, Confirm, Pledge, Reason, Reveal, VmOffer
from specs.ids import HostId, Vid, VmId

# ---- effects, to be performed in order


@dataclass(frozen=True, slots=True)
class SendPledge:
    """Sign and multicast; the same pledge twice is a repeat for those who did not hear it."""

    pledge: Pledge


@dataclass(frozen=True, slots=True)
class SendReveal:
    reveal: Reveal


@dataclass(frozen=True, slots=True)
class SendConfirm:
    """One attempt, by HTTPS, to the host with this id alone. How it ends is reported once."""

    host_id: HostId
    address: str
    port: int
    confirm: Confirm


@dataclass(frozen=True, slots=True)
class SendAbandon:
    host_id: HostId
    address: str
    port: int
    abandon: Abandon


# ---- answers by HTTPS, as inputs; `Refused` is the third


@dataclass(frozen=True, slots=True)
class Committed:
    """The host has promised the VM, durably."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The host has noted that the offer is not taken. `committed`: it was taken already, and the VM stays."""

    committed: bool = False


# ---- outcomes


@dataclass(frozen=True, slots=True)
class HostReasons:
    """Every reason why a host cannot have the VM."""

    host_id: HostId
    host: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Nearest:
    """A host that would fit with these edits of the specfile: `--set` arguments."""

    host_id: HostId
    host: str
    edits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    host_id: HostId
    host: str
    address: str
    offer: VmOffer
    vm_id: VmId
    generation: int


@dataclass(frozen=True, slots=True)
class NoHostFits:
    """`refused`: hosts that offered first, and then refused."""

    unfits: tuple[HostReasons, ...]
    nearest: tuple[Nearest, ...] = ()
    refused: tuple[HostReasons, ...] = ()


@dataclass(frozen=True, slots=True)
class NoHostInReach:
    """Nobody answered at all."""


@dataclass(frozen=True, slots=True)
class VolumeMissing:
    """These volumes are on no host that answered; `unfits` tells of the other reasons."""

    vids: tuple[Vid, ...]
    unfits: tuple[HostReasons, ...] = ()


@dataclass(frozen=True, slots=True)
class AllRefused:
    """Hosts offered, and each refused when it was asked to keep its word."""

    refused: tuple[HostReasons, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """The host may have taken the VM or not: it answers neither the confirm nor the abandon. It was not run elsewhere,
    since it would then run twice."""

    host_id: HostId
    host: str
    address: str
    vm_id: VmId
    generation: int


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The person said stop. `left` is what stays behind: a VM that was placed already, or one host in doubt."""

    left: Placed | Unknown | None = None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Of a dry pledge: complete choices, best first, and the reasons of every other host."""

    choices: tuple[Choice, ...]
    unfits: tuple[HostReasons, ...]
    hosts_known: int


Failure = NoHostFits | NoHostInReach | VolumeMissing | AllRefused
Outcome = Placed | Failure | Unknown | Interrupted | Surveyed


@dataclass(frozen=True, slots=True)
class Finished:
    outcome: Outcome


Effect = SendPledge | SendReveal | SendConfirm | SendAbandon | Finished
Effects = list[Effect]
