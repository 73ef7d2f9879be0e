"""The states of a VM on its host, and what may follow what. Pure.

    PREPARED --attached--> COMMITTED --started--> RUNNING --stop--> STOPPING --domain gone--> STOPPED
        |                      |                     |               '--volumes lost--> FAILED   |
        | refused, crash       '--start refused--> FAILED <--crashed--'  domain gone --> STOPPED |
        v                                            |                                          |
    REMOVING <---------------------- rm -------------+------------------------------------------'
        '--erased, detached (or its storage host is silent, and is told later)--> (forgotten)

PREPARED and REMOVING are not promises: a crash in either ends in (forgotten). COMMITTED is the commit point, after
which the VM exists until its user says `rm`. STOPPED and FAILED keep name and volumes and take no compute.
Volumes come and go beside that, one at a time: see `atomd.volumes.plugging`.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

from atomd.capacity.hardware import Claim
from atomd.vms.lease import Lease
from matcher.wire.messages import Arch, Confirm, ConfirmVolume, Firmware, VolumeClaim
from matcher.wire.volumes import AttachedVolume
from specs.ids import OfferId, UserId, VmId


class State(StrEnum):
    PREPARED = "prepared"
    COMMITTED = "committed"  # on its way up
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    REMOVING = "removing"


FOLLOWS: dict[State, frozenset[State]] = {
    State.PREPARED: frozenset({State.COMMITTED, State.REMOVING}),
    State.COMMITTED: frozenset({State.RUNNING, State.STOPPED, State.FAILED, State.REMOVING}),
    State.RUNNING: frozenset({State.STOPPING, State.STOPPED, State.FAILED, State.COMMITTED, State.REMOVING}),
    State.STOPPING: frozenset({State.RUNNING, State.STOPPED, State.FAILED, State.REMOVING}),
    State.STOPPED: frozenset({State.REMOVING}),
    State.FAILED: frozenset({State.REMOVING}),
    State.REMOVING: frozenset(),
}

RUNS = frozenset({State.COMMITTED, State.RUNNING, State.STOPPING})  # a domain is there, or on its way
AT_REST = frozenset({State.STOPPED, State.FAILED})  # promised, and no domain
PROMISED = frozenset({State.COMMITTED, State.RUNNING, State.STOPPING, State.STOPPED, State.FAILED})


class Stage(StrEnum):
    ATTACHING = "attaching"  # no promise yet
    DETACHING = "detaching"  # to be let go of, by the guest first and by storage then
    KEEPING = "keeping"  # taken back by its user; the guest, once asked, may let go of it still


@dataclass(frozen=True, slots=True)
class Change:
    """What goes on with one volume. `volume`: where one that is being attached is, once storage has given it, and
    before the domain can have it. `asked_s`: since when it is to go, in wall time; 0 where it is not."""

    vid: str
    stage: Stage
    volume: AttachedVolume | None = None
    asked_s: float = 0.0

    @property
    def is_kept(self) -> bool:
        return self.stage is Stage.KEEPING


@dataclass(frozen=True, slots=True)
class Added:
    """A volume that came after the confirm: the user's word on it, as a message and as received."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    confirm: ConfirmVolume
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Words:
    """One envelope of the user's, and which of the volumes that it claims count still."""

    envelope: bytes
    offer_id: OfferId
    claims: tuple[VolumeClaim, ...]
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vm:
    """One (vm_id, generation) on this host, as the journal keeps it.

    `envelope` is the user's confirm as it was received: `storaged` judges it again at each attach. `why` is a
    sentence about the state, for a person, or empty. `boot_id` is the kernel's boot in which the domain last started,
    or was to start. `is_cut`: its volumes are others' now, so that it ends as FAILED. `is_forced`: somebody said that
    its plug be pulled. `volumes` are those that it has; `dropped` names those of the confirm's that it has let go of.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    confirm: Confirm
    envelope: bytes
    user_id: UserId
    user_name: str
    state: State
    claim: Claim
    volumes: tuple[AttachedVolume, ...] = ()
    why: str = ""
    boot_id: str = ""
    lease: Lease | None = None
    is_cut: bool = False
    is_forced: bool = False
    added: tuple[Added, ...] = ()
    dropped: tuple[str, ...] = ()
    change: Change | None = None

    @property
    def vm_id(self) -> VmId:
        return VmId(self.confirm.vm_id)

    @property
    def generation(self) -> int:
        return self.confirm.generation

    @property
    def offer_id(self) -> OfferId:
        return OfferId(self.confirm.offer_id)

    @property
    def words(self) -> tuple[Words, ...]:
        """Everything that storage has to be told of this VM, with what is being attached or detached."""
        kept = tuple(claim for claim in self.confirm.volumes if claim.vid not in self.dropped)
        first = Words(self.envelope, self.offer_id, kept, self.dropped)
        added = (Words(a.envelope, OfferId(a.confirm.volume.offer_id), (a.confirm.volume,)) for a in self.added)
        return (first, *added) if kept else tuple(added)

    @property
    def claims(self) -> tuple[VolumeClaim, ...]:
        return tuple(claim for words in self.words for claim in words.claims)

    @property
    def standing(self) -> "Vm":
        """Without the volume that is coming or going: what it has to keep, and to start with."""
        if self.change is None or self.change.is_kept:
            return self
        vid = self.change.vid
        added = tuple(added for added in self.added if added.confirm.volume.vid != vid)
        volumes = tuple(volume for volume in self.volumes if volume.vid != vid)
        return replace(self, added=added, volumes=volumes, dropped=(*self.dropped, vid))

    @property
    def may_keep_state(self) -> bool:
        """Whether something of it may outlive its domain on this host: UEFI's variables, or its TPM's state."""
        ask = self.confirm.vm
        is_uefi = ask.firmware is not Firmware.BIOS or Arch.ARM_8 in ask.archs
        return bool(self.boot_id) and (is_uefi or ask.tpm)  # one that was never promised has had no domain

    @property
    def ends_because(self) -> str:
        """Why others than its user are ending it, which is then ended in any case; else empty."""
        return self.why if self.state is State.STOPPING else ""

    @property
    def ends_as(self) -> State:
        """When its domain is gone, after STOPPING."""
        return State.FAILED if self.is_cut else State.STOPPED

    def to(self, state: State, why: str = "") -> "Vm":
        assert state in FOLLOWS[self.state], f"{self.state} -> {state}"
        return replace(self, state=state, why=why)
