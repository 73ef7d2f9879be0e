"""The compute host's decisions about VMs: confirms, commitments, starts and ends, as one synchronous object. Pure.

Events come in as method calls; what has to happen comes out as effects, to be performed in order. `Journal` always
stands before what it makes true, and where it fails, `rollback` takes the step back and the rest is dropped: nothing
is acknowledged, attached or started that a crash could forget (I6, I9). Slow work (storage, libvirt) comes back as
another event; until then its VM is busy and reconcile leaves it alone.

A refusal of a confirm is for good: the client goes to another host because of it, while copies of the confirm may
still be on their way here (I5). So the hold behind it is freed, and the answer is remembered.
A user who was revoked keeps what runs, and gets nothing new: no commitment, no start after the host's own reboot (I8).
The daemon and the simulator run this same object.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import assert_never

from atomd.capacity.hardware import Claim
from atomd.effects import (
    AttachVolumes,
    Changed,
    DetachVolumes,
    Durable,
    Effects,
    EraseState,
    Journal,
    JournalAbandoned,
    JournalForget,
    Quarantined,
    ReachVolumes,
    RebootDomain,
    ResumeDomain,
    StartDomain,
)
from atomd.vms import refusals as no
from atomd.vms.admission import Admission, standing
from atomd.vms.closed import Closed
from atomd.vms.ending import Ending
from atomd.vms.judging import Judging
from atomd.vms.lease import Lease
from atomd.vms.lifecycle import AT_REST, RUNS, State, Vm
from atomd.vms.moment import Moment
from atomd.vms.reconcile import Action, Observed, Step, reconcile
from atomd.vms.refusals import refused, silent, unattached
from atomd.vms.remembered import forgettable, remembered
from atomd.vms.table import VmTable
from atomd.volumes.answers import Answer, Silent, is_away, some_may_be_attached
from atomd.volumes.away import Away, why_lost
from atomd.volumes.owed import Owed
from atomd.volumes.plugging import Plugging
from matcher.offers.ledger import Ledger, Refusal, User
from matcher.offers.offering import Offering
from matcher.wire.messages import Abandon, Confirm, Refused
from matcher.wire.volumes import Attached
from specs.ids import HostId, OfferId, UserId, VmId

Looked = Mapping[VmId, Vm | None]  # every VM as it was before libvirt was asked; `None` for a busy one


class Compute:
    """All VMs of one host. `boot_id` is the kernel's; a VM that ran under another one is started again."""

    def __init__(
        self, *, host_id: HostId, boot_id: str, ledger: Ledger[Claim], offering: Offering[Claim], admission: Admission
    ) -> None:
        self._table = VmTable()
        self.vms = self._table.vms
        self.away = Away()
        self.drained = False  # takes no new VMs, not even for holds that it has given; what is here stays
        self._boot_id, self._ledger, self._admission = boot_id, ledger, admission
        self._closed = Closed()
        self._older: dict[VmId, Vm] = {}  # the stopped generation that a PREPARED one would replace
        self._ending = Ending(self._table, self.lease_of)
        self.stop, self.evict = self._ending.stop, self._ending.evict
        self.plugging = Plugging(self._table, self._closed, admission)
        self._resumed: dict[tuple[VmId, int], Lease] = {}  # leases that began before the host's own reboot
        self._waiting: dict[VmId, str] = {}  # why their start has to be tried again
        self._last_words: dict[VmId, tuple[bool, str]] = {}  # (crashed, why), from libvirt
        self._litter: dict[tuple[VmId, int], Vm] = {}  # rows that the journal could not forget, or should have
        self.owed = Owed()
        self._judging = Judging(
            host_id=host_id,
            table=self._table,
            older=self._older,
            closed=self._closed,
            owed=self.owed,
            ledger=ledger,
            offering=offering,
            admission=admission,
        )
        self.outcome = self._judging.outcome

    # ---- the journal

    def restore(self, vms: Collection[Vm], abandoned: Collection[OfferId], moment: Moment) -> None:
        """Take up where the last run ended; call it once, before anything else, then reconcile."""
        for offer_id in abandoned:
            self._closed.abandon(offer_id)
        for vm in vms:
            if vm.lease is not None:
                self._resumed[vm.vm_id, vm.generation] = vm.lease.resumed(self._boot_id, moment)
        kept = remembered(vms)
        self.vms.update(kept.vms)
        self._older.update(kept.older)
        self.owed.restore(vm for vm in kept.litter.values() if vm.claims)
        self._litter = {life: vm for life, vm in kept.litter.items() if not vm.claims}
        for vm in self.vms.values():
            if vm.state in RUNS:
                self._ledger.restore(vm.offer_id, vm.claim)
        for vm in self.vms.values():
            if vm.state is State.REMOVING:  # its domain may still be there
                self._ledger.readmit(vm.offer_id, vm.claim)

    def rollback(self, failed: Durable, why: str) -> tuple[Refused | None, Effects]:
        """The journal could not take `failed`: forget the step, and undo a confirm that was not promised yet. `None`
        where nobody needs to be told, since the next start or reconcile makes up for it."""
        refusal = refused("journal", "journal", "a durable note of this step", why, "free space on the host's disk")
        match failed:
            case JournalAbandoned(offer_id=offer_id):
                self._closed.not_abandoned(offer_id)
                return refusal, []
            case JournalForget(vm=vm):
                self._litter[vm.vm_id, vm.generation] = vm
                return None, [Changed(vm.vm_id)]
            case Journal(put=vm, before=before, replaces=older):
                self._table.busy.discard(vm.vm_id)
                self._ending.over(vm.vm_id)
                for kept in (older, self.owed.take_back(vm)):
                    if kept is not None:
                        self._older[kept.vm_id] = kept
                return refusal, self._step_back(vm, before, refusal)
        assert_never(failed)

    def _step_back(self, vm: Vm, before: Vm | None, refusal: Refused) -> Effects:
        if before is not None and before.state is not State.PREPARED:
            self.vms[vm.vm_id] = before
            self._closed.reopen(before.offer_id)  # it stands, as promised
            if before.state in RUNS:
                self._ledger.restore(before.offer_id, before.claim)
            return [Changed(vm.vm_id)]
        if before is not None and vm.claims:
            return self._undo(before, refusal)
        self._drop(vm, refusal)
        return [Changed(vm.vm_id)]

    # ---- from users

    def of_user(self, user_id: UserId) -> tuple[Vm, ...]:
        """The user's VMs, as far as they are promised; one that is being removed is there until it is gone."""
        own = (vm for vm in self.vms.values() if vm.user_id == user_id)
        return tuple(vm for vm in own if vm.state is not State.PREPARED)

    def ids_of(self, user_id: UserId) -> tuple[VmId, ...]:
        """All that the user has here, whatever its state: what grants count."""
        return tuple(vm.vm_id for vm in self.vms.values() if vm.user_id == user_id)

    def held_devices(self) -> frozenset[str]:
        """PCI addresses and USB ports of all VMs that have a domain, or may have one yet."""
        claims = [vm.claim for vm in self.vms.values() if vm.state not in AT_REST]
        return frozenset(address for claim in claims for address in (*claim.pci, *claim.usb))

    def up(self) -> tuple[Claim, ...]:
        """The claims of all VMs whose domain runs, as far as is known."""
        there = (State.RUNNING, State.STOPPING)
        return tuple(vm.claim for vm in self.vms.values() if vm.state in there and vm.boot_id == self._boot_id)

    def why(self, vm: Vm) -> str:
        """A sentence about what it does, or does not do, for a person; or empty."""
        return vm.why or (vm.state is State.COMMITTED and self._waiting.get(vm.vm_id)) or self.away.why(vm.vm_id)

    def lease_of(self, vm: Vm) -> Lease | None:
        return self._resumed.get((vm.vm_id, vm.generation), vm.lease)

    def confirm(self, confirm: Confirm, envelope: bytes, user: User, moment: Moment) -> Refused | Effects:
        """A user takes an offer of this host. Repeats change nothing: see `outcome`."""
        offer_id, user_id = OfferId(confirm.offer_id), UserId(user.id)
        known, taken = self.vms.get(VmId(confirm.vm_id)), self._judging.taken(offer_id)
        if taken is not None:
            if taken.confirm == confirm and taken.user_id == user_id:
                return []
            return refused("another-body", "confirm", "this offer", "taken with other words", "run it again")
        refusal = self._judging.objection(confirm, user, moment)
        if refusal is not None:
            return self._judging.refuse(offer_id, user_id, refusal, moment.now_s)
        claim = self._ledger.commit(offer_id, user, moment.now_s)
        if isinstance(claim, Refusal):
            assert claim is Refusal.OVER_GRANT, "the objection has looked for the hold"
            return self._judging.refuse(offer_id, user_id, no.OVER_GRANT, moment.now_s)
        lease = self._admission.lease(confirm, user, self._boot_id, moment)
        vm = Vm(confirm, envelope, user_id, user.name, State.PREPARED, claim, lease=lease)
        if known is not None:
            self._older[known.vm_id] = known
        self.vms[vm.vm_id] = vm
        self._table.busy.add(vm.vm_id)
        return [Journal(vm), AttachVolumes(vm)] if confirm.volumes else self._commit(vm, Attached(()))

    def abandon(self, abandon: Abandon, user_id: UserId, now_s: float) -> tuple[Vm | None, Effects]:
        """The user lets go of an offer: the VM where it is promised already, and stays; else it never will be."""
        offer_id = OfferId(abandon.offer_id)
        vm = self.vms.get(VmId(abandon.vm_id))
        mine = vm if vm is not None and vm.user_id == user_id else None
        if mine is not None:
            undone = self._closed.is_refused(mine.offer_id)
            if (stands := standing(mine, self._older.get(mine.vm_id), abandon, undone=undone)) is not None:
                return stands, []
        hold = self._ledger.held(offer_id, now_s)
        if hold is not None and hold.user_id != user_id:
            return None, []
        if hold is not None:
            self._ledger.release(offer_id)
        self._closed.abandon(offer_id)
        if mine is not None and mine.offer_id == offer_id and mine.state is State.PREPARED:
            self._closed.refuse(offer_id, no.ABANDONED)
            if mine.vm_id in self._table.busy:  # else it was restored, and reconcile undoes it
                self.vms[mine.vm_id] = mine.to(State.REMOVING)
        return None, [JournalAbandoned(offer_id), Changed(VmId(abandon.vm_id))]

    def reboot(self, vm: Vm) -> Refused | Effects:
        if vm.state is not State.RUNNING or vm.vm_id in self._table.busy:
            return self._table.not_now(vm, "reboot")
        return [RebootDomain(vm)]

    def remove(self, vm: Vm) -> Refused | Effects:
        """End the VM and forget it; its volumes are free for others, and keep what was written."""
        if vm.state is State.REMOVING:
            return []
        if vm.state is State.PREPARED or (vm.vm_id in self._table.busy and not self._table.is_libvirts(vm)):
            return self._table.not_now(vm, "rm")
        if vm.claims and self.owed.is_full:
            return no.owes_too_much("to let go of its volumes")
        return self._remove(vm)

    # ---- from slow work

    def attached(self, vm_id: VmId, generation: int, answer: Answer) -> Effects:
        """Storage has spoken, or not."""
        vm = self._table.at(vm_id, generation)
        if vm is None or vm.state not in (State.PREPARED, State.RUNNING, State.REMOVING):
            return []
        self._table.busy.discard(vm_id)
        if vm.state is State.REMOVING:  # abandoned meanwhile
            return self._detach(vm)
        if (closed := self._admission.against_attached(vm)) is not None:
            return (
                self._undo(vm, closed) if vm.state is State.PREPARED else self._end(vm, State.STOPPED, no.WHY_REVOKED)
            )
        if isinstance(answer, Attached):
            return self._commit(vm, answer)
        if vm.state is State.RUNNING:  # coming back after the host's reboot; storage may not be up yet
            return self._end(vm, State.STOPPED, unattached(answer)) if isinstance(answer, Refused) else []
        refusal = silent(answer) if isinstance(answer, Silent) else answer
        if some_may_be_attached(vm.claims, answer):
            return self._undo(vm, refusal)
        self._drop(vm, refusal)
        return [JournalForget(vm), Changed(vm_id)]

    def reached(self, asked: Vm, answer: Answer, now_s: float) -> Effects:
        """Storage has spoken, or not, about a VM that is up and has its volumes already; see `atomd.volumes.away`.
        `asked` is the VM as it was then: one that has got or lost a volume since is not judged by that."""
        vm_id, vm = asked.vm_id, self._table.at(asked.vm_id, asked.generation)
        if vm is None or vm.state not in (State.RUNNING, State.STOPPING) or vm_id in self._table.busy or vm.is_cut:
            self.away.forget(vm_id)
            return []
        if vm.standing.words != asked.standing.words:
            self.away.forget(vm_id)  # and asked anew
            return []
        self.away.answered(vm_id, answer, now_s)
        if (lost := why_lost(vm.standing, answer)) is not None:
            return self._ending.end_anyway(vm, dataclasses.replace(vm, why=lost, is_cut=True), now_s, force=True)
        resumes = isinstance(answer, Attached) and self.away.is_stalled(vm_id)
        return [ResumeDomain(vm)] if resumes else [Changed(vm_id)]

    def started(self, vm_id: VmId, generation: int, failure: str | None) -> Effects:
        """libvirt has started the domain, or has said no in so many words."""
        vm = self._table.at(vm_id, generation)
        if vm is not None and vm.state is State.REMOVING:  # meanwhile
            return [self._ending.destroy(vm)]
        if vm is None or vm.state is not State.COMMITTED:
            return []
        self._table.busy.discard(vm_id)
        self._waiting.pop(vm_id, None)
        return self._end(vm, State.FAILED, failure) if failure is not None else self._run(vm)

    def start_unknown(self, vm_id: VmId, why: str) -> None:
        """Somebody did not say, or not yet: the domain may come yet. Reconcile looks for it by its UUID."""
        self._table.busy.discard(vm_id)
        if vm_id in self.vms:
            self._waiting[vm_id] = why

    def destroyed(self, vm_id: VmId, generation: int, *, done: bool) -> Effects:
        """libvirt has ended the domain, or knows of none (`done`); else reconcile looks what became of it."""
        vm = self._table.at(vm_id, generation)
        if vm is None:
            return []
        self._table.busy.discard(vm_id)
        if not done:
            return []
        if vm.state is State.REMOVING:
            return self._detach(vm)
        return self._end(vm, vm.ends_as, vm.ends_because) if vm.state in (State.RUNNING, State.STOPPING) else []

    def ended(self, vm_id: VmId, *, crashed: bool, why: str) -> None:
        """libvirt says that a domain has ended; it does not say of which generation, and may say it late. So these
        are words for a person, and reconcile, which has to follow, sees for itself."""
        if vm_id in self.vms:
            self._last_words[vm_id] = (crashed, why)

    def detached(self, vm_id: VmId, generation: int, *, done: bool) -> Effects:
        """Storage has let go (`done`); or the VM is gone without it, and it is told until it hears."""
        if (owed := self.owed.told((vm_id, generation), done=done)) is not None:
            return [JournalForget(owed)]
        vm = self._table.at(vm_id, generation)
        if vm is None or vm.state is not State.REMOVING:
            return []
        self._table.busy.discard(vm_id)
        self._drop(vm, no.REMOVED)
        if done:
            return [JournalForget(vm), Changed(vm_id)]
        self.owed.add(vm)
        return [Changed(vm_id)]

    def erased(self, vm_id: VmId, generation: int, *, done: bool) -> Effects:
        """libvirt keeps nothing of the VM any more (`done`); else reconcile has it asked again."""
        vm = self._table.at(vm_id, generation)
        if vm is None or vm.state is not State.REMOVING:
            return []
        self._table.busy.discard(vm_id)
        return self._let_go(vm) if done else []

    def tick(self, now_s: float) -> list[Effects]:
        """Power buttons pressed again, leases ended, storage hosts told again; a list for each VM, as the journal may
        fail one of them."""
        for offer_id, hold in self._ledger.holds(now_s).items():
            if not self._admission.is_member(hold.user_id):
                self._ledger.release(offer_id)
        idle = [vm for vm in self.vms.values() if vm.vm_id not in self._table.busy]
        owed: list[Effects] = [[DetachVolumes(vm)] for vm in self.owed.due(now_s)]
        return owed + [effects for vm in idle if (effects := self._ending.due(vm, now_s))]

    def look(self) -> Looked:
        """To be taken before libvirt is asked for its domains: what changes until it has answered is not judged by
        that answer."""
        return {vm_id: None if vm_id in self._table.busy else vm for vm_id, vm in self.vms.items()}

    def reconcile(self, observed: Collection[Observed], looked: Looked, now_s: float) -> list[Effects]:
        """Bring journal and libvirt together; see `atomd.vms.reconcile`. One list for each VM, as for `tick`."""
        changed = {vm_id for vm_id, vm in looked.items() if vm is None or self.vms.get(vm_id) is not vm}
        busy = self._table.busy | changed | (self.vms.keys() - looked.keys())
        steps = reconcile(self.vms.values(), observed, boot_id=self._boot_id, busy=busy)
        up = {(domain.vm_id, domain.generation) for domain in observed}
        self.away.seen({vm_id for vm_id, _ in up}, {domain.vm_id for domain in observed if domain.stalled})
        tidied: list[Effects] = [[JournalForget(vm)] for vm in forgettable(self.vms, self._older, self._litter)]
        done = tidied + [self._step(step, up, now_s) for step in steps]
        idle = [vm for vm in self.vms.values() if vm.vm_id not in busy | self._table.busy]
        return done + [self.plugging.resolve(vm, up=(vm.vm_id, vm.generation) in up) for vm in idle if vm.change]

    # ---- inside

    def _commit(self, vm: Vm, attached: Attached) -> Effects:
        """The commit point: durable first, then told, then started."""
        lease, volumes = self.lease_of(vm), attached.volumes
        change = vm.change if vm.standing is not vm else None  # a new domain was asked to let go of nothing
        committed = dataclasses.replace(
            vm.to(State.COMMITTED), volumes=volumes, boot_id=self._boot_id, lease=lease, change=change
        )
        self.vms[vm.vm_id] = committed
        self._table.busy.add(vm.vm_id)
        older = self._older.pop(vm.vm_id, None)
        if older is None or {claim.vid for claim in older.claims} <= {claim.vid for claim in committed.claims}:
            return [Journal(committed, before=vm, replaces=older), Changed(vm.vm_id), StartDomain(committed)]
        # What the stopped life had more is let go of, however long that takes.
        self.owed.add(older, is_being_told=True)
        return [Journal(committed, before=vm), Changed(vm.vm_id), StartDomain(committed), DetachVolumes(older)]

    def _run(self, vm: Vm) -> Effects:
        self._waiting.pop(vm.vm_id, None)
        self._last_words.pop(vm.vm_id, None)
        running = dataclasses.replace(vm.to(State.RUNNING), boot_id=self._boot_id)
        self.vms[vm.vm_id] = running
        return [Journal(running, before=vm), Changed(vm.vm_id)]

    def _end(self, vm: Vm, state: State, why: str) -> Effects:
        """Name and volumes stay (but for those of a VM that was cut from them), compute is free again."""
        self._ending.over(vm.vm_id)
        self._ledger.release(vm.offer_id)
        ended = self._enter(vm, state, why)
        return [ended, Changed(vm.vm_id), *([DetachVolumes(ended.put)] if vm.is_cut else [])]

    def _undo(self, vm: Vm, refusal: Refused) -> Effects:
        """PREPARED was never promised: it goes without a note, since a crash on the way ends the same."""
        self._closed.refuse(vm.offer_id, refusal)
        undone = vm.to(State.REMOVING)
        self.vms[vm.vm_id] = undone
        return [Changed(vm.vm_id), *self._detach(undone)]

    def _remove(self, vm: Vm) -> Effects:
        removing = self._enter(vm, State.REMOVING)
        self._ending.over(vm.vm_id)
        if vm.vm_id in self._table.busy:  # what libvirt does with it comes back, and then it goes
            return [removing, Changed(vm.vm_id)]
        return (
            [removing, self._ending.destroy(removing.put)]
            if vm.state in RUNS
            else [removing, *self._detach(removing.put)]
        )

    def _detach(self, vm: Vm) -> Effects:
        """Compute is free at once: a storage host that is gone keeps its volumes, and nothing else."""
        self._ledger.release(vm.offer_id)
        if vm.may_keep_state:
            self._table.busy.add(vm.vm_id)
            return [EraseState(vm)]
        return self._let_go(vm)

    def _let_go(self, vm: Vm) -> Effects:
        if vm.claims:
            self._table.busy.add(vm.vm_id)
            return [DetachVolumes(vm)]
        self._drop(vm, no.REMOVED)
        return [JournalForget(vm), Changed(vm.vm_id)]

    def _enter(self, vm: Vm, state: State, why: str = "") -> Journal:
        self.vms[vm.vm_id] = vm.to(state, why)
        return Journal(self.vms[vm.vm_id], before=vm)

    def _step(self, step: Step, up: Collection[tuple[VmId, int]], now_s: float) -> Effects:
        vm = self.vms.get(step.vm_id)
        if vm is None or step.action is Action.QUARANTINE:
            return [Quarantined(step.vm_id)]
        match step.action:
            case Action.UNDO:
                return self._undo(vm, self._closed.refusal(vm.offer_id) or no.UNDONE)
            case Action.START | Action.RESTART:
                return self._bring_up(vm, step.action, now_s, is_up=(vm.vm_id, vm.generation) in up)
            case Action.RUNS:
                return self._run(vm)
            case Action.WATCH if vm.is_cut:  # it could not be destroyed
                return [self._ending.destroy(vm)]
            case Action.WATCH:
                is_due = self.away.is_due(vm.vm_id, now_s, is_away=is_away(vm.volumes))
                return [ReachVolumes(vm)] if is_due else []
            case Action.ENDED:
                return self._has_ended(vm)
            case Action.REMOVE:
                return [self._ending.destroy(vm)] if (vm.vm_id, vm.generation) in up else self._detach(vm)
        assert_never(step.action)

    def _has_ended(self, vm: Vm) -> Effects:
        if vm.state is State.STOPPING:
            return self._end(vm, vm.ends_as, vm.ends_because)
        crashed, why = self._last_words.get(vm.vm_id, (False, "it ended while atomd was not watching"))
        return self._end(vm, State.FAILED if crashed else State.STOPPED, why)

    def _bring_up(self, vm: Vm, action: Action, now_s: float, *, is_up: bool) -> Effects:
        has_rebooted = vm.boot_id != self._boot_id and not is_up  # else it was found fit to start in this boot
        if has_rebooted and (why := self._admission.kept_down(vm, self.lease_of(vm), now_s)):
            return self._end(vm, State.STOPPED, why)
        if action is Action.RESTART and not vm.claims:
            return self._commit(vm, Attached(()))
        self._table.busy.add(vm.vm_id)
        return [StartDomain(vm)] if action is Action.START else [AttachVolumes(vm)]

    def _drop(self, vm: Vm, refusal: Refused) -> None:
        """Out of memory and ledger; an older stopped generation takes its place again. `refusal` is what a copy of its
        confirm is told from now on, unless that was settled before."""
        self._ledger.release(vm.offer_id)
        self._ending.over(vm.vm_id)
        self._waiting.pop(vm.vm_id, None)
        self._last_words.pop(vm.vm_id, None)
        older = self._older.pop(vm.vm_id, None)
        if older is None:
            self.vms.pop(vm.vm_id, None)
        else:
            self.vms[vm.vm_id] = older
        self._closed.settle(vm.offer_id, refusal)
