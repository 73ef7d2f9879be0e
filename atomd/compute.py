"""The compute host's decisions about VMs: confirms, commitments, starts and ends, as one synchronous object. Pure.

Events come in as method calls; what has to happen comes out as effects, to be performed in order. `Journal` always
stands before what it makes true, and where it fails, `rollback` takes the step back and the rest is dropped: nothing
is acknowledged, attached or started that a crash could forget (I6, I9). Slow work (storage, libvirt) comes back as
another event; until then its VM is busy and reconcile leaves it alone.
The daemon and the simulator run this same object.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import assert_never

from atomd.hardware import Claim
from atomd.lifecycle import PROMISED, TAKES_COMPUTE, State, Vm
from atomd.reconcile import Action, Observed, Step, reconcile
from matcher.offers.ledger import Ledger, Refusal
from matcher.offers.offering import Offering
from matcher.wire.messages import Abandon, Attached, Confirm, Reason, Refused
from specs.ids import HostId, OfferId, UserId, VmId

STOP_S = 60.0  # how long a guest may take to obey the power button
PRESS_AGAIN_S = 5.0  # a guest that is just booting does not hear the first press
REFUSALS_MAX = 1024  # remembered, so that a repeated confirm gets the answer that the first one got
ABANDONED_MAX = 4096  # an abandoned offer's hold is freed at once, so that forgetting the oldest is harmless


@dataclass(frozen=True, slots=True)
class Journal:
    """Make `put` durable, or forget it; `before` is what memory held until now, for `rollback`."""

    put: Vm
    before: Vm | None = None
    replaces: Vm | None = None  # an older generation, forgotten in the same transaction


@dataclass(frozen=True, slots=True)
class JournalForget:
    vm: Vm


@dataclass(frozen=True, slots=True)
class JournalAbandoned:
    offer_id: OfferId


@dataclass(frozen=True, slots=True)
class AttachVolumes:
    vm: Vm


@dataclass(frozen=True, slots=True)
class DetachVolumes:
    vm: Vm


@dataclass(frozen=True, slots=True)
class StartDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class ShutDownDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class RebootDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class DestroyDomain:
    vm: Vm


@dataclass(frozen=True, slots=True)
class Changed:
    """Whoever waits for this VM should look again."""

    vm_id: VmId


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A domain of ours that no commitment explains: say so, touch nothing."""

    vm_id: VmId


Effect = (
    Journal
    | JournalForget
    | JournalAbandoned
    | AttachVolumes
    | DetachVolumes
    | StartDomain
    | ShutDownDomain
    | RebootDomain
    | DestroyDomain
    | Changed
    | Quarantined
)
Effects = list[Effect]


def refused(code: str, resource: str, asked: str, has: str, hint: str) -> Refused:
    return Refused(code, (Reason(resource[:80], asked[:120], has[:120], hint[:160]),))


