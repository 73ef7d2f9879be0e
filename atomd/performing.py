"""What the core decided, done: the journal at once and in order, slow work in tasks that come back as events.

`apply` is synchronous, so that no two decisions interleave and nothing is sent before the journal has it. Storage and
libvirt are asked in tasks of their own; one that boots never stalls an answer.
"""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import trio

from atomd import effects as wanted
from atomd.capacity.hardware import Hardware
from atomd.capacity.plugged import UsbKind, usb_wishes
from atomd.capacity.traits import arch_for
from atomd.compute import Compute
from atomd.effects import Effects
from atomd.hypervisor.cells import by_node, cells_of
from atomd.hypervisor.disk_xml import domain_secrets
from atomd.hypervisor.domain_xml import DomainSpec, domain_xml, state_xml
from atomd.hypervisor.domains import (
    ConnectionLost,
    DomainEvent,
    DomainExists,
    DomainSecret,
    DomainState,
    Event,
    HypervisorDown,
    HypervisorError,
    HypervisorLike,
    NoDomain,
    Resync,
    StartFailed,
    TargetAway,
    Unknown,
    What,
    Why,
)
from atomd.inventory.facts import UsbDevice
from atomd.journal import Journal, JournalFull
from atomd.vms.lifecycle import AT_REST, State, Vm
from atomd.vms.moment import Moment
from atomd.vms.reconcile import Observed
from atomd.vms.refusals import unattached
from atomd.volumes.answers import ASK_AGAIN, Answer, Silent, has_own_images, why_not_begun
from atomd.volumes.away import why_waiting
from atomd.volumes.plugger import Plugger, StorageLike
from atomd.volumes.shares import Life, NotMounted
from matcher.net.audit import Audit
from matcher.net.peer import now_s
from matcher.wire.messages import Arch, Refused
from matcher.wire.volumes import Attached, AttachedVolume, ChapSecret
from specs.ids import VmId, dashed

RECONCILE_S = 30.0
RETRY_S = 2.0  # after an answer that never came
TARGET_BACK_S = 10.0  # exports converge within five
TARGET_AGAIN_S = 0.5

log = logging.getLogger("atomd")

WHY_ENDED = {
    Why.POWERED_OFF: "the guest powered itself off",
    Why.DESTROYED: "it was destroyed on its host, with virsh or the like",
    Why.CRASHED: "the guest's kernel panicked",
    Why.FAILED: "QEMU ended by itself; its log is on the host, in /var/log/libvirt/qemu",
}


BECAME = {
    State.COMMITTED: "vm.committed",
    State.RUNNING: "vm.started",
    State.STOPPED: "vm.ended",
    State.FAILED: "vm.failed",
}


def moment() -> Moment:
    """Now, by this machine's clocks."""
    return Moment(now_s(), time.time(), local_minute())


