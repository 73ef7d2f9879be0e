"""How well a placement suits the policy, in [0, 1], so that hosts that never met can be ranked. Pure.

`pack` judges the hole and not the machine, by two measures that count alike. `tight` is best fit: for cores, RAM and
each kind of device asked for, the *share* is what the VM takes of what is free: 2 of 4 free cores is 0.5, 2 of 100 is
0.02, whatever the machine's size; and their geometric mean is the side of the hole's volume that gets filled. The
product rewards the hole that is tight in every direction, so that little of one resource is stranded when another runs
out (the concern of Tetris, Grandl et al., SIGCOMM 2014, and of the vector heuristics of Panigrahy et al., 2011).
`kept` is what the hole still has for others, counted in whole VMs (`atomd.capacity.ladder`): 1 where they lose no more
than the VM itself.

    tight = (cpu * ram * ...) ** (1 / number of shares)
    fill = (tight + kept) / 2

Neither is enough by itself: `tight` goes by volume and breaks up the holes that large VMs need, `kept` can't tell a
hole from another where sizes are not those of its ladder.

A shared VM (`overprovision` > 1) that sits down beside others saves an idle unit: that part of the way to 1 is given
by half. Then each scarce thing that the host has and the VM did not ask for costs a factor: who asks shall find it.

    pack = (fill + (1 - fill) saved / 2) * GPU 0.6 * other device 0.9 * ECC 0.9 * wide ISA 0.9

`spread` is what stays free: the scarcer of threads and RAM counts as much as both together.

    spread = 1/2 min(cpu, ram) + 1/2 mean(cpu, ram), of the free shares of the machine afterwards
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from atomd.capacity.devices import is_wished
from atomd.capacity.hardware import Claim
from atomd.capacity.ladder import kept
from atomd.capacity.occupancy import Occupancy
from atomd.capacity.plugged import usb_kind, usb_wishes
from atomd.inventory.levels import LEVELS
from matcher.wire.messages import Policy, VmAsk

KEEP_ACCELERATOR = 0.6
KEEP_DEVICE = 0.9
KEEP_ECC = 0.9
KEEP_WIDE_ISA = 0.9
FLAGS_MAX = 256  # sets of flags, kept with whether they are wide

_ACCELERATORS = ("03", "0b40", "12")  # PCI classes: display, co-processor, processing accelerator
_WIDE_LEVEL = "x86-64-v4"
_WIDE_FLAGS = LEVELS["x86-64-v4"] - LEVELS["x86-64-v3"] | {_WIDE_LEVEL}
_WIDE_PREFIXES = ("avx512", "amx")


@dataclass(frozen=True, slots=True)
class Before:
    """What stood open to the ask before it sat down. `fresh_units` are those of its own that lay on idle cores;
    `device_shares` what it takes of the free devices of each kind that it asked for."""

    open_units: int
    fresh_units: int
    free_mib: int
    total_mib: int
    device_shares: tuple[float, ...]


def score(ask: VmAsk, claim: Claim, now: Occupancy, before: Before, policy: Policy) -> float:
    raw = _spread(claim, now, before) if policy is Policy.SPREAD else _pack(ask, claim, now, before)
    return min(1.0, max(0.0, raw))


def fill(slots: int, mib: int, open_units: int, free_mib: int, device_shares: tuple[float, ...] = ()) -> float:
    """Of a hole, by a VM that fits; 1 where it is filled in every direction."""
    shares = (slots / open_units, mib / free_mib, *device_shares)
    tight = prod(shares) ** (1 / len(shares))
    return (tight + kept(slots, mib, open_units, free_mib)) / 2


def packed(ask: VmAsk, filled: float, fresh_units: int) -> float:
    """`filled`, and what sitting down beside others gives on top."""
    saved = 1 - fresh_units / ask.slots if ask.overprovision > 1 else 0.0
    return filled + (1 - filled) * saved / 2


def _pack(ask: VmAsk, claim: Claim, now: Occupancy, before: Before) -> float:
    mib = sum(mib for _, mib in claim.ram_mib)
    filled = fill(ask.slots, mib, before.open_units, before.free_mib, before.device_shares)
    return packed(ask, filled, before.fresh_units) * _left_for_others(ask, claim, now)


def _left_for_others(ask: VmAsk, claim: Claim, now: Occupancy) -> float:
    """What is to be kept for others: a factor for each scarce trait that this VM did not ask for."""
    hardware = now.hardware
    key = ("left", ask.pci, ask.usb, claim.pci, claim.usb)
    factor = now.once_of_devices(key, lambda: _devices_left(ask, claim, now))
    if hardware.ecc and not ask.ecc:
        factor *= KEEP_ECC
    if _is_wide(hardware.guest_flags) and not _is_wide(frozenset(flag.lower() for flag in ask.flags)):
        factor *= KEEP_WIDE_ISA
    return factor


def _devices_left(ask: VmAsk, claim: Claim, now: Occupancy) -> float:
    free = (d for d in now.hardware.pci if d.address not in now.taken_pci and d.address not in claim.pci)
    spare = [device for device in free if not is_wished(device, ask.pci)]
    accelerators = [device for device in spare if device.device_class.startswith(_ACCELERATORS)]
    plugged = any(d.address not in claim.usb and usb_kind(d) not in usb_wishes(ask) for d in now.free_usb())
    others = len(spare) > len(accelerators) or plugged
    return (KEEP_ACCELERATOR if accelerators else 1.0) * (KEEP_DEVICE if others else 1.0)


@lru_cache(maxsize=FLAGS_MAX)
def _is_wide(flags: frozenset[str]) -> bool:
    return not flags.isdisjoint(_WIDE_FLAGS) or any(flag.startswith(_WIDE_PREFIXES) for flag in flags)


def _spread(claim: Claim, now: Occupancy, before: Before) -> float:
    mine = len(claim.threads) / claim.overprovision
    cpu = max(0.0, 1 - (now.seats.load() + mine) / len(now.seats.thread_vms))
    ram = max(0.0, (before.free_mib - sum(mib for _, mib in claim.ram_mib)) / before.total_mib)
    return min(cpu, ram) / 2 + (cpu + ram) / 4
