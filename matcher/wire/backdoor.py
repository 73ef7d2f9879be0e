"""What `atomctl` asks the atomd of its own host, and what atomd answers; see `matcher.net.local` for the way there.

A list comes in pages: `after` is the id of the last row of the page before, empty for the first.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import StringConstraints
from pydantic.types import Strict

from matcher.wire.messages import (
    Count,
    DeviceAddress,
    Fingerprint,
    Flag,
    Generation,
    Id,
    Label,
    Line,
    Message,
    Mib,
    PciAddress,
    PciId,
    UsbPort,
    VmView,
    Word,
)

ROWS_MAX = 100  # of a page: at their largest they fit a frame
HOLDS_MAX = 256
COUNTERS_MAX = 128

After = Annotated[str, Strict(), StringConstraints(pattern=r"^([0-9a-f]{32})?$")]
Why = Annotated[str, Strict(), StringConstraints(max_length=120)]
Seconds = Annotated[int, Strict(), Ge(-1), Le(2**63 - 1)]


@dataclass(frozen=True, slots=True)
class AskStatus(Message):
    pass


@dataclass(frozen=True, slots=True)
class Counter(Message):
    """How often something was dropped or counted since atomd started; `name` says where and what."""

    name: Label
    count: Annotated[int, Strict(), Ge(0), Le(2**63 - 1)]


@dataclass(frozen=True, slots=True)
class HostStatus(Message):
    """`fresh_s`: the age of the realm's newest word, -1 where none was heard. `libvirt`, `drained`: a sentence, or
    empty where it is up, or not. `audit_lost`: lines that could not be written."""

    version: Word
    host: Label
    host_id: Fingerprint
    realm: Label
    realm_id: Word
    epoch: Count
    revocations: Count
    key_number: Count
    fresh_s: Seconds
    drained: Line
    libvirt: Line
    is_storaged_up: Flag
    vms: Count
    vms_running: Count
    holds: Count
    audit_lost: Count
    counters: Annotated[tuple[Counter, ...], MaxLen(COUNTERS_MAX)]


@dataclass(frozen=True, slots=True)
class ListVms(Message):
    after: After = ""


@dataclass(frozen=True, slots=True)
class VmRow(Message):
    """`lease_s`: seconds left, -1 where it has no end."""

    id: Id
    generation: Generation
    name: Label
    user: Label
    user_id: Fingerprint
    state: Word
    why: Line
    vcpus: Count
    ram_mib: Mib
    devices: Count  # of PCI and USB
    lease_s: Seconds = -1


@dataclass(frozen=True, slots=True)
class VmRows(Message):
    rows: Annotated[tuple[VmRow, ...], MaxLen(ROWS_MAX)]
    more: Flag


@dataclass(frozen=True, slots=True)
class InspectVm(Message):
    vm_id: Id


@dataclass(frozen=True, slots=True)
class Inspected(Message):
    vm: VmView
    user_id: Fingerprint


@dataclass(frozen=True, slots=True)
class ListHolds(Message):
    pass


@dataclass(frozen=True, slots=True)
class HoldRow(Message):
    """`user` is empty where only the id is known."""

    offer_id: Id
    pledge_id: Id
    vm_id: Id
    user: Label
    user_id: Fingerprint
    vcpus: Count
    ram_mib: Mib
    devices: Count  # of PCI and USB
    left_ms: Count


@dataclass(frozen=True, slots=True)
class HoldRows(Message):
    rows: Annotated[tuple[HoldRow, ...], MaxLen(HOLDS_MAX)]


@dataclass(frozen=True, slots=True)
class SetDrained(Message):
    """`on`: this host takes no new VMs, until that is undone; those that are here stay."""

    on: Flag


@dataclass(frozen=True, slots=True)
class EvictVm(Message):
    """End a VM against its user's will; they may start it again, elsewhere or here. `force`: at once.

    `generation`: the one that the sysadmin saw; a later one is another placement, and stays."""

    vm_id: Id
    generation: Generation
    force: Flag
    why: Why = ""


@dataclass(frozen=True, slots=True)
class RemoveVm(Message):
    """End a VM of any user and forget it; its volumes stay. `generation` as in `EvictVm`."""

    vm_id: Id
    generation: Generation


@dataclass(frozen=True, slots=True)
class Ended(Message):
    """The VM as it stands now; `is_gone`: it is no longer here."""

    row: VmRow
    is_gone: Flag


@dataclass(frozen=True, slots=True)
class ListDevices(Message):
    """`after`: the address of the last row of the page before, empty for the first."""

    after: DeviceAddress | UsbPort | Literal[""] = ""


@dataclass(frozen=True, slots=True)
class DeviceRow(Message):
    """`group` is -1 where it has none, `vm_id` empty where no VM has it, `why_not` empty where one may."""

    address: DeviceAddress | UsbPort
    vendor: PciId
    model: PciId
    device_class: Word
    group: Annotated[int, Strict(), Ge(-1), Le(2**31 - 1)]
    driver: Label
    vm_id: Annotated[str, Strict(), StringConstraints(pattern=r"^([0-9a-f]{32})?$")]
    is_quarantined: Flag
    why_not: Line
    mdev_type: Label = ""


@dataclass(frozen=True, slots=True)
class DeviceRows(Message):
    rows: Annotated[tuple[DeviceRow, ...], MaxLen(ROWS_MAX)]
    more: Flag


@dataclass(frozen=True, slots=True)
class ReadmitDevice(Message):
    """Offer a device again that did not come back from a VM as it was."""

    address: PciAddress
