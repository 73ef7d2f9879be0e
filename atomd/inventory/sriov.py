"""Virtual functions that a device could make (SR-IOV), foretold from the files of the one that makes them.

Sources: Documentation/ABI/testing/sysfs-bus-pci (sriov_*), PCI Express Base Specification, 9.2.1.2: function n has the
routing id of its maker + offset + (n - 1) times stride, of 16 bits, bus before device before function.
"""

from dataclasses import replace

from atomd.inventory.facts import FOR_GUESTS, PciDevice
from atomd.inventory.tree import Tree

FUNCTIONS_MAX = 256

_DEVICES = "sys/bus/pci/devices"


def functions_made(tree: Tree, maker: str) -> int | None:
    """How many it has now; `None` where it can't make any, or does not say."""
    return tree.number(f"{_DEVICES}/{maker}/sriov_numvfs")


def functions_max(tree: Tree, maker: str) -> int:
    return max(0, min(tree.number(f"{_DEVICES}/{maker}/sriov_totalvfs") or 0, FUNCTIONS_MAX))


def foretold(tree: Tree, maker: PciDevice, count: int) -> tuple[PciDevice, ...]:
    """The first `count` functions as they would be, each in a group of its own; none where their place or model can't
    be told (before Linux 4.16), or where it lacks its driver, which has to make them."""
    folder = f"{_DEVICES}/{maker.address}"
    offset, stride = tree.number(f"{folder}/sriov_offset"), tree.number(f"{folder}/sriov_stride")
    model = tree.text(f"{folder}/sriov_vf_device", 16) or ""
    if maker.driver in (None, *FOR_GUESTS):
        return ()
    if offset is None or offset < 1 or stride is None or stride < 1 or not _is_id(model):
        return ()
    ids = [_routing_id(maker.address) + offset + index * stride for index in range(min(count, FUNCTIONS_MAX))]
    if any(each > 0xFFFF for each in ids):
        return ()
    domain = maker.address.split(":")[0]
    like = replace(maker, model=model.removeprefix("0x").zfill(4), iommu_group=None, driver=None, acs=None)
    return tuple(replace(like, address=_address(domain, each), assignable=True, why_not=None) for each in ids)


def functions_of(tree: Tree, maker: str) -> tuple[str, ...]:
    """The addresses of those that are there."""
    names = [name for name in tree.names(f"{_DEVICES}/{maker}") if name.startswith("virtfn")]
    return tuple(sorted(filter(None, (tree.link_name(f"{_DEVICES}/{maker}/{name}") for name in names))))


def _is_id(text: str) -> bool:
    digits = text.removeprefix("0x")
    return 1 <= len(digits) <= 4 and all(digit in "0123456789abcdef" for digit in digits)


def _routing_id(address: str) -> int:
    _, bus, rest = address.split(":")
    slot, function = rest.split(".")
    return int(bus, 16) << 8 | int(slot, 16) << 3 | int(function, 16)


def _address(domain: str, routing_id: int) -> str:
    return f"{domain}:{routing_id >> 8:02x}:{routing_id >> 3 & 0x1F:02x}.{routing_id & 7}"
