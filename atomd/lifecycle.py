"""The states of a VM on its host, and what may follow what. Pure.

    PREPARED --attached--> COMMITTED --started--> RUNNING --stop--> STOPPING --domain gone--> STOPPED
        |                      |                     |               '--volumes lost--> FAILED   |
        | refused, crash       '--start refused--> FAILED <--crashed--'  domain gone --> STOPPED |
        v                                            |                                          |
    REMOVING <---------------------- rm -------------+------------------------------------------'
        '--detached--> (forgotten)

PREPARED and REMOVING are not promises: a crash in either ends in (forgotten). COMMITTED is the commit point, after
which the VM exists until its user says `rm`. STOPPED and FAILED keep name and volumes and take no compute.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from pydantic import ConfigDict

from atomd.hardware import Claim
from atomd.lease import Lease
from matcher.wire.messages import Confirm
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
PROMISED = frozenset({State.COMMITTED, State.RUNNING, State.STOPPING, State.STOPPED, State.FAILED})


@dataclass(frozen=True, slots=True)
class Vm:
    """One (vm_id, generation) on this host, as the journal keeps it.

    `envelope` is the user's confirm as it was received: `storaged` judges it again at each attach. `why` is a
    sentence about the state, for a person, or empty. `boot_id` is the kernel's boot in which the domain last started,
    or was to start. `is_cut`: its volumes are others' now, so that it ends as FAILED.
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
