"""What `Compute` wants done: a closed union, to be performed in the order given. Pure.

`Durable` effects are synced to the journal before the next one is looked at; the others may take their time.
"""

from dataclasses import dataclass

from atomd.vms.lifecycle import Vm
from specs.ids import OfferId, VmId


@dataclass(frozen=True, slots=True)
class Journal:
    """Make `put` durable, or forget it; `before` is what memory held until now, for `rollback`."""

    put: Vm
    before: Vm | None = None
    replaces: Vm | None = None  # an older generation, forgotten in the same transaction


@dataclass(frozen=True, slots=True)
class JournalForget:
    vm: Vm


@dataclass(frozen=True, slots=True)
class JournalAbandoned:
    offer_id: OfferId


@dataclass(frozen=True, slots=True)
class AttachVolumes:
    vm: Vm


@dataclass(frozen=True, slots=True)
class DetachVolumes:
    vm: Vm


@dataclass(frozen=True, slots=True)
class EraseState:
    """Remove what UEFI and TPM have kept for a VM that is being removed, and has no domain any more."""

    vm: Vm


@dataclass(frozen=True, slots=True)
class ReachVolumes:
    """Attach again what a running VM has already, to learn whether it still has it."""

    vm: Vm


@dataclass(frozen=True, slots=True)
class AttachVolume:
    """One volume more; `PlugVolume` gives it to the domain then."""

    vm: Vm
    vid: str


@dataclass(frozen=True, slots=True)
class PlugVolume:
    """Give the running domain what `vm.change` says."""

    vm: Vm
    vid: str


@dataclass(frozen=True, slots=True)
class UnplugVolume:
    """See whether the domain has the volume still; with `asks`, ask the guest to let go of it first, and wait."""

    vm: Vm
    vid: str
    asks: bool


@dataclass(frozen=True, slots=True)
class DetachVolume:
    """The domain has it no more: tell storage."""

    vm: Vm
    vid: str


@dataclass(frozen=True, slots=True)
class StartDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class ShutDownDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class RebootDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class ResumeDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class DestroyDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class Changed:
    """Whoever waits for this VM should look again."""

    vm_id: VmId


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A domain of ours that no commitment explains: say so, touch nothing."""

    vm_id: VmId


Durable = Journal | JournalForget | JournalAbandoned
Effect = (
    Durable
    | AttachVolumes
    | DetachVolumes
    | EraseState
    | ReachVolumes
    | AttachVolume
    | PlugVolume
    | UnplugVolume
    | DetachVolume
    | StartDomain
    | ShutDownDomain
    | RebootDomain
    | ResumeDomain
    | DestroyDomain
    | Changed
    | Quarantined
)
Effects = list[Effect]
