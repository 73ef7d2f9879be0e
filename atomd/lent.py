"""Devices that VMs have, and whether the host got them back. Pure.

    (free) --a VM is about to start--> LENT --no VM has it--> RETURNING --it answers, with its driver--> (free)
                                                                  '--not within `RETURN_S`--> QUARANTINED

libvirt takes a device from its driver and gives it back (`managed`). What it can't see to is whether the device came
through: one that a reset left dead, or that its driver refuses now, would be the next VM's trouble. It is offered to
nobody until a person says so, which they may do once it works again, or is another device. A reboot of the host resets
all, so that what was only on its way back then is free; a quarantine stays.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from atomd.inventory.facts import FOR_GUESTS, SILENT, PciDevice

RETURN_S = 15.0  # drivers with firmware to load take seconds
RETURNING = "is on its way back from a VM"
GONE = "is not on the bus any more"


@dataclass(frozen=True, slots=True)
class Lent:
    """One device. `driver`: its own before a VM had it, if it had one; `why`: empty, or why it is in quarantine."""

    address: str
    driver: str | None
    boot_id: str
    why: str = ""


class Lending:
    """All of a host's. `rows` is what has to survive a crash."""

    def __init__(self, rows: Iterable[Lent], boot_id: str) -> None:
        self._boot_id = boot_id
        self._rows = {row.address: row for row in rows if row.why or row.boot_id == boot_id}
        self._since_s: dict[str, float] = {}  # of those that are returning

    @property
    def rows(self) -> tuple[Lent, ...]:
        return tuple(self._rows[address] for address in sorted(self._rows))

    def lend(self, devices: Iterable[PciDevice]) -> None:
        """To a VM that is about to start. One that is lent already keeps the driver that is known: it has the guests'
        now."""
        for device in devices:
            driver = None if device.driver in FOR_GUESTS else device.driver
            self._rows.setdefault(device.address, Lent(device.address, driver, self._boot_id))
            self._since_s.pop(device.address, None)

    def look(self, there: Mapping[str, PciDevice], held: Collection[str], now_s: float) -> None:
        """What the machine has now, and what VMs have of it."""
        for row in self.rows:
            if row.address in held or row.why:
                self._since_s.pop(row.address, None)
                continue
            missing = _missing(row, there.get(row.address))
            since_s = self._since_s.setdefault(row.address, now_s)
            if missing is None:
                self._forget(row.address)
            elif now_s - since_s >= RETURN_S:
                self._rows[row.address] = replace(row, why=missing)

    def judged(self, device: PciDevice, held: Collection[str]) -> PciDevice:
        """The device as it may be offered; one that is `held` stays as it is."""
        row = self._rows.get(device.address)
        if row is None or device.address in held:
            return device
        return replace(device, assignable=False, why_not=self.why_not(row.address) or RETURNING)

    def why_not(self, address: str) -> str | None:
        """Why no VM may have it, whoever had it before."""
        row = self._rows.get(address)
        return f"is in quarantine: it {row.why} since a VM had it" if row is not None and row.why else None

    def readmit(self, address: str) -> bool:
        """A person says that it may be offered again; false where it is not in quarantine."""
        row = self._rows.get(address)
        if row is None or not row.why:
            return False
        self._forget(address)
        return True

    def _forget(self, address: str) -> None:
        del self._rows[address]
        self._since_s.pop(address, None)


def _missing(row: Lent, device: PciDevice | None) -> str | None:
    """What keeps the device from being as it was."""
    if device is None:
        return GONE
    if device.why_not == SILENT:
        return SILENT
    if row.driver is not None and device.driver in (None, *FOR_GUESTS):
        return f"lacks its driver ({row.driver})"
    return None
