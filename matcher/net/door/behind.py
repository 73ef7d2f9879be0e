"""What stands behind front doors: a `Host` for VMs, a `Desk` for the realm, a `Store` for volumes, a `Relay`. They
decide.

Who calls has been judged when anything here is called: the certificate, and whether their grant has the verb that the
route needs. What belongs to whom, and how much, is decided behind.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Protocol

from matcher.net.caller import Caller
from matcher.net.relay.lines import Line
from matcher.wire.hosts import HostViews
from matcher.wire.messages import Abandoned, Answer, Refused, VmView, VmViews
from matcher.wire.realm import (
    Admitted,
    ChangeGrant,
    Done,
    Invited,
    InviteHost,
    InviteUser,
    Join,
    Members,
    RealmStatus,
    Renew,
    Revoke,
    UserUses,
    Welcome,
    WhoAmI,
)
from matcher.wire.volumes import (
    Attached,
    ChangeVolume,
    CloneVolume,
    Detach,
    Detached,
    DropSnapshot,
    ImportVolume,
    NewSeed,
    NewVolume,
    RollBack,
    Snapshots,
    TakeSnapshot,
    VolumeProgress,
    VolumeView,
    VolumeViews,
)
from specs.ids import UserId, Vid, VmId


class Console(Protocol):
    """A guest's serial console, or what else is bytes both ways; `receive` gives b"" when the other side is gone, and
    `send` may raise what trio's streams do."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes: ...

    async def aclose(self) -> None: ...


class Host(Protocol):
    """VMs of users. Every method judges by the user who calls."""

    def about(self, caller: Caller) -> Answer: ...

    async def whoami(self, caller: Caller) -> WhoAmI:
        """`ends_s` is filled in by the door, which has seen the certificate."""
        ...

    async def uses(self, user_id: UserId) -> UserUses:
        """What any user has; for admins."""
        ...

    async def pledge(self, envelope: bytes, caller: Caller) -> list[bytes] | Refused: ...

    async def confirm(self, envelope: bytes, caller: Caller) -> VmView | Refused: ...

    async def up(self, vm_id: VmId, generation: int) -> VmView | None: ...

    async def abandon(self, envelope: bytes, caller: Caller) -> Abandoned | Refused: ...

    async def vms(self, caller: Caller) -> VmViews: ...

    async def vm(self, vm_id: VmId, caller: Caller) -> VmView | Refused: ...

    async def stop(self, vm_id: VmId, caller: Caller, *, force: bool) -> VmView | Refused: ...

    async def reboot(self, vm_id: VmId, caller: Caller) -> VmView | Refused: ...

    async def remove(self, vm_id: VmId, caller: Caller, generation: int | None) -> VmView | Refused: ...

    async def attach_volume(self, vm_id: VmId, envelope: bytes, caller: Caller) -> VmView | Refused: ...

    async def detach_volume(self, vm_id: VmId, vid: Vid, caller: Caller) -> VmView | Refused: ...

    async def console_log(self, vm_id: VmId, caller: Caller) -> bytes | Refused: ...

    async def console(self, vm_id: VmId, caller: Caller) -> Console | Refused: ...


class Board(Protocol):
    """The realm, as far as this host knows it."""

    def status(self) -> RealmStatus: ...

    def bundle(self) -> bytes:
        """Framed: the bundle, and the signed tag keys."""
        ...

    async def offer(self, documents: bytes, caller: Caller) -> Done | Refused:
        """`documents` are signed and framed; they prove themselves, whoever brings them."""
        ...

    def denied(self, caller: Caller, asked: str, why: str) -> None:
        """The door has refused what this caller's grant does not allow: for the audit. `asked` is method and path."""
        ...


