"""Who has which volume: a pure decision about each attach and detach, and the writes that make it so.

    (free) --attach--> HELD, epoch + 1 --detach--> (free), epoch kept
                         '--attach by the same VM, higher generation--> HELD, epoch + 1

A VM's volumes change with its generation, and one by one where its user says so (`adds`, and *detach* of some).

The right to write an exclusive volume lives with the volume (`record`); the journal is a cache of it, and remembers
each volume's epoch, by which a pool rolled back to an older state is noticed. Every decision therefore starts from
`merged`: what the journal knows, corrected by the records just read. Writes go record by record, then the journal in
one transaction: a crash anywhere between leaves records that say the truth, and the journal behind them. An answer is
given only after the last write.
Pure: the random half of an epoch comes from the caller's `Random`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random

from matcher.wire.messages import REASONS_MAX, Reason, Refused
from specs.ids import HostId, UserId, Vid, VmId
from storaged.claims import SharedVolume, VolumeShare, holder_against
from storaged.fit import OTHER_HOST_HINT, in_use_reason, reason
from storaged.volume import COUNTER_MAX, Epoch, Right

ROLLED_BACK_HINT = "if its content is right as it is, its sysadmin can say: storaged forget VID"


class Refusal(StrEnum):
    """Codes of a typed no. Bugs are asserts instead."""

    IN_USE = "volume-in-use"
    NOT_YOURS = "vm-of-another-user"
    STALE = "generation-over"
    ANOTHER_SET = "other-volumes"
    ROLLED_BACK = "volume-rolled-back"
    ELSEWHERE = "volume-held-elsewhere"
    NOT_HELD = "volume-not-held"
    UNUSABLE = "volume-unusable"
    UNWRITABLE = "storage-unwritable"


@dataclass(frozen=True, slots=True)
class Attachment:
    """The hold that one VM, on the host `host_id`, has of one volume, with the epoch it was given. `right` is what the
    volume's own record says of it, where `server` wrote it."""

    volume: SharedVolume
    epoch: Epoch
    vm_id: VmId
    generation: int
    user_id: UserId
    host_id: HostId
    vm_name: str = ""

    @property
    def vid(self) -> Vid:
        return self.volume.vid

    def right(self, server: HostId, *, held: bool) -> Right:
        return Right(self.vid, self.epoch, server, self.host_id, self.user_id, self.vm_id, self.generation, held)


