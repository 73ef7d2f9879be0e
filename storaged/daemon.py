"""`storaged`, wired: the index, the keeper, the sockets. Nothing is decided here."""

import logging
from collections.abc import Iterator
from functools import partial
from random import SystemRandom

import trio

from matcher.net import local, peer
from matcher.net.audit import Audit
from matcher.net.claiming import claimed
from matcher.net.intake import Intake
from matcher.net.peer import end_on_signal
from matcher.net.starting import say_ready
from matcher.net.upkeep import Upkeep
from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.trust.identity import Identity
from matcher.wire.messages import Role
from specs.ids import HostId
from storaged.answering import Attaching, Proposer, StorageAnswers, admitting, asks_nothing
from storaged.claims import VolumeShare
from storaged.config import Config
from storaged.index import Index
from storaged.journal import Journal
from storaged.keeper import Keeper
from storaged.quota import Quota
from storaged.volume import Snapshot

RESCAN_MIN_S = 1.0  # however often volumes are asked for that are not here
RESCAN_IDLE = 10  # the disks rest ten times as long as a scan took

log = logging.getLogger("storaged")


class Catalogue:
    """The volumes as the newest scan found them; scanned in a worker thread, so that answers never wait for disks."""

    def __init__(self, config: Config) -> None:
        self._config, self._index = config, Index()
        self._snapshot = Snapshot()
        self._said: tuple[str, ...] = ()
        self._missed = trio.Event()

    def snapshot(self) -> Snapshot:
        return self._snapshot

    async def scan(self) -> None:
        """Look at the pools again; what is wrong there is told once, and again when it changes."""
        self._snapshot = await trio.to_thread.run_sync(self._index.scan, self._config.pools)
        wrong = tuple(complaints(self._snapshot))
        if wrong != self._said:
            self._said = wrong
            for complaint in wrong:
                log.warning("%s", complaint)

    def missed(self) -> None:
        """Somebody asks for a volume that the newest scan did not see: it may have been made since."""
        self._missed.set()

    async def keep_scanned(self) -> None:
        took_s = 0.0
        while True:
            await trio.sleep(max(RESCAN_MIN_S, RESCAN_IDLE * took_s))
            with trio.move_on_after(self._config.rescan_s):
                await self._missed.wait()
            self._missed = trio.Event()
            begun_s = trio.current_time()
            await self.scan()
            took_s = trio.current_time() - begun_s


def complaints(snapshot: Snapshot) -> Iterator[str]:
    """What a sysadmin should know about the pools, a sentence each."""
    yield from snapshot.problems
    for bad in (*snapshot.bad.values(), *snapshot.nameless):
        yield f"{bad.path} is not offered: {bad.reason}"
    for conflict in snapshot.conflicts.values():
        yield f"volume {conflict.vid} is not offered, as it is in several places: {', '.join(conflict.paths)}"
    for volume in snapshot.volumes.values():
        if volume.note:
            yield f"{volume.path}: {volume.note}"


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Attachments outlive the daemon."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal, nursery.cancel_scope)
        identity = await claimed(config.identity)
        audit = Audit(config.audit, identity.principal.name)
        try:
            async with trio.open_nursery() as inner:
                await _serve(config, identity, audit, inner)
        finally:
            audit.close()


async def _serve(config: Config, identity: Identity, audit: Audit, nursery: trio.Nursery) -> None:
    host, host_id = identity.principal.name, HostId(identity.principal.id)
    keeper = Keeper(Journal(config.state / "storaged.sqlite"), host_id=host_id)
    catalogue = Catalogue(config)
    await catalogue.scan()
    keeper.recover(catalogue.snapshot())
    for vid in keeper.rolled_back(catalogue.snapshot()):
        log.warning("volume %s is older than this host remembers; not offered until: storaged forget %s", vid, vid)
    quota = Quota(host=host, shares=keeper.shares, snapshot=catalogue.snapshot, volumes_gb=config.narrow.volumes_gb)
    ledger = Ledger[VolumeShare](admitting(keeper, catalogue.snapshot), quota.allows)
    proposer = Proposer(host, host_id, keeper, catalogue.snapshot, quota)
    offering = Offering(host=host, role=Role.STORAGE, proposer=proposer, ledger=ledger, random=SystemRandom())
    answers = StorageAnswers(host, offering, catalogue.snapshot, catalogue.missed, lambda: identity.short_digest)
    upkeep = Upkeep(identity, port=0, multicast_port=config.multicast_port)
    intake = Intake(identity, answers, role=Role.STORAGE, ignores=asks_nothing, hears_news=upkeep.hears_news)
    attaching = Attaching(identity, keeper, ledger, catalogue.snapshot, intake, quota, audit)
    nursery.start_soon(catalogue.keep_scanned)
    await nursery.start(upkeep.run)
    await nursery.start(local.serve, config.socket, attaching.answer)
    await nursery.start(partial(peer.serve, intake, port=config.multicast_port))
    say_ready()
    log.info("%s of realm %s: %d volumes", host, identity.realm_name, len(catalogue.snapshot().volumes))