class Compute:
    """All VMs of one host. `boot_id` is the kernel's; a VM that ran under another one is started again."""

    def __init__(self, *, host_id: HostId, boot_id: str, ledger: Ledger[Claim], offering: Offering[Claim]) -> None:
        self.vms: dict[VmId, Vm] = {}
        self._host_id, self._boot_id = host_id, boot_id
        self._ledger, self._offering = ledger, offering
        self._older: dict[VmId, Vm] = {}  # the stopped generation that a PREPARED one would replace
        self._busy: set[VmId] = set()
        self._stop_by_s: dict[VmId, float] = {}
        self._press_at_s: dict[VmId, float] = {}
        self._abandoned: dict[OfferId, None] = {}  # in the order of arrival
        self._refusals: dict[OfferId, Refused] = {}

    # ---- the journal

    def restore(self, vms: Collection[Vm], abandoned: Collection[OfferId]) -> None:
        """Take up where the last run ended; call it once, before anything else, then reconcile."""
        self._abandoned.update(dict.fromkeys(abandoned))
        for vm in sorted(vms, key=lambda vm: vm.generation):
            if vm.vm_id in self.vms:
                self._older[vm.vm_id] = self.vms[vm.vm_id]
            self.vms[vm.vm_id] = vm
            if vm.state in TAKES_COMPUTE:
                self._ledger.restore(vm.offer_id, vm.claim)

    def rollback(self, failed: Journal, why: str) -> tuple[Refused, Effects]:
        """The journal could not take `failed`: forget the step, and undo a confirm that was not promised yet."""
        refusal = refused("journal", "journal", "a durable note of this step", why, "free space on the host's disk")
        vm, before = failed.put, failed.before
        self._busy.discard(vm.vm_id)
        if before is not None and before.state is not State.PREPARED:
            self.vms[vm.vm_id] = before
            return refusal, [Changed(vm.vm_id)]
        self._drop(vm, refusal)
        undo: Effects = [DetachVolumes(vm)] if vm.confirm.volumes and before is not None else []
        return refusal, [Changed(vm.vm_id), *undo]

    # ---- from users

    def of_user(self, user_id: UserId) -> tuple[Vm, ...]:
        """The user's VMs, as far as they are promised; one that is being removed is there until it is gone."""
        own = (vm for vm in self.vms.values() if vm.user_id == user_id)
        return tuple(vm for vm in own if vm.state is not State.PREPARED)

    def confirm(
        self, confirm: Confirm, envelope: bytes, user_id: UserId, user_name: str, now_s: float
    ) -> Refused | Effects:
        """A user takes an offer of this host. Repeats change nothing: see `outcome`."""
        offer_id = OfferId(confirm.offer_id)
        known = self.vms.get(VmId(confirm.vm_id))
        if known is not None and known.offer_id == offer_id:
            if known.confirm == confirm and known.user_id == user_id:
                return []
            return refused("another-body", "confirm", "this offer", "taken with other words", "run it again")
        refusal = self._refusals.get(offer_id) or self._objection(confirm, user_id, now_s)
        if refusal is not None:
            return refusal
        claim = self._ledger.commit(offer_id, now_s)
        assert not isinstance(claim, Refusal), "the objection has looked for the hold"
        vm = Vm(confirm, envelope, user_id, user_name, State.PREPARED, claim)
        if known is not None:
            self._older[vm.vm_id] = known
        self.vms[vm.vm_id] = vm
        self._busy.add(vm.vm_id)
        return [Journal(vm), AttachVolumes(vm)] if confirm.volumes else self._commit(vm, Attached(()))

    def outcome(self, offer_id: OfferId) -> Vm | Refused | None:
        """What became of a confirm: the VM once it is promised, the refusal, or `None` while it is being decided."""
        promised = (vm for vm in self.vms.values() if vm.offer_id == offer_id and vm.state in PROMISED)
        return self._refusals.get(offer_id) or next(promised, None)

    def abandon(self, abandon: Abandon, user_id: UserId, now_s: float) -> tuple[Vm | None, Effects]:
        """The user lets go of an offer: the VM where it is promised already, and stays; else it never will be."""
        offer_id = OfferId(abandon.offer_id)
        vm = self.vms.get(VmId(abandon.vm_id))
        taken = vm is not None and vm.offer_id == offer_id and vm.user_id == user_id
        if vm is not None and taken and vm.state in PROMISED:
            return vm, []
        hold = self._ledger.held(offer_id, now_s)
        if hold is not None and hold.user_id != user_id:
            return None, []
        if hold is not None:
            self._ledger.release(offer_id)
        while len(self._abandoned) >= ABANDONED_MAX:
            del self._abandoned[next(iter(self._abandoned))]
        self._abandoned[offer_id] = None
        effects: Effects = [JournalAbandoned(offer_id)]
        if vm is not None and taken and vm.state is State.PREPARED:
            self._remember(offer_id, refused("abandoned", "offer", "this offer", "you abandoned it", "run it again"))
            effects += self._remove(vm)
        return None, effects

    def stop(self, vm: Vm, now_s: float, *, force: bool) -> Refused | Effects:
        """Press the power button, or pull the plug. Nothing where the VM is stopped already."""
        if vm.state in (State.STOPPED, State.FAILED):
            return []
        if vm.vm_id in self._busy or vm.state not in (State.RUNNING, State.STOPPING):
            return self._not_now(vm, "stop")
        if vm.state is State.STOPPING:
            return [DestroyDomain(vm)] if force else []
        stopping = self._enter(vm, State.STOPPING)
        self._stop_by_s[vm.vm_id] = now_s + STOP_S
        self._press_at_s[vm.vm_id] = now_s + PRESS_AGAIN_S
        return [stopping, DestroyDomain(vm) if force else ShutDownDomain(vm), Changed(vm.vm_id)]

    def reboot(self, vm: Vm) -> Refused | Effects:
        if vm.state is not State.RUNNING or vm.vm_id in self._busy:
            return self._not_now(vm, "reboot")
        return [RebootDomain(vm)]

    def remove(self, vm: Vm) -> Refused | Effects:
        """End the VM and forget it; its volumes are free for others, and keep what was written."""
        if vm.state is State.REMOVING:
            return []
        if vm.vm_id in self._busy or vm.state is State.PREPARED:
            return self._not_now(vm, "rm")
        return self._remove(vm)

    # ---- from slow work

    def attached(self, vm_id: VmId, generation: int, answer: Attached | Refused | None) -> Effects:
        """Storage has spoken; `None`: it could not be asked, or did not say, so that a detach has to follow."""
        vm = self._at(vm_id, generation)
        if vm is None or vm.state not in (State.PREPARED, State.RUNNING):
            return []
        self._busy.discard(vm_id)
        if isinstance(answer, Attached):
            return self._commit(vm, answer)
        if vm.state is State.RUNNING:  # coming back after the host's reboot
            return self._end(vm, State.STOPPED, "its volumes could not be attached after the host started")
        if isinstance(answer, Refused):
            self._drop(vm, answer)
            return [JournalForget(vm), Changed(vm_id)]
        silent = refused("storage", "volumes", "the volumes attached", "storaged does not answer", "ask its sysadmin")
        self._remember(vm.offer_id, silent)
        return self._remove(vm)

    def started(self, vm_id: VmId, generation: int, failure: str | None) -> Effects:
        """libvirt has started the domain, or has said no in so many words."""
        vm = self._at(vm_id, generation)
        if vm is None or vm.state is not State.COMMITTED:
            return []
        self._busy.discard(vm_id)
        if failure is not None:
            return self._end(vm, State.FAILED, failure)
        return self._run(vm)

    def start_unknown(self, vm_id: VmId) -> None:
        """libvirt did not say: the domain may come yet. Reconcile looks for it by its UUID."""
        self._busy.discard(vm_id)

    def gone(self, vm_id: VmId, generation: int, *, crashed: bool, why: str) -> Effects:
        """The domain has ended, by its guest, by a sysadmin, or by our own doing."""
        vm = self._at(vm_id, generation)
        if vm is None or vm_id in self._busy:
            return []
        if vm.state is State.REMOVING:
            return self._detach(vm)
        if vm.state not in (State.RUNNING, State.STOPPING):
            return []
        asked = vm.state is State.STOPPING
        return self._end(vm, State.FAILED if crashed and not asked else State.STOPPED, "" if asked else why)

    def detached(self, vm_id: VmId, generation: int, *, done: bool) -> Effects:
        """Storage has let go (`done`), or will be asked again by reconcile."""
        vm = self._at(vm_id, generation)
        self._busy.discard(vm_id)
        if vm is None or not done or vm.state is not State.REMOVING:
            return []
        self._drop(vm, None)
        return [JournalForget(vm), Changed(vm_id)]

    def tick(self, now_s: float) -> Effects:
        """The power button is pressed again now and then; a guest that ignores it for `STOP_S` goes on running."""
        effects: Effects = []
        for vm in [vm for vm in self.vms.values() if vm.state is State.STOPPING and vm.vm_id in self._stop_by_s]:
            if self._stop_by_s[vm.vm_id] <= now_s:
                self._stop_by_s.pop(vm.vm_id)
                ignored = f"the guest ignored the power button for {STOP_S:.0f} s"
                effects += [self._enter(vm, State.RUNNING, ignored), Changed(vm.vm_id)]
            elif self._press_at_s[vm.vm_id] <= now_s:
                self._press_at_s[vm.vm_id] = now_s + PRESS_AGAIN_S
                effects.append(ShutDownDomain(vm))
        return effects

    def reconcile(self, observed: Collection[Observed]) -> Effects:
        """Bring journal and libvirt together; see `atomd.reconcile`."""
        steps = reconcile(self.vms.values(), observed, boot_id=self._boot_id, busy=self._busy)
        up = {domain.vm_id for domain in observed}
        return [effect for step in steps for effect in self._step(step, is_up=step.vm_id in up)]

    # ---- inside

    def _objection(self, confirm: Confirm, user_id: UserId, now_s: float) -> Refused | None:
        offer_id, vm = OfferId(confirm.offer_id), self.vms.get(VmId(confirm.vm_id))
        if confirm.host_id != self._host_id:
            return refused("wrong-host", "confirm", "another host", "this is not it", "send it to the host it names")
        if offer_id in self._abandoned:
            return refused("abandoned", "offer", "this offer", "you abandoned it", "run it again")
        hold = self._ledger.held(offer_id, now_s)
        if hold is None or hold.user_id != user_id:
            return refused(Refusal.HOLD_LAPSED, "offer", "this offer", "it has lapsed", "run it again")
        pledge = self._offering.pledged(hold.pledge_id, user_id)
        asked = (confirm.pledge_id, confirm.vm, confirm.vm_id, confirm.generation)
        if pledge is None or asked != (hold.pledge_id, pledge.vm, pledge.vm_id, pledge.generation):
            return refused("not-as-pledged", "confirm", "what was pledged", "something else", "run it again")
        if vm is not None:
            return self._generation_objection(vm, confirm, user_id)
        namesake = (v for v in self.vms.values() if v.user_id == user_id and v.confirm.name == confirm.name)
        if confirm.name and next(namesake, None) is not None:
            hint = "choose another name, or remove that one: electros rm"
            return refused("name-taken", "name", confirm.name, "you have a VM of that name here", hint)
        return None

    def _generation_objection(self, vm: Vm, confirm: Confirm, user_id: UserId) -> Refused | None:
        if vm.user_id != user_id:
            return refused("not-found", "vm", "this VM", "not yours", "electros ps shows yours")
        if confirm.generation <= vm.generation:
            has = f"generation {vm.generation} is here"
            return refused("old-generation", "vm", f"generation {confirm.generation}", has, "electros ps")
        if vm.state not in (State.STOPPED, State.FAILED) or vm.vm_id in self._busy:
            return refused("running", "vm", "a new start", f"it is {vm.state} here", "electros stop it first")
        return None

    def _commit(self, vm: Vm, attached: Attached) -> Effects:
        """The commit point: durable first, then told, then started."""
        committed = dataclasses.replace(vm.to(State.COMMITTED), volumes=attached.volumes)
        self.vms[vm.vm_id] = committed
        self._busy.add(vm.vm_id)
        older = self._older.pop(vm.vm_id, None)
        return [Journal(committed, before=vm, replaces=older), Changed(vm.vm_id), StartDomain(committed)]

    def _run(self, vm: Vm) -> Effects:
        running = dataclasses.replace(vm.to(State.RUNNING), boot_id=self._boot_id)
        self.vms[vm.vm_id] = running
        return [Journal(running, before=vm), Changed(vm.vm_id)]

    def _end(self, vm: Vm, state: State, why: str) -> Effects:
        """Name and volumes stay, compute is free again."""
        self._stop_by_s.pop(vm.vm_id, None)
        self._ledger.release(vm.offer_id)
        return [self._enter(vm, state, why), Changed(vm.vm_id)]

    def _remove(self, vm: Vm) -> Effects:
        had_domain = vm.state in (State.COMMITTED, State.RUNNING, State.STOPPING)
        removing = self._enter(vm, State.REMOVING)
        self._stop_by_s.pop(vm.vm_id, None)
        return [removing, DestroyDomain(removing.put)] if had_domain else [removing, *self._detach(removing.put)]

    def _detach(self, vm: Vm) -> Effects:
        if vm.confirm.volumes:
            self._busy.add(vm.vm_id)
            return [DetachVolumes(vm)]
        self._drop(vm, None)
        return [JournalForget(vm), Changed(vm.vm_id)]

    def _enter(self, vm: Vm, state: State, why: str = "") -> Journal:
        self.vms[vm.vm_id] = vm.to(state, why)
        return Journal(self.vms[vm.vm_id], before=vm)

    def _step(self, step: Step, *, is_up: bool) -> Effects:
        vm = self.vms.get(step.vm_id)
        if vm is None or step.action is Action.QUARANTINE:
            return [Quarantined(step.vm_id)]
        match step.action:
            case Action.UNDO:
                return self._remove(vm)
            case Action.START:
                self._busy.add(vm.vm_id)
                return [StartDomain(vm)]
            case Action.RESTART:
                if not vm.confirm.volumes:
                    return self._commit(vm, Attached(()))
                self._busy.add(vm.vm_id)
                return [AttachVolumes(vm)]
            case Action.RUNS:
                return self._run(vm)
            case Action.ENDED:
                why = "" if vm.state is State.STOPPING else "it ended while atomd was not watching"
                return self._end(vm, State.STOPPED, why)
            case Action.REMOVE:
                return [DestroyDomain(vm)] if is_up else self._detach(vm)
        assert_never(step.action)

    def _at(self, vm_id: VmId, generation: int) -> Vm | None:
        vm = self.vms.get(vm_id)
        return vm if vm is not None and vm.generation == generation else None

    def _drop(self, vm: Vm, refusal: Refused | None) -> None:
        """Out of memory and ledger; an older stopped generation takes its place again."""
        self._ledger.release(vm.offer_id)
        older = self._older.pop(vm.vm_id, None)
        if older is None:
            self.vms.pop(vm.vm_id, None)
        else:
            self.vms[vm.vm_id] = older
        if refusal is not None:
            self._remember(vm.offer_id, refusal)

    def _remember(self, offer_id: OfferId, refusal: Refused) -> None:
        while len(self._refusals) >= REFUSALS_MAX:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[offer_id] = refusal

    def _not_now(self, vm: Vm, verb: str) -> Refused:
        busy = "busy" if vm.vm_id in self._busy else vm.state
        return refused("not-now", "vm", verb, f"it is {busy}", "electros ps shows what it is doing")