class Desk(Board, Protocol):
    """The realm, as far as this host has it. A host that is no issuer refuses what only one can do."""

    async def renew(self, renew: Renew, caller: Caller, leaf: bytes) -> Admitted | Refused:
        """`leaf` (DER) is what the caller has shown; it may be one that another grant has superseded."""
        ...

    async def invite_host(self, invite: InviteHost, caller: Caller) -> Invited | Refused: ...

    async def invite_user(self, invite: InviteUser, caller: Caller) -> Invited | Refused: ...

    async def change_grant(self, change: ChangeGrant, caller: Caller) -> Done | Refused: ...

    async def revoke(self, revoke: Revoke, caller: Caller) -> Done | Refused: ...

    async def make_issuer(self, caller: Caller) -> Renew | Refused:
        """The request for the key of an issuer on this host, made where there is none; the root has to name it yet."""
        ...

    def members(self, caller: Caller) -> Members | Refused: ...

    def is_joining(self) -> bool:
        """Whether a token is pending here, so that strangers may come to redeem it."""
        ...

    def welcome(self) -> Welcome: ...

    async def join(self, join: Join, server_leaf: bytes, address: str) -> Admitted | Refused:
        """`server_leaf` (DER) is what this host has shown in TLS; the proof in `join` names it."""
        ...


class Relay(Protocol):
    """What users elsewhere ask through this host, and what other hosts have relayed to it."""

    def line(self, caller: Caller) -> Line | Refused: ...

    async def tunnel(self, host_id: str, port: int, caller: Caller) -> Console | Refused:
        """Bytes to the front door of that host, and back."""
        ...

    async def relayed(self, envelope: bytes, caller: Caller) -> list[bytes] | Refused: ...


class Neighbours(Protocol):
    """All hosts of the realm, as far as this one has heard of them."""

    def pages(self) -> Iterator[HostViews]:
        """In parts; one at least."""
        ...


class Work(Protocol):
    """Something that takes a while; it goes on when nobody listens."""

    def lines(self) -> AsyncGenerator[VolumeProgress, None]:
        """How it goes, until its end."""
        ...


class Store(Protocol):
    """Volumes of a storage host. What is another user's private volume is not there."""

    async def volumes(self, caller: Caller) -> VolumeViews: ...

    async def volume(self, vid: Vid, caller: Caller) -> VolumeView | Refused: ...

    async def create(self, new: NewVolume, caller: Caller) -> Work | Refused: ...

    async def import_(self, asked: ImportVolume, caller: Caller) -> Work | Refused: ...

    async def upload(self, vid: Vid, pieces: AsyncIterator[bytes], caller: Caller) -> Done | Refused:
        """The image of an import that waits for it; returns when all of it was taken."""
        ...

    async def change(self, vid: Vid, change: ChangeVolume, caller: Caller) -> Work | Refused: ...

    async def clone(self, vid: Vid, clone: CloneVolume, caller: Caller) -> Work | Refused: ...

    async def remove(self, vid: Vid, caller: Caller) -> Work | Refused: ...

    async def cancel(self, vid: Vid, caller: Caller) -> Done | Refused:
        """Ends what the caller has asked to be done to that volume; said when it has ended, and all is as before."""
        ...

    async def take_over(self, vid: Vid, caller: Caller, *, is_said_dead: bool) -> Done | Refused:
        """Whoever has the volume is cut, and it is free then. `is_said_dead`: the caller's word about the server that
        has it, where several serve it."""
        ...

    async def seed(self, seed: NewSeed, caller: Caller) -> Work | Refused: ...

    async def snapshots(self, vid: Vid, caller: Caller) -> Snapshots | Refused: ...

    async def snapshot(
        self, vid: Vid, asked: TakeSnapshot | RollBack | DropSnapshot, caller: Caller
    ) -> Work | Refused: ...

    async def attach(self, confirm: bytes, caller: Caller, without: Sequence[Vid]) -> Attached | Refused:
        """`caller` is the compute host that the confirm is for, which asks for its volumes `without` these."""
        ...

    async def detach(self, detach: Detach, caller: Caller) -> Detached | Refused: ...

    def denied(self, caller: Caller, asked: str, why: str) -> None:
        """As a desk's."""
        ...
