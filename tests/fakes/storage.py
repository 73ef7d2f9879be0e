"""One storage host without its sockets: real pools, a real keeper and a real ledger on a folder of a test's own."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import trio

from matcher.net.audit import Audit
from matcher.net.door.serving import Opened, serve
from matcher.net.https import Connection, Door
from matcher.net.intake import Intake
from matcher.net.peer import now_s
from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.trust.identity import Identity
from matcher.wire.codec import M
from matcher.wire.messages import (
    Address,
    ImageFormat,
    Message,
    Pledge,
    Policy,
    Refused,
    Role,
    Unfit,
    VolumeAsk,
    VolumeOffer,
)
from matcher.wire.volumes import AttachedVolume, ChapSecret, IscsiTarget, VolumeProgress, VolumeView
from specs.ids import HostId, Vid, VmId
from storaged.answering import Proposer, StorageAnswers, admitting
from storaged.arrivals import Arrivals
from storaged.attaching import Attaching
from storaged.attachments import Attachment
from storaged.catalogue import Catalogue
from storaged.changes import Changes
from storaged.claims import VolumeShare
from storaged.config import Config, PoolSettings
from storaged.images.fetch import Fetching
from storaged.jobs import Jobs
from storaged.journal import Journal
from storaged.keeper import Disk, Keeper, Leases, NotCut
from storaged.measuring import Measures
from storaged.pool import POOL, VOLUMES_MAX, Mark, PoolId, not_joined, render_mark
from storaged.promises import Promises
from storaged.quota import Quota
from storaged.shelf import Shelf
from storaged.store import Store
from storaged.underway import UnderWay
from storaged.views import Views
from storaged.volume import Volume
from storaged.working import Working


class FakeExports:
    """`attaching.Exports` and the keeper's *cut*: what is given is written down, and may be made to fail."""

    def __init__(self, only_exports: Callable[[Vid], bool] = lambda _: False) -> None:
        self.only_exports = only_exports
        self.given: list[Attachment] = []
        self.ended: list[Attachment] = []
        self.refuses: Refused | None = None
        self.is_stuck = False

    def why_not(self, volume: Volume) -> str | None:
        return None if volume.format is ImageFormat.RAW else "only raw ones"

    async def give(
        self, attachment: Attachment, file: AttachedVolume, asker: str
    ) -> tuple[AttachedVolume, ChapSecret] | Refused:
        if self.refuses is not None:
            return self.refuses
        self.given.append(attachment)
        name = f"iqn.2026-01.test:{attachment.vid}.{attachment.epoch.counter}"
        target = IscsiTarget(Address("127.0.0.1", 7768), name, 1, "iqn.2026-01.test:host", "user")
        return replace(file, path="", iscsi=target), ChapSecret(file.vid, attachment.epoch.nonce)

    def cut(self, attachment: Attachment) -> None:
        if self.is_stuck:
            raise NotCut("its server does not answer")
        self.ended.append(attachment)


