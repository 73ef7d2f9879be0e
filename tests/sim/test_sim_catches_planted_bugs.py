"""A simulator that finds nothing proves nothing: each bug planted here is caught, within a few seeds.

Every test takes one safeguard out of the real objects and expects the invariant that the safeguard is there for.
"""

from dataclasses import replace
from typing import Any

import pytest

from atomd import compute
from atomd.answering import Proposer
from atomd.capacity.hardware import Claim
from atomd.capacity.quota import Quota
from atomd.compute import Compute, Looked
from atomd.effects import Changed, Effects, StartDomain
from atomd.vms import judging, reconcile
from atomd.vms.admission import Admission
from atomd.vms.lease import Lease
from atomd.vms.lifecycle import State, Vm
from atomd.vms.moment import Moment
from atomd.vms.refusals import refused
from matcher.offers.ledger import Ledger, Refusal, User
from matcher.offers.offering import Nothing, Proposal
from matcher.scheduler.placing import Placing
from matcher.trust import bundle, identity
from matcher.trust.bundle import Bundle, read_link
from matcher.trust.identity import Identity
from matcher.trust.issuing import Issuer
from matcher.trust.spreading import SILENCE_S, Effect, Fetch, Save, Spreading
from matcher.trust.verifier import Verifier
from matcher.wire.messages import Confirm, Pledge, Refused
from matcher.wire.volumes import Attached
from specs.ids import OfferId, VmId
from tests.sim import daemon as sim_daemon
from tests.sim import host as sim_host
from tests.sim import invariants, papers
from tests.sim import upkeep as sim_upkeep
from tests.sim.by_hand import a_calm_world, upkeep_of, wait
from tests.sim.faults import parse_faults
from tests.sim.invariants import all_know_the_same
from tests.sim.realm import Leaf
from tests.sim.violation import Violation
from tests.sim.world import World

SEEDS_MAX = 12
ROUGH = "loss=0.15,duplication=0.15,delay=0.1,crash=0.01,partition=0.02,storage_lost=0.1,start_slow=0.2,virsh=0.01"


def caught(*, faults: str = ROUGH, pledges: int = 400, first: int = 0) -> set[str]:
    """The invariant that the first seed with a violation names; empty where no seed has one. `first`: the seed to begin
    with, for what one run in twenty meets."""
    for seed in range(first, first + SEEDS_MAX):
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
    monkeypatch.setattr(sim_daemon, "admits", lambda *_: True)
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
    monkeypatch.setattr(judging, "not_next", lambda vm, confirm, user_id, *, busy, undone: None)
    assert caught() & {"I1", "I5", "I6", "I9", "I12"}  # or a row that is lost count of


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
    assert caught(first=98) == {"I12"}


def test_the_ledger_makes_up_for_a_confirm_whose_grant_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quota, "against_confirm", lambda *_, **__: ())
    assert not World(1, hosts=3, clients=4, pledges=400, faults=parse_faults("none")).run().violation


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


# ---- what a host knows of its realm

RESTLESS = (
    "none,loss=0.1,delay=0.05,crash=0.01,partition=0.02,reboot=0.003,split=0.01,clock=0.01,disk_full=0.01,"
    "restore=0.003,removed=0.01,anchor=0.02,revoked=0.01,narrowed=0.01"
)
RESTLESS_ROOT = f"{RESTLESS},split=0.02,removed=0.05,anchor=0.05"


@pytest.mark.parametrize("faults", [RESTLESS, RESTLESS_ROOT])
def test_what_a_restless_realm_knows_only_grows_and_comes_to_be_one(faults: str) -> None:
    for seed in range(3):
        report = World(seed, hosts=4, clients=3, pledges=300, faults=parse_faults(faults)).run()
        assert report.violation is None, (report.seed, report.violation)


def test_nothing_is_caught_in_a_restless_realm_where_nothing_is_planted() -> None:
    assert caught(faults=RESTLESS_ROOT) == set()


def test_a_host_that_takes_an_older_anchor_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(self: Any, signed: Any) -> None:
        self._links = (*(link for link in self._links if link.signed != signed), read_link(signed))

    monkeypatch.setattr(bundle._Growing, "_add_anchor", add)
    assert caught(faults=RESTLESS) == {"I11"}


def test_a_host_that_loses_a_revocation_when_it_learns_others_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    merges = Bundle.merged

    def merged(self: Bundle, *rest: Any) -> Bundle:
        grown = merges(self, *rest)
        if grown.revocations is self.revocations or not self.revocations:
            return grown
        lost = next(iter(grown.revocations))
        return replace(grown, revocations={each: grown.revocations[each] for each in grown.revocations if each != lost})

    monkeypatch.setattr(Bundle, "merged", merged)
    assert caught(faults=RESTLESS) == {"I11"}


def test_a_host_that_does_not_save_what_it_learns_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "save", Identity.refresh)
    assert caught(faults=f"{RESTLESS},restore=0") == {"I11"}


def test_a_host_that_judges_its_own_disk_by_the_issuers_of_today_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = bundle.read_bundle
    monkeypatch.setattr(identity, "read_bundle", lambda data, pinned, *, own: reads(data, pinned))
    assert caught(faults=RESTLESS) == {"I11"}


