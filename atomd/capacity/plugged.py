"""What an ask for USB devices means on one host: which of those that are plugged in to take. Pure.

A kind is (vendor, model), and an ask says both. A controller that a VM has as a PCI device takes along all that is
plugged into it, so that whoever gets a device *binds* its controller to the host. Where one VM asks for USB devices and
for PCI devices, every choice of controllers to bind is tried, the smallest first.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from atomd.inventory.facts import UsbDevice
from matcher.wire.messages import VmAsk

CONTESTED_MAX = 6  # controllers to choose from

UsbKind = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Plugged:
    """The ports to take, and the controllers that stay with the host for it though VMs could have them."""

    ports: tuple[str, ...] = ()
    bound: frozenset[str] = frozenset()


NOTHING = Plugged()


def usb_kind(device: UsbDevice) -> UsbKind:
    return device.vendor, device.model


def usb_wishes(ask: VmAsk) -> Counter[UsbKind]:
    """Several entries for one kind add up."""
    wanted: Counter[UsbKind] = Counter()
    for each in ask.usb:
        wanted[each.vendor, each.model] += each.quantity
    return wanted


def ways(ask: VmAsk, free: Sequence[UsbDevice], lendable: Collection[str]) -> Iterator[Plugged]:
    """Every way to serve the ask, those that bind fewest controllers first; none where there is none. `lendable` are
    the PCI devices that VMs could have."""
    wanted = usb_wishes(ask)
    if not wanted:
        yield NOTHING
        return
    wished = [device for device in free if usb_kind(device) in wanted]
    contested = sorted({device.controller for device in wished if device.controller in lendable} - {None}, key=str)
    for count in range(min(len(contested), CONTESTED_MAX) + 1):
        for bound in combinations(contested[:CONTESTED_MAX], count):
            usable = [each for each in wished if each.controller not in contested or each.controller in bound]
            if (ports := _taken(wanted, usable)) is not None:
                yield Plugged(ports, frozenset(filter(None, bound)))


def _taken(wanted: Counter[UsbKind], usable: Sequence[UsbDevice]) -> tuple[str, ...] | None:
    missing, ports = Counter(wanted), []
    for device in usable:
        if missing[usb_kind(device)] > 0:
            missing[usb_kind(device)] -= 1
            ports.append(device.address)
    return None if +missing else tuple(sorted(ports))
