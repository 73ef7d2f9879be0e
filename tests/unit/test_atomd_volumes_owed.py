"""What storage hosts have yet to hear: told now and then, kept over a crash, and bounded."""

from dataclasses import replace
from itertools import pairwise

import pytest

from atomd.vms.lifecycle import State, Vm
from atomd.volumes import owed as module
from atomd.volumes.owed import TELL_AGAIN_MAX_S, TELL_AGAIN_MIN_S, Owed
from matcher.wire.messages import Refused
from specs.ids import HostId, VmId
from tests.fakes.one_host import DATA, VID, OneHost, a_vm

H2 = HostId("2" * 64)


def gone(generation: int = 1) -> Vm:
    vm = a_vm(State.REMOVING)
    return replace(vm, confirm=replace(vm.confirm, generation=generation))


def told_at(owed: Owed, until_s: int) -> list[int]:
    """The seconds at which somebody was told, in vain."""
    seconds = []
    for now_s in range(until_s):
        for vm in owed.due(float(now_s)):
            assert owed.told((vm.vm_id, vm.generation), done=False) is None
            seconds.append(now_s)
    return seconds


def test_a_silent_host_is_told_less_and_less_often_and_never_given_up() -> None:
    owed = Owed()
    owed.add(gone())
    seconds = told_at(owed, 300)
    pauses = [after - before for before, after in pairwise(seconds)]
    assert pauses[:5] == [2, 4, 8, 16, 30]
    assert set(pauses[4:]) == {TELL_AGAIN_MAX_S}
    assert pauses[0] == TELL_AGAIN_MIN_S


def test_one_question_at_a_time() -> None:
    owed = Owed()
    owed.add(gone())
    (vm,) = owed.due(0.0)
    assert not owed.due(1000.0)
    assert owed.told((vm.vm_id, 1), done=False) is None
    assert owed.due(1000.0) == [vm]
    assert owed.told((vm.vm_id, 1), done=True) == vm
    assert not owed.due(2000.0)
    assert not len(owed)


def test_a_stopped_life_is_taken_back_where_the_next_could_not_come() -> None:
    owed = Owed()
    stopped = replace(gone(), state=State.STOPPED)
    owed.add(stopped, is_being_told=True)
    assert owed.take_back(replace(gone(2), state=State.PREPARED)) is None
    assert owed.take_back(replace(gone(2), state=State.COMMITTED)) == stopped
    assert (stopped.vm_id, 1) not in owed


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> OneHost:
    """One VM is all that may be owed, and it is."""
    monkeypatch.setattr(module, "OWED_MAX", 1)
    host = OneHost()
    host.servers[DATA] = H2
    for confirm in (host.running(volumes=[DATA]), host.running(volumes=[VID])):
        vm = host.compute.vms[VmId(confirm.vm_id)]
        if DATA in [claim.vid for claim in vm.claims]:
            host.do(host.compute.remove(vm))
            host.destroy()
            host.detach(done=False)
    return host


def test_at_the_limit_a_vm_with_volumes_stays_and_its_person_is_told_what_helps(full: OneHost) -> None:
    (vm,) = full.compute.vms.values()
    refusal = full.compute.remove(vm)
    assert isinstance(refusal, Refused)
    assert refusal.code == "owes-too-much"
    assert "realm remove" in refusal.reasons[0].hint
    assert full.compute.vms[vm.vm_id] is vm
    full.tick()
    full.detach()
    assert not isinstance(full.compute.remove(vm), Refused), "h2 has heard"


def test_at_the_limit_no_volumes_are_promised_and_vms_without_any_are(full: OneHost) -> None:
    refusal = full.confirm(full.offered(full.pledge(volumes=["a" * 32])))
    assert isinstance(refusal, Refused)
    assert refusal.code == "owes-too-much"
    assert not isinstance(full.confirm(full.offered(full.pledge())), Refused)


def test_a_crash_forgets_no_debt(full: OneHost) -> None:
    full.crash()
    full.reconcile()
    full.detach(done=False)
    assert len(full.compute.owed) == 1
    full.tick()
    full.detach()
    assert not len(full.compute.owed)
    assert len(full.rows) == 1
