"""A realm in virtual time: hosts, persons, a network, faults; run until enough was pledged, then until all is calm."""

import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from atomd.capacity.hardware import Hardware
from atomd.inventory.facts import Core, PciDevice
from matcher.trust.certificates import BACKDATE_S
from matcher.trust.documents import Signed
from matcher.trust.spreading import SILENCE_S
from matcher.wire.messages import Accelerator, Arch, Firmware, Message, Reach
from matcher.wire.slots import is_spread
from specs.ids import UserId, Vid, new_id
from tests.sim import papers, sharing
from tests.sim.client import Counts, Habits, Person
from tests.sim.faults import ABOUT_VOLUMES, NONE, Faults, parse_faults
from tests.sim.host import Host
from tests.sim.images import Stamps
from tests.sim.invariants import SETTLES_S, WHOLE_EVERY_S, WHOLE_UP_TO, Judge, is_parted
from tests.sim.network import Network
from tests.sim.papers import WALL_S
from tests.sim.shrinking import Plan
from tests.sim.storage import Store
from tests.sim.timeline import Timeline
from tests.sim.upkeep import Home, NotDone, Upkeep
from tests.sim.violation import Violation

CLOCK_OFF_S = 3600.0
CLOCK_WRONG_S = (1.0, 60.0)
LINGERS_S = (1.0, 45.0)  # who was revoked tries on
EVICTED_S = (46.0, 90.0)
EVICTING_S = 2.0  # what it takes to end VMs, where nothing is wrong
PARTITION_S = (0.3, 20.0)
SPLIT_S = ((1.0, 60.0), (60.0, 900.0))  # beyond which a tag key of before is good for nothing
ASKS_S = 2 * SILENCE_S
ADMIN_AGAIN_S = (0.5, 5.0)
BACKED_UP = 0.01  # of each host and second
TMPFS = Path("/dev/shm")  # where syncing costs nothing
DISK_FULL_S = (0.5, 20.0)
FREEZE_S = (0.5, 40.0)
HOSTS_KNOWN = (0, 10_000, 100)  # as if the realm were large, so that answers wait for their turn
ROOMY = tuple(Core((2 * core, 2 * core + 1), 0, 0) for core in range(8))
LIBVIRT_DOWN_S = (0.5, 20.0)


@dataclass(frozen=True, slots=True)
class Report:
    seed: int
    trace_hash: str
    events: int
    pledges: int
    placements: int
    conflicts: int
    outcomes: Counter[str]
    violation: Violation | None
    tail: tuple[str, ...]


class World:
    def __init__(
        self,
        seed: int,
        *,
        hosts: int,
        clients: int,
        pledges: int,
        faults: Faults,
        volumes: int | None = None,
        shares: int = 1,
        shares_words: bool | None = None,
    ) -> None:
        """With `volumes`, there are so many alone, all VMs want one, and the last host runs none. The last hosts, so
        many as `shares` says, serve all of them together. `shares_words`: see `sharing`, and sockets are read lazily;
        where there are many hosts, unless it is said."""
        self.seed, self.pledges = seed, pledges
        self.timeline = Timeline()
        self.random = Random(seed)
        self.faults = faults
        self.judge = Judge(self.timeline)
        self.counts = Counts()
        self.network = Network(self.timeline, self.random, faults)
        self.stamps = Stamps()
        self._is_about_volumes, self._shares = volumes is not None, shares
        self._shares_words = is_spread(hosts) if shares_words is None else shares_words
        vids = [Vid(new_id(self.random)) for _ in range(8 * hosts if volumes is None else volumes)]
        self._store = Store(vids, is_shared=True) if shares > 1 else None
        self._folder = Path(tempfile.mkdtemp(prefix="sim-", dir=TMPFS if TMPFS.is_dir() else None))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._root, self._removed = papers.RootDesk(hosts), 0
        self.judge.lost(self._root.issuers)
        self._anchors: list[Signed[Message]] = []  # signed, and known to nobody yet
        self._kinds: dict[Hardware, Hardware] = {}
        self._evicted_s = 0.0
        self.hosts: list[Host] = []
        for number in range(hosts):
            self.hosts.append(self._host(number, hosts, vids))
        self.persons = [self._person(number, vids) for number in range(clients)]
        self._weather()

    def run(self) -> Report:
        """Until a violation, or the end."""
        with self._sharing():
            return self._run()

    def _sharing(self) -> AbstractContextManager[None]:
        return sharing.shared() if self._shares_words else nullcontext()

    def _run(self) -> Report:
        violation = None
        try:
            while self.counts.pledges < self.pledges and self.timeline.step():
                self.judge.look(self.hosts)
            self._calm()
            end_s = self.timeline.now_s + SETTLES_S + 1  # a second for what is on its way to a person
            while self.timeline.now_s < max(end_s, self._evicted_s + EVICTING_S) and self.timeline.step():
                self.judge.look(self.hosts)
            self.judge.check_end(self.hosts)
            self._hear_each_other()
            self.judge.check_known(self.hosts)
        except Violation as found:
            violation = found
        counts = self.counts
        return Report(
            self.seed,
            self.timeline.trace_hash(),
            self.timeline.events,
            counts.pledges,
            counts.placements,
            counts.conflicts,
            counts.outcomes,
            violation,
            tuple(self.timeline.tail),
        )

    def _hear_each_other(self) -> None:
        """Hosts that tag with different keys find each other again by asking alone, which takes its time; and then they
        have as long as the others had."""
        settled_s, end_s = self.timeline.now_s, self.timeline.now_s + ASKS_S * len(self.hosts)
        looks_s = self.timeline.now_s
        while self.timeline.now_s < end_s:
            if len(self.hosts) <= WHOLE_UP_TO or self.timeline.now_s >= looks_s:
                looks_s = self.timeline.now_s + WHOLE_EVERY_S
                if is_parted(self.hosts):
                    settled_s = self.timeline.now_s + SETTLES_S
            if self.timeline.now_s >= settled_s or not self.timeline.step():
                return
            self.judge.look(self.hosts)

    # ---- who is there

    def _host(self, number: int, hosts: int, vids: list[Vid]) -> Host:
        kinds = (Reach.NETWORK,) if self._is_about_volumes else (Reach.LOCAL, Reach.NETWORK)
        mine = {
            vids[index]: kinds[index % len(kinds)] for index in range((hosts - 1 - number) % hosts, len(vids), hosts)
        }
        store = self._store if number >= hosts - self._shares else None
        if self._store is not None:
            mine = dict.fromkeys(vids, Reach.NETWORK) if store is not None else {}
        hardware = _hardware(self.random)
        if self._is_about_volumes and number == hosts - 1:
            hardware = replace(hardware, cores=(), ram_mib=(), pci=())
        elif self._is_about_volumes:
            hardware = replace(hardware, cores=ROOMY, ram_mib=((0, 16384),))
        hardware = self._kinds.setdefault(hardware, hardware)
        return Host(
            Home(self._folder / f"h{number + 1}", number + 1, hosts),
            hardware,
            mine,
            timeline=self.timeline,
            random=self.random,
            faults=self.faults,
            stamps=self.stamps,
            network=self.network,
            hosts=self.hosts,
            watcher=self.judge,
            hosts_known=hosts if is_spread(hosts) else HOSTS_KNOWN[self.seed % len(HOSTS_KNOWN)],
            store=store,
        )

    def _person(self, number: int, vids: list[Vid]) -> Person:
        return Person(
            f"p{number + 1}",
            self.hosts,
            vids,
            timeline=self.timeline,
            random=self.random,
            network=self.network,
            faults=self.faults,
            counts=self.counts,
            watcher=self.judge,
            goes_on=lambda: self.counts.pledges < self.pledges,
            habits=Habits(1, 0.95, 0.3 if self.seed % 4 == 3 else 0.0) if self._is_about_volumes else Habits(),
            reads_lazily=self._shares_words,
        )

    # ---- the weather

    def _weather(self) -> None:
        """Once a second, for each host."""
        if self.faults is NONE:
            return
        for host in self.hosts:
            self._strike(host)
        for person in self.persons:
            if self._happens(self.faults.revoked):
                self._revoke(person)
            if self._happens(self.faults.narrowed):
                self._narrow(person)
        self._govern()
        self.timeline.after(1.0, self._weather)

    def _strike(self, host: Host) -> None:
        faults, libvirt = self.faults, host.libvirt
        if host.machine.is_stopped:
            return
        if self._happens(faults.reboot):
            host.reboot()
        if self._happens(faults.partition):
            self._for_a_while(PARTITION_S, lambda on: setattr(host, "is_cut", on))
        if self._happens(faults.disk_full):
            self._for_a_while(DISK_FULL_S, host.fill)
        if self._happens(faults.libvirt_down):
            self._for_a_while(LIBVIRT_DOWN_S, lambda on: setattr(libvirt, "is_down", on))
        if self._happens(faults.libvirt_stall):
            libvirt.server.stall()
        host.storage.strike(self._happens)
        if self._happens(faults.freeze):
            host.freeze(self.random.uniform(*FREEZE_S))
        if self._happens(faults.clock):
            off_s = self.random.choice((-CLOCK_OFF_S, CLOCK_OFF_S, self.random.uniform(-CLOCK_OFF_S, CLOCK_OFF_S)))
            self._for_a_while(CLOCK_WRONG_S, lambda on: setattr(host, "clock_s", off_s if on else 0.0))
        self._age_disk(host)
        if libvirt.domains and self._happens(faults.virsh):
            domain = self.random.choice(list(libvirt.domains.values()))
            libvirt.end(domain, crashed=self._happens(0.5))

    def _age_disk(self, host: Host) -> None:
        if self._happens(BACKED_UP):
            host.home.back_up()
            host.storage.back_up()
        if self._happens(self.faults.restore):
            host.restore()
        if self._happens(self.faults.rollback) and not host.storage.store.is_shared:
            host.reboot()
            host.storage.roll_back()

    def _govern(self) -> None:
        """What concerns all hosts at once."""
        if self._happens(self.faults.split):
            sides = [self.random.randrange(2) for _ in self.hosts]
            self.timeline.note(f"the network splits: {sides}")
            self._for_a_while(self.random.choice(SPLIT_S), lambda on: self._split(sides if on else [0] * len(sides)))
        if self._happens(self.faults.removed):
            self._removed += 1
            former = papers.former_host_id(self._removed)
            self.timeline.note(f"former host {self._removed} is removed")
            self._at_some_host(lambda upkeep: upkeep.revoke("host", former))
        if self._happens(self.faults.anchor) and not self._anchors:
            self._sign_anchor()

    def _split(self, sides: list[int]) -> None:
        for host, side in zip(self.hosts, sides, strict=True):
            host.side = side

    def _sign_anchor(self) -> None:
        """The root signs the next one once somebody has taken the last."""
        others = self._root.all_issuers[1:]
        if others and self._happens(0.6):
            anchor = self._root.toggle_issuer(self.random.choice(others))
            self.judge.lost(self._root.issuers)
        else:
            anchor = self._root.rotate()
        self.timeline.note(f"the root signs anchor {anchor.says.epoch}")
        self._anchors = [anchor]
        self._at_some_host(lambda upkeep: upkeep.publish(self._anchors), lambda _: self._anchors.clear())

    def _at_some_host(self, act: Callable[[Upkeep], None], done: Callable[[Host], None] = lambda _: None) -> None:
        """An admin tries at one host after another, until it is done."""
        host = self.random.choice(self.hosts)
        self.timeline.after(
            self.random.uniform(*ADMIN_AGAIN_S), lambda: None if is_done else self._at_some_host(act, done)
        )
        is_done = False
        if host.daemon is None:
            return
        try:
            act(host.daemon.upkeep)
        except NotDone:
            return
        is_done = True
        self.timeline.note(f"done by the admin at {host.name}")
        done(host)

    def _revoke(self, person: Person) -> None:
        """The hosts tell each other; the person tries on for a while, and comes again with another key. Later the
        sysadmins clear away what is left."""
        user_id = person.user_id
        self.timeline.note(f"{person.name} is revoked")
        self._at_some_host(
            lambda upkeep: upkeep.revoke("user", user_id),
            lambda host: self.judge.acknowledged_revocation(host, user_id),
        )
        self.timeline.after(self.random.uniform(*LINGERS_S), lambda: self._come_anew(person, user_id))
        self.timeline.after(self.random.uniform(*EVICTED_S), lambda: self._evict(user_id))  # whose `run` is over

    def _narrow(self, person: Person) -> None:
        """As `Issuer.change` does it, by a clock that goes right; the next leaf starts where the older ones end."""
        before_s = int(WALL_S + self.timeline.now_s) - BACKDATE_S + 1
        revocation = papers.narrowing(person.user_id, before_s)
        self._at_some_host(lambda upkeep: upkeep.publish([revocation]))
        self.timeline.after(self.random.uniform(*LINGERS_S), lambda: person.renew(before_s))

    def _come_anew(self, person: Person, user_id: UserId) -> None:
        if person.user_id == user_id:
            person.come_anew()

    def _evict(self, user_id: UserId) -> None:
        """By the back door, until nothing is left anywhere."""
        self._evicted_s = self.timeline.now_s
        for host in self.hosts:
            for vm in host.daemon.compute.of_user(user_id) if host.daemon is not None else ():
                if host.daemon is not None:  # it may die of the first
                    host.daemon.remove(vm.vm_id, vm.generation, lambda answer: None)
        if any(row.user_id == user_id for host in self.hosts for row in host.disk.rows.values()):
            self.timeline.after(5.0, lambda: self._evict(user_id))

    def _for_a_while(self, between_s: tuple[float, float], switch: Callable[[bool], None]) -> None:
        switch(True)
        self.timeline.after(self.random.uniform(*between_s), lambda: switch(False))

    def _happens(self, chance: float) -> bool:
        return self.random.random() < chance

    def _calm(self) -> None:
        """Faults end: from here on, everything works as it should."""
        self.timeline.note("faults end")
        self.faults = self.network.faults = NONE
        for person in self.persons:
            person.faults = NONE
        for host in self.hosts:
            host.faults = host.libvirt.faults = host.storage.faults = NONE
            host.clock_s = 0.0
            host.side = 0
            host.is_cut = host.libvirt.is_down = False
            host.fill(False)
            host.go_on()
            host.libvirt.server.wake()
            for domain in host.libvirt.domains.values():
                domain.deaf = False


