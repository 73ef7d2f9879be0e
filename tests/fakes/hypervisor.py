"""A hypervisor in memory, held to the same contract as libvirt's (see `hypervisor_contract`).

Domains start at once and their guests obey the power button. A test plays the world around it: `lose`, `come_back`,
`virsh_destroy`, `kill_qemu`, `panic`, and for the next start `fail_next_start` or `swallow_next_answer`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio
from lxml import etree

from atomd.hypervisor.disk_xml import DISK_SERIAL_MAX, NAME_PREFIX, secret_usage
from atomd.hypervisor.domain_xml import NAMESPACE, domain_name, read_tag, vm_id_of
from atomd.hypervisor.domains import (
    Capabilities,
    ConnectionLost,
    ConsoleBusy,
    DomainEvent,
    DomainExists,
    DomainSecret,
    DomainState,
    Event,
    HypervisorDown,
    NoDomain,
    NoNetwork,
    NotNow,
    NotPlugged,
    ObservedDomain,
    Resync,
    StartFailed,
    TargetAway,
    Unknown,
    What,
    Why,
)
from atomd.hypervisor.libvirt_words import TARGET_AWAY, explain_plug
from matcher.wire.messages import Arch, Firmware
from matcher.wire.volumes import AttachedVolume
from specs.ids import VmId

EVENTS_MAX = 1024
CALL_S = 30.0
PORT = "pcie-root-port"
BOOT_WORDS = b"ATOMOS-READY\r\n"


@dataclass
class FakeDomain:
    seen: ObservedDomain
    xml: str
    addresses: tuple[str, ...] = ("192.168.122.7",)
    obeys: bool = True  # the power button
    disks: set[str] = field(default_factory=set)  # their serials
    lets_go: bool = True  # of disks
    console: "FakeConsole | None" = None
    said: bytes = BOOT_WORDS


class FakeConsole:
    def __init__(self, said: bytes) -> None:
        self.typed = b""
        self._put, self._get = trio.open_memory_channel[bytes](64)
        if said:
            self._put.send_nowait(said)

    def say(self, data: bytes) -> None:
        self._put.send_nowait(data)

    def end(self) -> None:
        self._put.close()

    async def receive(self) -> bytes:
        try:
            return await self._get.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            return b""

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if not self._put.statistics().open_send_channels:
            raise trio.ClosedResourceError("the console has ended")
        self.typed += data

    async def aclose(self) -> None:
        self.end()
        await trio.lowlevel.checkpoint()


class FakeHypervisor:
    def __init__(self) -> None:
        self._send, self.events = trio.open_memory_channel[Event](EVENTS_MAX)
        self.by_id: dict[VmId, FakeDomain] = {}
        self.networks = {"default": False}  # name: active
        self.starts: list[VmId] = []
        self.states: set[VmId] = set()  # VMs of which UEFI or a TPM keeps something
        self.secrets: dict[VmId, tuple[DomainSecret, ...]] = {}  # as each start came with
        self.kept: set[str] = set()  # usages of secrets that are there now
        self.down: str | None = None
        self._next_start: str | None = None
        self._next_plug: str | None = None
        self._swallow = False
        self._away = 0
        self._hangs = 0
        self._say(Resync())

    # ---- what a test does to it

    def lose(self, reason: str = "the connection to libvirt broke") -> None:
        self.down = reason
        for domain in self.by_id.values():
            self._end_console(domain)
        self._say(ConnectionLost(reason))

    def come_back(self) -> None:
        self.down = None
        self.kept.clear()
        self._say(Resync())

    def fail_next_start(self, reason: str) -> None:
        self._next_start = reason

    def lose_targets(self, starts: int) -> None:
        """So many starts find a volume's host away."""
        self._away = starts

    def fail_next_plug(self, reason: str) -> None:
        self._next_plug = reason

    def swallow_next_answer(self) -> None:
        """The next start, or plug, happens, and its answer never comes."""
        self._swallow = True

    def hang_next_destroys(self, count: int) -> None:
        """QEMU hangs in the kernel, or libvirtd in itself: nothing happens, and no answer comes."""
        self._hangs = count

    def power_off(self, vm_id: VmId) -> None:
        self._say(DomainEvent(vm_id, What.SHUTTING_DOWN))
        self._end(vm_id, Why.POWERED_OFF, "the guest powered off")

    def virsh_destroy(self, vm_id: VmId) -> None:
        self._end(vm_id, Why.DESTROYED, "the domain was destroyed")

    def kill_qemu(self, vm_id: VmId) -> None:
        self._end(vm_id, Why.FAILED, "QEMU ended by itself")

    def panic(self, vm_id: VmId) -> None:
        self._say(DomainEvent(vm_id, What.CRASHED, Why.CRASHED, "the guest's kernel panicked"))
        self._end(vm_id, Why.CRASHED, "the guest crashed")

    def pause(self, vm_id: VmId) -> None:
        self._become(vm_id, DomainState.PAUSED, Why.ASKED)
        self._say(DomainEvent(vm_id, What.PAUSED, Why.ASKED, "paused by somebody on this host"))

    def fail_io(self, vm_id: VmId) -> None:
        self._become(vm_id, DomainState.PAUSED, Why.IO_ERROR)
        self._say(DomainEvent(vm_id, What.PAUSED, Why.IO_ERROR, "paused: a volume can't be read or written"))

    def add(self, seen: ObservedDomain) -> None:
        """A domain that nobody asked us for."""
        self.by_id[seen.vm_id] = FakeDomain(seen, "")

    # ---- HypervisorLike

    async def domains(self) -> tuple[ObservedDomain, ...]:
        await self._ask()
        return tuple(domain.seen for domain in self.by_id.values())

    async def start(self, xml: str, secrets: Sequence[DomainSecret] = (), *, paused: bool = False) -> None:
        await self._ask()
        wanted = {each.get("usage") for each in etree.fromstring(xml).iterfind("devices/disk/source/auth/secret")}
        if wanted - {secret.usage for secret in secrets}:
            raise StartFailed("Secret not found")
        self.secrets[vm_id_of(xml)] = tuple(secrets)
        self.kept -= {secret.usage for secret in secrets}
        vm_id = vm_id_of(xml)
        if vm_id in self.by_id:
            if self.by_id[vm_id].seen.name == domain_name(vm_id):
                raise DomainExists(f"{domain_name(vm_id)} runs already")
            raise StartFailed(f"domain {self.by_id[vm_id].seen.name!r} has this UUID already")
        for source in etree.fromstring(xml).iterfind("devices/interface/source"):
            if not self.networks.get(source.get("network", "")):
                raise StartFailed(f"the network {source.get('network')} of this host is not active")
        if self._away:
            self._away -= 1
            raise TargetAway(TARGET_AWAY)
        reason, self._next_start = self._next_start, None
        if reason is not None:
            raise StartFailed(reason)
        self.starts.append(vm_id)
        self.states |= {vm_id} if _keeps_state(xml) else set()
        serials = {serial.text or "" for serial in etree.fromstring(xml).iterfind("devices/disk/serial")}
        self.by_id[vm_id] = FakeDomain(_observed(vm_id, xml), xml, disks=serials)
        if paused:
            self._become(vm_id, DomainState.PAUSED, Why.ASKED)
        else:
            self._say(DomainEvent(vm_id, What.RESUMED))
        self._say(DomainEvent(vm_id, What.STARTED))
        if self._swallow:
            self._swallow = False
            raise Unknown("libvirt did not answer: it may have happened or may still happen")

    async def shutdown(self, vm_id: VmId) -> None:
        if (await self._find(vm_id)).obeys:
            self.power_off(vm_id)

    async def reboot(self, vm_id: VmId) -> None:
        await self._find(vm_id)

    async def resume(self, vm_id: VmId) -> None:
        await self._find(vm_id)
        self._become(vm_id, DomainState.RUNNING)
        self._say(DomainEvent(vm_id, What.RESUMED))

    async def destroy(self, vm_id: VmId) -> None:
        await self._find(vm_id)
        if self._hangs:
            self._hangs -= 1
            await trio.sleep(CALL_S)
            raise Unknown("libvirt did not answer in 30 s")
        self._end(vm_id, Why.DESTROYED, "the domain was destroyed")

    async def plug(self, vm_id: VmId, volume: AttachedVolume, secrets: Sequence[DomainSecret] = ()) -> None:
        domain = await self._find(vm_id)
        if volume.vid[:DISK_SERIAL_MAX] in domain.disks:
            return
        if volume.iscsi is not None and secret_usage(vm_id, volume.vid) not in {secret.usage for secret in secrets}:
            raise NotPlugged("Secret not found")
        self.kept -= {secret.usage for secret in secrets}
        if PORT not in domain.xml:
            raise NotPlugged(explain_plug("internal error: No more available PCI slots"))
        reason, self._next_plug = self._next_plug, None
        if reason is not None:
            raise NotPlugged(reason)
        domain.disks.add(volume.vid[:DISK_SERIAL_MAX])
        if self._swallow:
            self._swallow = False
            raise Unknown("libvirt did not answer: it may have happened or may still happen")

    async def unplug(self, vm_id: VmId, vid: str, *, asks: bool) -> bool:
        try:
            domain = await self._find(vm_id)
        except NoDomain:
            return True
        if asks and domain.lets_go:
            domain.disks.discard(vid[:DISK_SERIAL_MAX])
        return vid[:DISK_SERIAL_MAX] not in domain.disks

    async def erase(self, xml: str) -> None:
        vm_id = vm_id_of(xml)
        await self._ask()
        if vm_id in self.by_id and self.by_id[vm_id].seen.name != domain_name(vm_id):
            return
        if vm_id in self.by_id:
            raise NotNow(f"{domain_name(vm_id)} runs")
        self.states.discard(vm_id)

    async def addresses(self, vm_id: VmId) -> tuple[str, ...]:
        return (await self._find(vm_id)).addresses

    async def open_console(self, vm_id: VmId, *, force: bool = False) -> FakeConsole:
        domain = await self._find(vm_id)
        if domain.console is not None and domain.console._put.statistics().open_send_channels:
            if not force:
                raise ConsoleBusy("somebody is at this console already; --force takes it over")
            domain.console.end()
        domain.console = FakeConsole(domain.said)
        return domain.console

    async def capabilities(self) -> Capabilities:
        await self._ask()
        archs = frozenset({Arch.X86_64, Arch.X86_32})
        return Capabilities("7.2.0", "9.0.0", "x86_64", archs, frozenset({Firmware.BIOS}))

    async def ensure_network(self, name: str) -> bool:
        await self._ask()
        if name not in self.networks:
            raise NoNetwork(f"libvirt has no network {name!r}")
        was_active, self.networks[name] = self.networks[name], True
        return not was_active

    # ---- inside

    def _say(self, event: Event) -> None:
        self._send.send_nowait(event)

    async def _ask(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.down is not None:
            raise HypervisorDown(self.down)

    async def _find(self, vm_id: VmId) -> FakeDomain:
        await self._ask()
        domain = self.by_id.get(vm_id)
        if domain is None or domain.seen.name != domain_name(vm_id):
            raise NoDomain(f"{domain_name(vm_id)}: there is no such domain on this host")
        return domain

    def _become(self, vm_id: VmId, state: DomainState, why: Why | None = None) -> None:
        domain = self.by_id[vm_id]
        domain.seen = dataclasses.replace(domain.seen, state=state, why=why)

    def _end(self, vm_id: VmId, why: Why, detail: str) -> None:
        self._end_console(self.by_id.pop(vm_id))
        self._say(DomainEvent(vm_id, What.STOPPED, why, detail))

    def _end_console(self, domain: FakeDomain) -> None:
        if domain.console is not None:
            domain.console.end()


def _keeps_state(xml: str) -> bool:
    domain = etree.fromstring(xml)
    return domain.find("os[@firmware]") is not None or domain.find("devices/tpm") is not None


def _observed(vm_id: VmId, xml: str) -> ObservedDomain:
    domain = etree.fromstring(xml)
    element = domain.find(f"metadata/{{{NAMESPACE}}}vm")
    tag = read_tag("" if element is None else etree.tostring(element, encoding="unicode"))
    name = domain.findtext("name") or ""
    ours = name.startswith(NAME_PREFIX) or element is not None
    return ObservedDomain(vm_id, name, tag.generation, tag.user_id, DomainState.RUNNING, ours)
