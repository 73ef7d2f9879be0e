"""A simulator that finds nothing proves nothing: each bug planted here is caught, within a few seeds.

Every test takes one safeguard out of the real objects and expects the invariant that the safeguard is there for.
"""

from dataclasses import replace
from typing import Any

import pytest

from atomd import compute, reconcile
from atomd.admission import Admission
from atomd.answering import Proposer
from atomd.compute import Compute, Looked
from atomd.effects import Changed, Effects, StartDomain
from atomd.hardware import Claim
from atomd.lease import Lease
from atomd.lifecycle import State, Vm
from atomd.moment import Moment
from atomd.quota import Quota
from atomd.refusals import refused
from matcher.offers.ledger import Ledger, Refusal, User
from matcher.offers.offering import Nothing, Proposal
from matcher.scheduler.placing import Placing
from matcher.wire.messages import Attached, Confirm, Pledge, Refused
from specs.ids import OfferId, VmId
from tests.sim import host as sim_host
from tests.sim.faults import parse_faults
from tests.sim.realm import Leaf
from tests.sim.world import World

SEEDS_MAX = 12
ROUGH = "loss=0.15,duplication=0.15,delay=0.1,crash=0.01,partition=0.02,storage_lost=0.1,start_slow=0.2,virsh=0.01"


def caught(*, faults: str = ROUGH, pledges: int = 400) -> set[str]:
    """The invariant that the first seed with a violation names; empty where no seed has one."""
    for seed in range(SEEDS_MAX):
        report = World(seed, hosts=3, clients=4, pledges=pledges, faults=parse_faults(faults)).run()
        if report.violation is not None:
            return {report.violation.invariant}
    return set()


def blind(propose: Any) -> Any:
    """Placement that does not see who is there already."""

    def proposes(self: Proposer, pledge: Pledge, user: User, residents: Any) -> Proposal[Claim] | Nothing:
        found: Proposal[Claim] | Nothing = propose(self, pledge, user, ())
        return found

    return proposes


def test_nothing_is_caught_where_nothing_is_planted() -> None:
    for seed in range(3):
        report = World(seed, hosts=3, clients=4, pledges=300, faults=parse_faults(ROUGH)).run()
        assert report.violation is None, report.seed


def test_a_host_that_does_not_count_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_host, "admits", lambda *_: True)
    monkeypatch.setattr(Proposer, "propose", blind(Proposer.propose))
    assert caught(faults="none") & {"I1", "I2"}


def test_the_ledger_makes_up_for_a_placement_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Proposer, "propose", blind(Proposer.propose))
    assert not World(1, hosts=3, clients=4, pledges=400, faults=parse_faults("none")).run().violation


def test_a_confirm_that_is_not_idempotent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    confirms = Compute.confirm

    def confirm(self: Compute, confirm: Confirm, *rest: Any) -> Refused | Effects:
        known = self.vms.get(VmId(confirm.vm_id))
        if known is not None and known.offer_id == confirm.offer_id:
            return refused("hold-lapsed", "offer", "this offer", "it has lapsed", "")
        return confirms(self, confirm, *rest)

    monkeypatch.setattr(Compute, "confirm", confirm)
    assert caught() == {"I5"}


def test_an_answer_before_the_journal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Compute._commit

    def commit(self: Compute, vm: Vm, attached: Attached) -> Effects:
        journal, *_ = commits(self, vm, attached)
        return [Changed(vm.vm_id), journal, StartDomain(self.vms[vm.vm_id])]

    monkeypatch.setattr(Compute, "_commit", commit)
    assert caught(faults=f"{ROUGH},crash=0.05") & {"I9", "I5"}


def test_a_start_before_the_journal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = Compute._commit

    def commit(self: Compute, vm: Vm, attached: Attached) -> Effects:
        journal, *_ = commits(self, vm, attached)
        return [StartDomain(self.vms[vm.vm_id]), journal, Changed(vm.vm_id)]

    monkeypatch.setattr(Compute, "_commit", commit)
    assert caught(faults=f"{ROUGH},crash=0.05") == {"I6"}


