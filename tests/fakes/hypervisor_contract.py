"""What every hypervisor must do, libvirt's and the fake alike: a suite to inherit, with a fixture `world` of one's own.

The world brings the hypervisor, domains whose guest prints a line and obeys the power button, and accidents.
"""

import dataclasses
from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

import pytest
import trio
from lxml import etree

from atomd.hypervisor.disk_xml import secret_usage
from atomd.hypervisor.domain_xml import DomainSpec, domain_name, domain_xml, state_xml
from atomd.hypervisor.domains import (
    ConnectionLost,
    Console,
    ConsoleBusy,
    DomainEvent,
    DomainExists,
    DomainSecret,
    DomainState,
    Event,
    HypervisorDown,
    HypervisorLike,
    NoDomain,
    NoNetwork,
    NotNow,
    NotPlugged,
    Resync,
    StartFailed,
    What,
    Why,
)
from matcher.wire.messages import Address, Firmware, ImageFormat
from matcher.wire.volumes import AttachedVolume, IscsiTarget
from specs.ids import VmId

PATIENCE_S = 30.0
SEEN_S = 1.5


class World(Protocol):
    hypervisor: HypervisorLike
    spec: DomainSpec  # of a guest that boots

    def more(self) -> AttachedVolume:
        """A volume that the domain does not have yet."""
        ...

    async def virsh_destroy(self, vm_id: VmId) -> None: ...
    async def kill_qemu(self, vm_id: VmId) -> None: ...
    async def end_libvirt(self) -> None:
        """It may come back by itself."""

    async def begin_libvirt(self) -> None: ...
    async def secrets(self) -> tuple[str, ...]:
        """The usages of those that libvirt has now."""
        ...

    async def leave_secret(self, usage: str) -> None:
        """As an atomd that died in the middle of a start."""

    async def add_foreign(self, vm_id: VmId, name: str) -> None:
        """A sysadmin's own running domain with this UUID, no work of ours."""


def without_spare_slots(xml: str) -> str:
    """As it was written once: libvirt itself makes as many slots as the domain has devices."""
    domain = etree.fromstring(xml)
    for controller in domain.findall("devices/controller[@type='pci']"):
        controller.getparent().remove(controller)  # type: ignore[union-attr]
    return etree.tostring(domain, encoding="unicode")


async def until(hypervisor: HypervisorLike, wanted: Callable[[Event], bool]) -> Event:
    with trio.fail_after(PATIENCE_S):
        async for event in hypervisor.events:
            if wanted(event):
                return event
    raise AssertionError("the events ended")


async def ended(world: World) -> DomainEvent:
    event = await until(world.hypervisor, lambda e: isinstance(e, DomainEvent) and e.what is What.STOPPED)
    assert isinstance(event, DomainEvent)
    assert event.vm_id == world.spec.vm_id
    return event


async def started(world: World) -> None:
    await world.hypervisor.ensure_network(world.spec.network)
    await world.hypervisor.start(domain_xml(world.spec))
    await until(world.hypervisor, lambda e: isinstance(e, DomainEvent) and e.what is What.STARTED)


async def started_before(world: World) -> Console:
    """A console that gets all that the guest says: it was there first. QEMU looks once a second whether anybody is, and
    drops what is said until then."""
    await world.hypervisor.ensure_network(world.spec.network)
    await world.hypervisor.start(domain_xml(world.spec), paused=True)
    console = await world.hypervisor.open_console(world.spec.vm_id)
    await trio.sleep(SEEN_S)
    await world.hypervisor.resume(world.spec.vm_id)
    return console


async def read_until(console: Console, words: bytes, within_s: float = PATIENCE_S) -> bytes:
    got = b""
    with trio.fail_after(within_s):
        while words not in got:
            data = await console.receive()
            assert data, f"the console ended after {got!r}"
            got += data
    return got


