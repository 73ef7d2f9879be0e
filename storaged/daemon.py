"""`storaged`, wired: the catalogue, the keeper, the sockets. Nothing is decided here."""

import logging
from collections.abc import Callable
from functools import partial
from random import SystemRandom

import trio

from matcher.net import local, peer
from matcher.net.audit import Audit
from matcher.net.board import Board
from matcher.net.claiming import claimed
from matcher.net.door import serving
from matcher.net.gossip.member import Member
from matcher.net.gossip.viewing import View
from matcher.net.intake import Intake
from matcher.net.peer import end_on_signal
from matcher.net.relay.relays import Relays
from matcher.net.starting import say_ready
from matcher.net.upkeep import Upkeep
from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.trust.identity import Identity
from matcher.wire.messages import Message, Role
from matcher.wire.volumes import AskPools, AskVolumesHere, SharePool
from specs.ids import HostId
from storaged.answering import Proposer, StorageAnswers, admitting, asks_nothing
from storaged.arrivals import Arrivals
from storaged.attaching import Attaching
from storaged.catalogue import Catalogue
from storaged.changes import Changes
from storaged.claims import VolumeShare
from storaged.config import Config
from storaged.exporting import Exporting, exports_of
from storaged.here import tell_volumes
from storaged.images.fetch import Fetching
from storaged.images.sandbox import Sandbox
from storaged.jobs import Jobs
from storaged.journal import Journal
from storaged.keeper import Disk, Keeper
from storaged.leases.pools import SharedPools
from storaged.measuring import Measures
from storaged.pooling import Pooling
from storaged.promises import Promises
from storaged.quota import Quota
from storaged.shelf import Shelf
from storaged.store import Store
from storaged.telling import Room
from storaged.underway import UnderWay
from storaged.views import Views
from storaged.volume import Volume
from storaged.working import Working

log = logging.getLogger("storaged")


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
    shared = SharedPools(config, host_id, lambda: catalogue.snapshot())
    catalogue = Catalogue(config, host_id, shared.joined)
    exports = exports_of(config, catalogue.snapshot, host_id, shared.disks)
    keeper = _keeper(config, host_id, exports, shared)
    await catalogue.scan()
    await catalogue.sweep()
    keeper.recover(catalogue.snapshot())
    for vid in keeper.rolled_back(catalogue.snapshot()):
        log.warning("volume %s is older than this host remembers; not offered until: storaged forget %s", vid, vid)
    quota = Quota(host=host, shares=keeper.shares, snapshot=catalogue.snapshot, volumes_gb=config.narrow.volumes_gb)
    ledger = Ledger[VolumeShare](admitting(keeper, catalogue.snapshot), quota.allows)
    jobs = Jobs(nursery)
    proposer = Proposer(
        host,
        host_id,
        keeper,
        catalogue.snapshot,
        quota,
        port=config.front_door_port,
        why_not=exports.why_not,
        doing=jobs.doing,
    )
    offering = Offering(host=host, role=Role.STORAGE, proposer=proposer, ledger=ledger, random=SystemRandom())
    answers = StorageAnswers(
        host,
        config.front_door_port,
        offering,
        catalogue.snapshot,
        catalogue.missed,
        lambda: identity.short_digest,
    )
    upkeep = Upkeep(identity, port=config.front_door_port, is_first=False, multicast_port=config.multicast_port)
    intake = Intake(identity, answers, role=Role.STORAGE, ignores=asks_nothing, hears_news=upkeep.hears_news)
    attaching = Attaching(
        identity, keeper, ledger, catalogue.snapshot, intake, quota, audit, exports, jobs.doing, catalogue.look
    )
    views = Views(host, host_id, keeper, catalogue.snapshot)
    shelf = _shelf(catalogue, views, keeper)
    working = Working(shelf, jobs, Promises(shelf, ledger, quota), attaching.turn, audit)
    under_way = UnderWay(host, host_id, views, jobs, catalogue.snapshot)
    store = _store(config, under_way, attaching, working, audit)
    pooling = Pooling(host_id, keeper, ledger, catalogue, jobs.doing, attaching.turn, audit, shared.prepare)
    nursery.start_soon(catalogue.keep_scanned)
    nursery.start_soon(exports.run, keeper)
    nursery.start_soon(shared.run, keeper, catalogue.scan)
    await nursery.start(upkeep.run)
    await nursery.start(local.serve, config.socket, partial(_answer, attaching, pooling, catalogue))
    board = Board(upkeep, audit=audit)
    relays, view = Relays(identity, intake, storaged=None, port=config.multicast_port), View()
    door = partial(serving.serve, identity, board=board, store=store, relay=relays, neighbours=view)
    await nursery.start(partial(door, port=config.front_door_port))
    await nursery.start(partial(peer.serve, intake, port=config.multicast_port))
    relays.gossip = view.member = _gossip(config, upkeep, offering, nursery)
    say_ready(exports.status)
    log.info("%s of realm %s: %d volumes", host, identity.realm_name, len(catalogue.snapshot().volumes))


def _keeper(config: Config, host_id: HostId, exports: Exporting, shared: SharedPools) -> Keeper:
    return Keeper(
        Journal(config.state / "storaged.sqlite"),
        server=host_id,
        cut=lambda attachment: trio.from_thread.run(exports.cut, attachment),
        disk=Disk(shared.joined),
        leases=shared,
    )


def _shelf(catalogue: Catalogue, views: Views, keeper: Keeper) -> Shelf:
    snapshot = catalogue.snapshot

    def under_lease(volume: Volume, work: Callable[[], None]) -> None:
        keeper.under_lease(volume, snapshot(), work)

    return Shelf(snapshot, views, keeper.is_attached, catalogue.look, keeper.close, under_lease)


def _store(config: Config, views: UnderWay, attaching: Attaching, working: Working, audit: Audit) -> Store:
    sandbox = partial(Sandbox.of, config.image_user or None)
    arrivals = Arrivals(working, sandbox=sandbox, fetching=Fetching(allowed=config.fetch_allowed))
    measures = Measures(working.shelf.snapshot)
    return Store(views, attaching, arrivals, Changes(working, sandbox=sandbox), working, measures, audit)


async def _answer(
    attaching: Attaching, pooling: Pooling, catalogue: Catalogue, question: Message, peer: local.Peer
) -> Message:
    """To a process on this host."""
    match question:
        case SharePool() | AskPools():
            return await pooling.answer(question, peer)
        case AskVolumesHere(known=known):
            return await tell_volumes(catalogue, known)
    return await attaching.answer(question, peer)


def _gossip(config: Config, upkeep: Upkeep, offering: Offering[VolumeShare], nursery: trio.Nursery) -> Member:
    """Where atomd runs beside it, that speaks for the host, and this one knows of others by their answers alone."""
    room = Room([pool.path for pool in config.pools])

    gossip = Member(
        upkeep.identity,
        digest=lambda: room.digest,
        role=Role.STORAGE,
        front_door_port=config.front_door_port,
        port=config.gossip_port,
        seeds=config.seeds,
        changed=lambda: setattr(offering, "hosts_known", gossip.hosts_known),
        differs=upkeep.hears_difference,
    )
    upkeep.gossip = gossip
    nursery.start_soon(gossip.run)  # a host serves, whether it hears of others or not
    nursery.start_soon(room.keep_looked, gossip.look)
    return gossip
