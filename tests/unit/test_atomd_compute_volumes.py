"""Volumes of several storage hosts: what is told to whom when one of them refuses, is silent, or is gone for good."""

from atomd import effects as wanted
from atomd.effects import Effect
from atomd.vms.lifecycle import State, Vm
from atomd.volumes.answers import Silent
from matcher.wire.messages import Confirm, Reason, Refused
from specs.ids import HostId
from tests.fakes.one_host import DATA, VID, OneHost

H2 = HostId("2" * 64)
IN_USE = Refused("volume-in-use", (Reason("volume", "it", "taken", "wait"),))
UNREACHED = Silent("h2, which has its volume, can't be reached", asked=False)


def waiting(host: OneHost, kind: type[Effect]) -> bool:
    return any(isinstance(effect, kind) for effect in host.slow)


def confirmed(*vids: str) -> tuple[OneHost, Confirm]:
    """A VM whose volumes are being attached: `DATA` is on h2."""
    host = OneHost()
    host.servers[DATA] = H2
    confirm = host.offered(host.pledge(volumes=vids))
    assert host.confirm(confirm) is None
    return host, confirm


def told(host: OneHost, confirm: Confirm) -> Refused:
    answer = host.confirm(confirm)
    assert isinstance(answer, Refused)
    return answer


def test_where_one_of_two_servers_refuses_the_other_is_told_to_let_go_and_the_client_hears_why() -> None:
    host, confirm = confirmed(VID, DATA)
    host.attach(IN_USE)
    assert told(host, confirm) == IN_USE
    host.detach(done=False)
    host.tick()
    host.detach()
    assert host.vm(confirm) is None
    assert not host.rows


def test_a_single_server_that_refuses_has_nothing_to_let_go_of() -> None:
    host, confirm = confirmed(DATA)
    host.attach(IN_USE)
    assert told(host, confirm) == IN_USE
    assert not waiting(host, wanted.DetachVolumes)


def test_where_nobody_was_asked_nothing_is_left_and_the_client_goes_elsewhere() -> None:
    host, confirm = confirmed(VID, DATA)
    host.attach(UNREACHED)
    refusal = told(host, confirm)
    assert (refusal.code, refusal.reasons[0].has) == ("not-reachable", "h2, which has its volume, can't be reached")
    assert not waiting(host, wanted.DetachVolumes)
    assert not host.rows
    assert not host.ledger.residents(host.now_s)


def test_after_the_hosts_reboot_a_server_that_can_not_be_reached_is_waited_for() -> None:
    host, confirm = confirmed(DATA)
    host.attach()
    host.start()
    host.crash(reboot=True)
    for said in (UNREACHED, Silent("h2 is silent")):
        host.reconcile()
        host.attach(said)
        vm = host.vm(confirm)
        assert vm is not None
        assert vm.state is State.RUNNING
    host.reconcile()
    host.attach()
    host.start()
    assert host.up


def test_a_storage_host_that_is_gone_keeps_its_volumes_and_nothing_else() -> None:
    """The VM that is removed is gone, and so are its name and its compute; what is owed to the storage host is paid
    when it is back, whatever happens in between."""
    host, confirm = confirmed(DATA)
    host.attach()
    host.start()
    vm = host.vm(confirm)
    assert vm is not None
    host.do(host.compute.remove(vm))
    assert host.ledger.residents(host.now_s), "its domain is still there"
    host.destroy()
    assert not host.ledger.residents(host.now_s)
    host.detach(done=False)
    assert host.vm(confirm) is None
    assert [row.state for row in host.rows.values()] == [State.REMOVING]
    for _ in range(2):
        host.tick()
        host.reconcile()
    assert host.slow == [wanted.DetachVolumes(vm.to(State.REMOVING))], "one question at a time"
    host.crash()
    host.reconcile()
    assert not host.ledger.residents(host.now_s)
    host.detach(done=False)
    assert host.vm(confirm) is None
    host.tick()
    host.detach()
    assert not host.rows
    host.reconcile()
    assert not host.slow


def test_a_life_that_a_storage_host_has_not_let_go_of_does_not_come_again() -> None:
    """What is told of the one would be taken for the other."""
    host, confirm = confirmed(DATA)
    host.attach(silent=True)
    host.detach(done=False)
    same = host.offered(host.pledge(vm_id=confirm.vm_id, volumes=[VID]))
    refusal = host.confirm(same)
    assert isinstance(refusal, Refused)
    assert refusal.code == "not-now"
    host.tick()
    host.detach()
    assert not isinstance(host.confirm(host.offered(host.pledge(vm_id=confirm.vm_id, volumes=[VID]))), Refused)


def test_a_thread_is_nobodys_while_one_of_those_that_are_removed_may_be_on_it() -> None:
    """Two have had it, one after the other, and the host went down while both were being removed: the first waits for
    its volumes alone, and the second's domain is still there."""
    host = OneHost()
    first = host.stopped(volumes=[DATA])
    second = host.running()
    (thread,) = the(host.vm(second)).claim.threads
    assert the(host.vm(first)).claim.threads == (thread,)
    for confirm in (first, second):
        host.do(host.compute.remove(the(host.vm(confirm))))
    host.crash()
    host.reconcile()
    host.detach()
    assert host.vm(first) is None
    assert the(host.vm(second)).state is State.REMOVING
    assert host.offered(host.pledge()).offer_id
    (held,) = (hold.claim for hold in host.ledger.holds(host.now_s).values())
    assert held.threads != (thread,)
    host.destroy()
    assert host.vm(second) is None
    assert all(thread not in claim.threads for claim in host.ledger.residents(host.now_s))


def the(vm: Vm | None) -> Vm:
    assert vm is not None
    return vm