@dataclass(frozen=True, slots=True)
class State:
    """What the journal holds. An exclusive volume has one attachment at most; its epoch in `epochs` only grows."""

    attachments: tuple[Attachment, ...] = ()
    epochs: Mapping[Vid, Epoch] = field(default_factory=dict)

    def of_vm(self, vm_id: VmId, user_id: UserId | None = None) -> tuple[Attachment, ...]:
        return tuple(a for a in self.attachments if a.vm_id == vm_id and user_id in (None, a.user_id))

    def shares(self) -> tuple[VolumeShare, ...]:
        """The attachments as claims, one for each VM and generation: the ledger's residents."""
        together: dict[tuple[VmId, int, UserId], list[Attachment]] = {}
        for attachment in self.attachments:
            together.setdefault((attachment.vm_id, attachment.generation, attachment.user_id), []).append(attachment)
        return tuple(
            VolumeShare(vm_id, generation, user_id, tuple(a.volume for a in held), held[0].vm_name)
            for (vm_id, generation, user_id), held in together.items()
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What must be written, in this order: each of `rights` into its volume, then `state` into the journal."""

    rights: tuple[Right, ...]
    state: State


@dataclass(frozen=True, slots=True)
class Granted:
    """`attachments` in the order asked. `ended` are those of the VM's older life, to be cut before anything is written.
    `change` is `None` where everything stands already."""

    attachments: tuple[Attachment, ...]
    change: Change | None
    ended: tuple[Attachment, ...] = ()


def merged(state: State, rights: Mapping[Vid, Right | None], *, server: HostId) -> State:
    """`state` corrected by the records of the exclusive volumes in `rights`: where a record is newer, it is right.

    At the same epoch the journal may know of a detach that the record missed (a pool that was gone or full), never the
    other way round for an attach. A record that was rolled back changes nothing here.
    """
    newer = {vid: right for vid, right in rights.items() if right and not rolled_back(state, vid, right)}
    kept = [
        a for a in state.attachments if not a.volume.exclusive or _confirms(newer.get(a.vid), a, server, unread=True)
    ]
    missed = [
        _adopted(right)
        for vid, right in newer.items()
        if right.held and right.server == server and state.epochs.get(vid) != right.epoch
    ]
    return State((*kept, *missed), {**state.epochs, **{vid: right.epoch for vid, right in newer.items()}})


def rolled_back(state: State, vid: Vid, right: Right | None) -> bool:
    """Whether the record of an exclusive volume is older than what this host remembers, or of another history."""
    known = state.epochs.get(vid)
    if known is None:
        return False
    if right is None or right.epoch.counter < known.counter:
        return True
    return right.epoch.counter == known.counter and right.epoch.nonce != known.nonce


def attach(
    state: State,
    claim: VolumeShare,
    rights: Mapping[Vid, Right | None],
    *,
    server: HostId,
    host_id: HostId,
    random: Random,
    busy: Collection[Vid] = (),
    adds: bool = False,
) -> Granted | Refused:
    """Give `claim`, for a VM on the host `host_id`, all its volumes, or none. `adds`: beside those that it has.

    `rights` holds the record of every exclusive volume asked for or held by this VM, as just read; `busy` are those of
    them whose image a program has open for writing at this moment. Repeating the same call gives the same answer.
    """
    known, state = state, merged(state, rights, server=server)
    mine = state.of_vm(claim.vm_id, claim.user_id)
    standing = {a.vid: a for a in mine if a.generation == claim.generation}
    missing = tuple(volume for volume in claim.volumes if volume.vid not in standing)
    if refused := (
        _not_yours(state, claim)
        or _over(mine, claim, host_id, adds=adds or not missing)
        or _taken(state, claim, rights, server)
    ):
        return refused
    over = tuple(a for a in mine if a.generation < claim.generation)
    if refused := _busy((*missing, *(a.volume for a in over)), busy):
        return refused
    new = {volume.vid: _next(state, volume, claim, host_id, random) for volume in missing}
    answer = tuple(standing.get(volume.vid) or new[volume.vid] for volume in claim.volumes)
    if not new and not over:
        return Granted(answer, None if state == known else Change((), state))
    return Granted(answer, _change(state, rights, server, ended=over, begun=tuple(new.values())), over)


def detach(
    state: State,
    vm_id: VmId,
    generation: int,
    rights: Mapping[Vid, Right | None],
    *,
    server: HostId,
    host_id: HostId | None = None,
    vids: Collection[Vid] = (),
) -> Change | None:
    """Free what `vm_id` has (on `host_id` alone) under `generation` or an older one, or of that `vids` alone; `None`
    where there is nothing.

    A newer generation is left alone: a late *detach* must not take the volumes from the VM's next life. Where a
    volume was rolled back or is held elsewhere by now, its record is left as it is and only the journal forgets.
    """
    state = merged(state, rights, server=server)
    ended = lives(state, vm_id, generation, host_id, vids)
    return _change(state, rights, server, ended=ended, begun=()) if ended else None


def lives(
    state: State, vm_id: VmId, generation: int, host_id: HostId | None = None, vids: Collection[Vid] = ()
) -> tuple[Attachment, ...]:
    """What `vm_id` has (on `host_id` alone) under `generation` or an older one, or of that `vids` alone: what a
    *detach* ends."""
    mine = (a for a in state.of_vm(vm_id) if not vids or a.vid in vids)
    return tuple(a for a in mine if a.generation <= generation and host_id in (None, a.host_id))


def forgotten(state: State, vid: Vid, right: Right | None, *, server: HostId, random: Random) -> Change:
    """A person's word that nobody else writes this volume and that its content is right: free, in a new epoch.

    The one way out of a rolled-back pool, a lost record, or a holder on a dead host. Not for a volume attached here.
    """
    known = state.epochs.get(vid)
    counter = 1 + max(known.counter if known else 0, right.epoch.counter if right else 0)
    epoch = _epoch(counter, random)
    by = right or Right(vid, epoch, server, server, UserId("0" * 64), VmId("0" * 32), 1, held=False)
    kept = tuple(a for a in state.attachments if a.vid != vid)
    return Change((replace(by, epoch=epoch, server=server, held=False),), State(kept, {**state.epochs, vid: epoch}))


def renewed(state: State, held: Attachment, right: Right | None, *, server: HostId, random: Random) -> Change | Refusal:
    """The same life keeps the volume, in a new epoch: what its host has of the old one is good for nothing any more."""
    if rolled_back(state, held.vid, right):
        return Refusal.ROLLED_BACK
    if not _confirms(right, held, server, unread=False):
        return Refusal.ELSEWHERE
    if held.epoch.counter >= COUNTER_MAX:
        return Refusal.UNUSABLE
    new = replace(held, epoch=_epoch(held.epoch.counter + 1, random))
    kept = tuple(new if a == held else a for a in state.attachments)
    return Change((new.right(server, held=True),), State(kept, {**state.epochs, held.vid: new.epoch}))


def _not_yours(state: State, claim: VolumeShare) -> Refused | None:
    """Clients make the ids of VMs; one that takes another user's must not get that VM's volumes, nor have its own
    freed together with them."""
    other = next((a for a in state.of_vm(claim.vm_id) if a.user_id != claim.user_id), None)
    if other is None:
        return None
    has = "this VM's id is that of another user's VM"
    return _refused(Refusal.NOT_YOURS, [reason(volume.vid, has, "run it under a new id") for volume in claim.volumes])


def _over(mine: Sequence[Attachment], claim: VolumeShare, host_id: HostId, *, adds: bool) -> Refused | None:
    """A newer generation of the VM was here, or the same one on another host or, unless it `adds`, with others."""
    newest = max((a.generation for a in mine), default=0)
    if newest > claim.generation:
        later = next(a for a in mine if a.generation == newest)
        holder = VolumeShare(later.vm_id, newest, later.user_id, (later.volume,), later.vm_name)
        return _refused(Refusal.STALE, [in_use_reason(later.vid, holder, claim)])
    away = [a for a in mine if a.generation == claim.generation and a.host_id != host_id]
    if away:
        has = f"this VM's generation {claim.generation} has it on another host"
        return _refused(Refusal.ELSEWHERE, [reason(a.vid, has, "start it again: electros start") for a in away])
    asked = {volume.vid for volume in claim.volumes}
    other = [a for a in mine if a.generation == claim.generation and a.vid not in asked]
    if other and not adds:
        has = "this VM has it already, under the same generation"
        hint = "one volume more comes by: electros volume attach"
        return _refused(Refusal.ANOTHER_SET, [reason(a.vid, has, hint) for a in other])
    return None


def _taken(state: State, claim: VolumeShare, rights: Mapping[Vid, Right | None], server: HostId) -> Refused | None:
    """Why the volumes can't be had: every reason, under the code of the first."""
    found = [refused for volume in claim.volumes if (refused := _why_not(state, claim, volume, rights, server))]
    if not found:
        return None
    return _refused(found[0][0], [why for _, why in found])


def _why_not(
    state: State, claim: VolumeShare, wanted: SharedVolume, rights: Mapping[Vid, Right | None], server: HostId
) -> tuple[Refusal, Reason] | None:
    holder = holder_against(claim, wanted, state.shares())
    if holder is not None:
        return Refusal.IN_USE, in_use_reason(wanted.vid, holder, claim)
    if not wanted.exclusive:
        return None
    right = rights[wanted.vid]
    if rolled_back(state, wanted.vid, right):
        return Refusal.ROLLED_BACK, reason(
            wanted.vid, _how_rolled_back(state.epochs[wanted.vid], right), ROLLED_BACK_HINT
        )
    if right is not None and right.held and right.server != server:
        return Refusal.ELSEWHERE, reason(wanted.vid, "given away by another host, by its own record", OTHER_HOST_HINT)
    if right is not None and right.epoch.counter >= COUNTER_MAX:
        return Refusal.UNUSABLE, reason(wanted.vid, "its record has counted to the end")
    if right is not None and _same_vm(right, claim) and right.generation > claim.generation:
        has = f"this VM had it under generation {right.generation}; generation {claim.generation} is over"
        return Refusal.STALE, reason(wanted.vid, has, "it was started again meanwhile: electros ps")
    return None


def _how_rolled_back(known: Epoch, right: Right | None) -> str:
    if right is None:
        return f"this pool was rolled back: epoch {known.counter} is remembered, its record is gone"
    if right.epoch.counter < known.counter:
        return f"this pool was rolled back: epoch {known.counter} is remembered, its record says {right.epoch.counter}"
    return f"this pool was rolled back: epoch {known.counter} was given twice"


def _busy(changing: Sequence[SharedVolume], busy: Collection[Vid]) -> Refused | None:
    """What a VM still writes can be neither given nor freed: its old life ends first, then the next begins."""
    has, hint = "a program on this host has its image open for writing", "wait until that VM has ended: virsh list"
    vids = dict.fromkeys(volume.vid for volume in changing if volume.exclusive and volume.vid in busy)
    found = [reason(vid, has, hint) for vid in vids]
    return _refused(Refusal.IN_USE, found) if found else None


def _refused(code: Refusal, reasons: Sequence[Reason]) -> Refused:
    return Refused(code.value, tuple(reasons[:REASONS_MAX]))


def _next(state: State, volume: SharedVolume, claim: VolumeShare, host_id: HostId, random: Random) -> Attachment:
    known = [state.epochs.get(volume.vid), *(a.epoch for a in state.attachments if a.vid == volume.vid)]
    epoch = _epoch(1 + max((epoch.counter for epoch in known if epoch), default=0), random)
    return Attachment(volume, epoch, claim.vm_id, claim.generation, claim.user_id, host_id, claim.vm_name)


def _epoch(counter: int, random: Random) -> Epoch:
    return Epoch(counter, f"{random.getrandbits(64):016x}")


def _change(
    state: State,
    rights: Mapping[Vid, Right | None],
    server: HostId,
    *,
    ended: Collection[Attachment],
    begun: Sequence[Attachment],
) -> Change:
    exclusive = [a for a in begun if a.volume.exclusive]
    again = {a.vid for a in begun}
    records = [
        a.right(server, held=False)
        for a in ended
        if a.volume.exclusive and a.vid not in again and _confirms(rights.get(a.vid), a, server, unread=False)
    ]
    records += [a.right(server, held=True) for a in exclusive]
    kept = tuple(a for a in state.attachments if a not in ended)
    return Change(tuple(records), State((*kept, *begun), {**state.epochs, **{a.vid: a.epoch for a in exclusive}}))


def _confirms(right: Right | None, attachment: Attachment, server: HostId, *, unread: bool) -> bool:
    """Whether the volume's own record says that the attachment stands; `unread` where there is no record to ask."""
    return unread if right is None else right == attachment.right(server, held=True)


def _same_vm(right: Right, claim: VolumeShare) -> bool:
    return right.vm_id == claim.vm_id and right.user_id == claim.user_id


def _adopted(right: Right) -> Attachment:
    """A hold that the record knows and the journal missed, as after a crash between the two."""
    volume = SharedVolume(right.vid, writable=True, shareable=False)
    return Attachment(volume, right.epoch, right.vm_id, right.generation, right.user_id, right.host_id)
