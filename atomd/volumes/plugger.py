"""Volumes that come and go, done: storage and the domain are asked, one after the other, and what they say goes back.

A secret that storage has given for a disk is here until the domain has taken the disk, and no longer.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from atomd import effects as wanted
from atomd.effects import Effects
from atomd.hypervisor.disk_xml import domain_secrets
from atomd.hypervisor.domains import HypervisorDown, HypervisorError, HypervisorLike, Unknown
from atomd.vms.lifecycle import Vm
from atomd.volumes.answers import Answer
from atomd.volumes.plugging import Plugging
from matcher.wire.messages import Refused
from matcher.wire.volumes import Attached, ChapSecret
from specs.ids import VmId

log = logging.getLogger("atomd")

Plugs = wanted.AttachVolume | wanted.PlugVolume | wanted.UnplugVolume | wanted.DetachVolume


class StorageLike(Protocol):
    """All storage servers of a VM together: see `atomd.volumes.storage`."""

    async def attach(self, vm: Vm) -> Answer: ...

    async def detach(self, vm: Vm) -> bool: ...

    async def attach_one(self, vm: Vm, vid: str) -> Answer: ...

    async def detach_one(self, vm: Vm, vid: str) -> bool: ...


class Plugger:
    """`apply` performs what is decided then; `soon` asks for another look."""

    def __init__(
        self,
        plugging: Plugging,
        hypervisor: HypervisorLike,
        storage: StorageLike,
        apply: Callable[[Effects], Refused | None],
        soon: Callable[[], Awaitable[None]],
    ) -> None:
        self._plugging, self._hypervisor, self._storage = plugging, hypervisor, storage
        self._apply, self._soon = apply, soon
        self._secrets: dict[tuple[VmId, int, str], tuple[ChapSecret, ...]] = {}

    async def work(self, effect: Plugs) -> None:
        vm, vid = effect.vm, effect.vid
        match effect:
            case wanted.AttachVolume():
                await self._attach(vm, vid)
            case wanted.PlugVolume():
                await self._plug(vm, vid)
            case wanted.UnplugVolume(asks=asks):
                await self._unplug(vm, vid, asks=asks)
            case wanted.DetachVolume():
                await self._detach(vm, vid)

    async def _attach(self, vm: Vm, vid: str) -> None:
        answer = await self._storage.attach_one(vm, vid)
        if isinstance(answer, Attached) and answer.secrets:
            self._secrets[vm.vm_id, vm.generation, vid] = answer.secrets
        self._apply(self._plugging.attached(vm.vm_id, vm.generation, vid, answer))

    async def _plug(self, vm: Vm, vid: str) -> None:
        assert vm.change is not None
        assert vm.change.volume is not None, "storage has given it"
        failure: str | None = None
        secrets = domain_secrets(vm.vm_id, self._secrets.pop((vm.vm_id, vm.generation, vid), ()))
        try:
            await self._hypervisor.plug(vm.vm_id, vm.change.volume, secrets)
        except (HypervisorDown, Unknown) as error:  # reconcile looks what became of it
            log.warning("%s: %s", vm.vm_id, error)
            self._apply(self._plugging.unplugged(vm.vm_id, vm.generation, vid, gone=None))
            await self._soon()
            return
        except HypervisorError as error:
            failure = str(error)
        self._apply(self._plugging.plugged(vm.vm_id, vm.generation, vid, failure))

    async def _unplug(self, vm: Vm, vid: str, *, asks: bool) -> None:
        gone: bool | None = None
        try:
            gone = await self._hypervisor.unplug(vm.vm_id, vid, asks=asks)
        except HypervisorError as error:
            log.warning("%s: %s", vm.vm_id, error)
        self._apply(self._plugging.unplugged(vm.vm_id, vm.generation, vid, gone=gone))
        if gone is None:
            await self._soon()

    async def _detach(self, vm: Vm, vid: str) -> None:
        self._secrets.pop((vm.vm_id, vm.generation, vid), None)
        done = await self._storage.detach_one(vm, vid)
        self._apply(self._plugging.detached(vm.vm_id, vm.generation, vid, done=done))
        if not done:
            await self._soon()
