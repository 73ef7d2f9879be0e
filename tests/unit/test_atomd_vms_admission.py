"""What a host owes to a user whose grant has shrunk, whose lease has ended, or who was revoked; and what no more."""

from dataclasses import replace

import pytest

from atomd import effects as wanted
from atomd.vms.lifecycle import State, Vm
from atomd.vms.refusals import stale_realm
from atomd.vms.stopping import STOP_S
from matcher.trust.realm import EVERYTHING
from matcher.wire.messages import Confirm, Refused
from matcher.wire.realm import Verb
from specs.ids import VmId
from tests.fakes.one_host import ANN, BOB, VID, OneHost

HOUR_S = 3600


@pytest.fixture
def host() -> OneHost:
    return OneHost()


def code(answer: object) -> str:
    assert isinstance(answer, Refused), answer
    return answer.code


def now(host: OneHost, confirm: Confirm) -> Vm:
    vm = host.vm(confirm)
    assert vm is not None
    return vm


# ---- grants


def test_a_confirm_is_judged_by_the_grant_of_now_not_of_the_offer(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.grants[ANN] = replace(EVERYTHING, slots=0)
    answer = host.confirm(confirm)
    assert code(answer) == "over-grant"
    assert isinstance(answer, Refused)
    assert answer.reasons[0].has == "0 of your 0 are left on h1"
    host.grants.clear()
    assert code(host.confirm(confirm)) == "over-grant", "its client has gone elsewhere"
    assert host.ledger.residents(host.now_s) == ()


def test_two_offers_of_which_the_grant_allows_one_make_one_vm(host: OneHost) -> None:
    first, second = host.offered(host.pledge()), host.offered(host.pledge())
    host.grants[ANN] = replace(EVERYTHING, slots=1)
    assert isinstance(host.confirm(first), Vm)
    assert code(host.confirm(second)) == "over-grant"


def test_a_stopped_vm_counts_among_vms_and_its_own_next_start_does_not(host: OneHost) -> None:
    host.grants[ANN] = replace(EVERYTHING, vms=1)
    stopped = host.stopped()
    assert host.offering.pledge(host.pledge(), host.who(), host.now_s)[0].__class__.__name__ == "Unfit"
    again = host.offered(host.pledge(vm_id=stopped.vm_id, generation=2))
    assert isinstance(host.confirm(again), Vm)


def test_a_vm_that_runs_stays_when_the_grant_shrinks_and_comes_back_with_its_host(host: OneHost) -> None:
    confirm = host.running()
    host.grants[ANN] = replace(EVERYTHING, slots=0, vms=0)
    host.crash(reboot=True)
    host.reconcile()
    host.start()
    assert now(host, confirm).state is State.RUNNING


def test_a_user_who_may_not_run_gets_no_vm_by_an_older_offer(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.grants[ANN] = replace(EVERYTHING, verbs=(Verb.PLEDGE,))
    assert code(host.confirm(confirm)) == "over-grant"


def test_a_host_that_takes_nothing_new_refuses_a_confirm_of_an_offer_made_before(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.closed = stale_realm("it has not heard of its issuers for 8 days")
    assert code(host.confirm(confirm)) == "stale-realm"
    host.closed = None
    kept = host.offered(host.pledge(volumes=[VID]))
    host.confirm(kept)
    host.closed = stale_realm("it has not heard of its issuers for 8 days")
    host.attach()
    host.detach()
    assert code(host.confirm(kept)) == "stale-realm", "nor one whose volumes were slow to attach"
    assert host.rows == {}


# ---- revocation


def test_what_a_revoked_user_runs_goes_on(host: OneHost) -> None:
    confirm = host.running()
    host.revoked.add(ANN)
    host.tick()
    host.reconcile()
    host.crash()
    host.reconcile()
    assert now(host, confirm).state is State.RUNNING
    assert not host.slow


@pytest.mark.parametrize("volumes", [[], [VID]])
def test_it_does_not_come_back_after_the_hosts_own_reboot(host: OneHost, volumes: list[str]) -> None:
    confirm = host.running(volumes=volumes)
    host.revoked.add(ANN)
    host.crash(reboot=True)
    host.reconcile()
    assert now(host, confirm).state is State.STOPPED
    assert now(host, confirm).why == "its user was revoked"
    assert not host.slow
    assert host.ledger.committed() == ()


def test_nor_where_the_revocation_comes_while_its_volumes_are_attached_again(host: OneHost) -> None:
    confirm = host.running(volumes=[VID])
    host.crash(reboot=True)
    host.reconcile()
    host.revoked.add(ANN)
    host.attach()
    assert now(host, confirm).why == "its user was revoked"
    assert not host.slow


def test_nor_one_that_was_promised_and_not_started_when_the_host_went_down(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    host.revoked.add(ANN)
    host.crash(reboot=True)
    host.reconcile()
    assert now(host, confirm).state is State.STOPPED


def test_one_that_was_promised_is_started_still_as_its_start_may_be_under_way(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.confirm(confirm)
    host.revoked.add(ANN)
    host.crash()
    host.reconcile()
    host.start()
    assert now(host, confirm).state is State.RUNNING


def test_a_confirm_of_a_revoked_user_is_refused(host: OneHost) -> None:
    confirm = host.offered(host.pledge())
    host.revoked.add(ANN)
    assert code(host.confirm(confirm)) == "revoked"


def test_a_confirm_whose_user_is_revoked_before_the_commitment_is_undone(host: OneHost) -> None:
    confirm = host.offered(host.pledge(volumes=[VID]))
    host.confirm(confirm)
    host.revoked.add(ANN)
    host.attach()
    host.detach()
    assert code(host.confirm(confirm)) == "revoked"
    assert host.rows == {}
    assert host.ledger.committed() == ()


def test_the_holds_of_a_revoked_user_are_dropped_and_nobody_elses(host: OneHost) -> None:
    host.offered(host.pledge())
    theirs = host.offered(host.pledge(), BOB)
    host.revoked.add(ANN)
    host.tick()
    assert [hold.user_id for hold in host.ledger.holds(host.now_s).values()] == [BOB]
    assert isinstance(host.confirm(theirs, BOB), Vm)


# ---- leases


def leased(host: OneHost, lease_s: int = 2 * HOUR_S) -> Confirm:
    return host.running(lease_s=lease_s)


def test_a_vm_ends_with_its_lease_and_says_so(host: OneHost) -> None:
    confirm = leased(host)
    host.now_s += 2 * HOUR_S - 1
    host.tick()
    assert now(host, confirm).state is State.RUNNING
    host.now_s += 1
    host.tick()
    assert now(host, confirm).state is State.STOPPING
    del host.up[VmId(confirm.vm_id)]
    host.reconcile()
    assert now(host, confirm).state is State.STOPPED
    assert now(host, confirm).why == "its lease of 2h has ended"


def test_a_guest_that_ignores_the_button_loses_its_plug_when_its_lease_has_ended(host: OneHost) -> None:
    confirm = leased(host)
    host.now_s += 2 * HOUR_S
    host.tick()
    assert [type(effect) for effect in host.slow] == [wanted.ShutDownDomain]
    host.now_s += STOP_S
    host.tick()
    host.destroy()
    assert now(host, confirm).state is State.STOPPED
    assert now(host, confirm).why == "its lease of 2h has ended"


def test_so_it_does_where_atomd_was_started_again_meanwhile(host: OneHost) -> None:
    confirm = leased(host)
    host.now_s += 2 * HOUR_S
    host.tick()
    host.crash()
    host.tick()
    host.now_s += STOP_S
    host.tick()
    host.destroy()
    assert now(host, confirm).why == "its lease of 2h has ended"


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 100 * HOUR_S])
def test_a_wall_clock_that_jumps_ends_no_vm_early_and_keeps_none(host: OneHost, jump_s: int) -> None:
    confirm = leased(host)
    host.wall_s += jump_s
    host.tick()
    host.crash()  # atomd's own restart is not the host's
    host.tick()
    assert now(host, confirm).state is State.RUNNING
    host.now_s += 2 * HOUR_S
    host.tick()
    assert now(host, confirm).state is State.STOPPING


@pytest.mark.parametrize(("away_s", "left"), [(HOUR_S, True), (3 * HOUR_S, False)])
def test_after_the_hosts_own_reboot_what_is_left_goes_by_the_wall_clock(host: OneHost, away_s: int, left: bool) -> None:
    confirm = leased(host)
    host.wall_s += away_s
    host.now_s = 5.0  # CLOCK_BOOTTIME begins anew
    host.crash(reboot=True)
    host.reconcile()
    if not left:
        assert now(host, confirm).state is State.STOPPED
        assert now(host, confirm).why == "its lease of 2h has ended"
        return
    host.start()
    host.now_s += HOUR_S - 1
    host.tick()
    assert now(host, confirm).state is State.RUNNING
    host.crash()
    host.wall_s -= HOUR_S
    host.now_s += 1
    host.tick()
    assert now(host, confirm).state is State.STOPPING, "its second boot is remembered like the first"


def test_a_lease_is_as_long_as_the_grant_allows_where_none_was_asked(host: OneHost) -> None:
    assert now(host, host.running()).lease is None
    host.grants[ANN] = replace(EVERYTHING, lease_max_s=HOUR_S)
    lease = now(host, host.running()).lease
    assert lease is not None
    assert lease.for_s == HOUR_S
    shorter = now(host, host.running(lease_s=60)).lease
    assert shorter is not None
    assert shorter.for_s == 60


def test_a_lease_longer_than_the_grant_allows_is_refused_in_words(host: OneHost) -> None:
    confirm = host.offered(host.pledge(lease_s=2 * HOUR_S))
    host.grants[ANN] = replace(EVERYTHING, lease_max_s=HOUR_S)
    answer = host.confirm(confirm)
    assert isinstance(answer, Refused)
    (reason,) = answer.reasons
    assert (reason.resource, reason.asked, reason.has) == ("grant lease", "2h", "at most 1h on h1")
    assert "--lease 1h" in reason.hint


def test_a_new_start_begins_a_new_lease(host: OneHost) -> None:
    confirm = leased(host)
    host.now_s += 2 * HOUR_S
    host.tick()
    host.up.clear()
    host.reconcile()
    host.confirm(host.offered(host.pledge(vm_id=confirm.vm_id, generation=2, lease_s=HOUR_S)))
    host.start()
    host.tick()
    vm = now(host, confirm)
    assert vm.state is State.RUNNING
    assert vm.lease is not None
    assert vm.lease.is_over(host.now_s + HOUR_S)
