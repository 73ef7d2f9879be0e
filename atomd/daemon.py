"""`atomd`, wired: what the host has, the core that decides, sockets, journal, libvirt. Nothing is decided here."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import SystemRandom

import trio

from atomd.accelerator import detect
from atomd.answering import ComputeAnswers, Face, Proposer
from atomd.backdoor import BackDoor, Drain
from atomd.capacity.guest_cpu import hardware_of, lent_mib
from atomd.capacity.hardware import Claim, Hardware
from atomd.capacity.placement import admits
from atomd.capacity.quota import Quota
from atomd.capacity.uses import Uses, uses_here
from atomd.compute import Compute
from atomd.config import Config
from atomd.devices import Devices, read_usb_here
from atomd.functions import Functions
from atomd.hypervisor.domains import Capabilities, HypervisorError, HypervisorLike
from atomd.hypervisor.hypervisor import Hypervisor
from atomd.inventory import read_inventory
from atomd.inventory.facts import Core, Inventory, Memory, NumaNode
from atomd.journal import Journal
from atomd.mediated import Mediated
from atomd.memory import LentMemory
from atomd.performing import Performer, local_minute, moment
from atomd.service import Service
from atomd.telling import digest, tell_changes
from atomd.vms.admission import Admission
from atomd.vms.refusals import DRAINED, stale_realm
from atomd.volumes.shares import Shares
from atomd.volumes.storage import Storage
from atomd.volumes.stored import Stored
from matcher.net import peer
from matcher.net.announcing import announce
from matcher.net.audit import Audit
from matcher.net.claiming import claimed
from matcher.net.desk import Desk
from matcher.net.discovery import Announced
from matcher.net.door import serving
from matcher.net.gossip.member import Member
from matcher.net.gossip.viewing import View
from matcher.net.intake import Intake
from matcher.net.relay.relays import Relays
from matcher.net.starting import say_ready
from matcher.net.upkeep import Upkeep, stale
from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.trust.identity import Identity
from matcher.wire.messages import Accelerator, Refused, Role
from specs.ids import HostId

LIBVIRT_RETRY_S = 2.0

OpensHypervisor = Callable[[str], AbstractAsyncContextManager[HypervisorLike]]

log = logging.getLogger("atomd")


async def run(config: Config, opens: OpensHypervisor = Hypervisor.open) -> None:
    """Serve until SIGTERM or SIGINT. VMs go on running when it ends, and are found again when it starts. `opens` gives
    what runs the VMs: libvirt, by its URI, unless a benchmark has another."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.end_on_signal, nursery.cancel_scope)
        identity = await claimed(config.identity)
        journal = Journal(config.state / "atomd.sqlite")
        audit = Audit(config.audit, identity.principal.name)
        try:
            async with opens(config.libvirt_uri) as hypervisor, trio.open_nursery() as inner:
                await _serve(config, identity, journal, audit, hypervisor, inner)
        finally:
            journal.close()
            audit.close()