def local_minute() -> int:
    """Of the local day."""
    return _minute(int(time.time() // 60))


@lru_cache(maxsize=1)
def _minute(since_epoch: int) -> int:
    """Asked for every pledge, and the C library looks at the time zone's file each time."""
    local = time.localtime(since_epoch * 60)
    return local.tm_hour * 60 + local.tm_min


def became(before: Vm | None, vm: Vm) -> str:
    """The audit's word for a step of the journal; empty where a request's own line tells of it."""
    if before is not None and before.state is vm.state:
        more = len(vm.volumes) - len(before.volumes)
        return ("vm.attached" if more > 0 else "vm.detached") if more else ""
    if before is not None and before.state is State.RUNNING and vm.state is State.COMMITTED:
        return "vm.restarted"  # with its host
    if before is not None and before.state is State.STOPPING and vm.state is State.RUNNING:
        return "vm.goes-on"  # deaf to the power button
    return BECAME.get(vm.state, "")


class SharesLike(Protocol):
    """The folders that VMs share: see `atomd.volumes.shares`."""

    async def mounted(self, life: Life, volumes: Collection[AttachedVolume]) -> tuple[AttachedVolume, ...]: ...

    async def unmount(self, life: Life) -> bool: ...

    async def sweep(self, lives: Callable[[], Collection[Life]]) -> bool: ...


class DevicesLike(Protocol):
    """The devices that VMs have: see `atomd.devices`."""

    async def lend(self, addresses: Collection[str]) -> str | None: ...

    async def plug(self, ports: Collection[str], wished: Counter[UsbKind]) -> tuple[UsbDevice, ...] | str: ...


class Performer:
    """Performs the effects of one `Compute` on one host."""

    def __init__(
        self,
        *,
        compute: Compute,
        journal: Journal,
        hypervisor: HypervisorLike,
        hardware: Hardware,
        host_threads: frozenset[int],
        storage: StorageLike,
        shares: SharesLike,
        devices: DevicesLike,
        console_folder: Path,
        network: str,
        nursery: trio.Nursery,
        audit: Audit,
    ) -> None:
        self.compute = compute
        self._journal, self._hypervisor, self._hardware = journal, hypervisor, hardware
        self._host_threads, self._network = host_threads, network
        self._storage, self._shares, self._console_folder = storage, shares, console_folder
        self._devices, self._nursery, self._audit = devices, nursery, audit
        self._changed = trio.Event()
        self._look_again = trio.Event()
        self.quarantined: frozenset[VmId] = frozenset()  # domains tagged ours that no commitment explains
        self._secrets: dict[tuple[VmId, int], tuple[ChapSecret, ...]] = {}  # from an attach to the start, and no longer
        self._plugger = Plugger(compute.plugging, hypervisor, storage, self.apply, self._soon)

    def apply(self, effects: Effects) -> Refused | None:
        """Perform in order. Where the journal cannot take a step, the rest is dropped and the step refused."""
        for position, effect in enumerate(effects):
            try:
                self._perform(effect)
            except JournalFull as error:
                log.error("the journal could not take a step: %s", error)
                return self._undo(effects, position, str(error))
        return None

    async def changed(self) -> None:
        """Wait until some VM has changed."""
        await self._changed.wait()

    def console_log(self, vm_id: VmId) -> Path:
        return self._console_folder / f"{dashed(vm_id)}.log"

    # ---- loops

    async def follow(self) -> None:
        """Libvirt's events, as they come."""
        async for event in self._hypervisor.events:
            self._hear(event)

    async def keep_reconciled(self) -> None:
        """At start, every `RECONCILE_S`, and whenever something says that what is known may be stale."""
        while True:
            self._look_again = trio.Event()
            await self._shares.sweep(self._lives)
            try:
                looked = self.compute.look()
                observed = await self._observe()
                self.quarantined &= {domain.vm_id for domain in observed}
                for effects in self.compute.reconcile(observed, looked, now_s()):
                    self.apply(effects)
            except HypervisorError as error:
                log.warning("not reconciled: %s", error)
            with trio.move_on_after(RECONCILE_S):
                await self._look_again.wait()

    async def keep_time(self) -> None:
        while True:
            await trio.sleep(1.0)
            self._audit.tick()
            for effects in self.compute.tick(now_s()):
                self.apply(effects)

    # ---- inside

    def _lives(self) -> list[Life]:
        """Those that may have a domain: what has ended has nothing mounted."""
        return [(vm.vm_id, vm.generation) for vm in self.compute.vms.values() if vm.state not in AT_REST]

    def _perform(self, effect: wanted.Effect) -> None:
        match effect:
            case wanted.Journal(put=vm, before=before, replaces=older):
                self._journal.put(vm, older)
                self._note(became(before, vm), vm, vm.why)
                about = f"{vm.change.stage} {vm.change.vid}" if vm.change is not None else vm.why
                log.info("%s %s (generation %d): %s %s", vm.user_name, vm.vm_id, vm.generation, vm.state, about)
            case wanted.JournalForget(vm=vm):
                self._journal.forget(vm)
                self._note("vm.gone" if vm.state is State.REMOVING else "vm.undone", vm)
                log.info("%s %s (generation %d): gone", vm.user_name, vm.vm_id, vm.generation)
            case wanted.JournalAbandoned(offer_id=offer_id):
                self._journal.abandon(offer_id)
            case wanted.Changed():
                self._changed.set()
                self._changed = trio.Event()
            case wanted.Quarantined(vm_id=vm_id):
                self._quarantine(vm_id)
            case _:
                self._nursery.start_soon(self._work, effect)

    def _note(self, what: str, vm: Vm, why: str = "") -> None:
        """What became of a VM, whoever wished it: requests are noted where they come in."""
        if what:
            of = f"{vm.confirm.name or 'no name'}, generation {vm.generation}, of {vm.user_name} {vm.user_id[:16]}"
            self._audit.note("atomd", what, dashed(vm.vm_id), detail=f"{of}{': ' if why else ''}{why}")

    def _undo(self, effects: Effects, position: int, why: str) -> Refused | None:
        failed = effects[position]
        assert isinstance(failed, wanted.Durable), "nothing else is written into the journal"
        refusal, undo = self.compute.rollback(failed, why)
        self.apply(undo)
        return refusal

    async def _work(self, effect: wanted.Effect) -> None:
        match effect:
            case wanted.AttachVolumes(vm=vm):
                await self._attach(vm)
            case wanted.DetachVolumes(vm=vm):
                await self._detach(vm)
            case wanted.EraseState(vm=vm):
                await self._erase(vm)
            case wanted.ReachVolumes(vm=vm):
                await self._reach(vm)
            case wanted.AttachVolume() | wanted.PlugVolume() | wanted.UnplugVolume() | wanted.DetachVolume():
                await self._plugger.work(effect)
            case wanted.StartDomain(vm=vm):
                await self._start(vm)
            case wanted.DestroyDomain(vm=vm):
                await self._destroy(vm)
            case wanted.ShutDownDomain(vm=vm) | wanted.RebootDomain(vm=vm):
                again = isinstance(effect, wanted.RebootDomain)
                await self._tell(vm, self._hypervisor.reboot if again else self._hypervisor.shutdown)
            case wanted.ResumeDomain(vm=vm):
                await self._resume(vm)

    async def _attach(self, vm: Vm) -> None:
        answer = await self._storage.attach(vm)
        if isinstance(answer, Attached) and answer.secrets:
            self._secrets[vm.vm_id, vm.generation] = answer.secrets
        self.apply(self.compute.attached(vm.vm_id, vm.generation, answer))
        if isinstance(answer, Silent):
            await self._soon()

    async def _detach(self, vm: Vm) -> None:
        self._secrets.pop((vm.vm_id, vm.generation), None)
        done = await self._shares.unmount((vm.vm_id, vm.generation)) and await self._storage.detach(vm)
        self.apply(self.compute.detached(vm.vm_id, vm.generation, done=done))
        if not done and (vm.vm_id, vm.generation) not in self.compute.owed:  # else time tells again
            await self._soon()

    async def _erase(self, vm: Vm) -> None:
        ask, done = vm.confirm.vm, True
        try:
            await self._hypervisor.erase(state_xml(vm.vm_id, self._arch(vm), ask.firmware, tpm=ask.tpm))
        except HypervisorError as error:
            log.warning("%s: what its firmware and TPM have kept is not removed yet: %s", vm.vm_id, error)
            done = False
        self.apply(self.compute.erased(vm.vm_id, vm.generation, done=done))
        if not done:
            await self._soon()

    async def _reach(self, vm: Vm) -> None:
        answer = await self._storage.attach(vm)
        self.apply(self.compute.reached(vm, answer, now_s()))
        if self.compute.away.is_stalled(vm.vm_id):
            await self._soon()

    async def _opened(self, vm: Vm) -> Answer:
        """What the VM's domain is to open. The servers are asked anew where a secret is needed that is not in memory
        any more; they say the same again."""
        secrets = self._secrets.pop((vm.vm_id, vm.generation), ())
        needed = sum(volume.iscsi is not None for volume in vm.volumes)
        return Attached(vm.volumes, secrets) if len(secrets) == needed else await self._storage.attach(vm)

    async def _start(self, vm: Vm) -> None:
        failure: str | None = None
        opened = await self._opened(vm)
        if isinstance(opened, Silent) or (isinstance(opened, Refused) and opened.code in ASK_AGAIN):
            await self._start_later(vm, why_waiting(opened))
            return
        if isinstance(opened, Refused):
            await self._give_up(vm, unattached(opened))
            return
        secrets, has_images = domain_secrets(vm.vm_id, opened.secrets), has_own_images(opened.volumes)
        try:
            mounted = await self._shares.mounted((vm.vm_id, vm.generation), opened.volumes)
            opened = Attached(mounted, opened.secrets)
            usb = await self._lent(vm)
            await self._create(domain_xml(self._spec(vm, opened, usb)), secrets, paused=has_images)
        except DomainExists as error:
            if not await self._is_up(vm):  # another generation's domain is still there
                await self._start_later(vm, str(error))
                return
        except (HypervisorDown, Unknown) as error:
            await self._start_later(vm, str(error))
            return
        except (StartFailed, HypervisorError, NotMounted) as error:
            failure = str(error)
        if has_images and failure is None:
            await self._begin(vm)
        else:
            self.apply(self.compute.started(vm.vm_id, vm.generation, failure))

    async def _lent(self, vm: Vm) -> tuple[UsbDevice, ...]:
        """The VM's devices, as far as its domain has to say more of them than their addresses. Raises `StartFailed`."""
        plugged = await self._devices.plug(vm.claim.usb, usb_wishes(vm.confirm.vm))
        kept = plugged if isinstance(plugged, str) else await self._devices.lend(vm.claim.pci)
        if isinstance(plugged, str) or kept is not None:
            raise StartFailed(str(kept))
        return plugged

    async def _create(self, xml: str, secrets: Sequence[DomainSecret], *, paused: bool) -> None:
        """The network is up nearly always: it is looked at where a start has failed, and not before each. An exporter
        that was killed is waited for, as running guests wait for it."""
        end_s = trio.current_time() + TARGET_BACK_S
        while True:
            try:
                return await self._hypervisor.start(xml, secrets, paused=paused)
            except StartFailed as error:
                is_away = isinstance(error, TargetAway)
                over = trio.current_time() > end_s
                if over or not (is_away or await self._hypervisor.ensure_network(self._network)):
                    raise
                await trio.sleep(TARGET_AGAIN_S * is_away)

    async def _begin(self, vm: Vm) -> None:
        """The guest has not begun, and QEMU has its images locked: what storaged says of them now stays true. Before
        that, a next life of the VM may have been given them, on another host."""
        answer = await self._storage.attach(vm)
        failure = why_not_begun(vm.volumes, answer)
        if failure is not None:
            await self._give_up(vm, failure)
        elif not isinstance(answer, Attached):
            await self._start_later(vm, why_waiting(answer))
        else:
            try:
                await self._hypervisor.resume(vm.vm_id)
            except HypervisorError as error:
                await self._start_later(vm, str(error))
            else:
                self.apply(self.compute.started(vm.vm_id, vm.generation, None))

    async def _give_up(self, vm: Vm, failure: str) -> None:
        """The start has failed; a domain of it may be there, held."""
        try:
            await self._hypervisor.destroy(vm.vm_id)
        except NoDomain:
            pass
        except HypervisorError as error:
            await self._start_later(vm, str(error))
            return
        self.apply(self.compute.started(vm.vm_id, vm.generation, failure))

    async def _start_later(self, vm: Vm, why: str) -> None:
        log.warning("%s: %s", vm.vm_id, why)
        self.compute.start_unknown(vm.vm_id, why)
        await self._soon()

    async def _is_up(self, vm: Vm) -> bool:
        try:
            return any((o.vm_id, o.generation) == (vm.vm_id, vm.generation) for o in await self._observe())
        except HypervisorError:
            return False

    async def _destroy(self, vm: Vm) -> None:
        done = True
        try:
            await self._hypervisor.destroy(vm.vm_id)
        except NoDomain:
            pass
        except HypervisorError as error:
            log.warning("%s: %s", vm.vm_id, error)
            done = False
        self.apply(self.compute.destroyed(vm.vm_id, vm.generation, done=done))
        if not done:
            await self._soon()

    async def _tell(self, vm: Vm, tell: Callable[[VmId], Awaitable[None]]) -> None:
        try:
            await tell(vm.vm_id)
        except HypervisorError as error:
            log.warning("%s: %s", vm.vm_id, error)
            await self._soon()

    async def _resume(self, vm: Vm) -> None:
        """Its volumes are back. Where they are not, after all, it is paused again, and looked at again."""
        log.info("%s goes on, as its volumes are back", vm.vm_id)
        await self._tell(vm, self._hypervisor.resume)
        self._look_again.set()

    def _hear(self, event: Event) -> None:
        match event:
            case DomainEvent(vm_id=vm_id, what=What.STOPPED, why=why):
                said = WHY_ENDED.get(why, "it ended on its host") if why else "it ended on its host"
                self.compute.ended(vm_id, crashed=why in (Why.CRASHED, Why.FAILED), why=said)
                self._look_again.set()
            case Resync() | DomainEvent(what=What.PAUSED, why=Why.IO_ERROR):
                self._look_again.set()
            case ConnectionLost(reason=reason):
                log.warning("libvirt: %s", reason)
            case DomainEvent():
                pass

    async def _observe(self) -> tuple[Observed, ...]:
        gone = (DomainState.SHUT_OFF, DomainState.CRASHED)
        return tuple(
            Observed(domain.vm_id, domain.generation or 0, domain.why is Why.IO_ERROR, held=domain.why is Why.ASKED)
            for domain in await self._hypervisor.domains()
            if domain.ours and domain.state not in gone
        )

    async def _soon(self) -> None:
        await trio.sleep(RETRY_S)
        self._look_again.set()

    def _quarantine(self, vm_id: VmId) -> None:
        if vm_id not in self.quarantined:
            self.quarantined |= {vm_id}
            log.error("domain atomos-%s carries our name and no commitment explains it; left alone", dashed(vm_id))
            self._audit.note("atomd", "vm.quarantined", dashed(vm_id), detail="no commitment explains this domain")

    def _arch(self, vm: Vm) -> Arch:
        return arch_for(vm.confirm.vm, self._hardware) or Arch.X86_64

    def _spec(self, vm: Vm, opened: Attached, usb: tuple[UsbDevice, ...]) -> DomainSpec:
        ask, claim = vm.confirm.vm, vm.claim
        node_of = {thread: core.numa for core in self._hardware.cores for thread in core.threads}
        threads = by_node(claim.threads, node_of)
        return DomainSpec(
            vm_id=vm.vm_id,
            generation=vm.generation,
            title=vm.confirm.name,
            user_id=vm.user_id,
            accelerator=self._hardware.accelerator,
            arch=self._arch(vm),
            vcpus=len(claim.threads),
            threads=threads,
            exclusive=claim.overprovision == 1,
            threads_per_core=claim.threads_per_core,
            topoext=self._hardware.topoext,
            ram_mib=ask.ram_mib,
            console_log=str(self.console_log(vm.vm_id)),
            numa=claim.numa,
            pages=claim.pages,
            cells=cells_of(threads, node_of, claim.ram_mib, ask.ram_mib) if claim.pages is None else (),
            pci=claim.pci,
            usb=usb,
            volumes=opened.volumes,
            flags=ask.flags,
            firmware=ask.firmware,
            tpm=ask.tpm,
            qemu_agent=ask.qemu_agent,
            network=self._network,
            emulator_threads=tuple(sorted({*claim.threads} | self._host_threads)),
        )
