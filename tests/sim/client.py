"""A person at a terminal: runs VMs, stops, starts and removes them, loses patience, and pulls the plug.

The placing is the real one; this drives it as `matcher.net.client` does. One errand at a time.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol, TypeVar

from atomd.vms.lifecycle import State, Vm
from matcher.offers.offering import Reply
from matcher.scheduler.outcomes import (
    Abandoned,
    Committed,
    Effects,
    Finished,
    Outcome,
    Placed,
    SendAbandon,
    SendConfirm,
    SendPledge,
    SendReveal,
    Unknown,
)
from matcher.scheduler.placing import Phase, Placing
from matcher.scheduler.pledging import Errand
from matcher.wire.messages import (
    Arch,
    Firmware,
    PciAsk,
    Pledge,
    Policy,
    Refused,
    Reveal,
    Unfit,
    VmAsk,
    VmOffer,
    VolumeOffer,
)
from matcher.wire.slots import is_spread
from specs.ids import HostId, OfferId, UserId, Vid, VmId, new_id
from tests.sim.daemon import Daemon
from tests.sim.faults import Faults
from tests.sim.host import Host
from tests.sim.network import Network
from tests.sim.papers import WALL_S, user_id
from tests.sim.realm import RENEWS_S, Leaf, make_leaf
from tests.sim.timeline import Timeline

THINKS_S = (0.02, 1.5)
WAITS_S = 75.0

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Counts:
    pledges: int = 0
    placements: int = 0
    conflicts: int = 0  # offers that were taken, and refused
    offers: int = 0  # of hosts for a VM, as heard while it was placed
    decided_s: list[float] = field(default_factory=list)  # from a pledge to its first confirm
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Habits:
    """`vms_max` of one person, then something has to go; the chances that a VM has a volume, and then two."""

    vms_max: int = 3
    wants_volumes: float = 0.3
    wants_two: float = 0.0


class Watcher(Protocol):
    def told(self, vm_id: VmId, generation: int, outcome: Outcome) -> None: ...

    def told_again(self, vm_id: VmId) -> None: ...


class Person:
    def __init__(
        self,
        name: str,
        hosts: Sequence[Host],
        vids: Sequence[Vid],
        *,
        timeline: Timeline,
        random: Random,
        network: Network,
        faults: Faults,
        counts: Counts,
        watcher: Watcher,
        goes_on: Callable[[], bool],
        habits: Habits = Habits(),
        reads_lazily: bool = False,
    ) -> None:
        """`reads_lazily`: hosts read what is revealed when they do something else; see `Process`."""
        self.name = name
        self.lives = 1  # keys that this person had
        self._leaf: Leaf | None = None
        self._not_before_s = 0.0  # leaves that start earlier were revoked
        self.faults = faults
        self._hosts = {host.host_id: host for host in hosts}
        self._vids, self._habits, self._reads_lazily = vids, habits, reads_lazily
        self._timeline, self._random, self._network = timeline, random, network
        self._counts, self._watcher, self._goes_on = counts, watcher, goes_on
        self._placing: Placing | None = None
        self._planned: tuple[Phase, float] | None = None  # the next wake-up
        self._errand: Errand | None = None
        self._before: Host | None = None  # where the VM was stopped
        # A generation that was tried once is never tried again, whatever became of it: who did not answer may have it.
        self._tried: dict[VmId, int] = {}
        self._pledged_s: float | None = None  # until a host is chosen
        self._confirmed_at: dict[HostId, None] = {}  # who else can have nothing of this person's
        self._kept: dict[VmId, Errand] = {}  # what was placed last, and is not known to be over
        self._renew_regularly()
        self._think()

    # ---- who one is

    @property
    def user_id(self) -> UserId:
        return user_id(self._key_name)

    @property
    def leaf(self) -> Leaf:
        assert self._leaf is not None
        return self._leaf

    @property
    def _key_name(self) -> str:
        return f"{self.name} {self.lives}"

    def renew(self, not_before_s: float = 0.0) -> None:
        """Another leaf, with another grant; what was asked with the old one stays as it was asked."""
        self._not_before_s = max(self._not_before_s, not_before_s)
        wall_s = WALL_S + self._timeline.now_s
        self._leaf = make_leaf(self._key_name, self.name, self._random, wall_s, self._not_before_s)

    def _renew_regularly(self) -> None:
        self.renew()
        self._timeline.after(self._random.uniform(*RENEWS_S), self._renew_regularly)

    def come_anew(self) -> None:
        """After a revocation: the same person, with another key; nothing of the old one's is theirs."""
        if self._placing is not None:
            self._die(self._placing)
        self.lives, self._not_before_s = self.lives + 1, 0.0
        self._kept.clear()
        self.renew()

    # ---- what to do next

    def _think(self) -> None:
        self._timeline.after(self._random.uniform(*THINKS_S), self._look_around)

    def _look_around(self) -> None:
        """`electros ps`, best effort; then do something about what is there."""
        if not self._goes_on():
            return
        found: list[tuple[Host, Vm]] = []
        asked = self._worth_asking()
        silent = len(asked)
        if not asked:
            self._decide(found)

        def heard(host: Host, vms: list[Vm] | None) -> None:
            nonlocal silent
            silent -= 1
            assert not vms or host.host_id in self._confirmed_at, "nobody has a VM that was never confirmed there"
            found.extend((host, vm) for vm in vms or ())
            if not silent:
                self._decide(found)

        for host in asked:
            self._ask(
                host,
                lambda daemon, reply: daemon.vms(self.leaf, reply),
                lambda vms, host=host: heard(host, vms),  # type: ignore[misc]
            )

    def _worth_asking(self) -> list[Host]:
        """In a large realm, those that can have something to say: nine thousand times "nothing" changes nothing."""
        hosts = self._hosts
        return [hosts[each] for each in self._confirmed_at] if is_spread(len(hosts)) else list(hosts.values())

    def _decide(self, found: list[tuple[Host, Vm]]) -> None:
        found.sort(key=lambda each: (each[1].vm_id, each[1].generation, each[0].name))
        seen = {vm.vm_id for _, vm in found}
        lost = [errand for vm_id, errand in self._kept.items() if vm_id not in seen]
        if self._vids and self._happens(self.faults.takeover):
            self._take_over(self._random.choice(self._vids))
            return
        if lost and self._happens(self.faults.elsewhere):
            errand = self._random.choice(lost)
            self._place(replace(errand, generation=self._tried[errand.vm_id] + 1, policy=self._policy()), None)
            return
        if not found or (len(found) < self._habits.vms_max and self._happens(0.7)):
            self._place(self._new_errand(), None)
            return
        host, vm = self._random.choice(found)
        starts = 0.5 if vm.state in (State.STOPPED, State.FAILED) else 0.1  # a script may not have looked first
        if self._happens(starts):
            self._start_again(host, vm, found)
        elif vm.state is State.RUNNING and self._happens(0.3):
            self._act(host, lambda daemon, reply: daemon.stop(vm.vm_id, reply, force=self._happens(0.3)))
        else:
            self._kept.pop(vm.vm_id, None)
            self._act(host, lambda daemon, reply: daemon.remove(vm.vm_id, vm.generation, reply))

    def _take_over(self, vid: Vid) -> None:
        """`electros volume takeover --host-is-dead`, whether it is or not."""
        having = [host for host in self._hosts.values() if vid in host.storage.vids]
        host = having[0] if len(having) == 1 else self._random.choice(having)
        self._timeline.note(f"{self.name} takes over volume {vid[:6]}")
        self._network.request(
            lambda: host.is_cut,
            lambda: host.storage.run is not None,
            lambda reply: host.storage.free(vid, reply),
            answered=self._hears,
            failed=lambda sent: self._think(),
            timeout_s=WAITS_S,
        )

    def _hears(self, said: str) -> None:
        self._timeline.note(f"{self.name} hears: {said}")
        self._think()

    def _new_errand(self) -> Errand:
        volumes: tuple[Vid, ...] = ()
        if self._vids and self._happens(self._habits.wants_volumes):
            volumes = (self._random.choice(self._vids),)
            if self._habits.wants_two and self._happens(self._habits.wants_two):
                volumes = tuple(self._random.sample(self._vids, 2))
        name = self._random.choice(("web", "db", "")) if self._happens(0.3) else ""
        return Errand(VmId(new_id(self._random)), 1, self._ask_for(), volumes, policy=self._policy(), name=name)

    def _ask_for(self) -> VmAsk:
        pci = (PciAsk("10de", "24b0", 1),) if self._happens(0.15) else ()
        return VmAsk(
            slots=self._random.choice((1, 1, 2)),
            smt=self._happens(0.5),
            overprovision=self._random.choice((1, 1, 1, 2)),
            archs=(Arch.X86_64,),
            flags=(),
            ram_mib=self._random.choice((256, 512, 1024)),
            ecc=False,
            pci=pci,
            firmware=Firmware.BIOS,
            allow_emulation=True,
            lease_s=self._random.choice((0, 0, 0, 0, 20, 60)),
        )

    def _policy(self) -> Policy:
        return self._random.choice((Policy.PACK, Policy.SPREAD))

    def _start_again(self, host: Host, vm: Vm, found: list[tuple[Host, Vm]]) -> None:
        newest = max(other.generation for _, other in found if other.vm_id == vm.vm_id)
        if newest != vm.generation:  # left behind when it moved
            self._act(host, lambda daemon, reply: daemon.remove(vm.vm_id, vm.generation, reply))
            return
        confirm, generation = vm.confirm, max(vm.generation, self._tried.get(vm.vm_id, 0)) + 1
        vids = tuple(Vid(claim.vid) for claim in confirm.volumes)
        errand = Errand(vm.vm_id, generation, confirm.vm, vids, policy=self._policy(), name=confirm.name)
        self._place(errand, host)

    # ---- placing

    def _place(self, errand: Errand, before: Host | None) -> None:
        placing = Placing(errand, random=self._random, prefer=before.host_id if before else None)
        self._placing, self._errand, self._before = placing, errand, before
        self._tried[errand.vm_id] = errand.generation
        if self._happens(self.faults.interrupt):
            self._in_a_while(placing, lambda: self._perform(placing, placing.interrupt(self._timeline.now_s)))
        if self._happens(self.faults.client_crash):
            self._in_a_while(placing, lambda: self._die(placing))
        if self._happens(self.faults.other_terminal):
            self._in_a_while(placing, lambda: self._remove_everywhere(errand.vm_id))
        self._perform(placing, placing.start(self._timeline.now_s, wall_ms=int(WALL_S * 1000)))

    def _in_a_while(self, placing: Placing, what: Callable[[], None]) -> None:
        scale_s = self._random.choice((0.02, 0.3, 3.0))
        self._timeline.after(self._random.uniform(0, scale_s), lambda: what() if self._placing is placing else None)

    def _die(self, placing: Placing) -> None:
        """The terminal is closed; what is on its way stays on its way."""
        self._timeline.note(f"{self.name} dies")
        self._placing = None
        self._think()

    def _perform(self, placing: Placing, effects: Effects) -> None:
        for effect in effects:
            if self._placing is not placing:
                return
            match effect:
                case SendPledge(pledge):
                    self._pledge(placing, pledge)
                case SendReveal(reveal):
                    self._reveal(reveal)
                case SendConfirm():
                    self._confirm(placing, effect)
                case SendAbandon():
                    self._abandon(placing, effect)
                case Finished(outcome):
                    self._finish(placing, outcome)
        self._wake(placing)

    def _wake(self, placing: Placing) -> None:
        due_s = placing.next_deadline_s() if self._placing is placing else None
        if due_s is not None and self._planned != (placing.phase, due_s):
            self._planned = (placing.phase, due_s)
            self._timeline.at(max(due_s, self._timeline.now_s), lambda: self._tick(placing, due_s))

    def _tick(self, placing: Placing, due_s: float) -> None:
        if self._placing is placing and placing.next_deadline_s() == due_s:  # else another wake-up is planned
            self._perform(placing, placing.tick(self._timeline.now_s))

    def _pledge(self, placing: Placing, pledge: Pledge) -> None:
        self._counts.pledges += 1
        self._pledged_s = self._timeline.now_s
        self._timeline.note(f"{self.name} pledge {pledge.pledge_id[:6]} for {pledge.vm_id[:6]}.{pledge.generation}")
        leaf = self.leaf
        for host in self._hosts.values():
            self._network.datagram(lambda host=host: self._arrive(placing, host, pledge, leaf), cut=host.is_cut)  # type: ignore[misc]

    def _arrive(self, placing: Placing, host: Host, pledge: Pledge, leaf: Leaf) -> None:
        def answered(replies: Sequence[Reply]) -> None:
            self._answered(placing, host, replies)

        host.timeline.do(lambda: host.daemon.pledge(pledge, leaf, answered) if host.daemon else None)
        if pledge.volumes and (storage := host.storage).vids:
            storage.process.do(lambda: self._answered(placing, host, storage.pledge(pledge, leaf)))

    def _answered(self, placing: Placing, host: Host, replies: Sequence[Reply]) -> None:
        for reply in replies:
            self._network.datagram(lambda reply=reply: self._hear(placing, host, reply), cut=host.is_cut)  # type: ignore[misc]

    def _hear(self, placing: Placing, host: Host, reply: Reply) -> None:
        if self._placing is not placing:
            return
        now_s = self._timeline.now_s
        match reply:
            case VmOffer():
                self._counts.offers += 1
                effects = placing.heard_vm(reply, host.host_id, host.name, now_s)
            case VolumeOffer():
                effects = placing.heard_volume(reply, host.host_id, host.storage.ip, now_s)
            case Unfit():
                effects = placing.heard_unfit(reply, host.host_id, now_s)
        self._perform(placing, effects)

    def _reveal(self, reveal: Reveal) -> None:
        for host in self._hosts.values():
            for when_s in self._network.arrivals_s(cut=host.is_cut):
                self._tell_of(host, reveal, when_s)

    def _tell_of(self, host: Host, reveal: Reveal, when_s: float) -> None:
        host.hears_reveal(reveal, when_s, self._errand.volumes if self._errand is not None else ())
        if not self._reads_lazily:
            self._timeline.at(when_s, host.reads)

    def _confirm(self, placing: Placing, send: SendConfirm) -> None:
        host, offer_id, leaf = self._hosts[send.host_id], OfferId(send.confirm.offer_id), self.leaf
        self._confirmed_at[send.host_id] = None
        if self._pledged_s is not None:
            self._counts.decided_s.append(self._timeline.now_s - self._pledged_s)
            self._pledged_s = None
        self._timeline.note(f"{self.name} confirm {offer_id[:6]} to {host.name}")

        def answered(answer: Committed | Refused) -> None:
            if isinstance(answer, Refused):
                self._counts.conflicts += 1
            said = answer.code if isinstance(answer, Refused) else "committed"
            self._timeline.note(f"{self.name} hears {offer_id[:6]}: {said}")
            self._tell(placing, lambda: placing.confirm_answered(offer_id, answer, self._timeline.now_s))

        def failed(sent: bool) -> None:
            self._timeline.note(f"{self.name} hears nothing of {offer_id[:6]}, sent: {sent}")
            self._tell(placing, lambda: placing.confirm_failed(offer_id, self._timeline.now_s, sent=sent))

        self._request(host, lambda daemon, reply: daemon.confirm(send.confirm, leaf, reply), answered, failed)

    def _abandon(self, placing: Placing, send: SendAbandon) -> None:
        host, offer_id, leaf = self._hosts[send.host_id], OfferId(send.abandon.offer_id), self.leaf
        self._timeline.note(f"{self.name} abandons {offer_id[:6]} at {host.name}")

        def answered(answer: Abandoned | Refused) -> None:
            self._timeline.note(f"{self.name} hears {offer_id[:6]}: {answer}")
            self._tell(placing, lambda: placing.abandon_answered(offer_id, answer, self._timeline.now_s))

        self._request(
            host, lambda daemon, reply: daemon.abandon(send.abandon, leaf, reply), answered, lambda sent: None
        )

    def _tell(self, placing: Placing, what: Callable[[], Effects]) -> None:
        if self._placing is placing:
            self._perform(placing, what())

    def _finish(self, placing: Placing, outcome: Outcome) -> None:
        errand = self._errand
        assert errand is not None
        self._timeline.note(f"{self.name} {errand.vm_id[:6]}.{errand.generation} {type(outcome).__name__}")
        self._placing = None
        self._counts.outcomes[type(outcome).__name__] += 1
        self._watcher.told(errand.vm_id, errand.generation, outcome)
        if isinstance(outcome, Placed | Unknown):
            self._kept[errand.vm_id] = errand
        if isinstance(outcome, Placed):
            self._counts.placements += 1
        if isinstance(outcome, Placed) and self._before and self._before.host_id != outcome.host_id:
            vm_id, older = errand.vm_id, errand.generation - 1  # it moved; the host that it left forgets it
            self._act(self._before, lambda daemon, reply: daemon.remove(vm_id, older, reply))
        else:
            self._think()

    # ---- the rest of life

    def _remove_everywhere(self, vm_id: VmId) -> None:
        self._timeline.note(f"{self.name} rm {vm_id[:6]} from another terminal")
        self._kept.pop(vm_id, None)
        self._watcher.told_again(vm_id)

        def arrive(daemon: Daemon, reply: Callable[[Vm | Refused | None], None]) -> None:
            daemon.remove(vm_id, None, reply)

        for host in self._worth_asking():
            self._ask(host, arrive, lambda _: None)

    def _act(self, host: Host, arrive: Callable[[Daemon, Callable[[Vm | Refused | None], None]], None]) -> None:
        """Mostly the person waits for it to be done; a script with `&` does not."""
        waits = self._happens(0.7)
        self._ask(host, arrive, lambda _: self._think() if waits else None, timeout_s=WAITS_S)
        if not waits:
            self._think()

    def _ask(
        self,
        host: Host,
        arrive: Callable[[Daemon, Callable[[Answer], None]], None],
        told: Callable[[Answer | None], None],
        timeout_s: float = 1.0,
    ) -> None:
        self._request(host, arrive, told, lambda sent: told(None), timeout_s)

    def _request(
        self,
        host: Host,
        arrive: Callable[[Daemon, Callable[[Answer], None]], None],
        answered: Callable[[Answer], None],
        failed: Callable[[bool], None],
        timeout_s: float = 1.0,
    ) -> None:
        def reach(reply: Callable[[Answer], None]) -> None:
            host.timeline.do(lambda: arrive(host.daemon, reply) if host.daemon else None)

        self._network.request(
            lambda: host.is_cut,
            lambda: host.daemon is not None,
            reach,
            answered=answered,
            failed=failed,
            timeout_s=timeout_s,
        )

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance
