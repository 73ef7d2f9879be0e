"""A host: hardware, libvirt, storage and a disk that outlive its daemon; see `daemon`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import NoReturn, Protocol

from atomd.answering import Face
from atomd.capacity.hardware import Hardware
from atomd.vms.lifecycle import State, Vm
from atomd.vms.moment import Moment
from matcher.trust.bundle import Bundle
from matcher.wire.messages import (
    Reach,
    Reveal,
)
from specs.ids import OfferId, Vid, VmId
from tests.sim import papers
from tests.sim.daemon import Daemon
from tests.sim.faults import Faults
from tests.sim.guests import Guests
from tests.sim.images import Stamps
from tests.sim.network import Network
from tests.sim.papers import WALL_S
from tests.sim.realm import Leaf
from tests.sim.slow import Domain, Libvirt
from tests.sim.storage import Storage, Store
from tests.sim.timeline import Crashed, Process, Timeline
from tests.sim.upkeep import PORT, Home

WATCHDOG_S = 20.0  # of a host that serves a pool with another
RESTART_S = (0.05, 5.0)  # until systemd has atomd up again


@dataclass(slots=True)
class Disk:
    """What has been synced. `doomed` are rows that promise nothing and only wait to be forgotten."""

    rows: dict[tuple[VmId, int], Vm] = field(default_factory=dict)
    abandoned: dict[OfferId, None] = field(default_factory=dict)
    doomed: set[tuple[VmId, int]] = field(default_factory=set)
    is_full: bool = False


class Watcher(Protocol):
    """Whoever judges a run; see `invariants`."""

    def writes(self, host: "Host", vm: Vm) -> None: ...

    def wrote(self, host: "Host", vm: Vm) -> None: ...

    def began(self, host: "Host", domain: Domain) -> None: ...

    def acknowledged(self, host: "Host", vm: Vm) -> None: ...

    def removed(self, host: "Host", vm: Vm) -> None: ...

    def saved(self, host: "Host", bundle: Bundle) -> None: ...

    def restored(self, host: "Host") -> None: ...


class Host:
    """A machine. `daemon` is `None` while atomd is dead. `hosts` are all that there are, as they come to be."""

    def __init__(
        self,
        home: Home,
        hardware: Hardware,
        vids: dict[Vid, Reach],
        *,
        timeline: Timeline,
        random: Random,
        faults: Faults,
        stamps: Stamps,
        network: Network,
        hosts: Sequence["Host"],
        watcher: Watcher,
        hosts_known: int = 0,
        store: Store | None = None,
    ) -> None:
        """`hosts_known` is what it thinks of the realm, whatever its size is."""
        self.hosts_known = hosts_known
        self._clock = timeline
        self.name, self.hardware = f"h{home.number}", hardware
        self.home, self.host_id = home, papers.host_id(home.number)
        self.network, self.hosts = network, hosts
        self.random, self.faults, self.watcher = random, faults, watcher
        self.timeline = Process(timeline, self.name)  # atomd's own
        self.machine = Process(timeline, self.name)  # libvirtd and the guests
        self.disk = Disk()
        self.libvirt = Libvirt(self.machine, random, faults)
        guests = Guests(self, self.machine, random)
        self.storage = Storage(
            self.name,
            self.host_id,
            papers.address_of(home.number),
            vids,
            timeline=timeline,
            random=random,
            faults=faults,
            stamps=stamps,
            guests=guests,
            trusts=self.trusts,
            store=store,
        )
        self.is_cut = False
        self.side = 0  # of a network that is split; clients reach both
        self.boots = 1
        self.clock_s = 0.0  # how far its wall clock is off
        self.shown: dict[OfferId, Leaf] = {}  # by whom confirms came; for the judge
        self.daemon: Daemon | None = None
        self.libvirt.began = partial(watcher.began, self)
        self.libvirt.opens = guests.open
        self.libvirt.heard = self._hear
        self.face = Face(self.name, PORT, hardware, False)
        timeline.after(0.0, self.start)

    def start(self) -> None:
        if self.daemon is None:
            self.daemon = Daemon(self)
            self.daemon.begin()

    def crash(self) -> None:
        """kill -9 of atomd."""
        if self.daemon is not None:
            self.daemon.is_alive = False
            self.daemon = None
            self.disk.doomed |= {life for life, row in self.disk.rows.items() if row.state is State.PREPARED}
            self.timeline.note(f"{self.name} atomd dies")
            self.timeline.go_on()
            self.timeline.after(self.random.uniform(*RESTART_S), self.start)

    def reboot(self) -> None:
        """Power fails: no domain is left, and nothing in flight either."""
        self.boots += 1
        self.timeline.note(f"{self.name} reboots")
        self.libvirt.domains.clear()
        self.machine.go_on()
        self.storage.reboot()
        self.crash()

    def freeze(self, for_s: float) -> None:
        """The whole machine stops, and goes on as if nothing had happened."""
        self.timeline.note(f"{self.name} freezes for {for_s:.0f} s")
        for process in (self.timeline, self.machine, self.storage.process):
            process.stop(for_s)
        self.storage.target.stop(for_s)
        if self.storage.store.is_shared and for_s > WATCHDOG_S:
            self._clock.after(WATCHDOG_S, self._reset)

    def _reset(self) -> None:
        """By its watchdog, as its sanlock stands still."""
        if self.machine.is_stopped:
            self.reboot()

    def go_on(self) -> None:
        for process in (self.timeline, self.machine, self.storage.process, self.storage.target.process):
            process.go_on()

    def fill(self, is_full: bool) -> None:
        self.disk.is_full = self.storage.is_full = is_full

    def dies(self) -> NoReturn:
        """In the middle of something."""
        self.crash()
        raise Crashed

    def restore(self) -> None:
        """What it knows of the realm is an old backup's."""
        self.crash()
        self.timeline.note(f"{self.name} gets an old disk")
        self.home.restore()
        self.watcher.restored(self)

    @property
    def wall_s(self) -> float:
        return WALL_S + self.timeline.now_s + self.clock_s

    def moment(self) -> Moment:
        return Moment(self.timeline.now_s, self.wall_s)

    def trusts(self, leaf: Leaf) -> bool:
        """As `matcher.trust.verifier` judges, before anything else is asked."""
        if self.daemon is None:
            return True  # storaged has a verifier of its own, which learns what atomd's does
        verifier = self.daemon.upkeep.identity.verifier
        return leaf.starts_s >= verifier.revoked_before_s("user", leaf.user_id) and leaf.is_in_time(self.wall_s)

    def is_cut_from(self, other: "Host") -> bool:
        return self.is_cut or other.is_cut or self.side != other.side

    def hears(self, datagram: bytes, source: str) -> None:
        """Another host's news."""
        self.timeline.do(lambda: self.daemon.upkeep.receive(datagram, source) if self.daemon else None)

    def hears_reveal(self, reveal: Reveal, when_s: float, asked: Sequence[Vid]) -> None:
        """Later, before it does anything else from `when_s` on. Whoever has none of the volumes never answered."""
        self.timeline.put_in(when_s, lambda: self.daemon.reveal(reveal) if self.daemon else None)
        if any(vid in self.storage.vids for vid in asked):
            self.storage.process.put_in(when_s, lambda: self.storage.reveal(reveal))

    def reads(self) -> None:
        """What is in its sockets, now."""
        for process in (self.timeline, self.storage.process):
            process.do(lambda: None)

    def happens(self, chance: float) -> bool:
        return self.random.random() < chance

    def _hear(self, vm_id: VmId, crashed: bool) -> None:
        self.timeline.do(lambda: self.daemon.hear(vm_id, crashed=crashed) if self.daemon else None)
