"""Keeps the promise of `attachments`: reads the records, decides, cuts who had it, writes records and journal, and then
answers.

    lease held --> record read --> old export cut --> record written --> journal --> answer
                                          '--nobody has the volume then--> lease let go

The lease is for volumes that several servers serve: there another server's word counts as much as this one's, and is
only in the record. Elsewhere nothing is asked for one.

What a daemon calls from its worker threads, one call at a time. Refusals are values; `JournalCorrupt` alone goes
through, since a daemon must stop on it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random, SystemRandom
from threading import Lock
from typing import Protocol

from matcher.wire.messages import REASONS_MAX, Reason, Refused
from matcher.wire.volumes import AttachedVolume
from specs.ids import HostId, UserId, Vid, VmId, dashed
from storaged import attachments
from storaged.attachments import Attachment, Change, Granted, Refusal, State
from storaged.beneath import Unusable
from storaged.claims import VolumeShare, shared
from storaged.export import file
from storaged.fit import reason
from storaged.journal import JournalCorrupt, JournalError
from storaged.pool import Joined, check_ours, not_joined
from storaged.record import read_right_at, write_right
from storaged.volume import Right, Snapshot, Volume


@dataclass(frozen=True, slots=True)
class Kept:
    """What a VM has now, in the order asked: `files` as they are on this host, and under which epoch."""

    files: tuple[AttachedVolume, ...]
    attachments: tuple[Attachment, ...]
    new: frozenset[Vid]  # of it, what was given just now


class NotCut(Unusable):
    """The volume's holder may still write, so that nobody else may have it yet."""


class NotHeld(Unusable):
    """The lease of a volume can't be had. `refused`: another server has it; `None` where that is not known."""

    def __init__(self, why: str, refused: Refused | None = None) -> None:
        super().__init__(why)
        self.refused = refused


Cut = Callable[[Attachment], None]


def not_exported(attachment: Attachment) -> None:
    """For a host without exports."""
    raise NotCut(f"volume {attachment.vid} is exported, and nothing here can end that")


class Leases(Protocol):
    """On volumes that several servers serve; the process that serves one holds its lease."""

    def hold(self, volume: Volume, *, is_said_dead: bool = False) -> None:
        """Returns when it is held here, as it may have been before. `is_said_dead`: a person's word about the server
        that has it. Raises `NotHeld`."""

    def release(self, volume: Volume) -> None:
        """Nobody here has the volume: it is cut, and other servers may have it. What can't be done now is done when it
        is asked again."""

    def held(self) -> Collection[Vid]:
        """All that are held here, whoever began it."""


class NoLeases:
    """Of a host whose pools are its own."""

    def hold(self, volume: Volume, *, is_said_dead: bool = False) -> None:
        raise NotHeld(f"volume {volume.vid} is one of several servers, and there are no leases here")

    def release(self, volume: Volume) -> None:
        """There are none."""

    def held(self) -> Collection[Vid]:
        return ()


class Books(Protocol):
    """A `Journal`."""

    def read(self) -> State: ...

    def write(self, state: State) -> None:
        """Durable when it returns. Raises `JournalError`."""


class Disk:
    """The volumes as they lie on the disk at this moment. What can't be read or written raises `Unusable`."""

    def __init__(self, joined: Joined = not_joined) -> None:
        self._joined = joined

    def file(self, volume: Volume) -> AttachedVolume:
        return file.attach(volume)

    def writer_of(self, volume: Volume) -> int | None:
        return file.writer_of(volume)

    def right(self, volume: Volume) -> Right | None:
        return read_right_at(volume.pool, volume.path, volume.vid, volume.pool_id)

    def check_ours(self, pool: str, server: HostId) -> None:
        """Whether the pool is this server's still, alone or as one of several."""
        check_ours(pool, server, self._joined)

    def put(self, volume: Volume, right: Right) -> None:
        """Durable when it returns."""
        write_right(volume.pool, volume.path, right, volume.pool_id)


