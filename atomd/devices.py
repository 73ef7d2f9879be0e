"""The host's PCI and USB devices as they are now, for all who offer, start and show.

What the host uses changes while atomd runs: a disk is mounted, a link comes up. So all are looked at again every
`LOOK_S`, as soon as a VM has changed, and just before a VM with devices starts; what became the host's own meanwhile is
neither offered nor taken away. `devices.json` holds what has to be known after a crash: see `atomd.lent`, and
`atomd.functions` and `atomd.mediated` for devices that are made for VMs. A USB device that is pulled out is not there
any more, and one that comes back has been reset by that, so that none of them is ever in quarantine.
"""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import trio
from pydantic import TypeAdapter, ValidationError

from atomd.answering import Face
from atomd.capacity.plugged import UsbKind, usb_kind
from atomd.functions import IDLE_S, Functions, Made
from atomd.inventory.addresses import is_mediated
from atomd.inventory.facts import PciDevice, UsbDevice
from atomd.inventory.pci import read_pci
from atomd.inventory.tree import Tree
from atomd.inventory.usb import IN_A_PROGRAM, NO_RULES, UsbRules, read_usb
from atomd.journal import JournalError
from atomd.lent import Lending, Lent
from atomd.mediated import Mediated
from matcher.net.audit import Audit
from matcher.net.peer import now_s
from matcher.trust import files

LOOK_S = 10.0

ReadsDevices = Callable[[], tuple[PciDevice, ...]]
ReadsUsb = Callable[[], tuple[UsbDevice, ...]]
Kinds = dict[str, tuple[str, str]]

log = logging.getLogger("atomd")


@dataclass(frozen=True, slots=True)
class Notes:
    """What has to survive a crash."""

    lent: tuple[Lent, ...] = ()
    made: tuple[Made, ...] = ()


_NOTES = TypeAdapter(Notes)


def read_here() -> tuple[PciDevice, ...]:
    return read_pci(Tree(Path("/")))


def read_usb_here(rules: UsbRules = NO_RULES) -> tuple[UsbDevice, ...]:
    return read_usb(Tree(Path("/")), rules)