async def _serve(
    config: Config,
    identity: Identity,
    journal: Journal,
    audit: Audit,
    hypervisor: HypervisorLike,
    nursery: trio.Nursery,
) -> None:
    remembered = journal.load()
    inventory = _inventory(config)
    hardware = await _hardware(config, inventory, await _capabilities(hypervisor))
    face = Face(identity.principal.name, config.front_door_port, hardware, config.inventory_root is not None)
    core = _core(config, identity, hypervisor, face, audit, stored := Stored(config.storaged_socket))
    compute, quota, devices = core.compute, core.quota, core.devices
    compute.restore(*remembered, moment())
    memory = _memory(config, face, inventory, compute)
    drain = Drain(config.state / "drained", compute)
    performer = Performer(
        compute=compute,
        journal=journal,
        audit=audit,
        hypervisor=hypervisor,
        hardware=hardware,
        host_threads=_threads(inventory.cpu.cores) - _threads(hardware.cores) - _withheld(inventory),
        storage=Storage(identity, config.storaged_socket),
        shares=Shares(config.shares),
        devices=devices,
        console_folder=_console_folder(config.state),
        network=config.network,
        nursery=nursery,
    )
    answers = ComputeAnswers(face, core.offering, core.ledger, compute, lambda: identity.short_digest)
    service = Service(
        identity=identity,
        face=face,
        performer=performer,
        answers=answers,
        hypervisor=hypervisor,
        storaged_socket=config.storaged_socket,
        audit=audit,
        quota=quota,
        ledger=core.ledger,
        uses=core.uses,
    )
    upkeep = Upkeep(
        identity,
        port=config.front_door_port,
        multicast_port=config.multicast_port,
        uses=lambda: uses_here(quota, compute.vms.values(), core.ledger.committed()),
        hears_uses=core.uses.eat,
    )
    desk = Desk(upkeep, issuer_folder=config.issuer, port=config.front_door_port, audit=audit)
    intake = Intake(identity, answers, hears_news=upkeep.hears_news, later=answers)
    await _begin(performer, devices, memory, stored, nursery)
    await nursery.start(upkeep.run)
    parts = (drain, service, performer, devices, answers, core.ledger, desk, audit)
    back_door = BackDoor(*parts, lambda: hypervisor.down, config.storaged_socket)
    opened, relays = await _listen(config, identity, service, desk, intake, back_door.view, nursery)
    relays.gossip = back_door.view.member = gossip = _gossip(config, upkeep, face, core, performer, nursery)
    back_door.counters = {"datagrams": intake.counters, "gossip": gossip.counters, "connections": opened.counters}
    back_door.counters["relayed"] = relays.counters
    await nursery.start(back_door.serve, config.atomctl_socket)
    say_ready()
    log.info("%s of realm %s: %d threads for VMs", face.host, identity.realm_name, len(_threads(hardware.cores)))


def _memory(config: Config, face: Face, inventory: Inventory, compute: Compute) -> LentMemory:
    lent = partial(
        lent_mib,
        inventory.cpu,
        ram_reserve_mib=config.ram_reserve_mib,
        reserved_core=config.reserved_core,
        reserved_cpus=config.reserved_cpus,
    )
    return LentMemory(face, lent=lent, up=compute.up)


async def _begin(
    performer: Performer, devices: Devices, memory: LentMemory, stored: Stored, nursery: trio.Nursery
) -> None:
    """Devices and memory are known as they are now before anything starts, or anybody is answered."""
    await nursery.start(devices.keep, performer.changed)
    await nursery.start(memory.keep, performer.changed)
    for task in (performer.follow, performer.keep_reconciled, performer.keep_time, stored.follow):
        nursery.start_soon(task)


async def _listen(
    config: Config, identity: Identity, service: Service, desk: Desk, intake: Intake, view: View, nursery: trio.Nursery
) -> tuple[serving.Opened, Relays]:
    """The front door, and then the datagrams."""
    relays = Relays(identity, intake, storaged=config.storaged_socket, port=config.multicast_port)
    door = partial(serving.serve, identity, service, desk, relay=relays, neighbours=view, port=config.front_door_port)
    opened: serving.Opened = await nursery.start(door)
    if config.announce:
        nursery.start_soon(announce, lambda: _announced(identity, opened.port))
    await nursery.start(partial(peer.serve, intake, port=config.multicast_port))
    return opened, relays


def _announced(identity: Identity, port: int) -> Announced:
    return Announced(identity.principal.id[:16], identity.realm.realm_id, Role.COMPUTE, port)


@dataclass(frozen=True, slots=True)
class _Core:
    """What decides."""

    ledger: Ledger[Claim]
    offering: Offering[Claim]
    compute: Compute
    quota: Quota
    uses: Uses
    devices: Devices