def test_a_host_that_never_asks_another_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Spreading.tick

    def tick(self: Spreading, *rest: Any) -> list[Effect]:
        return [effect for effect in ticks(self, *rest) if not isinstance(effect, Fetch)]

    monkeypatch.setattr(Spreading, "tick", tick)
    assert caught(faults=RESTLESS) == {"I11"}


def test_a_host_that_gives_nothing_to_whom_it_asks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may know of it, and it may make its tags with a key that nobody has."""
    monkeypatch.setattr(Spreading, "_lacking", lambda *_: [])
    assert caught(faults=RESTLESS_ROOT) == {"I11"}


def test_a_host_that_asks_only_when_it_hears_nobody_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two parts of a realm that was split while its tag key changed would stay apart."""
    asks = Spreading._ask_a_silent_one

    def ask(self: Spreading, now_s: float) -> list[Effect]:
        is_alone = all(now_s - heard_s >= 10 * SILENCE_S for heard_s in self._known_of_s.values())
        return asks(self, now_s) if is_alone else []

    monkeypatch.setattr(Spreading, "_ask_a_silent_one", ask)
    assert caught(faults=RESTLESS_ROOT) & {"I10", "I11"}, "what nobody lets in is told nothing either"


def with_two_keys_of_dropped_issuers() -> World:
    """Two issuers made tag keys, the last one while it was cut off, until none was in force of the third; and then the
    root has dropped both."""
    world, root = a_calm_world(), papers.RootDesk(3)
    _, second, third = world.hosts
    for number, host in enumerate((second, second, third)):
        third.is_cut = host is third
        upkeep_of(host).revoke("host", papers.former_host_id(number))
        wait(world, 30.0)
    upkeep_of(world.hosts[0]).publish([root.toggle_issuer(2), root.toggle_issuer(3)])
    wait(world, 30.0)
    third.is_cut = False
    wait(world, 2 * SILENCE_S)
    return world


def test_of_two_tag_keys_of_dropped_issuers_all_come_to_have_one() -> None:
    world = with_two_keys_of_dropped_issuers()
    all_know_the_same(world.hosts)


def test_a_tag_key_of_a_dropped_issuer_that_nobody_signs_anew_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Issuer, "_key_again", lambda *_: [])
    world = with_two_keys_of_dropped_issuers()
    with pytest.raises(Violation, match="tag key"):
        all_know_the_same(world.hosts)


def test_a_revocation_by_a_dropped_issuer_that_nobody_signs_anew_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Issuer, "revoke_again", lambda *_: [])
    assert caught(faults=f"{RESTLESS},anchor=0.05") == {"I11"}


def test_a_revocation_that_is_taken_for_known_because_of_another_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user whose grant has changed before."""
    adds = bundle._Growing._add_revocation

    def add(self: Any, signed: Any) -> None:
        if signed.says.id not in {known.says.id for known in self._revocations.values()}:
            adds(self, signed)

    monkeypatch.setattr(bundle._Growing, "_add_revocation", add)
    assert caught(faults=f"{RESTLESS},narrowed=0.03") == {"I11"}


def test_a_revocation_that_is_acknowledged_before_it_is_kept_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    makes = Spreading.made

    def made(self: Spreading, *rest: Any) -> list[Effect]:
        return [effect for effect in makes(self, *rest) if not isinstance(effect, Save)]

    monkeypatch.setattr(Spreading, "made", made)
    assert caught(faults=RESTLESS) == {"I11"}


def test_a_save_that_failed_and_is_not_tried_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_upkeep, "SAVE_AGAIN_S", float("inf"))
    assert caught(faults=f"{RESTLESS},disk_full=0.1,crash=0,reboot=0") == {"I11"}


def test_a_host_that_does_not_go_by_what_it_has_learned_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the revocation, and lets the user in."""
    monkeypatch.setattr(Verifier, "_take", lambda self: None)
    assert caught(faults=f"{UNSURE},revoked=0.05") == {"I8"}


# ---- of many hosts, where an event is followed by a look at few of them


def test_a_host_that_does_not_count_is_caught_among_many_by_the_same_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_daemon, "admits", lambda *_: True)
    monkeypatch.setattr(Proposer, "propose", blind(Proposer.propose))
    found = []
    for whole_up_to in (invariants.WHOLE_UP_TO, 100):
        monkeypatch.setattr(invariants, "WHOLE_UP_TO", whole_up_to)
        monkeypatch.setattr(invariants, "WHOLE_EVERY_S", float("inf"))
        report = World(1, hosts=10, clients=20, pledges=400, faults=parse_faults("none")).run()
        assert report.violation is not None
        found.append((str(report.violation), report.events, report.trace_hash))
    assert found[0] == found[1]


def test_a_hold_that_never_lapses_is_caught_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "lapse", lambda self, now_s: None)
    report = World(1, hosts=10, clients=4, pledges=200, faults=parse_faults("loss=0.2")).run()
    assert report.violation is not None
    assert report.violation.invariant == "I7"
