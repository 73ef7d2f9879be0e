"""In whatever order users, storage, libvirt, full disks and crashes come: what a host has said, it keeps.

One host, the real `Compute`; a disk that may fail at any write, a daemon that may die before any effect, and slow work
that is answered, refused, or never answered.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atomd import effects as wanted
from atomd.compute import Looked
from atomd.effects import Effect
from atomd.vms.lifecycle import PROMISED, RUNS, Stage, State, Vm
from atomd.vms.reconcile import Observed
from atomd.volumes.answers import Answer, Silent
from matcher.trust.realm import EVERYTHING
from matcher.wire.messages import Confirm, ConfirmVolume, Reason, Refused
from specs.ids import HostId, OfferId, UserId, VmId
from tests.fakes.one_host import ANN, BOB, DATA, VID, Crashed, OneHost, attached_for

IN_USE = Refused("volume-in-use", (Reason("volume", "it", "taken", "wait"),))
OVER = Refused("generation-over", (Reason("volume", "it", "generation 9 has it", "electros ps"),))
BUSY = Refused("unavailable", ())
VOLUMES = st.sampled_from([(), (VID,), (DATA,), (VID, DATA)])  # `DATA` is another host's
USERS = st.sampled_from([ANN, ANN, BOB])
IS_KEPT = PROMISED
NOT_ABOUT_THE_OFFER = ("another-body",)  # somebody else's words; the offer itself stands
SETTLED = (State.RUNNING, State.STOPPED, State.FAILED)
ROUNDS_MAX = 30
LATER = st.sampled_from(["1" * 32, "2" * 32])
LATER_WORK: dict[type[Effect], tuple[str, str]] = {
    wanted.AttachVolume: ("attach_one", "attached"),
    wanted.PlugVolume: ("plug_one", "there"),
    wanted.UnplugVolume: ("unplug_one", "obeys"),
    wanted.DetachVolume: ("detach_one", "done"),
}


class HostRules(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.host = OneHost(seed)
        self.confirms: list[tuple[Confirm, UserId]] = []
        self.acknowledged: dict[OfferId, Confirm] = {}
        self.refused: set[OfferId] = set()
        self.attached: dict[VmId, int] = {}  # as storage has it: the generation
        self.lost: set[tuple[VmId, int]] = set()  # lives whose volumes others have by now
        self.given: set[tuple[VmId, int, str]] = set()  # volumes that came later, as storage has them
        self.words: list[tuple[ConfirmVolume, UserId]] = []
        self.looks: list[tuple[Looked, list[Observed]]] = []
        self.host.servers[DATA] = self.host.servers["2" * 32] = HostId("9" * 64)

    @contextlib.contextmanager
    def crashing(self) -> Iterator[None]:
        try:
            yield
        except Crashed:
            self.host.crash()
            self.looks.clear()

    # ---- users

    @rule(user=USERS, volumes=VOLUMES, name=st.sampled_from(["", "web"]), late=st.booleans())
    def run(self, user: UserId, volumes: tuple[str, ...], name: str, late: bool) -> None:
        self._offer(self.host.pledge(volumes=volumes), user, name, late)

    @rule(volumes=VOLUMES, then=st.sampled_from(["", "stop", "force", "rm", "lose", "lose"]))
    def run_on_a_good_day(self, volumes: tuple[str, ...], then: str) -> None:
        """A VM that is up, or stopping, or stopped: a random walk alone gets there seldom."""
        self.run(ANN, volumes, "", late=False)
        self.carry_on()
        if then and self.host.compute.vms:
            vm = next(reversed(self.host.compute.vms.values()))
            with self.crashing():
                if then == "lose":
                    self._lose_all()
                elif then != "rm":
                    self.host.do(self.host.compute.stop(vm, self.host.now_s, force=then == "force"))
                elif not isinstance(decided := self.host.compute.remove(vm), Refused):
                    self._forget(vm)
                    self.host.do(decided)

    @rule()
    def carry_on(self) -> None:
        """All slow work succeeds."""
        self._answer_all()

    @precondition(lambda self: self.confirms)
    @rule(data=st.data(), user=USERS, more=st.integers(0, 2))
    def start_again(self, data: st.DataObject, user: UserId, more: int) -> None:
        """The next generation; or the same, or another user's."""
        confirm, _ = data.draw(st.sampled_from(self.confirms))
        volumes = [claim.vid for claim in confirm.volumes]
        pledge = self.host.pledge(vm_id=confirm.vm_id, generation=confirm.generation + more, volumes=volumes)
        self._offer(pledge, user, confirm.name, late=False)

    def _offer(self, pledge: object, user: UserId, name: str, late: bool) -> None:
        replies = self.host.offering.pledge(pledge, self.host.who(user), self.host.now_s)  # type: ignore[arg-type]
        offers = [reply for reply in replies if hasattr(reply, "offer_id")]
        if not offers:
            return
        confirm = self.host.confirm_of(pledge, offers[0].offer_id, name)  # type: ignore[arg-type]
        self.confirms.append((confirm, user))
        if not late:
            self._confirm(confirm, user)

    @precondition(lambda self: self.confirms)
    @rule(data=st.data())
    def confirm_now_or_again(self, data: st.DataObject) -> None:
        self._confirm(*data.draw(st.sampled_from(self.confirms)))

    def _confirm(self, confirm: Confirm, user: UserId) -> None:
        before, ids = self._slots(user), self.host.compute.ids_of(user)
        with self.crashing():
            self._heard(confirm, self.host.confirm(confirm, user))
        self._judge_growth(user, before, ids)

    def _slots(self, user: UserId) -> int:
        return sum(len(claim.threads) for claim in self.host.ledger.committed() if claim.user_id == user)

    def _judge_growth(self, user: UserId, slots: int, ids: tuple[VmId, ...]) -> None:
        """What a confirm has added, by the grant as it is now."""
        grant, now_ids = self.host.who(user).grant, self.host.compute.ids_of(user)
        if self._slots(user) > slots:
            assert user not in self.host.revoked, "I8"
            assert grant.slots is None or self._slots(user) <= grant.slots, "I12"
        if len(now_ids) > len(ids):
            assert grant.vms is None or len(now_ids) <= grant.vms, "I12"

    @rule(user=USERS, slots=st.sampled_from([None, None, 0, 1, 2]), vms=st.sampled_from([None, None, 0, 1, 3]))
    def change_grant(self, user: UserId, slots: int | None, vms: int | None) -> None:
        self.host.grants[user] = replace(EVERYTHING, slots=slots, vms=vms)

    @rule(chance=st.integers(0, 9))
    def revoke(self, chance: int) -> None:
        if chance == 9:
            self.host.revoked.add(BOB)

    @precondition(lambda self: self.confirms)
    @rule(data=st.data())
    def ask_what_became_of_it(self, data: st.DataObject) -> None:
        confirm, _ = data.draw(st.sampled_from(self.confirms))
        self._heard(confirm, self.host.compute.outcome(OfferId(confirm.offer_id)))

    def _heard(self, confirm: Confirm, answer: Vm | Refused | None) -> None:
        if isinstance(answer, Vm):
            self.acknowledged[OfferId(confirm.offer_id)] = confirm
        elif answer is not None and answer.code not in NOT_ABOUT_THE_OFFER:
            self.refused.add(OfferId(confirm.offer_id))

    @precondition(lambda self: self.confirms)
    @rule(data=st.data(), user=st.booleans())
    def abandon(self, data: st.DataObject, user: bool) -> None:
        confirm, whose = data.draw(st.sampled_from(self.confirms))
        who = whose if user else BOB
        with self.crashing():
            if self.host.abandon(confirm, who) is None and who == whose:
                self.refused.add(OfferId(confirm.offer_id))

    @precondition(lambda self: self.host.compute.vms)
    @rule(data=st.data(), what=st.sampled_from(["stop", "force", "reboot", "rm"]))
    def act(self, data: st.DataObject, what: str) -> None:
        vm = data.draw(st.sampled_from(sorted(self.host.compute.vms.values(), key=lambda vm: vm.vm_id)))
        with self.crashing():
            if what == "rm":
                decided = self.host.compute.remove(vm)
                if not isinstance(decided, Refused):
                    self._forget(vm)
            elif what == "reboot":
                decided = self.host.compute.reboot(vm)
            else:
                decided = self.host.compute.stop(vm, self.host.now_s, force=what == "force")
            self.host.do(decided)

    def _forget(self, vm: Vm) -> None:
        """Removed by its user: nothing is owed any more, for this generation and those before."""
        for offer_id, confirm in list(self.acknowledged.items()):
            if confirm.vm_id == vm.vm_id and confirm.generation <= vm.generation:
                del self.acknowledged[offer_id]

    def _is_lost(self, life: tuple[VmId, int]) -> bool:
        """But for a volume that it is giving back: it writes that one no more, and may go on without it."""
        row = self.host.rows.get(life)
        return life in self.lost and row is not None and any(v.iscsi for v in row.standing.volumes)

    # ---- slow work

    def _waits(self, kind: type[Effect]) -> bool:
        return any(isinstance(effect, kind) for effect in self.host.slow)

    @precondition(lambda self: self._waits(wanted.AttachVolumes))
    @rule(answer=st.sampled_from(["attached", "attached", "refused", "silent", "silent but attached"]))
    def attach(self, answer: str) -> None:
        vm = next(effect.vm for effect in self.host.slow if isinstance(effect, wanted.AttachVolumes))
        if (vm.vm_id, vm.generation) in self.lost:
            answer = "refused"
        if "attached" in answer:
            if vm.confirm.volumes:  # what came later is in `given`
                self.attached[vm.vm_id] = vm.generation
            self.given = {has for has in self.given if has[0] != vm.vm_id or has[1] >= vm.generation}
        with self.crashing():
            self.host.attach(IN_USE if answer == "refused" else None, silent="silent" in answer)
        now = self.host.compute.vms.get(vm.vm_id)
        was_bobs = vm.user_id == BOB and BOB in self.host.revoked
        assert not (was_bobs and now is not None and now.state is State.COMMITTED), "I8"

    @precondition(lambda self: self._waits(wanted.DetachVolumes))
    @rule(answer=st.sampled_from(["done", "silent", "silent but done"]))
    def detach(self, answer: str) -> None:
        vm = next(effect.vm for effect in self.host.slow if isinstance(effect, wanted.DetachVolumes))
        if "done" in answer and self.attached.get(vm.vm_id, vm.generation + 1) <= vm.generation:
            del self.attached[vm.vm_id]
        if "done" in answer:
            self.given = {has for has in self.given if has[0] != vm.vm_id or has[1] > vm.generation}
        with self.crashing():
            self.host.detach(done=answer == "done")

    @precondition(lambda self: self._waits(wanted.StartDomain))
    @rule(answer=st.sampled_from(["up", "up", "failed", "unknown", "unknown but up", "crash but up"]))
    def start(self, answer: str) -> None:
        vm = self.host.take(wanted.StartDomain)
        if (vm.vm_id, vm.generation) in self.lost:  # storage refuses, or the login fails
            answer = "failed"
        if vm.vm_id in self.host.up:
            answer = "up" if answer == "failed" else answer  # "it exists already"
        if "up" in answer and vm.vm_id not in self.host.up:
            self.host.boot(vm)
            self.host.stalled.discard(vm.vm_id)
        with self.crashing():
            if answer == "crash but up":
                raise Crashed
            if "unknown" in answer:
                self.host.compute.start_unknown(vm.vm_id, "libvirt does not answer")
            else:
                failure = "no such machine" if answer == "failed" else None
                self.host.apply(self.host.compute.started(vm.vm_id, vm.generation, failure))

    @precondition(lambda self: self._waits(wanted.DestroyDomain))
    @rule(answer=st.sampled_from(["done", "unknown", "unknown but done"]))
    def destroy(self, answer: str) -> None:
        vm = next(effect.vm for effect in self.host.slow if isinstance(effect, wanted.DestroyDomain))
        if "done" in answer:
            self.host.up.pop(vm.vm_id, None)
        with self.crashing():
            self.host.destroy(done=answer == "done")

    # ---- volumes that come and go

    @precondition(lambda self: self.host.compute.vms)
    @rule(data=st.data(), vid=LATER, user=USERS)
    def attach_later(self, data: st.DataObject, vid: str, user: UserId) -> None:
        vm = data.draw(st.sampled_from(sorted(self.host.compute.vms.values(), key=lambda vm: vm.vm_id)))
        words = self.host.confirm_volume(vm.confirm, vid)
        self.words.append((words, user))
        with self.crashing():
            self.host.plug(words, user)

    @precondition(lambda self: self.words)
    @rule(data=st.data())
    def attach_again(self, data: st.DataObject) -> None:
        """The same words, whatever became of them."""
        words, user = data.draw(st.sampled_from(self.words))
        with self.crashing():
            self.host.plug(words, user)

    @precondition(lambda self: self.host.compute.vms)
    @rule(data=st.data(), vid=st.one_of(LATER, st.sampled_from([VID, DATA])))
    def detach_early(self, data: st.DataObject, vid: str) -> None:
        vm = data.draw(st.sampled_from(sorted(self.host.compute.vms.values(), key=lambda vm: vm.vm_id)))
        with self.crashing():
            self.host.unplug(vm.confirm, vid)

    @rule(vid=LATER, steps=st.integers(0, 5), then=st.booleans(), rest=st.booleans())
    def one_more_on_a_good_day(self, vid: str, steps: int, then: bool, rest: bool) -> None:
        """Some steps of the way, with a volume that is there or is not any more."""
        self.run_on_a_good_day((VID,), "force" if rest else "")
        self.carry_on()
        vms = [vm for vm in self.host.compute.vms.values() if vm.state in (State.RUNNING, State.STOPPED)]
        if not vms:
            return
        with self.crashing():
            self.host.plug(self.host.confirm_volume(vms[-1].confirm, vid))
            if then:
                self._answer_all()
                self.host.unplug(vms[-1].confirm, vid)
        for _ in range(steps):
            for kind, answer in LATER_WORK.items():
                if self._waits(kind):
                    getattr(self, answer[0])(answer[1])
                    break

    @precondition(lambda self: self._waits(wanted.AttachVolume))
    @rule(answer=st.sampled_from(["attached", "attached", "refused", "silent", "silent but attached", "unasked"]))
    def attach_one(self, answer: str) -> None:
        effect = next(effect for effect in self.host.slow if isinstance(effect, wanted.AttachVolume))
        if "attached" in answer:
            self.given.add((effect.vm.vm_id, effect.vm.generation, effect.vid))
        said: dict[str, Answer] = {"refused": IN_USE, "unasked": Silent("h2 can't be reached", asked=False)}
        with self.crashing():
            self.host.attach_one(Silent("h2 is silent") if "silent" in answer else said.get(answer))

    @precondition(lambda self: self._waits(wanted.PlugVolume))
    @rule(answer=st.sampled_from(["there", "there", "failed", "unknown", "unknown but there", "crash but there"]))
    def plug_one(self, answer: str) -> None:
        vm, vid = self.host.take_one(wanted.PlugVolume)
        plugging = self.host.compute.plugging
        is_up = self.host.up.get(vm.vm_id) == vm.generation
        if "there" in answer and is_up:
            self.host.disks[vm.vm_id].add(vid)
        with self.crashing():
            if answer == "crash but there":
                raise Crashed
            if "unknown" in answer:
                self.host.apply(plugging.unplugged(vm.vm_id, vm.generation, vid, gone=None))
            else:
                failure = None if answer == "there" and is_up else "no free slot"
                self.host.apply(plugging.plugged(vm.vm_id, vm.generation, vid, failure))

    @precondition(lambda self: self._waits(wanted.UnplugVolume))
    @rule(answer=st.sampled_from(["obeys", "obeys", "deaf", "unknown", "unknown but obeys"]))
    def unplug_one(self, answer: str) -> None:
        effect = next(effect for effect in self.host.slow if isinstance(effect, wanted.UnplugVolume))
        vm, vid = effect.vm, effect.vid
        self.host.deaf = {vm.vm_id} if answer == "deaf" else set()
        with self.crashing():
            if "unknown" not in answer:
                self.host.unplug_one()
                return
            self.host.take_one(wanted.UnplugVolume)
            if "obeys" in answer and effect.asks:
                self.host.disks.get(vm.vm_id, set()).discard(vid)
            self.host.apply(self.host.compute.plugging.unplugged(vm.vm_id, vm.generation, vid, gone=None))

    @precondition(lambda self: self.host.up)
    @rule(data=st.data())
    def a_guest_lets_go_late(self, data: st.DataObject) -> None:
        """Whatever it was asked for, whenever."""
        self._let_go(data.draw(st.sampled_from(sorted(self.host.up))))

    def _let_go(self, vm_id: VmId) -> None:
        row = self.host.rows.get((vm_id, self.host.up[vm_id]))
        if row is not None and row.change is not None and row.change.stage is not Stage.ATTACHING:
            self.host.disks[vm_id].discard(row.change.vid)

    @precondition(lambda self: self._waits(wanted.DetachVolume))
    @rule(answer=st.sampled_from(["done", "done", "silent", "silent but done"]))
    def detach_one(self, answer: str) -> None:
        effect = next(effect for effect in self.host.slow if isinstance(effect, wanted.DetachVolume))
        life = effect.vm.vm_id, effect.vm.generation
        assert self.host.up.get(life[0]) != life[1] or effect.vid not in self.host.disks[life[0]], "I3: it writes still"
        if "done" in answer:
            self.given.discard((*life, effect.vid))
        with self.crashing():
            self.host.detach_one(done=answer == "done")

    @precondition(lambda self: self.host.up)
    @rule(data=st.data(), lost=st.booleans())
    def a_volume_fails(self, data: st.DataObject, lost: bool) -> None:
        """Its server is gone for a while, or another VM has it now."""
        life = data.draw(st.sampled_from(sorted(self.host.up.items())))
        if any(volume.iscsi for volume in self.host.rows[life].volumes):
            self.host.stalled.add(life[0])
            if lost:
                self.lost.add(life)

    def _lose_all(self) -> None:
        """Without a word of QEMU's."""
        self.lost |= {life for life in self.host.up.items() if any(v.iscsi for v in self.host.rows[life].volumes)}

    @precondition(lambda self: self._waits(wanted.ReachVolumes))
    @rule(answer=st.sampled_from(["as before", "silent", "not now"]))
    def reach(self, answer: str) -> None:
        vm = self.host.take(wanted.ReachVolumes)
        said: Answer = {"as before": attached_for(vm), "silent": Silent("h2 is silent"), "not now": BUSY}[answer]
        if self._is_lost((vm.vm_id, vm.generation)):
            said = OVER
        with self.crashing():
            self.host.apply(self.host.compute.reached(vm, said, self.host.now_s))

    @precondition(lambda self: self._waits(wanted.ResumeDomain))
    @rule()
    def resume(self) -> None:
        vm = self.host.take(wanted.ResumeDomain)
        assert not self._is_lost((vm.vm_id, vm.generation)) or vm.vm_id not in self.host.stalled, "I3"
        self.host.stalled.discard(vm.vm_id)

    @precondition(lambda self: self.host.up)
    @rule(data=st.data(), crashed=st.booleans(), told=st.booleans())
    def domain_ends(self, data: st.DataObject, crashed: bool, told: bool) -> None:
        vm_id = data.draw(st.sampled_from(sorted(self.host.up)))
        del self.host.up[vm_id]
        if told:
            self.host.compute.ended(vm_id, crashed=crashed, why="it ended")

    @precondition(lambda self: self.host.compute.vms)
    @rule(data=st.data())
    def late_word(self, data: st.DataObject) -> None:
        """An event about an earlier life of a VM."""
        vm_id = data.draw(st.sampled_from(sorted(self.host.compute.vms)))
        self.host.compute.ended(vm_id, crashed=True, why="long ago")

    # ---- time, looks, and faults

    @rule()
    def reconcile(self) -> None:
        self.look()
        self.judge()

    @rule()
    def look(self) -> None:
        observed = [
            Observed(vm_id, generation, vm_id in self.host.stalled) for vm_id, generation in self.host.up.items()
        ]
        self.looks.append((self.host.compute.look(), observed))

    @precondition(lambda self: self.looks)
    @rule()
    def judge(self) -> None:
        looked, observed = self.looks.pop()
        with self.crashing():
            for effects in self.host.compute.reconcile(observed, looked, self.host.now_s):
                self.host.apply(effects)

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.host.now_s += seconds
        with self.crashing():
            self.host.tick()

    @rule(chance=st.integers(0, 4))
    def disk(self, chance: int) -> None:
        """Full, now and then, for a while."""
        self.host.is_full = chance == 4

    @rule(writes=st.integers(0, 7))
    def fail_a_write(self, writes: int) -> None:
        self.host.fails_in = writes

    @rule(effects=st.integers(0, 12))
    def crash_soon(self, effects: int) -> None:
        self.host.crashes_in = effects

    @rule(chance=st.integers(0, 5))
    def crash(self, chance: int) -> None:
        if chance > 3:
            self.host.crash(reboot=chance == 5)
            self.looks.clear()

    # ---- what must always hold

    @invariant()
    def no_thread_is_promised_or_used_twice(self) -> None:
        if not hasattr(self, "host"):
            return
        promised = [thread for claim in self.host.ledger.promised(self.host.now_s) for thread in claim.threads]
        assert len(promised) == len(set(promised)), "I1"
        rows = [self.host.rows[life] for life in self.host.up.items() if life in self.host.rows]
        used = [thread for row in rows for thread in row.claim.threads]
        assert len(used) == len(set(used)), "I1"

    @invariant()
    def nothing_runs_without_a_synced_commitment(self) -> None:
        for life in self.host.up.items() if hasattr(self, "host") else ():
            row = self.host.rows.get(life)
            assert row is not None, "I6"
            assert row.state in (*RUNS, State.REMOVING), "I6"

    @invariant()
    def what_was_acknowledged_is_on_the_disk(self) -> None:
        if not hasattr(self, "host"):
            return
        newest = dict(sorted(self.host.rows))
        for confirm in self.acknowledged.values():
            row = self.host.rows.get((VmId(confirm.vm_id), confirm.generation))
            replaced = newest.get(VmId(confirm.vm_id), 0) > confirm.generation
            assert replaced or (row is not None and row.state in IS_KEPT), "I9"

    @invariant()
    def the_journal_knows_of_every_volume_that_storage_or_a_domain_has(self) -> None:
        if not hasattr(self, "host"):
            return
        for vm_id, generation, vid in self.given:
            row = self.host.rows.get((vm_id, generation))
            later = any(life[0] == vm_id and life[1] > generation for life in self.host.rows)
            assert later or (row is not None and vid in [claim.vid for claim in row.claims]), "I10"
        for vm_id, generation in self.host.up.items():
            row = self.host.rows.get((vm_id, generation))
            known = {claim.vid for claim in row.claims} if row is not None else set()
            assert self.host.disks[vm_id] <= known, "I6"

    @invariant()
    def what_was_refused_is_never_promised(self) -> None:
        if not hasattr(self, "host"):
            return
        for row in self.host.rows.values():
            if row.offer_id in self.refused and row.offer_id not in self.acknowledged:
                assert row.state not in IS_KEPT, "I5: its client has gone to another host"

    @invariant()
    def memory_says_what_the_disk_says_of_a_promise(self) -> None:
        if not hasattr(self, "host"):
            return
        for vm in self.host.compute.vms.values():
            if vm.state in IS_KEPT:
                assert self.host.rows.get((vm.vm_id, vm.generation)) == vm

    def teardown(self) -> None:
        """Faults end; a few rounds later all is settled."""
        if not hasattr(self, "host"):
            return
        host = self.host
        host.is_full, host.fails_in, host.crashes_in = False, None, None
        for vm_id in host.up:  # guests that were asked and were deaf let go at last
            self._let_go(vm_id)
        for _ in range(ROUNDS_MAX):
            self._answer_all()
            self.reconcile()
            host.now_s += 61.0
            host.tick()
        self._answer_all()
        self._check_settled()

    def _answer_all(self) -> None:
        self.host.slow[:] = [
            effect for effect in self.host.slow if not isinstance(effect, wanted.ShutDownDomain | wanted.RebootDomain)
        ]
        while self.host.slow:
            match self.host.slow[0]:
                case wanted.AttachVolumes():
                    self.attach("attached")
                case wanted.DetachVolumes():
                    self.detach("done")
                case wanted.StartDomain():
                    self.start("up")
                case wanted.DestroyDomain():
                    self.destroy("done")
                case wanted.ReachVolumes():
                    self.reach("as before")
                case wanted.ResumeDomain():
                    self.resume()
                case other:
                    work, answer = LATER_WORK[type(other)]
                    getattr(self, work)(answer)

    def _check_settled(self) -> None:
        host = self.host
        vms = host.compute.vms
        assert all(vm is not None for vm in host.compute.look().values()), "a VM is busy with nothing"
        assert {vm.state for vm in vms.values()} <= set(SETTLED)
        assert {(vm.vm_id, vm.generation): vm for vm in vms.values()} == host.rows
        running = {vm.vm_id: vm.generation for vm in vms.values() if vm.state is State.RUNNING}
        assert running == host.up
        assert not [life for life in running.items() if self._is_lost(life)], "I5: it would write what others have"
        assert not host.stalled & set(running), "its volumes are back, and it stands still"
        assert sorted(claim.vm_id for claim in host.ledger.committed()) == sorted(running)
        assert not any(vm.change for vm in vms.values()), "half attached"
        for vm in vms.values():
            if vm.state is State.RUNNING:
                assert host.disks[vm.vm_id] == {volume.vid for volume in vm.volumes}
            if not vm.is_cut:
                assert {volume.vid for volume in vm.volumes} == {claim.vid for claim in vm.claims}
        added = {(vm.vm_id, vm.generation, a.confirm.volume.vid) for vm in vms.values() for a in vm.added}
        assert {has for has in self.given if has[:2] in [(vm.vm_id, vm.generation) for vm in vms.values()]} <= added
        assert not {has for has in self.given if has[0] not in vms}, "nobody's"
        assert set(self.attached) <= {vm.vm_id for vm in vms.values() if vm.confirm.volumes}


TestHost = HostRules.TestCase
TestHost.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
