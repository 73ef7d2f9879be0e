"""What stands behind the front door of a compute host: users' requests, judged and carried out."""

import dataclasses
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio

from atomd.answering import ComputeAnswers, Face
from atomd.capacity.hardware import Claim
from atomd.capacity.quota import Quota
from atomd.capacity.traits import arch_for
from atomd.capacity.uses import Uses
from atomd.effects import Effects
from atomd.hypervisor.domain_xml import domain_name
from atomd.hypervisor.domains import Console, ConsoleBusy, HypervisorError, HypervisorLike
from atomd.performing import Performer, moment
from atomd.vms.lifecycle import RUNS, Change, State, Vm
from atomd.vms.refusals import NOT_FOUND, refused
from matcher.net import local
from matcher.net.audit import Audit, outcome_of, why_of
from matcher.net.caller import Caller
from matcher.net.intake import Intake
from matcher.net.peer import now_s, wall_ms
from matcher.offers.ledger import Ledger
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.opening import open_sealed
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, M
from matcher.wire.envelope import host_audience, unseal
from matcher.wire.framing import unframe
from matcher.wire.messages import (
    Abandon,
    Abandoned,
    Answer,
    Arch,
    Confirm,
    ConfirmVolume,
    Refused,
    Role,
    VmView,
    VmViews,
    VmVolume,
)
from matcher.wire.realm import HOST_USES_MAX, Use, UserUses, WhoAmI
from matcher.wire.volumes import Asked, AskVolumesUsed, Replies, VolumesUsed
from specs.ids import HostId, OfferId, UserId, Vid, VmId, dashed

DECIDED_S = 20.0  # a confirm waits for storage this long, and no longer: the client asks again
UP_S = 40.0  # a libvirt call may take 30 s until it is unknown
PLUGGED_S = 50.0  # storage, libvirt, and a guest that takes its time
ENDED_S = 70.0  # a guest has 60 s to obey the power button
ADDRESSES_S = 2.0
STORAGE_S = 0.5  # to answer a pledge, or what a user has
LOG_MAX_BYTES = 256 * 1024
USED_PCI_MAX = 64

T = TypeVar("T")
A = TypeVar("A", bound=Refused | None)


