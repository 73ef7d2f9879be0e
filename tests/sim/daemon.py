"""One run of atomd: the real objects, on virtual time.

`Daemon` stands in for `atomd.performing` and `atomd.service`, event for event: effects are performed in order, and a
crash can come before any of them, or before any answer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from atomd import effects as wanted
from atomd.answering import Proposer
from atomd.capacity.hardware import Claim
from atomd.capacity.placement import admits
from atomd.capacity.quota import Quota
from atomd.compute import Compute, Looked
from atomd.effects import Effects
from atomd.performing import RECONCILE_S, RETRY_S
from atomd.service import DECIDED_S, ENDED_S
from atomd.vms.admission import Admission
from atomd.vms.lifecycle import State, Vm
from atomd.vms.reconcile import Observed
from matcher.offers.ledger import Ledger
from matcher.offers.offering import Offering
from matcher.scheduler.outcomes import Abandoned, Committed
from matcher.wire.messages import (
    Abandon,
    Confirm,
    Pledge,
    Reason,
    Refused,
    Reveal,
    Role,
    Unfit,
    VmOffer,
    VolumeOffer,
)
from specs.ids import OfferId, VmId
from tests.sim.opening import Opening
from tests.sim.realm import Leaf
from tests.sim.slow import Said
from tests.sim.upkeep import Upkeep

if TYPE_CHECKING:
    from tests.sim.host import Host

TICK_S = 1.0
DENIED = Refused("denied", (Reason("certificate", "one that is good", "it is not, by this host's clock", "wait"),))

Answer = VmOffer | VolumeOffer | Unfit
Found = TypeVar("Found")
Reply = Callable[[Found], None]


class DiskFull(Exception):
    """The step did not happen."""


class Daemon:
    """One run of atomd."""

    def __init__(self, host: "Host") -> None:
        self.host = host
        self.is_alive = True
        self.upkeep = Upkeep(
            host, others=host.hosts, network=host.network, later=self._later, may_crash=self._may_crash
        )
        kinds = {device.address: (device.vendor, device.model) for device in host.hardware.pci}
        quota = Quota(host=host.name, kinds=kinds, vms=lambda user_id: self.compute.ids_of(user_id))
        admission = Admission(quota, is_member=partial(self.upkeep.identity.verifier.is_member, "user"))
        self.ledger = Ledger[Claim](lambda residents, claim: admits(host.hardware, residents, claim), quota.allows)
        down = lambda: "libvirtd is down" if host.libvirt.is_down else None  # noqa: E731
        proposer = Proposer(host.face, down, admission, lambda: 0, lambda: host.storage.shown)
        self.offering = Offering(
            host=host.name, role=Role.COMPUTE, proposer=proposer, ledger=self.ledger, random=host.random
        )
        self.offering.hosts_known = host.hosts_known
        self._asked: dict[str, tuple[Pledge, Leaf, Reply[Sequence[Answer]]]] = {}  # what is answered later
        self._answers_s = float("inf")  # when the next of them is planned for
        boot_id = f"{host.name} {host.boots}"
        self.compute = Compute(
            host_id=host.host_id, boot_id=boot_id, ledger=self.ledger, offering=self.offering, admission=admission
        )
        self.held_until_s: dict[OfferId, float] = {}  # as the offers said
        self._waiting: list[Callable[[], bool]] = []
        self._looking = self._look_again = False
        self._opening = Opening(self, host)

    def begin(self) -> None:
        self.host.timeline.note(f"{self.host.name} atomd starts")
        self.compute.restore(list(self.host.disk.rows.values()), list(self.host.disk.abandoned), self.host.moment())
        self._reconcile_regularly()
        self._tick()

    # ---- datagrams

    def pledge(self, pledge: Pledge, leaf: Leaf, reply: Reply[Sequence[Answer]]) -> None:
        """As `matcher.net.intake` and `matcher.net.peer` do it: now, or when its time has come."""
        if not self.host.trusts(leaf):
            return
        now_s = self.host.timeline.now_s
        replies = self.offering.hear(pledge, leaf.principal, now_s)
        if replies is not None:
            self._offers(pledge, replies, reply)
        elif pledge.pledge_id not in self._asked:
            self._asked[pledge.pledge_id] = pledge, leaf, reply
            self._plan_answers()

    def _plan_answers(self) -> None:
        due_s = self.offering.next_deadline_s()
        if due_s is not None and due_s < self._answers_s:
            self._answers_s = due_s
            self._later(due_s - self.host.timeline.now_s, self._answer_due)

    def _answer_due(self) -> None:
        now_s, self._answers_s = self.host.timeline.now_s, float("inf")
        for pledge_id in self.offering.due(now_s):
            pledge, leaf, reply = self._asked.pop(pledge_id)
            self._offers(pledge, self.offering.pledge(pledge, leaf.principal, now_s), reply)
        self._plan_answers()

    def _offers(self, pledge: Pledge, answers: Sequence[Answer], reply: Reply[Sequence[Answer]]) -> None:
        now_s = self.host.timeline.now_s
        for answer in answers:
            if isinstance(answer, VmOffer) and not pledge.dry:
                self.held_until_s.setdefault(OfferId(answer.offer_id), now_s + pledge.hold_ms / 1000)
        reply(answers)

    def reveal(self, reveal: Reveal) -> None:
        self.offering.reveal(reveal, self.host.timeline.now_s)

    # ---- the front door

    def confirm(self, confirm: Confirm, leaf: Leaf, reply: Reply[Committed | Refused]) -> None:
        if not self.host.trusts(leaf):
            self._answer(reply, DENIED)
            return
        if all(row.offer_id != confirm.offer_id for row in self.host.disk.rows.values()):  # else it is a repeat
            self.host.shown[OfferId(confirm.offer_id)] = leaf
        decided = self.compute.confirm(confirm, b"", leaf.principal, self.host.moment())
        refusal = decided if isinstance(decided, Refused) else self.apply(decided)
        if refusal is not None:
            self._answer(reply, refusal)
            return

        def told(outcome: Vm | Refused) -> None:
            if isinstance(outcome, Vm):
                self.host.watcher.acknowledged(self.host, outcome)
            self._answer(reply, outcome if isinstance(outcome, Refused) else Committed())

        self._until(lambda: self.compute.outcome(OfferId(confirm.offer_id)), told, DECIDED_S)

    def abandon(self, abandon: Abandon, leaf: Leaf, reply: Reply[Abandoned | Refused]) -> None:
        if not self.host.trusts(leaf):
            self._answer(reply, DENIED)
            return
        vm, effects = self.compute.abandon(abandon, leaf.user_id, self.host.timeline.now_s)
        refusal = self.apply(effects)
        self._answer(reply, refusal or Abandoned(vm is not None))

    def vms(self, leaf: Leaf, reply: Reply[list[Vm]]) -> None:
        self._answer(reply, list(self.compute.of_user(leaf.user_id)) if self.host.trusts(leaf) else [])

    def stop(self, vm_id: VmId, reply: Reply[Vm | Refused | None], *, force: bool) -> None:
        self._act(vm_id, reply, State.STOPPING, lambda vm: self.compute.stop(vm, self.host.timeline.now_s, force=force))

    def remove(self, vm_id: VmId, generation: int | None, reply: Reply[Vm | Refused | None]) -> None:
        def remove(vm: Vm) -> Refused | Effects:
            decided = self.compute.remove(vm)
            if not isinstance(decided, Refused):
                self.host.watcher.removed(self.host, vm)
            return decided

        vm = self.compute.vms.get(vm_id)
        if vm is not None and generation is not None and vm.generation != generation:
            self._answer(reply, None)
        else:
            self._act(vm_id, reply, State.REMOVING, remove)

    def _act(
        self,
        vm_id: VmId,
        reply: Reply[Vm | Refused | None],
        passing: State,
        decide: Callable[[Vm], Refused | Effects],
    ) -> None:
        vm = self.compute.vms.get(vm_id)
        if vm is None or vm.state is State.PREPARED:
            self._answer(reply, None)
            return
        decided = decide(vm)
        refusal = decided if isinstance(decided, Refused) else self.apply(decided)
        if refusal is not None:
            self._answer(reply, refusal)
            return

        def passed() -> bool | None:
            now = self.compute.vms.get(vm_id)
            return True if now is None or now.state is not passing else None

        self._until(passed, lambda _: self._answer(reply, self.compute.vms.get(vm_id)), ENDED_S)

    # ---- effects

    def apply(self, effects: Effects) -> Refused | None:
        for position, effect in enumerate(effects):
            self._may_crash()
            try:
                self._perform(effect)
            except DiskFull:
                failed = effects[position]
                assert isinstance(failed, wanted.Durable)
                refusal, undo = self.compute.rollback(failed, "the disk is full")
                self.apply(undo)
                return refusal
        return None

    def _perform(self, effect: wanted.Effect) -> None:
        match effect:
            case wanted.Journal() | wanted.JournalForget() | wanted.JournalAbandoned():
                self._write(effect)
            case wanted.Changed():
                self._waiting = [wait for wait in self._waiting if not wait()]
            case wanted.Quarantined():
                pass
            case _:
                self._work(effect)

    def _write(self, step: wanted.Durable) -> None:
        disk = self.host.disk
        if isinstance(step, wanted.JournalForget):
            disk.doomed.add((step.vm.vm_id, step.vm.generation))
        if disk.is_full:
            raise DiskFull
        match step:
            case wanted.Journal(put=vm, replaces=older):
                self.note(vm, vm.state)
                self.host.watcher.writes(self.host, vm)
                disk.rows[vm.vm_id, vm.generation] = vm
                disk.doomed.discard((vm.vm_id, vm.generation))
                if older is not None:
                    disk.rows.pop((older.vm_id, older.generation), None)
                self.host.watcher.wrote(self.host, vm)
            case wanted.JournalForget(vm=vm):
                self.note(vm, "forgotten")
                disk.rows.pop((vm.vm_id, vm.generation), None)
            case wanted.JournalAbandoned(offer_id=offer_id):
                disk.abandoned[offer_id] = None

    def _work(self, effect: wanted.Effect) -> None:
        libvirt = self.host.libvirt
        match effect:
            case wanted.AttachVolumes(vm=vm):
                self._opening.attach(vm)
            case wanted.DetachVolumes(vm=vm):
                self._opening.detach(vm)
            case wanted.EraseState():
                raise AssertionError("VMs of the simulator boot by BIOS")
            case wanted.ReachVolumes(vm=vm):
                self._opening.reach(vm)
            case wanted.StartDomain(vm=vm):
                self._opening.start(vm)
            case wanted.DestroyDomain(vm=vm):
                libvirt.destroy(vm.vm_id, self.mine(partial(self._destroyed, vm)))
            case wanted.ShutDownDomain(vm=vm):
                libvirt.shut_down(vm.vm_id, self.mine(self._pressed))
            case wanted.ResumeDomain(vm=vm):
                libvirt.resume(vm.vm_id, self.mine(self._resumed))

    def _destroyed(self, vm: Vm, said: Said) -> None:
        done = said in (Said.DONE, Said.NONE_THERE)
        self.apply(self.compute.destroyed(vm.vm_id, vm.generation, done=done))
        if not done:
            self.soon()

    def _pressed(self, said: Said) -> None:
        if said is not Said.DONE:
            self.soon()

    def _resumed(self, said: Said) -> None:
        self._pressed(said)
        self._reconcile()

    # ---- libvirt's words, and time

    def hear(self, vm_id: VmId, *, crashed: bool) -> None:
        self.compute.ended(vm_id, crashed=crashed, why="it ended on its host")
        self._reconcile()
        self.soon()

    def soon(self) -> None:
        self._later(RETRY_S, self._reconcile)

    def _reconcile_regularly(self) -> None:
        self._reconcile()
        self._later(RECONCILE_S, self._reconcile_regularly)

    def _reconcile(self) -> None:
        """One look at a time; who asks meanwhile gets another one after it."""
        self._look_again = self._looking
        if not self._looking:
            self._looking = True
            self.host.libvirt.list_all(self.mine(partial(self._observed, self.compute.look())))

    def _observed(self, looked: Looked, observed: tuple[Observed, ...] | None) -> None:
        self._looking = False
        if observed is not None:
            for effects in self.compute.reconcile(observed, looked, self.host.timeline.now_s):
                self.apply(effects)
        if self._look_again:
            self._reconcile()

    def _tick(self) -> None:
        self._later(TICK_S, self._tick)
        for effects in self.compute.tick(self.host.timeline.now_s):
            self.apply(effects)
        self.upkeep.work()

    # ---- inside

    def _until(self, look: Callable[[], object], told: Callable[[Any], None], timeout_s: float) -> None:
        """`told` hears what `look` finds, once something has changed; nobody hears anything after `timeout_s`."""
        until_s = self.host.timeline.now_s + timeout_s

        def is_over() -> bool:
            if self.host.timeline.now_s > until_s:
                return True
            found = look()
            if found is not None:
                told(found)
            return found is not None

        if not is_over():
            self._waiting.append(is_over)

    def _answer(self, reply: Reply[Found], answer: Found) -> None:
        self._may_crash()
        reply(answer)

    def _may_crash(self) -> None:
        if self.host.happens(self.host.faults.crash):
            self.host.dies()

    def mine(self, told: Callable[[Found], None]) -> Callable[[Found], None]:
        """What comes back to a dead daemon is heard by nobody."""
        return lambda answer: self.host.timeline.do(lambda: told(answer) if self.is_alive else None)

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        self.host.timeline.after(delay_s, lambda: what() if self.is_alive else None)

    def note(self, vm: Vm, said: str) -> None:
        self.host.timeline.note(f"{self.host.name} {vm.vm_id[:6]}.{vm.generation} {vm.offer_id[:6]} {said}")