def planned(plan: Plan) -> World:
    return World(plan.seed, hosts=plan.hosts, clients=plan.clients, pledges=plan.pledges, faults=plan.faults)


def violated(plan: Plan) -> str | None:
    """The invariant, in a run of its own."""
    found = planned(plan).run().violation
    return found.invariant if found is not None else None


def about_volumes(seed: int, faults: str = ABOUT_VOLUMES) -> World:
    """Few volumes that many want, on several hosts, of which one runs no VMs."""
    hosts, volumes = 3 + seed % 2, 2 + seed % 3
    return World(seed, hosts=hosts, clients=4, pledges=150, faults=parse_faults(faults), volumes=volumes)


def about_shared_pools(seed: int, faults: str = ABOUT_VOLUMES) -> World:
    """The same, of which two hosts serve all volumes together."""
    hosts, volumes = 3 + seed % 2, 2 + seed % 3
    return World(seed, hosts=hosts, clients=4, pledges=150, faults=parse_faults(faults), volumes=volumes, shares=2)


def _hardware(random: Random) -> Hardware:
    """Small, so that hosts are full most of the time: 2 to 8 threads, one or two to a core, a GPU here and there."""
    siblings = random.choice((1, 2))
    count = random.choice((1, 2, 4)) * (2 if siblings == 1 else 1)
    cores = tuple(
        Core(tuple(range(core * siblings, (core + 1) * siblings)), 0, core % 2 if count > 2 else 0)
        for core in range(count)
    )
    nodes = sorted({core.numa for core in cores})
    gpus = tuple(
        PciDevice(f"0000:{slot:02x}:00.0", "10de", "24b0", "030000", 0, slot, None, True, None)
        for slot in range(1, 1 + random.choice((0, 1, 2)))
    )
    return Hardware(
        archs=frozenset({Arch.X86_64}),
        accelerator=Accelerator.KVM,
        cpu_model="simulated",
        guest_flags=frozenset(),
        cores=cores,
        ram_mib=tuple((node, random.choice((1024, 2048, 4096))) for node in nodes),
        ecc=None,
        pci=gpus,
        pci_refused=(),
        firmwares=frozenset({Firmware.BIOS}),
    )
