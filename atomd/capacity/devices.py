"""What an ask for PCI devices means on one host: which kinds will do, and which of them to take. Pure.

A kind is (vendor, model, class, type), the last of mediated devices alone. An ask may leave some of the others open
("any GPU"), so that one device may serve several entries of a specfile: who gets what is a bipartite matching, found by
augmenting paths (Kuhn 1955). It is complete: where any choice of kinds serves all entries, one is found.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product

from atomd.inventory.facts import PciDevice
from matcher.wire.messages import PciAsk, VmAsk

NARROWER_MAX = 32

DeviceKind = tuple[str, str, str, str]
Wish = tuple[
    str, str, str, str
]  # a kind, with what is left open empty, and the class cut short; the type is never open


def kind_of(device: PciDevice) -> DeviceKind:
    return device.vendor, device.model, device.device_class, device.mdev_type


def wish_of(ask: PciAsk) -> Wish:
    return ask.vendor, ask.model, ask.device_class, ask.mdev_type


def serves(kind: DeviceKind, wish: Wish) -> bool:
    vendor, model, device_class, mdev_type = wish
    is_kind = vendor in ("", kind[0]) and model in ("", kind[1]) and kind[2].startswith(device_class)
    return is_kind and mdev_type == kind[3]


def wishes(ask: VmAsk) -> Counter[Wish]:
    """Several entries for one kind add up."""
    wanted: Counter[Wish] = Counter()
    for each in ask.pci:
        wanted[wish_of(each)] += each.quantity
    return wanted


def alternatives(ask: VmAsk) -> tuple[VmAsk, ...]:
    """The ask with each of its lists of devices, best first."""
    if not ask.pci_else:
        return (ask,)
    return tuple(replace(ask, pci=pci, pci_else=()) for pci in (ask.pci, *ask.pci_else))


def narrower(ask: VmAsk, devices: Iterable[PciDevice]) -> Iterator[VmAsk]:
    """The ask with each kind of these devices in place of what it leaves open, for users who may not have every kind;
    `NARROWER_MAX` of them at most, none where nothing is open."""
    if all(each.model for each in ask.pci):
        return
    kinds = sorted({kind_of(device) for device in devices})
    ways = [
        [each] if each.model else [_said(each, kind) for kind in kinds if serves(kind, wish_of(each))]
        for each in ask.pci
    ]
    for pci in islice(product(*ways), NARROWER_MAX):
        yield replace(ask, pci=pci)


def _said(ask: PciAsk, kind: DeviceKind) -> PciAsk:
    return replace(ask, vendor=kind[0], model=kind[1])


def chosen_kinds(
    wanted: Counter[Wish], free: Mapping[DeviceKind, int], cost: Mapping[DeviceKind, int]
) -> Counter[DeviceKind] | None:
    """How many devices of each kind to take; `None` where no choice serves all wishes. Where several kinds will do:
    those that bring least along (`cost`), then those that there are most of."""
    options = {
        wish: sorted((kind for kind in free if serves(kind, wish)), key=lambda kind: (cost[kind], -free[kind], kind))
        for wish in wanted
    }
    taken: defaultdict[DeviceKind, list[Wish]] = defaultdict(list)
    for wish in sorted(wanted, key=lambda wish: (len(options[wish]), wish)):
        for _ in range(wanted[wish]):
            if not _give(wish, options, free, taken, set()):
                return None
    return +Counter({kind: len(whose) for kind, whose in taken.items()})


def _give(
    wish: Wish,
    options: Mapping[Wish, Sequence[DeviceKind]],
    free: Mapping[DeviceKind, int],
    taken: defaultdict[DeviceKind, list[Wish]],
    tried: set[DeviceKind],
) -> bool:
    """One device more for `wish`, others moved to other kinds where that helps."""
    for kind in options[wish]:
        if kind in tried:
            continue
        tried.add(kind)
        whose = taken[kind]
        if len(whose) < free[kind]:
            whose.append(wish)
            return True
        for other in dict.fromkeys(whose):
            if _give(other, options, free, taken, tried):
                whose[whose.index(other)] = wish
                return True
    return False


def overlap(devices: Iterable[PciDevice], wanted: Collection[Wish]) -> bool:
    """Whether some device would serve several wishes, so that none of them can be judged by itself."""
    if len(wanted) < 2:
        return False
    kinds = {kind_of(device) for device in devices}
    return any(sum(serves(kind, wish) for wish in wanted) > 1 for kind in kinds)


def is_wished(device: PciDevice, asks: Iterable[PciAsk]) -> bool:
    return any(serves(kind_of(device), wish_of(ask)) for ask in asks)
