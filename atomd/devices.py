"""The host's PCI devices as they are now, for all who offer, start and show.

What the host uses changes while atomd runs: a disk is mounted, a link comes up. So all are looked at again every
`LOOK_S`, as soon as a VM has changed, and just before a VM with devices starts; what became the host's own meanwhile is
neither offered nor taken away. `devices.json` holds what has to be known after a crash: see `atomd.lent`, and
`atomd.functions` for devices that are made for VMs.
"""

import dataclasses
import json
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import trio
from pydantic import TypeAdapter, ValidationError

from atomd.answering import Face
from atomd.functions import IDLE_S, Functions, Made
from atomd.inventory.facts import PciDevice
from atomd.inventory.pci import read_pci
from atomd.inventory.tree import Tree
from atomd.journal import JournalError
from atomd.lent import Lending, Lent
from matcher.net.audit import Audit
from matcher.net.peer import now_s
from matcher.trust import files

LOOK_S = 10.0

ReadsDevices = Callable[[], tuple[PciDevice, ...]]
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


class Devices:
    """Keeps `face.hardware` and `kinds` as they are now. `held` gives the addresses that VMs have, or are about to."""

    def __init__(
        self,
        path: Path,
        face: Face,
        *,
        held: Callable[[], Collection[str]],
        boot_id: str,
        audit: Audit,
        functions: Functions,
        reads: ReadsDevices = read_here,
    ) -> None:
        """Raises `JournalError`."""
        self._path, self._face, self._held, self._reads, self._audit = path, face, held, reads, audit
        all_here = (*face.hardware.pci, *face.hardware.pci_refused)
        self.kinds: Kinds = {device.address: (device.vendor, device.model) for device in all_here}
        self._functions, self._boot_id = functions, boot_id
        self._saved = _load(path)
        self._lending = Lending(self._saved.lent, boot_id)
        self._made = {made.maker: made for made in self._saved.made if made.boot_id == boot_id}
        self._idle_s: dict[str, float] = {}  # makers whose functions nobody has, since when
        self._turn = trio.Lock()
        self._there: dict[str, PciDevice] = {}

    def rows(self) -> tuple[PciDevice, ...]:
        """All that there are, judged; those in quarantine that are gone are not among them."""
        held = self._held()
        return tuple(self._lending.judged(device, held) for device in self._there.values())

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
            return f"the virtual function that it was to have could not be made: {error.strerror}"
        for address in addresses:
            if (why := self._why_not(address)) is not None:
                return f"device {address} can't be given to the VM: it {why}"
        self._lending.lend(self._there[address] for address in addresses)
        try:
            self._save()
        except OSError as error:
            return f"that it has devices can't be noted in {self._path}: {error.strerror}"
        return None

    def _why_not(self, address: str) -> str | None:
        device = self._there.get(address)
        if device is None:
            return "is not in the machine any more"
        return device.why_not or self._lending.why_not(address)

    async def _read(self) -> None:
        there = await trio.to_thread.run_sync(lambda: self._functions.with_foretold(self._reads()))
        self._there = {device.address: device for device in there}
        self.kinds.update({device.address: (device.vendor, device.model) for device in there})

    async def _make(self, addresses: Collection[str]) -> None:
        """The functions among these that are not there yet, noted before they are. Raises `OSError`."""
        async with self._turn:
            for address in addresses:
                maker = self._functions.maker_of(address, self._there)
                if maker is not None:
                    self._made[maker] = Made(maker, self._boot_id)
                    self._save()
                    await trio.to_thread.run_sync(self._functions.make, maker)
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
        if (hardware.pci, hardware.pci_refused) != (lent, kept):
            self._face.hardware = dataclasses.replace(hardware, pci=lent, pci_refused=kept)

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
