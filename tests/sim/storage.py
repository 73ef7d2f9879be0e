"""A host's volumes: a pool, a tgtd and a disk that outlive its storaged; and storaged, one run of the real objects.

A pool may be two hosts'. Then a lease is the tgtd's that took it, free when that ends, and nobody takes it from one
that lives: a host that stands still for long is reset by its watchdog.

`Storaged` stands in for `storaged.attaching` and `storaged.daemon`, event for event, on virtual time: one question at a
time is served, in the order in which they came, and a crash can come before each step: cut, record, journal, export,
answer.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import NoReturn, Protocol, TypeVar

from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.offers.offering import Reply as Offered
from matcher.trust.principal import Principal
from matcher.wire.messages import Confirm, ImageFormat, Pledge, Reach, Reason, Refused, Reveal, Role
from matcher.wire.volumes import Attached, AttachedVolume, ChapSecret
from specs.ids import HostId, OfferId, UserId, Vid, VmId
from storaged.admission import Admission
from storaged.answering import Proposer, admitting
from storaged.attachments import State
from storaged.beneath import Unusable
from storaged.claims import VolumeShare
from storaged.export import description
from storaged.export.description import Export, Unknown
from storaged.journal import JournalFull
from storaged.keeper import Disk, Keeper, Kept, NotHeld
from storaged.leases.pools import LOOK_S
from storaged.leases.sanlock import IN_USE
from storaged.quota import Quota
from storaged.reaching import image_of
from storaged.volume import PoolUse, Right, Snapshot, Volume
from storaged.wish import Wish, wish_of
from tests.sim.faults import Faults
from tests.sim.images import Image, Stamp, Stamps
from tests.sim.realm import Leaf
from tests.sim.target import Exporter, Target
from tests.sim.timeline import Crashed, Process, Timeline

POOL = "/srv"
PORT = 7767
RESTART_S = (0.05, 5.0)  # until systemd has storaged up again
SCANS_S = 0.3  # from its start until it exports
WORKS_S = (0.001, 0.02)
STALL_S = (1.0, 45.0)
TGTD_STOPS_S = (0.5, 15.0)

Answer = TypeVar("Answer")
Reply = Callable[[Answer], None]
Given = Attached | Refused


class Guests(Protocol):
    """The VMs of the storage host itself."""

    def have_open(self, vid: Vid) -> bool: ...


class Store:
    """A pool's disk: of one host, or `is_shared`. `leases`: whose tgtd has a volume's."""

    def __init__(self, vids: Iterable[Vid], *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self.images = {vid: Image() for vid in vids}
        self.records: dict[Vid, Right] = {}
        self.synced: dict[Vid, Right] = {}
        self.leases: dict[Vid, HostId] = {}


class Storage:
    """What lies on a machine. `run` is `None` while storaged is dead. `ip` is where other hosts reach it."""

    def __init__(
        self,
        host: str,
        host_id: HostId,
        ip: str,
        vids: Mapping[Vid, Reach],
        *,
        timeline: Timeline,
        random: Random,
        faults: Faults,
        stamps: Stamps,
        guests: Guests,
        trusts: Callable[[Leaf], bool],
        store: Store | None = None,
    ) -> None:
        self.store = store or Store(vids)
        self.host, self.host_id, self.ip, self.vids = host, host_id, ip, vids
        self.process, self.random, self.faults, self.stamps = Process(timeline), random, faults, stamps
        self.guests, self.trusts = guests, trusts
        self.target = Target(timeline, random, self.land, self._lose_leases)
        self.state = State()
        self.is_full = False
        self.run: Storaged | None = None
        self._backup = self._content()
        self.process.after(0.0, self.start)

    @property
    def records(self) -> dict[Vid, Right]:
        return self.store.records

    @property
    def shown(self) -> Collection[Vid]:
        """What atomd of this host is told to be here."""
        return self.vids if self.run is not None else ()

    def _lose_leases(self) -> None:
        """tgtd has ended, however."""
        self.store.leases = {vid: has for vid, has in self.store.leases.items() if has != self.host_id}

    def start(self) -> None:
        if self.run is None:
            self.process.note(f"{self.host} storaged starts")
            self.run = Storaged(self)
            self.run.begin()

    def crash(self) -> None:
        """kill -9 of storaged; tgtd lives on, and so do its sessions."""
        if self.run is not None:
            self.run.is_alive, self.run = False, None
            self.process.note(f"{self.host} storaged dies")
            self.process.go_on()
            self.process.after(self.random.uniform(*RESTART_S), self.start)

    def dies(self) -> NoReturn:
        self.crash()
        raise Crashed

    def reboot(self) -> None:
        """Power fails: what was not synced is gone."""
        self.crash()
        self.target.die()
        self.store.records = dict(self.store.synced)
        for vid in self.vids:
            self.stamps.found(vid, self.records.get(vid))

    def pledge(self, pledge: Pledge, leaf: Leaf) -> Sequence[Offered]:
        """Of what lies elsewhere it has nothing to say, nor to remember."""
        is_here = any(vid in self.vids for vid in pledge.volumes)
        if self.run is None or not is_here or not self.trusts(leaf):
            return ()
        return self.run.offering.pledge(pledge, leaf.principal, self.process.now_s)

    def reveal(self, reveal: Reveal) -> None:
        if self.run is not None:
            self.run.offering.reveal(reveal, self.process.now_s)

    def free(self, vid: Vid, reply: Reply[str]) -> None:
        self.process.do(lambda: self.run.free(vid, reply) if self.run is not None else None)

    def stall(self) -> None:
        self.process.stop(self.random.uniform(*STALL_S))

    def strike(self, happens: Callable[[float], bool]) -> None:
        """Once a second."""
        if happens(self.faults.storaged_crash):
            self.crash()
        if happens(self.faults.storage_stall):
            self.stall()
        if happens(self.faults.tgtd_dies):
            self.process.note(f"{self.host} tgtd dies")
            self.target.die()
        if happens(self.faults.tgtd_stops):
            self.process.note(f"{self.host} tgtd stops")
            self.target.stop(self.random.uniform(*TGTD_STOPS_S))

    # ---- the disk

    def land(self, vid: Vid, block: int, stamp: Stamp) -> None:
        self.stamps.written(vid, self.store.images[vid], block, stamp)

    def put(self, right: Right) -> None:
        self.records[right.vid] = right
        self.sync(right)
        self.stamps.recorded(right)

    def sync(self, right: Right) -> None:
        """File and folder: what power that fails leaves."""
        self.store.synced[right.vid] = right

    def back_up(self) -> None:
        self._backup = self._content()

    def roll_back(self) -> None:
        """The pool is replaced by a backup, while the machine is off."""
        records, images = self._backup
        self.process.note(f"{self.host} gets an old pool")
        self.store.records, self.store.synced = dict(records), dict(records)
        for vid, blocks in images.items():
            self.store.images[vid].blocks = list(blocks)
            self.stamps.replaced(vid, records.get(vid))

    def _content(self) -> tuple[dict[Vid, Right], dict[Vid, list[Stamp | None]]]:
        return dict(self.records), {vid: list(image.blocks) for vid, image in self.store.images.items()}

    def attached(self) -> set[tuple[VmId, int, HostId]]:
        return {(each.vm_id, each.generation, each.host_id) for each in self.state.attachments}

    def snapshot(self) -> Snapshot:
        volumes = {vid: self._volume(vid, reach) for vid, reach in self.vids.items()}
        return Snapshot(
            volumes, pools=(PoolUse(POOL, None, None, 0, 0, 1000, 1000, shared=True),) * self.store.is_shared
        )

    def _volume(self, vid: Vid, reach: Reach) -> Volume:
        """Whatever reaches other hosts is raw."""
        kind = ImageFormat.RAW if reach is Reach.NETWORK else ImageFormat.QCOW2
        path, right = f"{POOL}/{vid}.elimg", self.records.get(vid)
        return Volume(vid, vid[:4], 1024, kind, True, False, False, False, None, POOL, path, "data.img", right)


class OnDisk(Disk):
    """Of one run, which may die before each write and after it."""

    def __init__(self, storage: Storage, may_crash: Callable[[], None]) -> None:
        self._storage, self._may_crash = storage, may_crash

    def file(self, volume: Volume) -> AttachedVolume:
        path = f"{volume.path}/{volume.image}"
        return AttachedVolume(volume.vid, path, volume.format, volume.readonly, volume.shareable, volume.bootable)

    def writer_of(self, volume: Volume) -> int | None:
        """Of QEMUs of this host: tgtd takes no lock."""
        return 1 if self._storage.guests.have_open(volume.vid) else None

    def right(self, volume: Volume) -> Right | None:
        return self._storage.records.get(volume.vid)

    def check_ours(self, pool: str, server: HostId) -> None:
        """Each pool has one server here."""

    def put(self, volume: Volume, right: Right) -> None:
        self._may_crash()
        if self._storage.is_full:
            raise Unusable("no space is left")
        self._storage.put(right)
        self._may_crash()


class Leases:
    """As `leases.pools` has them, of one run; see `Store`."""

    def __init__(self, storage: Storage, exporter: Exporter, may_crash: Callable[[], None]) -> None:
        self._storage, self._exporter, self._may_crash = storage, exporter, may_crash

    def hold(self, volume: Volume, *, is_said_dead: bool = False) -> None:
        target = self._storage.target
        if target.is_dead or target.is_frozen:
            raise NotHeld("tgtd does not answer")
        if self._storage.store.leases.setdefault(volume.vid, self._storage.host_id) != self._storage.host_id:
            raise NotHeld("it lives", Refused(IN_USE, (Reason("volume", "its lease", "another server has it", ""),)))
        self._may_crash()

    def release(self, volume: Volume) -> None:
        if volume.vid in self.held() and self._exporter.ends(image_of(volume)):
            self._may_crash()
            self._storage.store.leases.pop(volume.vid, None)

    def held(self) -> Collection[Vid]:
        return [vid for vid, has in self._storage.store.leases.items() if has == self._storage.host_id]


class Journal:
    """storaged's own, on the same terms."""

    def __init__(self, storage: Storage, may_crash: Callable[[], None]) -> None:
        self._storage, self._may_crash = storage, may_crash

    def read(self) -> State:
        return self._storage.state

    def write(self, state: State) -> None:
        if state != self._storage.state:
            self._may_crash()
            if self._storage.is_full:
                raise JournalFull("no space is left")
            self._storage.state = state
            self._may_crash()


