"""What users may have done to volumes: made, imported, renamed, enlarged, converted, copied, removed: each a job.

A volume is its owner's to change; one that nobody owns is for admins. What needs the bytes at rest is refused while the
volume is attached or held, and nobody is given it until the job has ended.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

import trio

from matcher.net.audit import Audit, outcome_of, why_of
from matcher.net.caller import Caller
from matcher.net.peer import now_s
from matcher.offers.ledger import Ledger
from matcher.wire.messages import Message, Reason, Refused
from matcher.wire.realm import Done, Verb
from matcher.wire.volumes import (
    ChangeVolume,
    CloneVolume,
    DropSnapshot,
    ImportVolume,
    NewSeed,
    NewVolume,
    RemoveVolume,
    RollBack,
    Snapshots,
    SnapshotView,
    TakeSnapshot,
    VolumeView,
)
from specs.ids import OfferId, UserId, Vid, VmId, dashed
from storaged.beneath import Unusable
from storaged.claims import VolumeShare, left_mib
from storaged.gathering import why_not_shared
from storaged.images import changing, making, snapshots
from storaged.images.copying import Progress, Stream
from storaged.images.fetch import Fetching, fetched
from storaged.images.importing import Incoming, import_image, source_max_bytes
from storaged.images.sandbox import Sandbox
from storaged.images.seed import Seed, make_seed
from storaged.jobs import Job, Jobs, Order, Tell
from storaged.journal import JournalCorrupt, JournalError
from storaged.metadata import Metadata
from storaged.quota import Quota
from storaged.uploads import Uploads
from storaged.views import Views
from storaged.volume import Snapshot, Volume

ABSENT = Refused(
    "not-found", (Reason("volume", "this volume", "no such volume here", "electros volume ls shows what you may see"),)
)

VmLife = tuple[VmId, int]  # with its generation
Blocking = Callable[[Progress], object]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The volumes, as changes need them. `in_use` tells of attachments; `look` reads the folder at a path
    again, before anybody is told that it has changed. `close` is for a worker thread: the host of a life that is over
    has the volume open no more; it raises `Unusable` or `JournalError`."""

    snapshot: Callable[[], Snapshot]
    views: Views
    in_use: Callable[[Vid, VmLife | None], bool]
    look: Callable[[str], Awaitable[None]]
    close: Callable[[Vid, VmId, int, Snapshot], None]
    under_lease: Callable[[Volume, Callable[[], None]], None] = lambda _, work: work()  # while no server gives it away


@dataclass(frozen=True, slots=True)
class Promised:
    """What a volume will take of a pool once its job has ended."""

    user_id: UserId
    pool: str
    size_mib: int
    pool_id: str | None = None