class Devices:
    """Keeps `face.hardware` and `kinds` as they are now. `held` gives the addresses and ports that VMs have, or are
    about to."""

    def __init__(
        self,
        path: Path,
        face: Face,
        *,
        held: Callable[[], Collection[str]],
        boot_id: str,
        audit: Audit,
        functions: Functions,
        mediated: Mediated,
        reads: ReadsDevices = read_here,
        reads_usb: ReadsUsb = read_usb_here,
    ) -> None:
        """Raises `JournalError`."""
        self._path, self._face, self._held, self._reads, self._audit = path, face, held, reads, audit
        hardware = face.hardware
        self.kinds: Kinds = {d.address: (d.vendor, d.model) for d in (*hardware.pci, *hardware.pci_refused)}
        self.kinds |= {device.address: usb_kind(device) for device in (*hardware.usb, *hardware.usb_refused)}
        self._reads_usb = reads_usb
        self._functions, self._mediated, self._boot_id = functions, mediated, boot_id
        self._saved = _load(path)
        self._lending = Lending(self._saved.lent, boot_id)
        self._made = {made.maker: made for made in self._saved.made if made.boot_id == boot_id}
        self._idle_s: dict[str, float] = {}  # makers whose functions nobody has, since when
        self._turn = trio.Lock()
        self._there: dict[str, PciDevice] = {}
        self._plugged: dict[str, UsbDevice] = {}

    def rows(self) -> tuple[PciDevice, ...]:
        """All that there are, judged; those in quarantine that are gone are not among them."""
        held = self._held()
        return tuple(self._lending.judged(device, held) for device in self._there.values())

    def usb_rows(self) -> tuple[UsbDevice, ...]:
        """All that are plugged in; what a VM has open is open in a program for that reason."""
        held = self._held()
        return tuple(
            dataclasses.replace(device, assignable=True, why_not=None)
            if device.address in held and device.why_not == IN_A_PROGRAM
            else device
            for device in self._plugged.values()
        )

    @property
    def quarantined(self) -> tuple[Lent, ...]:
        return tuple(row for row in self._lending.rows if row.why)

    def held(self) -> Collection[str]:
        return self._held()

    async def keep(
        self,
        changed: Callable[[], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Look again and again, once before it has started; `changed` returns when a VM has changed. A recorded
        machine stays as it is."""
        if not self._face.pretended:
            await self.look()
        task_status.started()
        while not self._face.pretended:
            held = self._held()
            with trio.move_on_after(LOOK_S):
                while self._held() == held:  # most VMs have none
                    await changed()
            await self.look()

    async def look(self) -> None:
        async with self._turn:
            await self._read()
            known = {row.address for row in self.quarantined}
            self._lending.look(self._there, self._held(), now_s())
            for row in self.quarantined:
                if row.address not in known:
                    log.error("device %s: in quarantine, as it %s since a VM had it", row.address, row.why)
                    self._audit.note("atomd", "device.quarantined", row.address, detail=row.why)
            for maker in [maker for maker in self._made if self._is_done(maker)]:
                await self._give_back(maker)
            if await trio.to_thread.run_sync(self._mediated.give_back, self._held()):
                await self._read()
            self._show()
            try:
                self._save()
            except OSError as error:  # a crash would forget a quarantine, and find it again at worst
                log.error("%s can't be written: %s", self._path, error.strerror)

    async def lend(self, addresses: Collection[str]) -> str | None:
        """Just before a VM starts with these: noted, or why it must not have one of them now, as a sentence."""
        if not addresses:
            return None
        await self.look()
        try:
            await self._make(addresses)
        except OSError as error:
            return f"the device that it was to have could not be made: {error.strerror}"
        for address in addresses:
            if (why := self._why_not(address)) is not None:
                return f"device {address} can't be given to the VM: it {why}"
        self._lending.lend(self._there[address] for address in addresses if not is_mediated(address))
        try:
            self._save()
        except OSError as error:
            return f"that it has devices can't be noted in {self._path}: {error.strerror}"
        return None

    async def plug(self, ports: Collection[str], wished: Counter[UsbKind]) -> tuple[UsbDevice, ...] | str:
        """Just before a VM starts with what is plugged in at these: the devices as the kernel numbers them now, or why
        it must not have one of them, as a sentence."""
        if not ports:
            return ()
        await self.look()
        for port in ports:
            device = self._plugged.get(port)
            if device is None:
                return f"the USB device at {port} is not plugged in any more"
            if device.why_not is not None:
                return f"the USB device at {port} can't be given to the VM: it {device.why_not}"
        devices = tuple(self._plugged[port] for port in ports)
        if Counter(map(usb_kind, devices)) != wished:
            return f"another USB device is plugged in at {', '.join(ports)} than the one that was promised"
        return devices

    def _why_not(self, address: str) -> str | None:
        device = self._there.get(address)
        if device is None:
            return "is not in the machine any more"
        return device.why_not or self._lending.why_not(address)

    async def _read(self) -> None:
        there, plugged = await trio.to_thread.run_sync(self._read_now, self._held())
        self._there = {device.address: device for device in there}
        self._plugged = {device.address: device for device in plugged}
        self.kinds.update({device.address: (device.vendor, device.model) for device in there})
        held = self._held()  # who has what was pulled out is charged for that, and not for what came in its place
        self.kinds.update({device.address: usb_kind(device) for device in plugged if device.address not in held})

    def _read_now(self, held: Collection[str]) -> tuple[tuple[PciDevice, ...], tuple[UsbDevice, ...]]:
        there = self._functions.with_foretold(self._reads())
        return self._mediated.with_foretold(there, held), self._reads_usb()

    async def _make(self, addresses: Collection[str]) -> None:
        """Those among these that are not there yet; virtual functions are noted before they are. Raises `OSError`."""
        async with self._turn:
            for address in addresses:
                maker = self._functions.maker_of(address, self._there)
                if maker is not None:
                    self._made[maker] = Made(maker, self._boot_id)
                    self._save()
                    await trio.to_thread.run_sync(self._functions.make, maker)
                    await self._read()
                    self._show()
            if await trio.to_thread.run_sync(self._mediated.make, addresses):
                await self._read()
                self._show()

    def _is_done(self, maker: str) -> bool:
        """Whether nobody has had any of its functions for a while. One that is broken, or could not be given away after
        all, keeps them there, to be seen."""
        functions = self._functions.children(maker)
        lent = {row.address for row in self._lending.rows}.union(self._held())
        is_whole = all(each in self._there and self._there[each].assignable for each in functions)
        if not is_whole or not lent.isdisjoint(functions):
            self._idle_s.pop(maker, None)
            return False
        return now_s() - self._idle_s.setdefault(maker, now_s()) >= IDLE_S

    async def _give_back(self, maker: str) -> None:
        try:
            await trio.to_thread.run_sync(self._functions.give_back, maker)
        except OSError as error:
            log.error("virtual functions of %s are still there: %s", maker, error.strerror)
            return
        del self._made[maker], self._idle_s[maker]
        await self._read()

    def readmit(self, address: str) -> bool:
        """Out of quarantine; false where it is not there. Raises `OSError`, and then it is back after a restart."""
        done = self._lending.readmit(address)
        self._show()
        self._save()
        return done

    def _show(self) -> None:
        """The same hardware object as long as nothing has changed: much is kept by it."""
        hardware, rows = self._face.hardware, self.rows()
        lent = tuple(device for device in rows if device.assignable)
        kept = tuple(device for device in rows if not device.assignable)
        usb = self.usb_rows()
        plugged = tuple(device for device in usb if device.assignable)
        own = tuple(device for device in usb if not device.assignable)
        if (hardware.pci, hardware.pci_refused, hardware.usb, hardware.usb_refused) != (lent, kept, plugged, own):
            now = dataclasses.replace(hardware, pci=lent, pci_refused=kept, usb=plugged, usb_refused=own)
            self._face.hardware = now

    def _save(self) -> None:
        notes = Notes(self._lending.rows, tuple(self._made.values()))
        if notes != self._saved:
            files.write(self._path, _NOTES.dump_json(notes, indent=1) + b"\n")
            self._saved = notes


def _load(path: Path) -> Notes:
    try:
        return _NOTES.validate_json(files.read(path))
    except FileNotFoundError:
        return Notes()
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it makes no sense"
        raise JournalError(
            f"{path} can't be read: {why}. It names the devices that VMs have and those in quarantine; "
            "without it, a device that a VM left broken would be offered again. Move it away if that is meant."
        ) from error
