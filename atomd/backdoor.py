"""The back door: what the sysadmins of this host ask of its atomd with `atomctl`, over a Unix socket.

They see the VMs of all users and may end them, and may close the host to new ones. Every act is audited with who did
it; so is whoever was turned away. That the host is drained is a small file, so that a restart does not open it again.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import trio

from atomd.answering import VERSION, ComputeAnswers
from atomd.capacity.hardware import Claim
from atomd.compute import Compute
from atomd.devices import Devices
from atomd.effects import Effects
from atomd.inventory.facts import PciDevice, UsbDevice
from atomd.performing import Performer, moment
from atomd.service import ENDED_S, Service
from atomd.vms.lifecycle import RUNS, State, Vm
from atomd.vms.refusals import DRAINED, refused
from matcher.net import local
from matcher.net.audit import DENIED, Audit, gid_of_group, outcome_of, why_of
from matcher.net.desk import Desk
from matcher.net.gossip.viewing import View
from matcher.net.peer import now_s
from matcher.offers.ledger import Ledger
from matcher.trust import files
from matcher.wire import backdoor as asked
from matcher.wire.hosts import ListMembers
from matcher.wire.messages import RAM_MIB_MAX, Message, Refused
from matcher.wire.realm import Done
from specs.ids import VmId, dashed

STORAGED_S = 0.5


class Drain:
    """Whether this host takes new VMs, in memory and on the disk."""

    def __init__(self, path: Path, compute: Compute) -> None:
        self._path, self._compute = path, compute
        compute.drained = path.exists()

    def set(self, *, on: bool) -> None:
        """Raises `OSError`, and then nothing has changed."""
        if on:
            files.write(self._path, b"by its sysadmin: atomctl drain --undo\n")
        else:
            self._path.unlink(missing_ok=True)
            files.sync_folder(self._path.parent)
        self._compute.drained = on


class BackDoor:
    def __init__(
        self,
        drain: Drain,
        service: Service,
        performer: Performer,
        devices: Devices,
        answers: ComputeAnswers,
        ledger: Ledger[Claim],
        desk: Desk,
        audit: Audit,
        down: Callable[[], str | None],
        storaged_socket: Path,
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self.counters: Mapping[str, Counter[str]] = {}  # by where; of what was dropped, or counted
        self.view = View()  # of the realm's hosts
        self._drain, self._service, self._performer, self._devices = drain, service, performer, devices
        self._compute, self._answers, self._ledger = performer.compute, answers, ledger
        self._desk, self._audit, self._down = desk, audit, down
        self._storaged_socket = storaged_socket

    async def serve(
        self, path: Path, *, task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Until cancelled; for root, and for the sysadmins' group where there is one."""
        serve = partial(local.serve_sysadmins, gid=gid_of_group(), turned_away=self._turned_away)
        await serve(path, self.answer, task_status=task_status)

    async def answer(self, question: Message, peer: local.Peer) -> Message:
        match question:
            case asked.AskStatus():
                return await self._status()
            case asked.ListVms(after=after):
                return self._vms(after)
            case asked.InspectVm(vm_id=vm_id):
                vm = self._compute.vms.get(VmId(vm_id))
                return asked.Inspected(await self._service.full_view(vm), vm.user_id) if vm else _not_found()
            case asked.ListHolds():
                return self._holds()
            case ListMembers(after=after):
                return self.view.members(after)
            case asked.SetDrained(on=on):
                return await self._set_drained(peer, on=on)
            case asked.EvictVm(vm_id=vm_id, generation=generation, force=force, why=why):
                evict = partial(self._compute.evict, now_s=now_s(), why=why, force=force)
                return await self._act(peer, "vm.evict", vm_id, generation, evict, State.STOPPING, why)
            case asked.RemoveVm(vm_id=vm_id, generation=generation):
                return await self._act(peer, "vm.remove", vm_id, generation, self._compute.remove, State.REMOVING)
        return await self._about_devices(question, peer)

    async def _about_devices(self, question: Message, peer: local.Peer) -> Message:
        match question:
            case asked.ListDevices(after=after):
                return self._device_rows(after)
            case asked.ReadmitDevice(address=address):
                return await self._readmit(peer, address)
        return refused("bad-request", "question", "a sysadmin's question", "something else", "")

    def _turned_away(self, peer: local.Peer) -> None:
        self.dropped["turned away"] += 1
        self._audit.note(f"uid {peer.uid}", "backdoor.open", outcome=DENIED, detail="neither root nor of the group")

    async def _status(self) -> asked.HostStatus:
        realm, vms = self._desk.status(), self._compute.vms.values()
        return asked.HostStatus(
            version=VERSION,
            host=realm.host,
            host_id=self._service.host_id,
            realm=realm.name,
            realm_id=realm.realm_id,
            epoch=realm.epoch,
            revocations=realm.revocations,
            key_number=realm.key_number,
            fresh_s=realm.fresh_s,
            drained=DRAINED.reasons[0].has if self._compute.drained else "",
            libvirt=(self._down() or "")[:240],
            is_storaged_up=await self._is_storaged_up(),
            vms=len(vms),
            vms_running=sum(1 for vm in vms if vm.state is State.RUNNING),
            holds=len(self._ledger.holds(now_s())),
            audit_lost=self._audit.lost,
            counters=tuple(
                asked.Counter(f"{where}: {what}"[:64], count)
                for where, counter in (*self.counters.items(), ("back door", self.dropped), ("VMs", self._left_over()))
                for what, count in sorted(counter.items())
                if count
            )[: asked.COUNTERS_MAX],
        )

    def _left_over(self) -> Counter[str]:
        owed, quarantined = len(self._compute.owed), len(self._performer.quarantined)
        return Counter(
            {
                "gone, storage hosts to be told": owed,
                "domains that no VM explains": quarantined,
                "devices in quarantine": len(self._devices.quarantined),
            }
        )

    async def _is_storaged_up(self) -> bool:
        with trio.move_on_after(STORAGED_S):
            try:
                async with await trio.open_unix_socket(str(self._storaged_socket)):
                    return True
            except OSError:
                return False
        return False

    def _vms(self, after: str) -> asked.VmRows:
        later = sorted((vm for vm in self._compute.vms.values() if vm.vm_id > after), key=lambda vm: vm.vm_id)
        return asked.VmRows(tuple(map(self._row, later[: asked.ROWS_MAX])), len(later) > asked.ROWS_MAX)

    def _row(self, vm: Vm) -> asked.VmRow:
        lease = self._compute.lease_of(vm) if vm.state in RUNS else None
        return asked.VmRow(
            id=vm.vm_id,
            generation=vm.generation,
            name=vm.confirm.name,
            user=vm.user_name,
            user_id=vm.user_id,
            state=vm.state,
            why=self._compute.why(vm)[:240],
            vcpus=len(vm.claim.threads),
            ram_mib=vm.confirm.vm.ram_mib,
            devices=len(_addresses(vm.claim)),
            lease_s=-1 if lease is None else max(0, int(lease.ends_s(moment()) - moment().wall_s)),
        )

    def _holds(self) -> asked.HoldRows:
        now = now_s()
        rows = [
            asked.HoldRow(
                offer_id=offer_id,
                pledge_id=hold.pledge_id,
                vm_id=hold.claim.vm_id,
                user=self._answers.name_of(hold.user_id),
                user_id=hold.user_id,
                vcpus=len(hold.claim.threads),
                ram_mib=min(RAM_MIB_MAX, hold.claim.charged_mib),
                devices=len(_addresses(hold.claim)),
                left_ms=max(0, int((hold.until_s - now) * 1000)),
            )
            for offer_id, hold in self._ledger.holds(now).items()
        ]
        return asked.HoldRows(tuple(rows[: asked.HOLDS_MAX]))

    def _device_rows(self, after: str) -> asked.DeviceRows:
        """Those in quarantine that are gone from the machine as well."""
        vm_of = {address: vm.vm_id for vm in self._compute.vms.values() for address in _addresses(vm.claim)}
        held = self._devices.held()
        broken = {lent.address: lent.why for lent in self._devices.quarantined}
        rows = {device.address: _device_row(device, broken) for device in self._devices.rows()}
        rows |= {device.address: _usb_row(device) for device in self._devices.usb_rows()}
        rows |= {address: _gone_row(address, why) for address, why in broken.items() if address not in rows}
        later = [dataclasses.replace(rows[each], vm_id=vm_of[each] if each in held else "") for each in sorted(rows)]
        later = [row for row in later if row.address > after]
        return asked.DeviceRows(tuple(later[: asked.ROWS_MAX]), len(later) > asked.ROWS_MAX)

    async def _readmit(self, peer: local.Peer, address: str) -> Done | Refused:
        answer: Done | Refused
        try:
            if self._devices.readmit(address):
                answer = Done(f"{address} is offered again, if nothing else is against it: atomctl devices")
            else:
                has = "it is not in quarantine"
                answer = refused("not-found", "device", address, has, "atomctl devices shows all")
        except OSError as error:
            answer = refused("journal", "host", "a note of this", error.strerror or str(error), "")
        self._audit.note(await local.sysadmin(peer), "device.readmit", address, outcome_of(answer), why_of(answer))
        return answer

    async def _set_drained(self, peer: local.Peer, *, on: bool) -> Done | Refused:
        answer: Done | Refused
        try:
            self._drain.set(on=on)
            answer = Done("this host takes no new VMs" if on else "this host takes new VMs")
            self.view.look()
        except OSError as error:
            answer = refused("journal", "host", "a note of this", error.strerror or str(error), "")
        await self._note(peer, "host.drain" if on else "host.undrain", "", answer, "")
        return answer

    async def _act(
        self,
        peer: local.Peer,
        what: str,
        vm_id: str,
        generation: int,
        decide: Callable[[Vm], Effects | Refused],
        passing: State,
        why: str = "",
    ) -> asked.Ended | Refused:
        """Decide, perform, note, and wait while the VM is `passing`. A VM of another generation is another placement:
        it came or went since the sysadmin looked."""
        vm = self._compute.vms.get(VmId(vm_id))
        if vm is None:
            decided: Effects | Refused = _not_found()
        else:
            decided = decide(vm) if vm.generation == generation else _replaced(vm)
        refusal = decided if isinstance(decided, Refused) else self._performer.apply(decided)
        of = f"{vm.confirm.name or 'no name'} of {vm.user_name} {vm.user_id[:16]}" if vm is not None else ""
        await self._note(peer, what, vm_id, refusal, "; ".join(text for text in (of, why) if text))
        if refusal is not None or vm is None:
            return refusal or _not_found()
        now: Vm | None = vm
        with trio.move_on_after(ENDED_S):
            while (now := self._compute.vms.get(vm.vm_id)) and now.generation == vm.generation and now.state is passing:
                await self._performer.changed()
        return asked.Ended(self._row(now or vm), is_gone=now is None)

    async def _note(self, peer: local.Peer, what: str, vm_id: str, answer: object, detail: str) -> None:
        told = "; ".join(text for text in (detail, why_of(answer)) if text)
        self._audit.note(await local.sysadmin(peer), what, dashed(vm_id) if vm_id else "", outcome_of(answer), told)


