"""libvirt, behind one door.

    async with Hypervisor.open() as hypervisor:
        await hypervisor.start(domain_xml(spec))
        async for event in hypervisor.events: ...

Only domains that bear our name can be started, stopped or looked into: a client chooses its vm_id, and must not reach
a sysadmin's own domain by choosing that one's UUID.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import trio

from atomd.hypervisor.connection import Connection
from atomd.hypervisor.console import LibvirtConsole
from atomd.hypervisor.disks import ask_to_let_go, is_without, plug
from atomd.hypervisor.domain_xml import domain_name, vm_id_of
from atomd.hypervisor.domains import (
    UNPLUG_S,
    Capabilities,
    ConsoleBusy,
    DomainSecret,
    Event,
    NoDomain,
    NotNow,
    ObservedDomain,
)
from atomd.hypervisor.life import addresses, create, destroy, erase, find, observe_all
from atomd.hypervisor.machine import capabilities, start_network
from matcher.wire.volumes import AttachedVolume
from specs.ids import VmId

CONSOLES_MAX = 64
UNPLUG_LOOK_S = 0.1


class Hypervisor:
    """This host's domains. Make it by `open`."""

    def __init__(self) -> None:
        self._connection: Connection
        self._consoles: set[LibvirtConsole] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, uri: str = "qemu:///system") -> AsyncIterator[Self]:
        """It opens even where libvirtd is down: see `down`."""
        hypervisor = cls()
        async with Connection.open(uri, hypervisor._end_consoles) as hypervisor._connection:
            yield hypervisor

    @property
    def events(self) -> trio.MemoryReceiveChannel[Event]:
        return self._connection.events

    @property
    def down(self) -> str | None:
        return self._connection.down

    # ---- domains

    async def domains(self) -> tuple[ObservedDomain, ...]:
        """All on this host, those that are not ours too."""
        return await self._connection.call("listing domains", observe_all, changes=False)

    async def start(self, xml: str, secrets: Sequence[DomainSecret] = (), *, paused: bool = False) -> None:
        """Start a transient domain: when it ends, it is gone. Returns once its vCPUs run, or could. QEMU keeps the
        secrets to itself, to connect anew; libvirt has them for the length of this call."""
        vm_id = vm_id_of(xml)
        work = partial(create, xml=xml, vm_id=vm_id, secrets=secrets, paused=paused)
        await self._connection.call(f"starting {domain_name(vm_id)}", work, changes=True)

    async def shutdown(self, vm_id: VmId) -> None:
        await self._on_domain("shutting down", vm_id, lambda domain: domain.shutdown())

    async def reboot(self, vm_id: VmId) -> None:
        await self._on_domain("rebooting", vm_id, lambda domain: domain.reboot())

    async def resume(self, vm_id: VmId) -> None:
        await self._on_domain("resuming", vm_id, lambda domain: domain.resume())

    async def destroy(self, vm_id: VmId) -> None:
        await self._on_domain("destroying", vm_id, destroy)

    async def plug(self, vm_id: VmId, volume: AttachedVolume, secrets: Sequence[DomainSecret] = ()) -> None:
        """A domain is transient: what it has now is all that libvirt has to know."""
        work = partial(plug, vm_id=vm_id, volume=volume, secrets=secrets)
        await self._connection.call(f"giving {domain_name(vm_id)} a disk", work, changes=True)

    async def unplug(self, vm_id: VmId, vid: str, *, asks: bool) -> bool:
        """libvirt tells a guest and waits for none; so it is looked at until the guest has obeyed."""
        doing = f"looking at the disks of {domain_name(vm_id)}"
        look = partial(is_without, vm_id=vm_id, vid=vid)
        if await self._connection.call(doing, partial(look, settles=True), changes=False):
            return True
        if asks:
            ask = partial(ask_to_let_go, vm_id=vm_id, vid=vid)
            with contextlib.suppress(NotNow, NoDomain):  # it is being let go of, or has been; the look tells
                await self._connection.call(f"taking a disk from {domain_name(vm_id)}", ask, changes=True)
            for _ in range(round(UNPLUG_S / UNPLUG_LOOK_S)):
                if await self._connection.call(doing, look, changes=False):
                    return True
                await trio.sleep(UNPLUG_LOOK_S)
        return False

    async def _on_domain(self, doing: str, vm_id: VmId, work: Callable[[Any], object]) -> None:
        await self._connection.call(f"{doing} {domain_name(vm_id)}", lambda c: work(find(c, vm_id)), changes=True)

    async def erase(self, xml: str) -> None:
        vm_id = vm_id_of(xml)
        doing = f"removing what {domain_name(vm_id)} has kept"
        await self._connection.call(doing, partial(erase, xml=xml, vm_id=vm_id), changes=True)

    async def addresses(self, vm_id: VmId) -> tuple[str, ...]:
        """From the DHCP leases of the VM's network; where there are none, from the guest's agent, if it has one."""
        return await self._connection.call("reading addresses", lambda c: addresses(find(c, vm_id)), changes=False)

    async def open_console(self, vm_id: VmId, *, force: bool = False) -> LibvirtConsole:
        if len(self._consoles) >= CONSOLES_MAX:
            raise ConsoleBusy(f"{CONSOLES_MAX} consoles are open on this host already; close one")
        console = LibvirtConsole(self._connection, self._consoles.discard)
        self._consoles.add(console)
        try:
            await console.attach(vm_id, force=force)
        except BaseException:
            self._consoles.discard(console)
            raise
        return console

    def _end_consoles(self) -> None:
        for console in tuple(self._consoles):
            console.end()

    # ---- the host

    async def capabilities(self) -> Capabilities:
        return await self._connection.call("reading capabilities", capabilities, changes=False)

    async def ensure_network(self, name: str) -> bool:
        return await self._connection.call(
            f"starting the network {name}", partial(start_network, name=name), changes=True
        )