def _core(
    config: Config, identity: Identity, hypervisor: HypervisorLike, face: Face, audit: Audit, stored: Stored
) -> _Core:
    uses, boot_id = Uses(), _boot_id()
    devices = Devices(
        config.state / "devices.json",
        face,
        held=lambda: compute.held_devices(),
        boot_id=boot_id,
        audit=audit,
        functions=Functions(config.sriov),
        mediated=Mediated(config.mdev),
        reads_usb=partial(read_usb_here, config.usb.rules()),
    )
    quota = Quota(
        host=face.host,
        kinds=devices.kinds,
        vms=lambda user_id: compute.ids_of(user_id),
        narrowing=config.narrow.narrowing(),
        elsewhere=lambda user_id: uses.elsewhere(user_id, peer.now_s()),
    )
    admission = Admission(
        quota,
        is_member=lambda user_id: identity.verifier.is_member("user", user_id),
        takes_new=lambda: DRAINED if compute.drained else _stale(identity),
    )
    ledger = Ledger[Claim](lambda residents, claim: admits(face.hardware, residents, claim), quota.allows)
    proposer = Proposer(face, lambda: hypervisor.down, admission, local_minute, lambda: stored)
    offering = Offering(host=face.host, role=Role.COMPUTE, proposer=proposer, ledger=ledger, random=SystemRandom())
    compute = Compute(
        host_id=HostId(identity.principal.id),
        boot_id=boot_id,
        ledger=ledger,
        offering=offering,
        admission=admission,
    )
    return _Core(ledger, offering, compute, quota, uses, devices)


def _gossip(
    config: Config, upkeep: Upkeep, face: Face, core: _Core, performer: Performer, nursery: trio.Nursery
) -> Member:
    gossip = Member(
        upkeep.identity,
        digest=lambda: digest(face, core.ledger, core.compute),
        front_door_port=config.front_door_port,
        port=config.gossip_port,
        seeds=config.seeds,
        changed=lambda: setattr(core.offering, "hosts_known", gossip.hosts_known),
        differs=upkeep.hears_difference,
    )
    upkeep.gossip = gossip
    nursery.start_soon(gossip.run)  # a host serves, whether it hears of others or not
    nursery.start_soon(tell_changes, performer.changed, gossip.look)
    return gossip


def _stale(identity: Identity) -> Refused | None:
    why = stale(identity, time.time())
    return stale_realm(why) if why is not None else None


async def _capabilities(hypervisor: HypervisorLike) -> Capabilities:
    """What libvirt can do; a libvirtd that is down is waited for, since VMs of ours may be running under it."""
    while True:
        try:
            return await hypervisor.capabilities()
        except HypervisorError as error:
            log.warning("waiting for libvirt: %s", error)
            await trio.sleep(LIBVIRT_RETRY_S)


async def _hardware(config: Config, inventory: Inventory, capabilities: Capabilities) -> Hardware:
    accelerator, seen_flags = Accelerator.KVM, None  # as a recorded machine would have it
    if config.inventory_root is None:
        detected = await detect(config.accelerator, state_dir=config.state)
        log.info("accelerator %s: %s", detected.accelerator, detected.why)
        accelerator, seen_flags = detected.accelerator, detected.guest_flags
    return hardware_of(
        inventory,
        accelerator=accelerator,
        firmwares=capabilities.firmwares,
        tpm=capabilities.tpm,
        seen_flags=seen_flags,
        ram_reserve_mib=config.ram_reserve_mib,
        reserved_core=config.reserved_core,
        reserved_cpus=config.reserved_cpus,
        share_cores_between_users=config.share_cores_between_users,
    )


def _inventory(config: Config) -> Inventory:
    """This machine, or the recorded one that it is to look like; a recording without memory gets this machine's."""
    if config.inventory_root is None:
        return read_inventory(Path("/"))
    recorded = read_inventory(config.inventory_root)
    if recorded.memory.total_mib > 0:
        return recorded
    log.warning("%s tells nothing of its memory; this machine's is shown instead", config.inventory_root)
    own = read_inventory(Path("/")).memory
    first = min((core.numa for core in recorded.cpu.cores), default=0)
    memory = Memory(own.total_mib, recorded.memory.ecc, (NumaNode(first, own.total_mib),))
    return dataclasses.replace(recorded, memory=memory)


def _threads(cores: Iterable[Core]) -> frozenset[int]:
    return frozenset(thread for core in cores for thread in core.threads)


def _withheld(inventory: Inventory) -> frozenset[int]:
    """QEMU's own threads are a part of a VM, too."""
    return frozenset(thread for each in inventory.cpu.withheld for thread in each.threads)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _console_folder(state: Path) -> Path:
    """Where QEMU's log daemon writes what guests say; readable to root alone."""
    folder = state / "console"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