class HypervisorContract:
    async def test_the_first_event_says_to_look(self, world: World) -> None:
        assert await until(world.hypervisor, lambda _: True) == Resync()

    async def test_a_started_domain_is_seen_with_its_generation_and_user(self, world: World) -> None:
        await started(world)
        (seen,) = [d for d in await world.hypervisor.domains() if d.vm_id == world.spec.vm_id]
        assert seen.name == domain_name(world.spec.vm_id)
        assert (seen.generation, seen.user_id) == (world.spec.generation, world.spec.user_id)
        assert seen.ours
        assert seen.state is DomainState.RUNNING

    async def test_a_second_start_of_one_vm_is_told_that_it_runs(self, world: World) -> None:
        await started(world)
        with pytest.raises(DomainExists):
            await world.hypervisor.start(domain_xml(world.spec))
        newer = dataclasses.replace(world.spec, generation=world.spec.generation + 1)
        with pytest.raises(DomainExists):
            await world.hypervisor.start(domain_xml(newer))

    async def test_a_guest_that_is_held_begins_when_it_is_resumed(self, world: World) -> None:
        hypervisor, vm_id = world.hypervisor, world.spec.vm_id
        await hypervisor.ensure_network(world.spec.network)
        await hypervisor.start(domain_xml(world.spec), paused=True)
        (seen,) = [d for d in await hypervisor.domains() if d.vm_id == vm_id]
        assert (seen.state, seen.why) == (DomainState.PAUSED, Why.ASKED)
        with pytest.raises(DomainExists):
            await hypervisor.start(domain_xml(world.spec), paused=True)
        await hypervisor.resume(vm_id)
        (seen,) = [d for d in await hypervisor.domains() if d.vm_id == vm_id]
        assert seen.state is DomainState.RUNNING

    async def test_secrets_are_there_for_the_start_and_never_stay(self, world: World) -> None:
        secret = DomainSecret(secret_usage(world.spec.vm_id, "a" * 32), "0123456789abcdef")
        await world.hypervisor.ensure_network(world.spec.network)
        await world.hypervisor.start(domain_xml(world.spec), (secret,))
        assert await world.secrets() == ()
        with pytest.raises(DomainExists):
            await world.hypervisor.start(domain_xml(world.spec), (secret,))
        assert await world.secrets() == ()

    async def test_a_disk_whose_secret_is_missing_does_not_start(self, world: World) -> None:
        target = IscsiTarget(Address("127.0.0.1", 1), "iqn.2026-01.atomos:none", 1, "iqn.2026-01.atomos:h", "nobody")
        volume = AttachedVolume("a" * 32, "", ImageFormat.RAW, False, False, True, target)
        await world.hypervisor.ensure_network(world.spec.network)
        with pytest.raises(StartFailed):
            await world.hypervisor.start(domain_xml(dataclasses.replace(world.spec, volumes=(volume,))))
        assert world.spec.vm_id not in {domain.vm_id for domain in await world.hypervisor.domains()}

    async def test_a_secret_that_was_left_behind_is_neither_in_the_way_nor_kept(self, world: World) -> None:
        secret = DomainSecret(secret_usage(world.spec.vm_id, "a" * 32), "0123456789abcdef")
        await world.leave_secret(secret.usage)
        await world.hypervisor.ensure_network(world.spec.network)
        await world.hypervisor.start(domain_xml(world.spec), (secret,))
        assert await world.secrets() == ()

    async def test_a_guest_that_obeys_the_power_button_is_told_from_a_destroyed_one(self, world: World) -> None:
        async with aclosing(await started_before(world)) as console:
            await read_until(console, b"ATOMOS-READY")  # it listens from now on
        await world.hypervisor.shutdown(world.spec.vm_id)
        assert (await ended(world)).why is Why.POWERED_OFF
        await started(world)
        await world.hypervisor.destroy(world.spec.vm_id)
        assert (await ended(world)).why is Why.DESTROYED
        assert world.spec.vm_id not in {domain.vm_id for domain in await world.hypervisor.domains()}

    async def test_a_disk_that_a_domain_gets_is_there_once_and_goes_with_it(self, world: World) -> None:
        await started(world)
        hypervisor, vm_id, volume = world.hypervisor, world.spec.vm_id, world.more()
        assert await hypervisor.unplug(vm_id, volume.vid, asks=False), "it has none"
        await hypervisor.plug(vm_id, volume)
        await hypervisor.plug(vm_id, volume)
        assert not await hypervisor.unplug(vm_id, volume.vid, asks=False)
        await hypervisor.destroy(vm_id)
        assert await hypervisor.unplug(vm_id, volume.vid, asks=True), "what is off has none"
        with pytest.raises(NoDomain):
            await hypervisor.plug(vm_id, volume)

    async def test_a_disk_that_can_not_be_opened_is_not_plugged(self, world: World) -> None:
        await started(world)
        target = IscsiTarget(Address("127.0.0.1", 1), "iqn.2026-01.atomos:none", 1, "iqn.2026-01.atomos:h", "nobody")
        volume = AttachedVolume("a" * 32, "", ImageFormat.RAW, False, False, False, target)
        with pytest.raises(NotPlugged):
            await world.hypervisor.plug(world.spec.vm_id, volume)
        assert await world.hypervisor.unplug(world.spec.vm_id, volume.vid, asks=False)

    async def test_a_domain_from_before_there_were_spare_slots_says_so(self, world: World) -> None:
        await world.hypervisor.ensure_network(world.spec.network)
        await world.hypervisor.start(without_spare_slots(domain_xml(world.spec)))
        said = ""
        for number in range(1, 5):  # libvirt leaves one free, or two
            try:
                volume = dataclasses.replace(world.more(), vid=str(number) * 32)
                await world.hypervisor.plug(world.spec.vm_id, volume)
            except NotPlugged as error:
                said = str(error)
        assert said.startswith("this VM has no free slot for a disk: it was started before")

    async def test_a_domain_destroyed_behind_our_back_is_told(self, world: World) -> None:
        await started(world)
        await world.virsh_destroy(world.spec.vm_id)
        assert (await ended(world)).why is Why.DESTROYED

    async def test_the_death_of_qemu_is_a_failure(self, world: World) -> None:
        await started(world)
        await world.kill_qemu(world.spec.vm_id)
        assert (await ended(world)).why is Why.FAILED

    async def test_what_is_not_there_can_not_be_ended_or_watched(self, world: World) -> None:
        hypervisor, nobody = world.hypervisor, VmId("ee" * 16)
        calls = (hypervisor.shutdown, hypervisor.reboot, hypervisor.resume, hypervisor.destroy)
        for call in (*calls, hypervisor.addresses, hypervisor.open_console):
            with pytest.raises(NoDomain):
                await call(nobody)

    async def test_a_vm_with_a_sysadmins_uuid_neither_starts_nor_touches_that_domain(self, world: World) -> None:
        await world.add_foreign(world.spec.vm_id, "payroll")
        with pytest.raises(StartFailed):
            await world.hypervisor.start(domain_xml(world.spec))
        with pytest.raises(NoDomain):
            await world.hypervisor.destroy(world.spec.vm_id)
        (payroll,) = [d for d in await world.hypervisor.domains() if d.vm_id == world.spec.vm_id]
        assert not payroll.ours

    async def test_a_console_is_one_persons_until_taken_over(self, world: World) -> None:
        first = await started_before(world)
        await read_until(first, b"ATOMOS-READY")
        with pytest.raises(ConsoleBusy):
            await world.hypervisor.open_console(world.spec.vm_id)
        second = await world.hypervisor.open_console(world.spec.vm_id, force=True)
        with trio.fail_after(PATIENCE_S):
            while await first.receive():  # the rest of the guest's line, which came before
                pass
        with pytest.raises(trio.ClosedResourceError):
            await first.send(b"x")
        await first.aclose()
        await second.send(b"hello")
        await second.aclose()
        third = await world.hypervisor.open_console(world.spec.vm_id)  # closed is free again
        await third.aclose()

    async def test_a_console_ends_with_its_domain(self, world: World) -> None:
        await started(world)
        console = await world.hypervisor.open_console(world.spec.vm_id)
        await world.hypervisor.destroy(world.spec.vm_id)
        with trio.fail_after(PATIENCE_S):
            while await console.receive():
                pass
        await console.aclose()

    async def test_domains_outlive_libvirt_and_are_found_again(self, world: World) -> None:
        await started(world)
        console = await world.hypervisor.open_console(world.spec.vm_id)
        await world.end_libvirt()
        await until(world.hypervisor, lambda event: isinstance(event, ConnectionLost))
        with trio.fail_after(PATIENCE_S):
            while await console.receive():
                pass
        await console.aclose()
        await world.begin_libvirt()
        await until(world.hypervisor, lambda event: event == Resync())
        assert world.hypervisor.down is None
        seen = {domain.vm_id: domain for domain in await world.hypervisor.domains()}
        assert seen[world.spec.vm_id].generation == world.spec.generation
        await world.hypervisor.destroy(world.spec.vm_id)
        assert world.spec.vm_id not in {domain.vm_id for domain in await world.hypervisor.domains()}

    async def test_without_libvirt_every_call_says_that_it_is_down(self, world: World) -> None:
        await world.end_libvirt()
        await until(world.hypervisor, lambda event: isinstance(event, ConnectionLost))
        if world.hypervisor.down is None:
            pytest.skip("libvirt came back faster than it could be asked")
        with pytest.raises(HypervisorDown):
            await world.hypervisor.start(domain_xml(world.spec))
        await world.begin_libvirt()
        await until(world.hypervisor, lambda event: event == Resync())

    async def test_a_network_that_is_up_is_not_started_again(self, world: World) -> None:
        await world.hypervisor.ensure_network(world.spec.network)
        assert not await world.hypervisor.ensure_network(world.spec.network)

    async def test_an_unknown_network_is_said_to_be_missing(self, world: World) -> None:
        with pytest.raises(NoNetwork, match="nowhere"):
            await world.hypervisor.ensure_network("nowhere")

    async def test_erasing_what_was_never_kept_is_no_mistake_and_leaves_no_domain(self, world: World) -> None:
        erases = state_xml(world.spec.vm_id, world.spec.arch, Firmware.BIOS, tpm=True)
        for _ in range(2):
            await world.hypervisor.erase(erases)
        assert not any(domain.vm_id == world.spec.vm_id for domain in await world.hypervisor.domains())

    async def test_nothing_is_erased_under_a_domain_that_runs(self, world: World) -> None:
        await started(world)
        with pytest.raises(NotNow, match="runs"):
            await world.hypervisor.erase(state_xml(world.spec.vm_id, world.spec.arch, Firmware.BIOS, tpm=True))
        (domain,) = [each for each in await world.hypervisor.domains() if each.vm_id == world.spec.vm_id]
        assert domain.state is DomainState.RUNNING
        await world.hypervisor.destroy(world.spec.vm_id)

    async def test_a_sysadmins_domain_of_the_same_uuid_keeps_what_it_has(self, world: World) -> None:
        await world.add_foreign(world.spec.vm_id, "payroll")
        await world.hypervisor.erase(state_xml(world.spec.vm_id, world.spec.arch, Firmware.BIOS, tpm=True))
        (domain,) = [each for each in await world.hypervisor.domains() if each.vm_id == world.spec.vm_id]
        assert (domain.name, domain.state) == ("payroll", DomainState.RUNNING)

    async def test_capabilities_name_the_hosts_own_architecture(self, world: World) -> None:
        assert world.spec.arch in (await world.hypervisor.capabilities()).archs