class Changes:
    """One host's."""

    def __init__(
        self,
        shelf: Shelf,
        jobs: Jobs,
        ledger: Ledger[VolumeShare],
        quota: Quota,
        turn: trio.Lock,
        audit: Audit,
        *,
        sandbox: Callable[[], Sandbox] = Sandbox.of,
        fetching: Fetching | None = None,
    ) -> None:
        """`turn` is that of attaching: whoever has it knows that nothing is given away meanwhile. `sandbox` is asked
        anew for each job, as its user may have been made since."""
        self._sandbox, self._fetching = sandbox, fetching
        self._shelf, self._jobs, self._ledger, self._quota = shelf, jobs, ledger, quota
        self._turn, self._audit = turn, audit
        self._promised: dict[Vid, Promised] = {}  # by jobs that run
        self._uploads = Uploads()

    async def create(self, new: NewVolume, caller: Caller) -> Job | Refused:
        async with self._turn:
            return self._create(new, caller)

    async def import_(self, asked: ImportVolume, caller: Caller) -> Job | Refused:
        async with self._turn:
            return self._import(asked, caller)

    async def upload(self, vid: Vid, pieces: AsyncIterator[bytes], caller: Caller) -> Done | Refused:
        """The image that an import waits for."""
        upload = self._uploads.waiting(vid, UserId(caller.id))
        if upload is None:
            return _no("not-found", vid, "take its image", "no import of yours waits for it here", "")
        if await self._uploads.feed(upload, pieces):
            return Done("taken in")
        return _no("not-wanted", vid, "take its image", "the import has ended; its own answer says why", "")

    async def change(self, vid: Vid, change: ChangeVolume, caller: Caller) -> Job | Refused:
        async with self._turn:
            return self._change(vid, change, caller)

    async def clone(self, vid: Vid, clone: CloneVolume, caller: Caller) -> Job | Refused:
        async with self._turn:
            return self._clone(vid, clone, caller)

    async def remove(self, vid: Vid, caller: Caller) -> Job | Refused:
        async with self._turn:
            return self._remove(vid, caller)

    async def seed(self, seed: NewSeed, caller: Caller) -> Job | Refused:
        async with self._turn:
            return self._seed(seed, caller)

    async def snapshots(self, vid: Vid, caller: Caller) -> Snapshots | Refused:
        """Of a volume that is the caller's."""
        volume = self.own(vid, caller)
        if isinstance(volume, Refused):
            return volume
        try:
            found = await trio.to_thread.run_sync(snapshots.snapshots_of, volume)
        except Unusable as problem:
            return _no("not-done", vid, "list its snapshots", str(problem), "")
        return Snapshots(tuple(SnapshotView(each.name, each.size_mib, max(0, each.taken_s)) for each in found))

    async def snapshot(self, vid: Vid, asked: TakeSnapshot | RollBack | DropSnapshot, caller: Caller) -> Job | Refused:
        async with self._turn:
            return self._snapshot(vid, asked, caller)

    # ---- in turn: nothing is awaited from the first look to the start of the job

    def _create(self, new: NewVolume, caller: Caller) -> Job | Refused:
        vid = Vid(new.vid)
        order = _order(caller, vid, "made", new, changes=(vid,))
        if (again := self._jobs.same(order)) is not None:
            return again
        promised = self._taken(new, caller)
        if isinstance(promised, Refused):
            return promised

        def work(_: Progress) -> None:
            pool, pool_id, most_mib = promised.pool, promised.pool_id, promised.size_mib
            making.create(self._sandbox(), pool, vid, _metadata(new, caller), most_mib=most_mib, pool_id=pool_id)

        return self._start(order, caller, folder_of(promised.pool, vid), work, promised=promised)

    def _import(self, asked: ImportVolume, caller: Caller) -> Job | Refused:
        vid = Vid(asked.new.vid)
        order = _order(caller, vid, "imported", asked, changes=(vid,))
        if (again := self._jobs.same(order)) is not None:
            return again
        promised = self._taken(asked.new, caller)
        if isinstance(promised, Refused):
            return promised
        upload = None if asked.url else self._uploads.open(vid, order.user_id)
        take = partial(self._take, asked, _metadata(asked.new, caller), promised)

        def work(progress: Progress) -> None:
            if upload is not None:
                try:
                    take(upload, asked.size_bytes, progress)
                finally:
                    trio.from_thread.run_sync(self._uploads.close, vid)
            else:
                most = source_max_bytes(promised.size_mib)
                with fetched(asked.url, most_bytes=most, how=self._fetching) as found:
                    take(found.stream, found.size_bytes, progress)

        started = self._start(order, caller, folder_of(promised.pool, vid), work, promised=promised)
        if isinstance(started, Refused) and upload is not None:
            self._uploads.close(vid)
        return started

    def _take(
        self,
        asked: ImportVolume,
        metadata: Metadata,
        promised: Promised,
        stream: Stream,
        size_bytes: int,
        progress: Progress,
    ) -> None:
        incoming = Incoming(stream, asked.stated, asked.sha256 or None, size_bytes)
        import_image(
            self._sandbox(),
            promised.pool,
            Vid(asked.new.vid),
            metadata,
            incoming,
            most_mib=promised.size_mib,
            pool_id=promised.pool_id,
            progress=progress,
        )

    def _taken(self, new: NewVolume, caller: Caller) -> Promised | Refused:
        """The room that an offer has held for the volume; it is promised to its job from here on."""
        vid, offer_id = Vid(new.vid), OfferId(new.offer_id)
        hold = self._ledger.held(offer_id, now_s())
        room = hold.claim.room if hold is not None and hold.user_id == caller.id else None
        if room is None or hold is None or str(hold.claim.vm_id) != vid or room.size_mib < new.size_mib:
            return _no("hold-lapsed", vid, "make it", "the room that was offered is not held any more", "try again")
        if self._knows(vid):
            return _no("exists", vid, "make it", "there is a volume with this UUID", "electros volume inspect")
        why = "" if new.readonly else why_not_shared(new.format, shareable=new.shareable)
        if why and self._shelf.snapshot().is_shared(room.pool):
            return _no("not-shared", vid, "make it", why, "make it on another host")
        self._ledger.release(offer_id)
        pool_id = next((use.pool_id for use in self._shelf.snapshot().pools if use.path == room.pool), None)
        return Promised(UserId(caller.id), room.pool, min(room.size_mib, self._most_mib(caller, room.pool)), pool_id)

    def _change(self, vid: Vid, change: ChangeVolume, caller: Caller) -> Job | Refused:
        wanted = [what for what in (change.name, change.size_mib, change.format) if what is not None]
        if len(wanted) != 1:
            return _no("bad-request", vid, "change it", "one thing at a time: name, size or format", "")
        if change.name is not None:
            return self._rename(vid, change, change.name, caller)
        order = _order(caller, vid, "made larger" if change.size_mib else "converted", change, changes=(vid,))
        if (again := self._jobs.same(order)) is not None:
            return again
        volume = self.own(vid, caller)
        if isinstance(volume, Refused):
            return volume
        if (refusal := self._is_leased(volume, order)) is not None:
            return refusal
        most_mib = volume.size_mib + self._most_mib(caller, volume.pool)
        more_mib = max(0, (change.size_mib or 0) - volume.size_mib)

        def work(progress: Progress) -> None:
            if change.size_mib is not None:
                changing.resize(self._sandbox(), volume, change.size_mib, most_mib=most_mib)
            elif change.format is not None:
                changing.convert(self._sandbox(), volume, change.format, progress=progress)

        promised = Promised(order.user_id, volume.pool, more_mib)
        return self._start(order, caller, volume.path, work, promised=promised)

    def _rename(self, vid: Vid, change: ChangeVolume, name: str, caller: Caller) -> Job | Refused:
        """A VM may have it meanwhile."""
        volume = self.own(vid, caller)
        if isinstance(volume, Refused):
            return volume
        order = _order(caller, vid, "renamed", change)
        return self._start(order, caller, volume.path, lambda _: changing.rename(volume, name))

    def _clone(self, vid: Vid, clone: CloneVolume, caller: Caller) -> Job | Refused:
        new = Vid(clone.vid)
        order = _order(caller, new, "copied", clone, changes=(new,), reads=(vid,))
        if (again := self._jobs.same(order)) is not None:
            return again
        volume = self._seen(vid, caller)
        if isinstance(volume, Refused):
            return volume
        if (refusal := self._is_leased(volume, order)) is not None:
            return refusal
        if self._knows(new):
            return _no("exists", new, "make it", "there is a volume with this UUID", "electros volume inspect")
        private = clone.private or volume.private  # what only its owner may see does not get out by a copy
        wanted = Metadata(
            volume.size_mib, clone.name, bootable=volume.bootable, private=private, owner=UserId(caller.id)
        )
        most_mib = self._most_mib(caller, volume.pool)

        def work(progress: Progress) -> None:
            making.clone(volume.pool, volume, new, wanted, most_mib=most_mib, progress=progress)

        promised = Promised(order.user_id, volume.pool, volume.size_mib)
        return self._start(order, caller, folder_of(volume.pool, new), work, promised=promised)

    def _remove(self, vid: Vid, caller: Caller) -> Job | Refused:
        order = _order(caller, vid, "removed", RemoveVolume(), changes=(vid,))
        if (again := self._jobs.same(order)) is not None:
            return again
        volume = self.own(vid, caller)
        if isinstance(volume, Refused):
            return volume
        last = self._shelf.views.one(vid, UserId(caller.id))

        def work(_: Progress) -> None:
            self._shelf.under_lease(volume, lambda: changing.remove(volume))

        return self._start(order, caller, volume.path, work, last=last)

    def _seed(self, asked: NewSeed, caller: Caller) -> Job | Refused:
        vid = Vid(asked.new.vid)
        order = _order(caller, vid, "made", asked, changes=(vid,))
        if (again := self._jobs.same(order)) is not None:
            return again
        promised = self._taken(asked.new, caller)
        if isinstance(promised, Refused):
            return promised
        seed = Seed(asked.user_data, str(vid), asked.meta_data, asked.network_config)

        def work(_: Progress) -> None:
            metadata = replace(
                _metadata(asked.new, caller), goes_with=VmId(asked.goes_with) if asked.goes_with else None
            )
            make_seed(promised.pool, vid, metadata, seed, most_mib=promised.size_mib, pool_id=promised.pool_id)

        return self._start(order, caller, folder_of(promised.pool, vid), work, promised=promised)

    def _snapshot(self, vid: Vid, asked: TakeSnapshot | RollBack | DropSnapshot, caller: Caller) -> Job | Refused:
        """A VM may have the volume while one is dropped."""
        doing = {TakeSnapshot: "kept as a snapshot", RollBack: "rolled back", DropSnapshot: "relieved of a snapshot"}
        changes = () if isinstance(asked, DropSnapshot) else (vid,)
        order = _order(caller, vid, doing[type(asked)], asked, changes=changes)
        if (again := self._jobs.same(order)) is not None:
            return again
        volume = self.own(vid, caller)
        if isinstance(volume, Refused):
            return volume

        if changes and (refusal := self._is_leased(volume, order)) is not None:
            return refusal
        of = None if isinstance(asked, DropSnapshot) or asked.of is None else asked.of
        life = None if of is None else (VmId(of.vm_id), of.generation)

        def work(progress: Progress) -> None:
            if life is not None:
                self._shelf.close(vid, *life, self._shelf.snapshot())
            match asked:
                case TakeSnapshot(name=name):
                    snapshots.take(volume, name, stopped=life is not None, progress=progress)
                case RollBack(name=name):
                    snapshots.rollback(volume, name, stopped=life is not None, progress=progress)
                case DropSnapshot(name=name):
                    snapshots.drop(volume, name)

        return self._start(order, caller, volume.path, work, life=life)

    # ---- inside

    def _start(
        self,
        order: Order,
        caller: Caller,
        path: str,
        work: Blocking,
        *,
        promised: Promised | None = None,
        last: VolumeView | None = None,
        life: VmLife | None = None,
    ) -> Job | Refused:
        """`path`: of the volume's folder. `promised`: what it will take. `last`: what is told of one that is gone.
        `life`: of a VM that may have the volume, as it is over."""
        vid = order.vid

        async def run(tell: Tell) -> VolumeView | Refused:
            try:
                done = await self._done(work, tell)
                await self._shelf.look(path)
            finally:
                self._promised.pop(vid, None)
            view = last or self._shelf.views.one(vid, order.user_id)
            result: VolumeView | Refused
            if done is not None:
                result = _no("not-done", vid, order.doing, done, "")
            elif view is None:
                result = _no("not-done", vid, order.doing, "it can't be read after that; its host's log has more", "")
            else:
                result = view
            self._note(order, caller, result)
            return result

        started = self._resting(order, life) or self._jobs.start(order, run)
        if promised is not None and isinstance(started, Job):
            self._promised[vid] = promised
        if isinstance(started, Refused):
            self._note(order, caller, started)
        return started

    async def _done(self, work: Blocking, tell: Tell) -> str | None:
        """Why not, in a sentence."""

        def progress(step: str, done_bytes: int, total_bytes: int) -> None:
            trio.from_thread.check_cancelled()
            tell(step, done_bytes, total_bytes)

        try:
            await trio.to_thread.run_sync(work, progress)
        except (Unusable, JournalError) as problem:
            if isinstance(problem, JournalCorrupt):
                raise
            return str(problem)
        return None

    def _resting(self, order: Order, life: VmLife | None) -> Refused | None:
        """Whether somebody has what has to be at rest. A volume that nobody can write may be read by all. A life
        that is over does not come back: its VM's next one has to attach, and is told to wait while the job runs."""
        volumes = self._shelf.snapshot().volumes
        held = {v.vid for share in self._ledger.residents(now_s()) for v in share.volumes}
        written = [vid for vid in order.reads if vid in volumes and not volumes[vid].readonly]
        for vid in (*order.changes, *written):
            if self._shelf.in_use(vid, life) or vid in held:
                has = (
                    self._who_has(vid, order.user_id) if life is None else "its VM was started again, or another has it"
                )
                hint = "take it from the VM first: electros volume detach, or electros rm"
                return _no("volume-in-use", vid, order.doing, has, hint)
        return None

    def _who_has(self, vid: Vid, user_id: UserId) -> str:
        """A VM of somebody else stays nameless."""
        view = self._shelf.views.one(vid, user_id)
        return f"your VM {view.vms[0]} has it" if view is not None and view.vms else "a VM has it"

    def _is_leased(self, volume: Volume, order: Order) -> Refused | None:
        """Who works on the image here does not hold its lease: that is the exporter's, and may be lost meanwhile."""
        if not self._shelf.snapshot().is_leased(volume):
            return None
        has = "its pool is shared by several servers: its image is changed and copied by VMs alone"
        return _no("shared-pool", volume.vid, order.doing, has, "its sysadmin can end that: storaged pool unshare")

    def _note(self, order: Order, caller: Caller, result: VolumeView | Refused) -> None:
        detail = f"{order.doing}{': ' if isinstance(result, Refused) else ''}{why_of(result)}"
        self._audit.note(caller, "volume.change", dashed(order.vid), outcome_of(result), detail)

    def _knows(self, vid: Vid) -> bool:
        snapshot = self._shelf.snapshot()
        return vid in snapshot.volumes or vid in snapshot.bad or vid in snapshot.conflicts

    def _most_mib(self, caller: Caller, pool: str) -> int:
        """How large a volume this user may have more in that pool."""
        residents = self._ledger.residents(now_s())
        in_pool = left_mib(self._shelf.snapshot(), pool, residents)
        in_pool -= sum(p.size_mib for p in self._promised.values() if p.pool == pool)
        granted = self._quota.left_mib(caller.who, residents)
        if granted is None:
            return max(0, in_pool)
        return max(
            0, min(in_pool, granted - sum(p.size_mib for p in self._promised.values() if p.user_id == caller.id))
        )

    def _seen(self, vid: Vid, caller: Caller) -> Volume | Refused:
        snapshot = self._shelf.snapshot()
        volume, bad = snapshot.volumes.get(vid), snapshot.bad.get(vid)
        if bad is not None and bad.withheld is not None and bad.withheld.visible_to(UserId(caller.id)):
            return _no("withheld", vid, "change it", bad.reason, "electros volume inspect")
        return volume if volume is not None and volume.visible_to(UserId(caller.id)) else ABSENT

    def own(self, vid: Vid, caller: Caller) -> Volume | Refused:
        """The volume, if it is the caller's to change."""
        volume = self._seen(vid, caller)
        if isinstance(volume, Refused) or volume.owner == caller.id:
            return volume
        if volume.owner is None and caller.who.may(Verb.ADMIN):
            return volume
        whose = "nobody owns it, so that it is for admins" if volume.owner is None else "it is another user's"
        return _no("denied", vid, "change it", whose, "clone it: electros volume clone")


def _order(
    caller: Caller, vid: Vid, doing: str, asked: Message, *, changes: tuple[Vid, ...] = (), reads: tuple[Vid, ...] = ()
) -> Order:
    return Order(UserId(caller.id), vid, doing, asked, changes, reads, caller.request)


def _metadata(new: NewVolume, caller: Caller) -> Metadata:
    return Metadata(
        size_mib=new.size_mib,
        name=new.name,
        bootable=new.bootable,
        private=new.private,
        shareable=new.shareable,
        readonly=new.readonly,
        format=new.format,
        owner=UserId(caller.id),
    )


def folder_of(pool: str, vid: Vid) -> str:
    """Where a volume that is made here lies."""
    return f"{pool}/{dashed(vid)}.elimg"


def _no(code: str, vid: Vid, asked: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(f"volume {vid}", asked[:120], has[:120], hint[:160]),))