class Storaged:
    """One run."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self.is_alive = storage, True
        self._exporter = Exporter(
            storage.target,
            storage.snapshot,
            storage.host_id,
            storage.ip,
            later=self._later,
            may_crash=self._may_crash,
            why_not=self._why_not_served,
            pool=POOL if storage.store.is_shared else None,
        )
        self._leases = Leases(storage, self._exporter, self._may_crash)
        self.keeper = keeper = Keeper(
            Journal(storage, self._may_crash),
            server=storage.host_id,
            cut=self._exporter.cut,
            random=storage.random,
            disk=OnDisk(storage, self._may_crash),
            leases=self._leases,
        )
        quota = Quota(host=storage.host, shares=keeper.shares, snapshot=storage.snapshot)
        why_not = self._exporter.iscsi.why_not
        self.ledger = Ledger[VolumeShare](admitting(keeper, storage.snapshot), quota.allows)
        proposer = Proposer(storage.host, storage.host_id, keeper, storage.snapshot, quota, port=PORT, why_not=why_not)
        self.offering = Offering(
            host=storage.host, role=Role.STORAGE, proposer=proposer, ledger=self.ledger, random=storage.random
        )
        self.admission = Admission(
            storage.host_id, keeper, self.ledger, storage.snapshot, quota, why_not=why_not, doing=lambda _: None
        )
        self._turns: deque[Callable[[], None]] = deque()

    def begin(self) -> None:
        try:
            self.keeper.recover(self._storage.snapshot())
        except JournalFull:  # systemd tries again
            self._storage.crash()
            return
        self._later(SCANS_S, lambda: self._exporter.run(self.keeper))
        if self._storage.store.is_shared:
            self._later(SCANS_S, self._tidy)

    def _tidy(self) -> None:
        """As `leases.pools` does, every now and then."""
        self._later(LOOK_S, self._tidy)
        with suppress(JournalFull):
            self.keeper.tidy(self._storage.snapshot())

    def _why_not_served(self, export: Export) -> Unknown | description.Refused | None:
        """As `LeasedTgt` judges."""
        volume = self._storage.snapshot().volumes[export.image.vid]
        try:
            self._leases.hold(volume)
        except NotHeld as problem:
            return Unknown(str(problem))
        right = self._storage.records.get(volume.vid)
        if right is not None and right.held and right.epoch == export.epoch:
            return None
        return description.refused(export, "another-epoch", "another server gave it away meanwhile", "")

    # ---- as `Attaching`

    def attach(self, confirm: Confirm, leaf: Leaf, reply: Reply[Given]) -> None:
        user, wish = leaf.principal, wished(confirm, self._storage.host_id)
        had = self.admission.has(wish, UserId(user.id))
        if not had and not self._storage.trusts(leaf):
            self._answer(reply, Refused("denied", (Reason("confirm", "to use it", "not one of a member", ""),)))
        elif (refusal := self.admission.against(wish, user, self._storage.process.now_s)) is not None:
            self._answer(reply, refusal)
        else:
            self._in_turn(lambda: self._answer(reply, self._attach(wish, user, had=had)))

    def detach(self, vm_id: VmId, generation: int, offer_id: OfferId, host_id: HostId, reply: Reply[bool]) -> None:
        self.admission.let_go(host_id, offer_id)

        def detach() -> bool:
            try:
                self.keeper.detach(vm_id, generation, host_id, self._storage.snapshot())
            except (JournalFull, Unusable):
                return False
            return True

        self._in_turn(lambda: self._answer(reply, detach()))

    def free(self, vid: Vid, reply: Reply[str]) -> None:
        """A person's word; what came of it, as a sentence."""

        def free() -> str:
            try:
                return self.keeper.forget(vid, self._storage.snapshot())
            except (JournalFull, Unusable) as problem:
                return f"not freed: {problem}"

        self._in_turn(lambda: self._answer(reply, free()))

    def _attach(self, wish: Wish, user: Principal, *, had: bool) -> Given:
        if (refusal := self.admission.against_in_turn(wish, user, had=had)) is not None:
            return refusal
        if self._storage.random.random() < self._storage.faults.storage_refuses:
            return Refused("volume-unusable", (Reason("volume", "to use it", "its pool is gone", ""),))
        try:
            kept = self.keeper.attach(
                wish.vids,
                self._storage.snapshot(),
                vm_id=wish.vm_id,
                generation=wish.generation,
                user_id=UserId(user.id),
                host_id=wish.host_id,
                vm_name=wish.name,
            )
            return kept if isinstance(kept, Refused) else self._given(kept, wish.host_id)
        except (JournalFull, Unusable) as problem:
            return Refused("unavailable", (Reason("volumes", "to use it", str(problem)[:120], ""),))

    def _given(self, kept: Kept, host_id: HostId) -> Given:
        if host_id == self._storage.host_id and not self._storage.store.is_shared:
            return Attached(kept.files)
        given: list[tuple[AttachedVolume, ChapSecret]] = []
        for attachment, file in zip(kept.attachments, kept.files, strict=True):
            export = self._exporter.give(attachment, file)
            if isinstance(export, Refused):
                if kept.new:
                    self.keeper.detach(attachment.vm_id, attachment.generation, host_id, self._storage.snapshot())
                return export
            given.append(export)
        return Attached(tuple(volume for volume, _ in given), tuple(secret for _, secret in given))

    # ---- inside

    def _in_turn(self, work: Callable[[], None]) -> None:
        self._turns.append(work)
        if len(self._turns) == 1:
            self._later(self._storage.random.uniform(*WORKS_S), self._serve)

    def _serve(self) -> None:
        self._turns[0]()
        self._turns.popleft()
        if self._turns:
            self._later(self._storage.random.uniform(*WORKS_S), self._serve)

    def _answer(self, reply: Reply[Answer], answer: Answer) -> None:
        self._may_crash()
        reply(answer)

    def _may_crash(self) -> None:
        if self._storage.random.random() < self._storage.faults.crash:
            self._storage.dies()

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._storage.process.after(delay_s, partial(self._do, what))

    def _do(self, what: Callable[[], None]) -> None:
        if self.is_alive:
            what()


def wished(confirm: Confirm, server: HostId) -> Wish:
    wish = wish_of(confirm)
    assert wish is not None
    return wish.of(server)
