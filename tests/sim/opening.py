"""A host's volumes as its atomd gets them: the servers asked, their answers joined, the domain opened with them.

`Opening` stands in for `atomd.volumes.storage` and for what `atomd.performing` does with its answers, event for event.
The local socket breaks, and so does the network, each in its own way.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from atomd.vms.lifecycle import Vm
from atomd.vms.refusals import unattached
from atomd.volumes.answers import ASK_AGAIN, Answer, Silent, has_own_images, joined, servers_of, why_not_begun
from atomd.volumes.storage import REACH_S, STORAGE_S
from matcher.wire.messages import Refused
from matcher.wire.volumes import Attached, ChapSecret
from specs.ids import HostId, OfferId, VmId
from tests.sim.slow import Said
from tests.sim.storage import Storaged

if TYPE_CHECKING:
    from tests.sim.daemon import Daemon
    from tests.sim.host import Host

Found = TypeVar("Found")
Told = Callable[[Found], None]


class Opening:
    """Of one run of atomd."""

    def __init__(self, daemon: "Daemon", host: "Host") -> None:
        self._daemon, self._host = daemon, host
        self._secrets: dict[tuple[VmId, int], tuple[ChapSecret, ...]] = {}

    # ---- as `Performer`

    def attach(self, vm: Vm) -> None:
        def told(answer: Answer) -> None:
            if isinstance(answer, Attached) and answer.secrets:
                self._secrets[vm.vm_id, vm.generation] = answer.secrets
            self._daemon.apply(self._daemon.compute.attached(vm.vm_id, vm.generation, answer))
            if isinstance(answer, Silent):
                self._daemon.soon()

        self._ask_all(vm, told)

    def detach(self, vm: Vm) -> None:
        self._secrets.pop((vm.vm_id, vm.generation), None)

        def told(done: bool) -> None:
            self._daemon.apply(self._daemon.compute.detached(vm.vm_id, vm.generation, done=done))
            if not done and (vm.vm_id, vm.generation) not in self._daemon.compute.owed:
                self._daemon.soon()

        self._detach_all(vm, told)

    def reach(self, vm: Vm) -> None:
        compute = self._daemon.compute

        def told(answer: Answer) -> None:
            self._daemon.apply(compute.reached(vm, answer, self._host.timeline.now_s))
            if compute.away.is_stalled(vm.vm_id):
                self._daemon.soon()

        self._ask_all(vm, told)

    def start(self, vm: Vm) -> None:
        secrets = self._secrets.pop((vm.vm_id, vm.generation), ())
        if len(secrets) == sum(volume.iscsi is not None for volume in vm.volumes):
            self._start(vm, Attached(vm.volumes, secrets))
        else:
            self._ask_all(vm, partial(self._start, vm))

    def _start(self, vm: Vm, opened: Answer) -> None:
        if isinstance(opened, Silent) or (isinstance(opened, Refused) and opened.code in ASK_AGAIN):
            self._start_later(vm)
        elif isinstance(opened, Refused):
            self._give_up(vm, unattached(opened))
        else:
            paused = has_own_images(opened.volumes)
            started = self._daemon.mine(partial(self._started, vm, paused))
            self._host.libvirt.start(vm, opened, started, paused=paused)

    def _started(self, vm: Vm, paused: bool, said: Said) -> None:
        self._daemon.note(vm, f"start: {said.value}")
        if said in (Said.DOWN, Said.UNKNOWN) or (said is Said.EXISTS and not self._is_up(vm)):
            self._start_later(vm)
        elif paused and said is not Said.FAILED:
            self._ask_all(vm, partial(self._begin, vm))
        else:
            failure = "QEMU ended" if said is Said.FAILED else None
            self._daemon.apply(self._daemon.compute.started(vm.vm_id, vm.generation, failure))

    def _begin(self, vm: Vm, answer: Answer) -> None:
        failure = why_not_begun(vm.volumes, answer)
        if failure is not None:
            self._give_up(vm, failure)
        elif isinstance(answer, Attached):
            self._host.libvirt.resume(vm.vm_id, self._daemon.mine(partial(self._ended, vm, None, {Said.DONE})))
        else:
            self._start_later(vm)

    def _give_up(self, vm: Vm, failure: str) -> None:
        gone = {Said.DONE, Said.NONE_THERE}
        self._host.libvirt.destroy(vm.vm_id, self._daemon.mine(partial(self._ended, vm, failure, gone)))

    def _ended(self, vm: Vm, failure: str | None, done: Collection[Said], said: Said) -> None:
        """The start, well or not."""
        if said in done:
            self._daemon.apply(self._daemon.compute.started(vm.vm_id, vm.generation, failure))
        else:
            self._start_later(vm)

    def _is_up(self, vm: Vm) -> bool:
        domain = self._host.libvirt.domains.get(vm.vm_id)
        return domain is not None and domain.generation == vm.generation

    def _start_later(self, vm: Vm) -> None:
        self._daemon.compute.start_unknown(vm.vm_id, "")
        self._daemon.soon()

    # ---- as `Storage`

    def _ask_all(self, vm: Vm, told: Told[Answer]) -> None:
        """All servers at once, or none: nobody is told anything before every one can be reached."""
        servers, told = servers_of(vm.claims), self._daemon.mine(told)
        if any(not self._reaches(server) for server in servers):
            self._host.timeline.after(REACH_S, lambda: told(Silent("a server can't be reached", asked=False)))
            return
        answers: dict[HostId, Answer] = {}
        leaf = self._host.shown[vm.offer_id]

        def answered(server: HostId, answer: Answer | None) -> None:
            answers[server] = answer or Silent("a server does not answer")
            if len(answers) == len(servers):
                self._note(vm, answers)
                told(joined(vm.claims, {each: answers[each] for each in servers}, self._host.host_id))

        def arrive(storaged: Storaged, reply: Told[Answer]) -> None:
            storaged.attach(vm.confirm, leaf, reply)

        for server in servers:
            self._ask(server, arrive, partial(answered, server))

    def _detach_all(self, vm: Vm, told: Told[bool]) -> None:
        said: dict[HostId, bool] = {}
        servers, told = servers_of(vm.claims), self._daemon.mine(told)

        def answered(server: HostId, done: bool | None) -> None:
            said[server] = bool(done)
            if len(said) == len(servers):
                told(all(said.values()))

        def arrive(storaged: Storaged, reply: Told[bool]) -> None:
            storaged.detach(vm.vm_id, vm.generation, OfferId(vm.offer_id), self._host.host_id, reply)

        for server in servers:
            self._ask(server, arrive, partial(answered, server))

    def _note(self, vm: Vm, answers: dict[HostId, Answer]) -> None:
        said = [a.code if isinstance(a, Refused) else type(a).__name__ for a in answers.values()]
        self._daemon.note(vm, f"volumes: {', '.join(said)}")

    def _reaches(self, server: HostId) -> bool:
        other = self._server(server)
        return other is self._host or not (self._host.is_cut_from(other) or other.storage.run is None)

    def _server(self, server: HostId) -> "Host":
        return next(host for host in self._host.hosts if host.host_id == server)

    def _ask(self, server: HostId, arrive: Callable[[Storaged, Told[Found]], None], told: Told[Found | None]) -> None:
        host, other = self._host, self._server(server)

        def reach(reply: Told[Found]) -> None:
            storage = other.storage
            storage.process.do(lambda: arrive(storage.run, reply) if storage.run is not None else None)

        def heard(answer: Found | None) -> None:
            host.timeline.do(lambda: told(answer))

        if other is host:
            self._ask_here(reach, heard)
            return
        host.network.request(
            lambda: host.is_cut_from(other),
            lambda: other.storage.run is not None,
            reach,
            answered=heard,
            failed=lambda sent: heard(None),
            timeout_s=STORAGE_S,
        )

    def _ask_here(self, reach: Callable[[Told[Found]], None], heard: Told[Found | None]) -> None:
        """By the socket: in order, and once. A question or an answer gets lost with a daemon, or by a fault."""
        host, waiting = self._host, [heard]
        is_lost = host.happens(host.storage.faults.storage_lost)

        def answer(found: Found | None) -> None:
            if waiting:
                waiting.pop()(found)

        if host.storage.run is None or (is_lost and host.happens(0.5)):  # before it came
            host.timeline.after(0.005, lambda: answer(None))
            return
        host.timeline.after(STORAGE_S, lambda: answer(None))
        host.timeline.after(
            0.001, lambda: reach(lambda found: host.timeline.after(0.005, lambda: answer(None if is_lost else found)))
        )