class Keeper:
    """Who has which of this host's volumes. Every answer is durable before it is given.

    `cut` ends the export of an attachment to another host, and returns once nothing that its holder has sent can be
    written any more. Raises `NotCut` where that is not sure.
    """

    def __init__(
        self,
        journal: Books,
        *,
        server: HostId,
        cut: Cut = not_exported,
        random: Random | None = None,
        disk: Disk | None = None,
        leases: Leases | None = None,
    ) -> None:
        self._journal = journal
        self._disk = disk or Disk()
        self._leases = leases or NoLeases()
        self._server = server
        self._cut = cut
        self._random = random or SystemRandom()
        self._lock = Lock()
        self._state = journal.read()

    @property
    def state(self) -> State:
        return self._state

    def shares(self) -> tuple[VolumeShare, ...]:
        """The attachments as claims: residents for `fit` and the ledger."""
        return self._state.shares()

    def is_attached(self, vid: Vid, but: tuple[VmId, int] | None = None) -> bool:
        """To any VM `but` this one, in this generation."""
        return any(a.vid == vid and (a.vm_id, a.generation) != but for a in self._state.attachments)

    def has(self, vm_id: VmId, generation: int, user_id: UserId, host_id: HostId, vids: Collection[Vid]) -> bool:
        """Whether this life of the user's VM has all these volumes already, on that host."""
        mine = self._state.of_vm(vm_id, user_id)
        held = {a.vid for a in mine if (a.generation, a.host_id) == (generation, host_id)}
        return bool(vids) and held.issuperset(vids)

    def recover(self, snapshot: Snapshot) -> None:
        """After a start and the first scan, and when a pool of several servers was joined: learn what records say and
        the journal missed. Raises `JournalError`."""
        with self._lock:
            rights = {v.vid: v.right for v in snapshot.volumes.values() if v.exclusive}
            self._settle(attachments.merged(self._state, rights, server=self._server))

    def tidy(self, snapshot: Snapshot) -> tuple[Attachment, ...]:
        """Forget what another server has given away since, which its record says, and let go of leases that nothing
        here needs. Returns what was forgotten. Raises `JournalError`."""
        held = frozenset(self._leases.held())  # nobody waits for that answer; what is let go of meanwhile stays so
        with self._lock:
            attached = {a.vid for a in self._state.attachments}
            found = (snapshot.volumes[vid] for vid in attached | held if vid in snapshot.volumes)
            rights: dict[Vid, Right | None] = {}
            for volume in found:
                with suppress(Unusable):  # nothing is known of it now
                    if snapshot.is_leased(volume):
                        rights[volume.vid] = self._disk.right(volume)
            before = self._state.attachments
            state = attachments.merged(self._state, rights, server=self._server)
            if state != self._state:
                self._settle(state)
            self._let_go(held | rights.keys(), snapshot)
            return tuple(a for a in before if a not in self._state.attachments)

    def rolled_back(self, snapshot: Snapshot) -> tuple[Vid, ...]:
        """The volumes whose record is older than this host remembers: for the log, and for `forget`."""
        volumes = (volume for volume in snapshot.volumes.values() if volume.exclusive)
        return tuple(v.vid for v in volumes if attachments.rolled_back(self._state, v.vid, v.right))

    def attach(
        self,
        vids: Sequence[Vid],
        snapshot: Snapshot,
        *,
        vm_id: VmId,
        generation: int,
        user_id: UserId,
        host_id: HostId,
        vm_name: str = "",
        adds: bool = False,
    ) -> Kept | Refused:
        """All of `vids`, in their order, for a VM on the host `host_id`, or none with every reason. The same call again
        gives the same answer. `adds`: beside those that the VM has under this generation."""
        with self._lock:
            vids = tuple(dict.fromkeys(vids))
            found = _found(vids, snapshot, user_id, self._disk)
            if isinstance(found, Refused):
                return found
            volumes, files = found
            claim = VolumeShare(vm_id, generation, user_id, tuple(shared(v) for v in volumes), vm_name)
            try:
                return self._grant(claim, host_id, volumes, files, snapshot, adds=adds)
            except NotHeld as problem:
                if problem.refused is not None:
                    return problem.refused
                raise
            except NotCut as problem:
                has, hint = f"its older life still writes: {problem}", "run it again in a moment"
                return Refused(Refusal.IN_USE.value, tuple(reason(vid, has, hint) for vid in vids[:REASONS_MAX]))
            except (Unusable, JournalError) as problem:
                if isinstance(problem, JournalCorrupt):
                    raise
                has, hint = f"this can't be written down: {problem}", "its sysadmin must make room or mend the pool"
                return Refused(Refusal.UNWRITABLE.value, tuple(reason(vid, has, hint) for vid in vids[:REASONS_MAX]))
            finally:
                self._let_go(vids, snapshot)

    def going_with(self, vm_id: VmId, generation: int, host_id: HostId, snapshot: Snapshot) -> tuple[Volume, ...]:
        """What the VM has there that is removed with it, and nobody else has."""
        ended = attachments.lives(self._state, vm_id, generation, host_id)
        others = {a.vid for a in self._state.attachments if a not in ended}
        found = [snapshot.volumes[a.vid] for a in ended if a.vid in snapshot.volumes and a.vid not in others]
        return tuple(volume for volume in found if volume.goes_with == vm_id)

    def detach(
        self, vm_id: VmId, generation: int, host_id: HostId, snapshot: Snapshot, vids: Collection[Vid] = ()
    ) -> tuple[str, ...]:
        """Free what the VM has on the host `host_id` under `generation` or an older one, or of that `vids` alone;
        harmless to repeat. Raises `JournalError`, `NotCut` where its export has not ended yet, and `Unusable` where one
        of `vids` is open for writing here.

        A record that can't be written stays behind (its pool is gone, or full): the journal knows better and the
        volume is free on this host. Returns a sentence for the log about each of these.
        """
        with self._lock:
            ended = attachments.lives(self._state, vm_id, generation, host_id, vids)
            if vids:
                self._none_is_open(ended, snapshot)
            mine = [a.vid for a in self._state.of_vm(vm_id)]
            rights, problems = self._readable_rights(mine, snapshot)
            change = attachments.detach(
                self._state, vm_id, generation, rights, server=self._server, host_id=host_id, vids=vids
            )
            if change is not None:
                self._end(ended, snapshot)
                problems += self._try_records(change.rights, snapshot)
                self._settle(change.state)
            self._let_go(mine, snapshot)
            return tuple(problems)

    def close(self, vid: Vid, vm_id: VmId, generation: int, snapshot: Snapshot) -> None:
        """No other host has the volume open when this returns, though that life of a VM, which is over, keeps it. A
        host that went on with it all the same finds another epoch, and ends the VM. On this host there is nothing to
        close: an image's lock tells. Raises `NotCut`, `Unusable` and `JournalError`."""
        with self._lock:
            life = [a for a in self._state.of_vm(vm_id) if a.vid == vid and a.generation == generation]
            for held in life:
                if held.host_id == self._server or not held.volume.exclusive:
                    continue
                volume = snapshot.volumes.get(vid)
                if volume is None:
                    raise Unusable("it is not here, or not in order")
                self._disk.check_ours(volume.pool, self._server)
                right = self._disk.right(volume)
                change = attachments.renewed(self._state, held, right, server=self._server, random=self._random)
                if isinstance(change, Refusal):
                    raise Unusable(f"its record does not say that the VM has it ({change.value})")
                self._end((held,), snapshot)
                self._perform(change, snapshot)

    def forget(self, vid: Vid, snapshot: Snapshot, *, is_said_dead: bool = False) -> str:
        """A person's word that no other host uses this volume and that its content is right: free, in a new epoch.
        Where several servers serve it, that word is not taken for one about the server that has its lease, unless it
        `is_said_dead`.

        Returns the sentence to tell and to log. Raises `Unusable` with the reason why not, or `JournalError`.
        """
        with self._lock:
            try:
                return self._forget(vid, snapshot, is_said_dead=is_said_dead)
            finally:
                self._let_go((vid,), snapshot)

    def under_lease(self, volume: Volume, snapshot: Snapshot, work: Callable[[], None]) -> None:
        """Do `work` while no server gives the volume away. Raises `Unusable` where one has given it already."""
        with self._lock:
            try:
                self._lease((volume.vid,), snapshot)
                right = self._disk.right(volume) if volume.exclusive else None
                if snapshot.is_leased(volume) and right is not None and right.held:
                    raise Unusable("a VM has it, by its own record")
                work()
            finally:
                self._let_go((volume.vid,), snapshot)

    def _forget(self, vid: Vid, snapshot: Snapshot, *, is_said_dead: bool) -> str:
        volume = snapshot.volumes.get(vid)
        if volume is None:
            raise Unusable("it is not here, or not in order")
        if not volume.exclusive:
            return self._forget_all_users(vid, snapshot)
        if self._disk.writer_of(volume) is not None:
            raise Unusable("it is open for writing on this host: end that VM first")
        self._disk.check_ours(volume.pool, self._server)
        self._lease((vid,), snapshot, is_said_dead=is_said_dead)
        self._end((a for a in self._state.attachments if a.vid == vid), snapshot)
        right = self._disk.right(volume)
        change = attachments.forgotten(self._state, vid, right, server=self._server, random=self._random)
        self._disk.put(volume, change.rights[0])
        self._settle(change.state)
        return f"volume {dashed(vid)} is free, at epoch {change.rights[0].epoch.counter}"

    def _forget_all_users(self, vid: Vid, snapshot: Snapshot) -> str:
        """Of a volume that may have many: it has no record, and no epoch that counts."""
        ended = [a for a in self._state.attachments if a.vid == vid]
        if any(a.host_id == self._server for a in ended):
            raise Unusable("a VM on this host has it: end that VM first")
        self._end(ended, snapshot)
        kept = tuple(a for a in self._state.attachments if a.vid != vid)
        self._settle(replace(self._state, attachments=kept))
        return f"volume {dashed(vid)} is free: {len(ended)} VMs of other hosts have it no more"

    def _grant(
        self,
        claim: VolumeShare,
        host_id: HostId,
        volumes: Sequence[Volume],
        files: tuple[AttachedVolume, ...],
        snapshot: Snapshot,
        *,
        adds: bool,
    ) -> Kept | Refused:
        self._lease([v.vid for v in volumes], snapshot)
        rights = {v.vid: self._disk.right(v) for v in volumes if v.exclusive}
        others = [a.vid for a in self._state.of_vm(claim.vm_id) if a.vid not in rights]
        rights |= self._readable_rights(others, snapshot)[0]
        busy = [vid for vid in rights if self._disk.writer_of(snapshot.volumes[vid]) is not None]
        answer = attachments.attach(
            self._state, claim, rights, server=self._server, host_id=host_id, random=self._random, busy=busy, adds=adds
        )
        if isinstance(answer, Granted):
            new = frozenset(a.vid for a in set(answer.attachments) - set(self._state.attachments))
            if answer.change is not None:
                self._check_pools(answer.change, snapshot)
            self._end(answer.ended, snapshot)
            if answer.change is not None:
                self._perform(answer.change, snapshot)
            return Kept(files, answer.attachments, new)
        return answer

    def _end(self, ended: Iterable[Attachment], snapshot: Snapshot) -> None:
        """What is about to be written counts from a moment when the old writer could not write any more. A VM on this
        host that has the image itself has been seen to have ended by the image's lock."""
        for attachment in ended:
            if not self._is_file(attachment, snapshot):
                self._cut(attachment)

    def _is_file(self, attachment: Attachment, snapshot: Snapshot) -> bool:
        """Whether its VM has opened the image itself, and not through what exports it."""
        bad = snapshot.bad.get(attachment.vid)
        volume = snapshot.volumes.get(attachment.vid) or (bad.withheld if bad is not None else None)
        return attachment.host_id == self._server and not (volume is not None and snapshot.is_leased(volume))

    def _lease(self, vids: Iterable[Vid], snapshot: Snapshot, *, is_said_dead: bool = False) -> None:
        """Before the records of these volumes are read. Raises `NotHeld`."""
        for volume in (snapshot.volumes[vid] for vid in vids if vid in snapshot.volumes):
            if snapshot.is_leased(volume):
                self._leases.hold(volume, is_said_dead=is_said_dead)

    def _let_go(self, vids: Iterable[Vid], snapshot: Snapshot) -> None:
        """Of the leases of those that nobody has."""
        attached = {a.vid for a in self._state.attachments}
        for volume in (snapshot.volumes[vid] for vid in vids if vid in snapshot.volumes):
            if snapshot.is_leased(volume) and volume.vid not in attached:
                self._leases.release(volume)

    def _none_is_open(self, ended: Iterable[Attachment], snapshot: Snapshot) -> None:
        """A VM that goes on without a volume must have closed it; of one that has ended, its host knows that."""
        for attachment in ended:
            volume = snapshot.volumes.get(attachment.vid)
            here = self._is_file(attachment, snapshot) and attachment.volume.exclusive
            if here and volume is not None and self._disk.writer_of(volume) is not None:
                raise Unusable(f"volume {attachment.vid} is open for writing on this host still")

    def _check_pools(self, change: Change, snapshot: Snapshot) -> None:
        for pool in {snapshot.volumes[right.vid].pool for right in change.rights}:
            self._disk.check_ours(pool, self._server)

    def _perform(self, change: Change, snapshot: Snapshot) -> None:
        """The records, then the journal. Where one fails, records already written are freed again, if that can be."""
        written: list[Right] = []
        try:
            for right in change.rights:
                written.append(right)
                self._disk.put(snapshot.volumes[right.vid], right)
            self._settle(change.state)
        except (Unusable, JournalError):
            self._undo(written, snapshot)
            raise

    def _undo(self, written: Iterable[Right], snapshot: Snapshot) -> None:
        """What was written and couldn't be freed stays held, in memory at least, so that a *detach* finds it."""
        vids = [right.vid for right in written if right.held]
        rights, _ = self._readable_rights(vids, snapshot)
        new = {right.vid: right for right in written}
        freed = [_freed(right) for right in new.values() if rights.get(right.vid) == right and right.held]
        self._try_records(freed, snapshot)
        rights, _ = self._readable_rights(vids, snapshot)
        self._state = attachments.merged(self._state, rights, server=self._server)

    def _try_records(self, rights: Iterable[Right], snapshot: Snapshot) -> list[str]:
        problems = []
        for right in rights:
            try:
                self._disk.put(snapshot.volumes[right.vid], right)
            except Unusable as problem:
                problems.append(f"volume {right.vid}: {problem}")
        return problems

    def _readable_rights(self, vids: Iterable[Vid], snapshot: Snapshot) -> tuple[dict[Vid, Right | None], list[str]]:
        """The records of those volumes that are here and exclusive; a sentence for each that can't be read, or that is
        another server's by now. Raises `NotHeld` where that is not known."""
        rights: dict[Vid, Right | None] = {}
        problems = []
        for volume in (snapshot.volumes[vid] for vid in vids if vid in snapshot.volumes):
            if volume.exclusive:
                try:
                    self._lease((volume.vid,), snapshot)
                    rights[volume.vid] = self._disk.right(volume)
                except Unusable as problem:
                    if isinstance(problem, NotHeld) and problem.refused is None:
                        raise
                    problems.append(f"volume {volume.vid}: {problem}")
        return rights, problems

    def _settle(self, state: State) -> None:
        self._journal.write(state)
        self._state = state


def _found(
    vids: Sequence[Vid], snapshot: Snapshot, user_id: UserId, disk: Disk
) -> tuple[tuple[Volume, ...], tuple[AttachedVolume, ...]] | Refused:
    """The volumes and their files, or every reason why not."""
    volumes: list[Volume] = []
    files: list[AttachedVolume] = []
    reasons: list[Reason] = []
    for vid in vids:
        volume = snapshot.volumes.get(vid)
        if volume is None or not volume.visible_to(user_id):
            reasons.append(reason(vid, "this host does not have it in good order", "electros pledge says more"))
            continue
        try:
            files.append(disk.file(volume))
            volumes.append(volume)
        except Unusable as problem:
            reasons.append(reason(vid, f"unusable: {problem}"))
    if reasons:
        return Refused(Refusal.UNUSABLE.value, tuple(reasons[:REASONS_MAX]))
    return tuple(volumes), tuple(files)


def _freed(right: Right) -> Right:
    return replace(right, held=False)