def test_a_second_host_without_an_acknowledged_abandon_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirm whose answer is lost, then a second host: the case to get right."""
    monkeypatch.setattr(Placing, "_abandon", lambda self, doubt, now_s: self._let_go(now_s))
    assert caught() == {"I5"}


def test_a_host_that_forgets_an_abandon_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compute, "abandon", lambda self, abandon, user_id, now_s: (None, []))
    assert caught() == {"I5"}


def test_a_hold_that_never_lapses_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "lapse", lambda self, now_s: None)
    assert caught() == {"I7"}


def test_a_restart_that_does_not_undo_prepared_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    acts = reconcile._action
    monkeypatch.setattr(
        reconcile,
        "_action",
        lambda vm, is_up, boot_id: None if vm.state is State.PREPARED else acts(vm, is_up, boot_id),
    )
    assert caught(faults=f"{ROUGH},crash=0.05") == {"I10"}


def test_a_host_that_takes_any_generation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "not_next", lambda vm, confirm, user_id, *, busy, undone: None)
    assert caught() & {"I1", "I5", "I6", "I9"}


def test_a_stale_look_at_libvirt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that ends while libvirt lists its domains must not be taken for one that has not begun."""
    reconciles = Compute.reconcile

    def reconcile(self: Compute, observed: Any, looked: Looked, now_s: float) -> list[Effects]:
        return reconciles(self, observed, self.look(), now_s)

    monkeypatch.setattr(Compute, "reconcile", reconcile)
    assert caught(faults=f"{ROUGH},list_slow=0.3") & {"I1", "I6", "I10"}


def test_a_restart_that_forgets_its_commitments_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "restore", lambda self, offer_id, claim: None)
    assert caught() & {"I1", "I10"}


def test_a_journal_that_is_not_synced_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    crashes = sim_host.Host.crash

    def crash(self: sim_host.Host) -> None:
        if self.daemon is not None and self.disk.rows:
            self.disk.rows.pop(next(reversed(self.disk.rows)))
        crashes(self)

    monkeypatch.setattr(sim_host.Host, "crash", crash)
    assert caught() & {"I6", "I9"}


def test_compute_that_is_freed_before_it_was_written_down_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "RUNS", frozenset())
    assert caught() & {"I1", "I6", "I10"}


# ---- who may, and how much

UNSURE = f"{ROUGH},revoked=0.03,clock=0.03,storage_stall=0.05"


def test_a_commitment_that_no_grant_was_asked_for_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grant that has shrunk since the offer, and two offers of which one would be enough."""
    commits = Ledger.commit

    def commit(self: Ledger[Claim], offer_id: OfferId, user: User, now_s: float) -> Claim | Refusal:
        with pytest.MonkeyPatch.context() as blind:
            blind.setattr(self, "_allows", lambda *_: True)
            return commits(self, offer_id, user, now_s)

    monkeypatch.setattr(Ledger, "commit", commit)
    monkeypatch.setattr(Quota, "against_confirm", lambda *_, **__: ())
    assert caught() == {"I12"}


def test_the_ledger_makes_up_for_a_confirm_whose_grant_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quota, "against_confirm", lambda *_, **__: ())
    assert not World(1, hosts=3, clients=4, pledges=400, faults=parse_faults("none")).run().violation


def test_a_revocation_that_is_forgotten_at_the_commitment_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The confirm came before, and its volumes were slow to attach; or the host has rebooted since."""
    monkeypatch.setattr(Admission, "against_attached", lambda self, vm: None)
    assert caught(faults=UNSURE) == {"I8"}


def test_a_vm_of_a_revoked_user_that_comes_back_with_its_host_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "kept_down", lambda self, vm, lease, now_s: None)
    assert caught(faults=f"{UNSURE},reboot=0.02") == {"I8"}


def test_a_door_that_does_not_look_at_the_time_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def trusts(self: sim_host.Host, leaf: Leaf) -> bool:
        assert self.daemon is not None
        return self.daemon.upkeep.identity.verifier.is_member("user", leaf.user_id)

    monkeypatch.setattr(sim_host.Host, "trusts", trusts)
    assert caught(faults=UNSURE) == {"I8"}


def test_a_lease_that_goes_by_the_wall_clock_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An atomd that starts again while its host's clock is an hour ahead."""
    resumes = Lease.resumed

    def resumed(self: Lease, boot_id: str, moment: Moment) -> Lease:
        return resumes(replace(self, boot_id=""), boot_id, moment)

    monkeypatch.setattr(Lease, "resumed", resumed)
    assert caught(faults=f"{UNSURE},crash=0.03") == {"lease"}
