"""`/etc/atomos/atomd.toml`: a sysadmin's settings for a host. Every key has a default; an empty file is a good one."""

import re
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints

from atomd.capacity.guest_cpu import RAM_RESERVE_MIB
from atomd.inventory import cpuset
from atomd.inventory.sriov import FUNCTIONS_MAX
from atomd.inventory.usb import UsbRules
from matcher.net import audit, multicast
from matcher.net.door import serving
from matcher.net.gossip import seeds as seeding
from matcher.net.gossip import sockets
from matcher.trust.grants import Narrowing, parse_pci_limit
from matcher.wire.messages import RAM_MIB_MAX, SLOTS_MAX, PciAddress
from matcher.wire.realm import PCI_LIMITS_MAX, PciLimit
from specs.units import duration_s

PATH = Path("/etc/atomos/atomd.toml")
ATOMCTL_SOCKET = Path("/run/atomos/atomctl.sock")

Port = Annotated[int, Ge(1), Le(65535)]

USB_KINDS_MAX = 256
SRIOV_MAX = MDEV_CARDS_MAX = 64
LEASE_MIN_S = 60  # as in grants
_SPAN = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]|24(?=:00)):([0-5][0-9])", re.ASCII)


MdevType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
UsbKind = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-f]{4}:([0-9a-f]{4}|\*)$")]


def _span(value: object) -> object:
    """ "08:00-20:00" as minutes of the day; [from, to)."""
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError('hours are such as "08:00-20:00"; over midnight: "22:00-06:00"')
    start, end = (int(found[index]) * 60 + int(found[index + 1]) for index in (1, 3))
    if start == end:
        raise ValueError("a span of no length; leave hours out for the whole day")
    return start, end


def _limit(value: object) -> object:
    return parse_pci_limit(value) if isinstance(value, str) else value


def _cpus(value: object) -> object:
    cpus = cpuset.parse_list(value.strip()) if isinstance(value, str) else None
    if cpus is None:
        raise ValueError('CPUs are such as "0-3,8": hardware threads, as lscpu numbers them')
    return cpus


def _seconds(value: object) -> object:
    """ "12h", or seconds."""
    if isinstance(value, str):
        value = duration_s(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError('a duration is such as "12h", "90m" or a number of seconds')
    return value


class Narrow(BaseModel):
    """What this host takes away from every grant; it can give nothing. See `matcher.trust.grants.Narrowing`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    users: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^@?[A-Za-z0-9._-]{1,64}$")], ...], MaxLen(1024)
    ] = ()
    hours: Annotated[tuple[Annotated[tuple[int, int], BeforeValidator(_span)], ...], MaxLen(16)] = ()
    pci: Annotated[tuple[Annotated[PciLimit, BeforeValidator(_limit)], ...], MaxLen(PCI_LIMITS_MAX)] | None = None
    usb: Annotated[tuple[Annotated[PciLimit, BeforeValidator(_limit)], ...], MaxLen(PCI_LIMITS_MAX)] | None = None
    slots: Annotated[int, Ge(0), Le(SLOTS_MAX)] | None = None
    ram_mib: Annotated[int, Ge(0), Le(RAM_MIB_MAX)] | None = None
    vms: Annotated[int, Ge(0), Le(4096)] | None = None
    lease_max: Annotated[int, BeforeValidator(_seconds), Ge(LEASE_MIN_S), Le(2**31 - 1)] | None = None
    overprovision_min: Annotated[int, Ge(1), Le(64)] = 1

    def narrowing(self) -> Narrowing:
        return Narrowing(
            users=self.users,
            hours=self.hours,
            pci=self.pci,
            usb=self.usb,
            slots=self.slots,
            ram_mib=self.ram_mib,
            vms=self.vms,
            lease_max_s=self.lease_max,
            overprovision_min=self.overprovision_min,
        )


class Usb(BaseModel):
    """Kinds of devices, "1050:0407" or "1050:*": those to `lend` though they type or point, and to `keep` anyway."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lend: Annotated[frozenset[UsbKind], MaxLen(USB_KINDS_MAX)] = frozenset()
    keep: Annotated[frozenset[UsbKind], MaxLen(USB_KINDS_MAX)] = frozenset()

    def rules(self) -> UsbRules:
        return UsbRules(self.lend, self.keep)


class Config(BaseModel):
    """One host's settings. `inventory_root`: pretend to be the machine recorded there; such a host runs nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: Path = Path("/var/lib/atomos/identity")
    issuer: Path = Path("/var/lib/atomos/issuer")
    state: Path = Path("/var/lib/atomos")
    audit: Path = audit.PATH
    storaged_socket: Path = Path("/run/atomos/storaged.sock")
    atomctl_socket: Path = ATOMCTL_SOCKET
    shares: Path = Path("/run/atomos/shares")
    libvirt_uri: str = "qemu:///system"
    network: str = "default"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    ram_reserve_mib: Annotated[int, Ge(0)] = RAM_RESERVE_MIB
    reserved_core: bool = True
    reserved_cpus: Annotated[frozenset[int], BeforeValidator(_cpus)] = frozenset()
    share_cores_between_users: bool = False
    sriov: Annotated[dict[PciAddress, Annotated[int, Ge(1), Le(FUNCTIONS_MAX)]], MaxLen(SRIOV_MAX)] = {}
    mdev: Annotated[dict[PciAddress, MdevType], MaxLen(MDEV_CARDS_MAX)] = {}
    usb: Usb = Usb()
    inventory_root: Path | None = None
    multicast_port: Port = multicast.PORT
    gossip_port: Port = sockets.PORT
    seeds: seeding.Setting = ()
    front_door_port: Port = serving.PORT
    announce: bool = True
    narrow: Narrow = Narrow()
