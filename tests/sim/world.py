"""A realm in virtual time: hosts, persons, a network, faults; run until enough was pledged, then until all is calm."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from atomd.hardware import Hardware
from atomd.inventory.facts import Core, PciDevice
from matcher.wire.messages import Accelerator, Arch, Firmware, Reach
from specs.ids import Vid, new_id
from tests.sim.client import Counts, Person
from tests.sim.faults import NONE, Faults
from tests.sim.host import Host
from tests.sim.invariants import SETTLES_S, Judge, Violation
from tests.sim.network import Network
from tests.sim.slow import Pool
from tests.sim.timeline import Timeline

PARTITION_S = (0.3, 20.0)
DISK_FULL_S = (0.5, 20.0)
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
    def __init__(self, seed: int, *, hosts: int, clients: int, pledges: int, faults: Faults) -> None:
        self.seed, self.pledges = seed, pledges
        self.timeline = Timeline()
        self.random = Random(seed)
        self.faults = faults
        self.judge = Judge(self.timeline)
        self.counts = Counts()
        self.network = Network(self.timeline, self.random, faults)
        pool = Pool()
        vids = [Vid(new_id(self.random)) for _ in range(8 * hosts)]
        self.hosts = [self._host(number, hosts, vids, pool) for number in range(hosts)]
        self.persons = [self._person(number, vids) for number in range(clients)]
        self._weather()

    def run(self) -> Report:
        """Until a violation, or the end."""
        violation = None
        try:
            while self.counts.pledges < self.pledges and self.timeline.step():
                self.judge.check(self.hosts)
            self._calm()
            end_s = self.timeline.now_s + SETTLES_S + 1  # a second for what is on its way to a person
            while self.timeline.now_s < end_s and self.timeline.step():
                self.judge.check(self.hosts)
            self.judge.check_end(self.hosts)
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

    # ---- who is there

    def _host(self, number: int, hosts: int, vids: list[Vid], pool: Pool) -> Host:
        mine = {
            vid: (Reach.LOCAL, Reach.NETWORK)[index % 2] for index, vid in enumerate(vids) if index % hosts == number
        }
        return Host(
            f"h{number + 1}",
            _hardware(self.random),
            mine,
            timeline=self.timeline,
            random=self.random,
            faults=self.faults,
            pool=pool,
            watcher=self.judge,
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
        )

    # ---- the weather

    def _weather(self) -> None:
        """Once a second, for each host."""
        if self.faults is NONE:
            return
        for host in self.hosts:
            self._strike(host)
        self.timeline.after(1.0, self._weather)

    def _strike(self, host: Host) -> None:
        faults, libvirt = self.faults, host.libvirt
        if self._happens(faults.reboot):
            host.reboot()
        if self._happens(faults.partition):
            self._for_a_while(PARTITION_S, lambda on: setattr(host, "is_cut", on))
        if self._happens(faults.disk_full):
            self._for_a_while(DISK_FULL_S, lambda on: setattr(host.disk, "is_full", on))
        if self._happens(faults.libvirt_down):
            self._for_a_while(LIBVIRT_DOWN_S, lambda on: setattr(libvirt, "is_down", on))
        if self._happens(faults.libvirt_stall):
            libvirt.server.stall()
        if self._happens(faults.storage_stall):
            host.storage.server.stall()
        if libvirt.domains and self._happens(faults.virsh):
            domain = self.random.choice(list(libvirt.domains.values()))
            libvirt.end(domain, crashed=self._happens(0.5))

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
            host.is_cut = host.disk.is_full = host.libvirt.is_down = False
            host.libvirt.server.wake()
            host.storage.server.wake()
            for domain in host.libvirt.domains.values():
                domain.deaf = False


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