def _device_row(device: PciDevice, broken: Collection[str]) -> asked.DeviceRow:
    return asked.DeviceRow(
        address=device.address,
        vendor=device.vendor,
        model=device.model,
        device_class=device.device_class,
        group=-1 if device.iommu_group is None else device.iommu_group,
        driver=(device.driver or "")[:64],
        vm_id="",
        is_quarantined=device.address in broken,
        why_not=(device.why_not or "")[:240],
        mdev_type=device.mdev_type,
    )


def _usb_row(device: UsbDevice) -> asked.DeviceRow:
    return asked.DeviceRow(
        address=device.address,
        vendor=device.vendor,
        model=device.model,
        device_class=device.device_class,
        group=-1,
        driver=(device.driver or "")[:64],
        vm_id="",
        is_quarantined=False,
        why_not=(device.why_not or "")[:240],
    )


def _addresses(claim: Claim) -> tuple[str, ...]:
    return (*claim.pci, *claim.usb)


def _gone_row(address: str, why: str) -> asked.DeviceRow:
    return asked.DeviceRow(address, "0000", "0000", "", -1, "", "", True, f"is in quarantine: it {why}"[:240])


def _not_found() -> Refused:
    return refused("not-found", "vm", "a VM", "no such VM here", "atomctl ps shows all")


def _replaced(vm: Vm) -> Refused:
    has = f"its user has placed it anew meanwhile: generation {vm.generation}"
    return refused("replaced", "vm", "the VM as it was", has, "atomctl ps, then decide again")