class Storage:
    """As `storaged.daemon` wires it. Make it by `open_storage`."""

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        nursery: trio.Nursery,
        limit_gb: int | None,
        fetching: Fetching | None,
        leases: Leases | None,
        volumes_max: int,
    ) -> None:
        self.identity, self.audit = identity, folder / "audit.jsonl"
        self.host_id = HostId(identity.principal.id)
        self.pool = folder / "pool"
        self.pool.mkdir(exist_ok=True)
        settings = PoolSettings(path=self.pool, limit_gb=limit_gb, volumes_max=volumes_max)
        if leases is not None:
            mark = Mark(PoolId("5b" * 16), self.host_id, shared=True)
            (self.pool / POOL).write_bytes(render_mark(mark))
        joined = (lambda _: "") if leases is not None else not_joined
        self.catalogue = Catalogue(Config(state=folder, pools=(settings,)), self.host_id, joined)
        snapshot = self.catalogue.snapshot
        self.exports = FakeExports(lambda vid: leases is not None and snapshot().is_leased(snapshot().volumes[vid]))
        self.keeper = Keeper(
            Journal(folder / "journal"),
            server=self.host_id,
            cut=self.exports.cut,
            disk=Disk(joined),
            leases=leases,
        )
        self.quota = Quota(host="h1", shares=self.keeper.shares, snapshot=snapshot)
        self.ledger = Ledger[VolumeShare](admitting(self.keeper, snapshot), self.quota.allows)
        audit = Audit(self.audit, "h1")
        proposer = Proposer(
            "h1", self.host_id, self.keeper, snapshot, self.quota, port=7767, why_not=self.exports.why_not
        )
        offering = Offering(host="h1", role=Role.STORAGE, proposer=proposer, ledger=self.ledger, random=Random(1))
        self.answers = StorageAnswers("h1", 7767, offering, snapshot, lambda: None, lambda: "")
        intake = Intake(identity, self.answers, role=Role.STORAGE)
        jobs = Jobs(nursery)
        self.jobs = jobs
        self.attaching = Attaching(
            identity, self.keeper, self.ledger, snapshot, intake, self.quota, audit, self.exports, jobs.doing
        )
        views = Views("h1", self.host_id, self.keeper, snapshot)

        def under_lease(volume: Volume, work: Callable[[], None]) -> None:
            self.keeper.under_lease(volume, snapshot(), work)

        shelf = Shelf(snapshot, views, self.keeper.is_attached, self.catalogue.look, self.keeper.close, under_lease)
        working = Working(shelf, jobs, Promises(shelf, self.ledger, self.quota), self.attaching.turn, audit)
        arrivals = Arrivals(working, fetching=fetching)
        under_way = UnderWay("h1", self.host_id, views, jobs, snapshot)
        self.store = Store(under_way, self.attaching, arrivals, Changes(working), working, Measures(snapshot), audit)
        self.port = 0
        self._pledges = 0

    def pledge(self, who: Identity, vid: Vid, size_mib: int) -> VolumeOffer | Unfit:
        """What the host answers to a pledge for room."""
        return self._pledged(who, vid, 1, (), VolumeAsk(size_mib, ImageFormat.RAW))

    def hold(self, who: Identity, vm_id: VmId, generation: int, *vids: Vid) -> VolumeOffer | Unfit:
        """What it answers to a pledge of a VM with these volumes."""
        return self._pledged(who, vm_id, generation, vids, None)

    def _pledged(
        self, who: Identity, vm_id: str, generation: int, vids: tuple[Vid, ...], room: VolumeAsk | None
    ) -> VolumeOffer | Unfit:
        self._pledges += 1
        pledge = Pledge(
            pledge_id=f"{self._pledges:032x}",
            sent_at_ms=0,
            reply=(),
            dry=False,
            vm_id=vm_id,
            generation=generation,
            vm=None,
            volumes=vids,
            seal=b"",
            hold_ms=3000,
            hosts_known=1,
            policy=Policy.PACK,
            room=room,
        )
        (answer,) = self.answers.pledge(pledge, who.principal, now_s())
        assert isinstance(answer, VolumeOffer | Unfit)
        return answer

    async def get(self, who: Identity, path: str, answer: type[M]) -> M | Refused:
        return await self._ask(who, lambda connection: connection.ask("GET", path, answer))

    async def order(
        self, who: Identity, method: str, path: str, body: Message | None = None, *, name: str = ""
    ) -> VolumeView | Refused:
        """A change, to its end; `name`: of the request, so that it can be repeated."""

        def ask(connection: Connection) -> VolumeView | Refused:
            first = connection.first(method, path, VolumeProgress, body, name=name)
            if isinstance(first, Refused):
                return first
            last = [first, *connection.rest(VolumeProgress, 10)][-1]
            ended = last.volume or last.refused
            assert ended is not None
            return ended

        return await self._ask(who, ask)

    async def _ask(self, who: Identity, question: Callable[[Connection], M]) -> M:
        def ask() -> M:
            with Connection(who, Door("h1", self.host_id, "127.0.0.1", self.port), timeout_s=10) as connection:
                return question(connection)

        return await trio.to_thread.run_sync(ask)

    def files(self) -> Collection[str]:
        """The names in the pool, but for its mark."""
        return {path.name for path in self.pool.iterdir()} - {"pool.json"}


@asynccontextmanager
async def open_storage(
    folder: Path,
    identity: Identity,
    limit_gb: int | None = None,
    fetching: Fetching | None = None,
    leases: Leases | None = None,
    volumes_max: int = VOLUMES_MAX,
) -> AsyncIterator[Storage]:
    """Its pool is `folder`/pool, and with `leases` one of several servers; its door is open on loopback."""
    async with trio.open_nursery() as nursery:
        storage = Storage(folder, identity, nursery, limit_gb, fetching, leases, volumes_max)
        await storage.catalogue.scan()
        door: Opened = await nursery.start(partial(serve, identity, store=storage.store, port=0))
        storage.port = door.port
        yield storage
        nursery.cancel_scope.cancel()