class Service:
    """Implements `matcher.net.door.behind.Host`."""

    def __init__(
        self,
        *,
        identity: Identity,
        face: Face,
        performer: Performer,
        answers: ComputeAnswers,
        hypervisor: HypervisorLike,
        storaged_socket: Path,
        audit: Audit,
        quota: Quota,
        ledger: Ledger[Claim],
        uses: Uses,
    ) -> None:
        self._quota, self._ledger, self._uses = quota, ledger, uses
        self._audit = audit
        self._identity, self._face = identity, face
        self._performer, self._compute = performer, performer.compute
        self._answers, self._hypervisor = answers, hypervisor
        self._intake = Intake(identity, answers)
        self._storaged_socket = storaged_socket

    @property
    def host_id(self) -> str:
        return self._identity.principal.id

    def about(self, caller: Caller) -> Answer:
        return self._answers.about("0" * 32, len(self._compute.of_user(UserId(caller.id))))

    async def whoami(self, caller: Caller) -> WhoAmI:
        return WhoAmI(
            name=caller.name,
            id=caller.id,
            realm=self._identity.realm_name,
            host=self._face.host,
            ends_s=0,
            grant=caller.who.grant,
            here=self._quota.here(caller.who),
            use=await self._use(UserId(caller.id)),
        )

    async def uses(self, user_id: UserId) -> UserUses:
        """What a user has here, and what other hosts tell of them; nothing for one that nobody knows."""
        return UserUses(await self._use(user_id), self._uses.told(user_id, now_s())[:HOST_USES_MAX])

    async def confirm(self, envelope: bytes, caller: Caller) -> VmView | Refused:
        confirm = self._signed(envelope, Confirm, caller)
        if isinstance(confirm, Refused):
            return self._noted(caller, "vm.confirm", "", confirm)
        decided = self._compute.confirm(confirm, envelope, caller.who, moment())
        detail = f"{confirm.name or 'no name'}, generation {confirm.generation}, offer {confirm.offer_id}"
        refusal = decided if isinstance(decided, Refused) else self._performer.apply(decided)
        if refusal is not None:
            return self._noted(caller, "vm.confirm", confirm.vm_id, refusal, detail)
        if decided:  # now, as the caller may not stay until storage has answered; what becomes of it has its own line
            self._noted(caller, "vm.confirm", confirm.vm_id, None, detail)
        outcome = await self._until(lambda: self._compute.outcome(OfferId(confirm.offer_id)), DECIDED_S)
        if isinstance(outcome, Vm):
            return self._view(outcome, ())
        if isinstance(outcome, Refused):
            return self._noted(caller, "vm.confirm", confirm.vm_id, outcome, detail)
        return refused("unavailable", "confirm", "an answer", "storage has not answered yet", "ask again")

    async def up(self, vm_id: VmId, generation: int) -> VmView | None:
        """The VM once it is up or has failed; as it stands when that takes too long; `None` where it is gone."""

        def settled() -> bool | None:
            vm = self._compute.vms.get(vm_id)
            return True if vm is None or vm.generation != generation or vm.state is not State.COMMITTED else None

        await self._until(settled, UP_S)
        vm = self._compute.vms.get(vm_id)
        return self._view(vm, ()) if vm is not None and vm.generation == generation else None

    async def abandon(self, envelope: bytes, caller: Caller) -> Abandoned | Refused:
        abandon = self._signed(envelope, Abandon, caller)
        if isinstance(abandon, Refused):
            return self._noted(caller, "vm.abandon", "", abandon)
        vm, effects = self._compute.abandon(abandon, UserId(caller.id), now_s())
        refusal = self._performer.apply(effects)
        if effects:
            detail = f"generation {abandon.generation}, offer {abandon.offer_id}"
            self._noted(caller, "vm.abandon", abandon.vm_id, refusal, detail)
        return refusal or Abandoned(self._view(vm, ()) if vm is not None else None)

    async def vms(self, caller: Caller) -> VmViews:
        vms = self._compute.of_user(UserId(caller.id))
        return VmViews(tuple([await self.full_view(vm) for vm in vms]))

    async def vm(self, vm_id: VmId, caller: Caller) -> VmView | Refused:
        vm = self._own(vm_id, caller)
        return vm if isinstance(vm, Refused) else await self.full_view(vm)

    async def stop(self, vm_id: VmId, caller: Caller, *, force: bool) -> VmView | Refused:
        return await self._act(
            "vm.kill" if force else "vm.stop",
            vm_id,
            caller,
            lambda vm: self._compute.stop(vm, now_s(), force=force),
            State.STOPPING,
        )

    async def reboot(self, vm_id: VmId, caller: Caller) -> VmView | Refused:
        return await self._act("vm.reboot", vm_id, caller, self._compute.reboot)

    async def remove(self, vm_id: VmId, caller: Caller, generation: int | None) -> VmView | Refused:
        vm = self._own(vm_id, caller)
        if isinstance(vm, Vm) and generation is not None and vm.generation != generation:
            return self._noted(caller, "vm.remove", vm_id, NOT_FOUND)
        return await self._act("vm.remove", vm_id, caller, self._compute.remove, State.REMOVING)

    async def attach_volume(self, vm_id: VmId, envelope: bytes, caller: Caller) -> VmView | Refused:
        vm, confirm = self._own(vm_id, caller), self._signed(envelope, ConfirmVolume, caller)
        if isinstance(vm, Refused):
            return self._noted(caller, "vm.attach", vm_id, vm)
        if isinstance(confirm, Refused):
            return self._noted(caller, "vm.attach", vm_id, confirm)
        if confirm.vm_id != vm_id:
            return self._noted(caller, "vm.attach", vm_id, NOT_FOUND)
        plugging, host_id = self._compute.plugging, self._identity.principal.id
        decided = plugging.attach(confirm, envelope, caller.who, host_id)
        refusal = decided if isinstance(decided, Refused) else self._performer.apply(decided)
        outcome: Vm | Refused | None = refusal
        if outcome is None:
            outcome = await self._until(lambda: plugging.attach_outcome(confirm), PLUGGED_S)
        detail = f"volume {dashed(confirm.volume.vid)}, generation {confirm.generation}"
        return self._changed(caller, "vm.attach", vm_id, outcome, detail, is_news=bool(decided))

    async def detach_volume(self, vm_id: VmId, vid: Vid, caller: Caller) -> VmView | Refused:
        vm, plugging = self._own(vm_id, caller), self._compute.plugging
        if isinstance(vm, Refused):
            return self._noted(caller, "vm.detach", vm_id, vm)
        generation = vm.generation
        decided = plugging.detach(vm, vid, moment().wall_s)
        refusal = decided if isinstance(decided, Refused) else self._performer.apply(decided)
        outcome: Vm | Refused | None = refusal
        if outcome is None:
            outcome = await self._until(lambda: plugging.detach_outcome(vm_id, generation, vid), PLUGGED_S)
        detail = f"volume {dashed(vid)}, generation {generation}"
        return self._changed(caller, "vm.detach", vm_id, outcome, detail, is_news=bool(decided))

    def _changed(
        self, caller: Caller, what: str, vm_id: VmId, outcome: Vm | Refused | None, detail: str, *, is_news: bool
    ) -> VmView | Refused:
        """What became of a volume that was to come or go."""
        if outcome is None:
            hint = "ask again; electros inspect shows how far it is"
            outcome = refused("unavailable", "volume", "an answer", "it is not known yet what becomes of it", hint)
        refusal = outcome if isinstance(outcome, Refused) else None
        if is_news or refusal is not None:
            self._noted(caller, what, vm_id, refusal, detail)
        return outcome if isinstance(outcome, Refused) else self._view(outcome, ())

    async def console_log(self, vm_id: VmId, caller: Caller) -> bytes | Refused:
        vm = self._own(vm_id, caller)
        if isinstance(vm, Refused):
            return vm
        return await trio.to_thread.run_sync(_tail, str(self._performer.console_log(vm.vm_id)))

    async def console(self, vm_id: VmId, caller: Caller) -> Console | Refused:
        console = await self._console(vm_id, caller)
        if isinstance(console, Refused):
            return self._noted(caller, "vm.console", vm_id, console)
        self._noted(caller, "vm.console", vm_id, None, "opened")
        return _Watched(console, lambda: self._noted(caller, "vm.console", vm_id, None, "ended"))

    async def _console(self, vm_id: VmId, caller: Caller) -> Console | Refused:
        vm = self._own(vm_id, caller)
        if isinstance(vm, Refused):
            return vm
        if vm.state not in (State.RUNNING, State.STOPPING):
            return refused("not-now", "console", "a running VM", f"it is {vm.state}", "electros start")
        try:
            return await self._hypervisor.open_console(vm.vm_id)
        except ConsoleBusy as error:
            return refused("not-now", "console", "the console", str(error), "end the other session first")
        except HypervisorError as error:
            return refused("unavailable", "console", "the console", str(error), "try again")

    async def pledge(self, envelope: bytes, caller: Caller) -> list[bytes] | Refused:
        """A pledge too long for a datagram: judged as any other, by the storage of this host as well, and answered on
        this connection."""
        try:
            own = self._intake.receive_body(envelope, now_s=now_s(), wall_ms=wall_ms(), caller_id=caller.id)
        except (BadBytes, Untrusted) as error:
            return _unread("pledge", error)
        try:
            stored = await local.ask(self._storaged_socket, Asked(envelope), Replies, timeout_s=STORAGE_S)
        except local.LocalError:  # a host without storage, or one that is just starting
            return own
        return own if isinstance(stored, Refused) else [*own, *unframe(stored.framed)]

    # ---- inside

    async def _use(self, user_id: UserId) -> Use:
        use = self._quota.use(user_id, self._ledger.committed())
        return dataclasses.replace(use, volumes_mib=await self._volumes_mib(user_id))

    async def _volumes_mib(self, user_id: UserId) -> int | None:
        """Of volumes, as storaged counts them: none where no storaged runs. `None` where it does not answer, or is away
        while VMs have volumes of it."""
        try:
            said = await local.ask(self._storaged_socket, AskVolumesUsed(user_id), VolumesUsed, timeout_s=STORAGE_S)
        except local.LocalError as error:
            has_none = not any(vm.volumes for vm in self._compute.of_user(user_id))
            return 0 if has_none and isinstance(error.__cause__, FileNotFoundError) else None
        return None if isinstance(said, Refused) else said.mib

    def _signed(self, envelope: bytes, cls: type[M], caller: Caller) -> M | Refused:
        """The message, if this user signed it for this host; who is at the other end of TLS must be the signer."""
        what = cls.__name__.lower()
        try:
            sealed = unseal(envelope, realm=self._identity.realm, max_bytes=BODY_MAX_BYTES)
            audience = host_audience(HostId(self._identity.principal.id), Role.COMPUTE)
            message, signer = open_sealed(
                sealed,
                self._identity,
                audience=audience,
                signer="user",
                wall_s=wall_ms() / 1000,
                max_bytes=BODY_MAX_BYTES,
            )
            if not isinstance(message, cls):
                raise BadBytes("unexpected kind", sealed.kind.name.lower())
            if signer.id != caller.id:
                raise Untrusted("its certificate is not the caller's")
        except (BadBytes, Untrusted) as error:
            return _unread(what, error)
        return message

    def _noted(self, caller: Caller, what: str, vm_id: str, answer: A, detail: str = "") -> A:
        """`answer`, once the audit has it."""
        about = dashed(vm_id) if vm_id else ""
        told = "; ".join(text for text in (detail, why_of(answer)) if text)
        self._audit.note(caller, what, about, outcome_of(answer), told)
        return answer

    async def _act(
        self,
        what: str,
        vm_id: VmId,
        caller: Caller,
        decide: Callable[[Vm], Effects | Refused],
        passing: State | None = None,
    ) -> VmView | Refused:
        """Decide, perform, and wait while the VM is in the `passing` state; its last view where it is gone."""
        vm = self._own(vm_id, caller)
        if isinstance(vm, Refused):
            return self._noted(caller, what, vm_id, vm)
        decided = decide(vm)
        refusal = decided if isinstance(decided, Refused) else self._performer.apply(decided)
        if decided:
            self._noted(caller, what, vm_id, refusal, vm.confirm.name)
        if refusal is not None:
            return refusal

        def passed() -> bool | None:
            now = self._compute.vms.get(vm_id)
            return True if now is None or now.generation != vm.generation or now.state is not passing else None

        await self._until(passed, ENDED_S)
        return self._view(self._compute.vms.get(vm_id, vm), ())

    async def _until(self, look: Callable[[], T | None], timeout_s: float) -> T | None:
        """What `look` finds, as soon as it finds something; `None` after `timeout_s`."""
        with trio.move_on_after(timeout_s):
            while (found := look()) is None:
                await self._performer.changed()
            return found
        return None

    def _own(self, vm_id: VmId, caller: Caller) -> Vm | Refused:
        vm = self._compute.vms.get(vm_id)
        own = vm is not None and vm.user_id == caller.id and vm.state is not State.PREPARED
        return vm if vm is not None and own else NOT_FOUND

    async def full_view(self, vm: Vm) -> VmView:
        addresses: tuple[str, ...] = ()
        if vm.state in (State.RUNNING, State.STOPPING):
            with trio.move_on_after(ADDRESSES_S), suppress(HypervisorError):
                addresses = await self._hypervisor.addresses(vm.vm_id)
        return self._view(vm, addresses)

    def _view(self, vm: Vm, addresses: tuple[str, ...]) -> VmView:
        ask, claim, hardware = vm.confirm.vm, vm.claim, self._face.hardware
        lease = self._compute.lease_of(vm)
        return VmView(
            id=vm.vm_id,
            generation=vm.generation,
            name=vm.confirm.name,
            user=vm.user_name,
            host=self._face.host,
            host_id=self._identity.principal.id,
            state=vm.state,
            why=self._compute.why(vm),
            domain=domain_name(vm.vm_id),
            accelerator=hardware.accelerator,
            arch=arch_for(ask, hardware) or Arch.X86_64,
            addresses=addresses,
            vcpus=len(claim.threads),
            threads=tuple(sorted(claim.threads)),
            threads_per_core=claim.threads_per_core,
            overprovision=claim.overprovision,
            numa=claim.numa,
            ram_mib=ask.ram_mib,
            pci=claim.pci,
            volumes=self._volumes(vm),
            specfile=vm.confirm.specfile,
            lease_ends_s=lease.ends_s(moment()) if lease is not None and vm.state in RUNS else 0,
            usb=claim.usb,
        )

    def _volumes(self, vm: Vm) -> tuple[VmVolume, ...]:
        servers = {claim.vid: claim.server for claim in vm.claims}
        changing = {vm.change.vid: vm.change} if vm.change is not None else {}
        return tuple(
            VmVolume(
                v.vid,
                v.format,
                v.readonly,
                v.bootable,
                servers.get(v.vid),
                v.cdrom,
                change=changing[v.vid].stage.value if v.vid in changing else "",
                change_s=_age_s(changing[v.vid]) if v.vid in changing else 0,
            )
            for v in vm.volumes
        )


def _age_s(change: Change) -> int:
    return max(0, int(moment().wall_s - change.asked_s)) if change.asked_s else 0


class _Watched:
    """A console whose end is told of."""

    def __init__(self, console: Console, ended: Callable[[], object]) -> None:
        self._console, self._ended = console, ended

    async def send(self, data: bytes) -> None:
        await self._console.send(data)

    async def receive(self) -> bytes:
        return await self._console.receive()

    async def aclose(self) -> None:
        self._ended()
        await self._console.aclose()


def _unread(what: str, error: BadBytes | Untrusted) -> Refused:
    """A body that is no envelope of the caller's: what is wrong with it."""
    has = f"it can't be read: {error}" if isinstance(error, BadBytes) else error.reason
    return refused("bad-request", "envelope", f"your {what}, signed for this host", has, "")


def _tail(path: str) -> bytes:
    """The end of a console log; a guest that writes without end must not grow a daemon."""
    try:
        with open(path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_MAX_BYTES))
            return log.read(LOG_MAX_BYTES)
    except FileNotFoundError:
        return b""
