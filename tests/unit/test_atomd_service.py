"""What a user has on a host, in the units of their grant."""

from dataclasses import replace

from atomd.lifecycle import State, Vm
from atomd.service import used
from matcher.wire.messages import PciAsk
from matcher.wire.realm import PciLimit, Use
from tests.fakes.one_host import OneHost

GPU, NIC = PciAsk("10de", "24b0", 1), PciAsk("8086", "1572", 2)


def vm(state: State, *pci: PciAsk) -> Vm:
    host = OneHost()
    confirm = host.offered(host.pledge())
    made = host.confirm(confirm)
    assert isinstance(made, Vm)
    return replace(made, state=state, confirm=replace(confirm, vm=replace(confirm.vm, slots=2, pci=pci)))


def test_stopped_vms_count_as_vms_and_use_no_compute() -> None:
    vms = [vm(State.RUNNING, GPU), vm(State.COMMITTED, GPU, NIC), vm(State.STOPPED, GPU), vm(State.FAILED)]
    devices = (PciLimit("10de", "24b0", 2), PciLimit("8086", "1572", 2))
    assert used(vms) == Use(slots=4, ram_mib=1024, vms=4, pci=devices)


def test_who_has_nothing_uses_nothing() -> None:
    assert used([]) == Use()
