"""Every message that crosses a boundary, as frozen dataclasses with their limits.

The annotations are the schema: `codec` builds each message from msgpack or JSON through pydantic, in strict mode for
numbers and text, and refuses unknown fields. A message has one shape on every path, datagram or HTTPS.
Units stand last in a name. Addresses are numeric.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from annotated_types import Ge, Le, MaxLen
from pydantic import BeforeValidator, ConfigDict, PlainSerializer, StringConstraints
from pydantic.types import Strict

from matcher.wire.ranges import from_ranges, to_ranges

DATAGRAM_MAX_BYTES = 1200  # IPv6's minimum MTU, less headers: never a fragment
SLOTS_MAX = 4096
RAM_MIB_MAX = 64 * 1024 * 1024
FREQUENCY_MHZ_MAX = 20_000
PAGE_KIB_MAX = 16 * 1024 * 1024
ALTERNATIVES_MAX = 8
VOLUMES_MAX = 64
VOLUME_MIB_MAX = 64 * 1024 * 1024
PCI_ASKS_MAX = 32
USB_DEVICES_MAX = 15
FLAGS_MAX = 128
REASONS_MAX = 32
HOLD_MS_MAX = 10_000
VMS_MAX = 4096  # in one answer
GENERATION_MAX = 2**31 - 1

Id = Annotated[str, Strict(), StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Fingerprint = Annotated[str, Strict(), StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Strict(), StringConstraints(max_length=64)]  # a name that people see; escaped where shown
Word = Annotated[str, Strict(), StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_.:+-]*$")]
Line = Annotated[str, Strict(), StringConstraints(max_length=240)]
Flag = Annotated[bool, Strict()]
Port = Annotated[int, Strict(), Ge(1), Le(65535)]
Slots = Annotated[int, Strict(), Ge(1), Le(SLOTS_MAX)]
Count = Annotated[int, Strict(), Ge(0), Le(2**31 - 1)]
Mib = Annotated[int, Strict(), Ge(0), Le(RAM_MIB_MAX)]
Millis = Annotated[int, Strict(), Ge(0), Le(2**53)]
Score = Annotated[float, Strict(), Ge(0.0), Le(1.0)]
Generation = Annotated[int, Strict(), Ge(1), Le(GENERATION_MAX)]
PciId = Annotated[str, Strict(), StringConstraints(pattern=r"^[0-9a-f]{4}$")]
PciIdOrAny = Annotated[str, Strict(), StringConstraints(pattern=r"^([0-9a-f]{4})?$")]
_PCI_ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
PciAddress = Annotated[str, Strict(), StringConstraints(pattern=rf"^{_PCI_ADDRESS}$")]
DeviceAddress = Annotated[str, Strict(), StringConstraints(pattern=rf"^{_PCI_ADDRESS}(/[0-9]{{1,3}})?$")]  # or mediated
UsbPort = Annotated[str, Strict(), StringConstraints(pattern=r"^[0-9]{1,3}-[0-9]{1,3}(\.[0-9]{1,3}){0,5}$")]


def _threads(value: object) -> object:
    return from_ranges(value) if isinstance(value, str) else value


Threads = Annotated[
    tuple[Annotated[int, Strict(), Ge(0), Le(65535)], ...],
    MaxLen(SLOTS_MAX),
    BeforeValidator(_threads),
    PlainSerializer(to_ranges),  # "0-127": a big VM's offer has to fit a datagram
]
Digest32 = Annotated[bytes, Strict(), MaxLen(32)]


class Role(StrEnum):
    """Which daemon of a host: part of every signed audience."""

    COMPUTE = "compute"
    STORAGE = "storage"


class Policy(StrEnum):
    """How hosts score themselves and how the client ranks, before any expression of the user's own."""

    PACK = "pack"
    SPREAD = "spread"


class Arch(StrEnum):
    """Guest architectures, as specfiles name them."""

    X86_32 = "X86_32"
    X86_64 = "X86_64"
    ARM_7 = "ARM_7"
    ARM_8 = "ARM_8"
    PPC_64 = "PPC_64"
    S390X = "S390X"
    RISCV_64 = "RISCV_64"


class Firmware(StrEnum):
    BIOS = "bios"  # whatever the machine starts by itself, which is UEFI on 64-bit ARM
    UEFI = "uefi"
    UEFI_SECURE = "uefi-secure"  # boots what is signed alone


class Accelerator(StrEnum):
    KVM = "kvm"
    TCG = "tcg"


class CoreClass(StrEnum):
    """Of the cores of a hybrid machine; `ANY`: of both, mixed."""

    PERFORMANCE = "performance"
    EFFICIENCY = "efficiency"
    ANY = "any"


class ImageFormat(StrEnum):
    """The only formats served; read from the metadata, never probed. A folder is no disk: VMs share its files."""

    RAW = "raw"
    QCOW2 = "qcow2"
    FOLDER = "folder"


class Reach(StrEnum):
    """From where an offered volume can be used."""

    LOCAL = "local"  # on its own host alone, as a plain file
    NETWORK = "network"  # from every host of the link as well


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages: unknown fields are refused; in JSON, bytes are base64url."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", allow_inf_nan=False
    )


@dataclass(frozen=True, slots=True)
class Address(Message):
    """Where an answer may go: numeric IPv4 or IPv6 (no scope), and a port."""

    ip: Annotated[str, Strict(), StringConstraints(max_length=45, pattern=r"^[0-9a-f.:]+$")]
    port: Port


@dataclass(frozen=True, slots=True)
class PciAsk(Message):
    """`quantity` devices of one kind: of this vendor, model and class, where each is said, and else of any.
    `device_class` is the beginning of a PCI class code: "03" is any display controller, "0302" one without a screen.
    `mdev_type`: not such cards, but devices of this type that they make."""

    vendor: PciIdOrAny
    model: PciIdOrAny
    quantity: Annotated[int, Strict(), Ge(1), Le(64)]
    device_class: Annotated[str, Strict(), StringConstraints(pattern=r"^([0-9a-f]{2}){0,3}$")] = ""
    mdev_type: Annotated[str, Strict(), StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?$")] = ""


@dataclass(frozen=True, slots=True)
class UsbAsk(Message):
    """`quantity` USB devices of this vendor and model."""

    vendor: PciId
    model: PciId
    quantity: Annotated[int, Strict(), Ge(1), Le(USB_DEVICES_MAX)]


@dataclass(frozen=True, slots=True)
class VmAsk(Message):
    """The hardware that one VM needs; what a specfile means, with the defaults filled in.

    `slots` counts whole cores when `smt` is false, hardware threads when it is true. `lease_s` is how long the VM is to
    live; 0: for as long as the user's grant allows. Cores are of one class unless `core_class` says "any", of whichever
    where it says nothing. `pci_else` are alternatives to `pci`, in the order in which they are wanted.
    """

    slots: Slots
    smt: Flag
    overprovision: Annotated[int, Strict(), Ge(1), Le(64)]
    archs: Annotated[tuple[Arch, ...], MaxLen(len(Arch))]
    flags: Annotated[tuple[Word, ...], MaxLen(FLAGS_MAX)]  # lowercase, sorted, no repeats
    ram_mib: Annotated[int, Strict(), Ge(1), Le(RAM_MIB_MAX)]
    ecc: Flag
    pci: Annotated[tuple[PciAsk, ...], MaxLen(PCI_ASKS_MAX)]
    firmware: Firmware
    allow_emulation: Flag
    qemu_agent: Flag = False  # a channel for the guest's own agent
    lease_s: Count = 0
    core_class: CoreClass | None = None
    min_frequency_mhz: Annotated[int, Strict(), Ge(0), Le(FREQUENCY_MHZ_MAX)] = 0
    hugepages_kib: Annotated[int, Strict(), Ge(0), Le(PAGE_KIB_MAX)] = 0  # the size of all its pages; 0: any
    pci_else: Annotated[
        tuple[Annotated[tuple[PciAsk, ...], MaxLen(PCI_ASKS_MAX)], ...], MaxLen(ALTERNATIVES_MAX - 1)
    ] = ()
    usb: Annotated[tuple[UsbAsk, ...], MaxLen(USB_DEVICES_MAX)] = ()
    tpm: Flag = False  # a TPM 2.0 of its own


@dataclass(frozen=True, slots=True)
class VolumeAsk(Message):
    """Room for a new volume, thin, of this size as a guest will see it."""

    size_mib: Annotated[int, Strict(), Ge(1), Le(VOLUME_MIB_MAX)]
    format: ImageFormat


@dataclass(frozen=True, slots=True)
class Pledge(Message):
    """One call for resources: the VM ask and the volume asks together. Signed by a user, padded, multicast.

    `volumes` are to be found, `room` is for one to be made; its vid is then `vm_id`, and there is no VM. `dry`: every
    host answers, with offers or with all its reasons, and nothing is held; with `counts`, who fits says how many more
    such VMs would. `reply` holds one address for each family at most. `seal` is H(H(x)): see `Reveal`.
    """

    pledge_id: Id
    sent_at_ms: Millis  # wall clock, since the epoch
    reply: Annotated[tuple[Address, ...], MaxLen(2)]
    dry: Flag
    vm_id: Id
    generation: Generation
    vm: VmAsk | None
    volumes: Annotated[tuple[Id, ...], MaxLen(VOLUMES_MAX)]
    seal: Digest32
    hold_ms: Annotated[int, Strict(), Ge(100), Le(HOLD_MS_MAX)]
    hosts_known: Count
    policy: Policy
    room: VolumeAsk | None = None
    counts: Flag = False


@dataclass(frozen=True, slots=True)
class Reason(Message):
    """Why an ask can't be served, for a person: what was asked, what is there, what to do.

    `resource` is a short noun with its detail ("slots", "ram", "pci 10de:24b0", "volume 4f…"). `edit` is the
    `--set` argument that would make this one reason go away on this host ("ram.ramsize=4096"), or empty. `unknown`: the
    machine does not say whether it has what was asked for.
    """

    resource: Annotated[str, Strict(), StringConstraints(max_length=80)]
    asked: Annotated[str, Strict(), StringConstraints(max_length=120)]
    has: Annotated[str, Strict(), StringConstraints(max_length=120)]
    hint: Annotated[str, Strict(), StringConstraints(max_length=160)]
    edit: Annotated[str, Strict(), StringConstraints(max_length=80)] = ""
    unknown: Flag = False


@dataclass(frozen=True, slots=True)
class VmOffer(Message):
    """A compute host's answer: these exact resources are held for the VM until `expires_in_ms` has passed.

    `threads` are hardware thread numbers, ascending. `numa` is -1 when the VM spans nodes. `pretended`: the inventory
    is a recording, so that no VM can run here. Where it was asked how many such VMs fit now: `copies`, this one among
    them, of which there may be more where `copies_at_least`, and what runs out first. `ecc_source`, where ECC memory
    was asked for: by what the host knows that it has some ("edac", "udev", "smbios").
    """

    pledge_id: Id
    offer_id: Id
    host: Label
    front_door_port: Port
    hosts_known: Count
    expires_in_ms: Annotated[int, Strict(), Ge(0), Le(HOLD_MS_MAX)]
    score: Score
    threads: Threads
    threads_per_core: Annotated[int, Strict(), Ge(1), Le(16)]  # of the guest's topology
    numa: Annotated[int, Strict(), Ge(-1), Le(4095)]
    pci: Annotated[tuple[DeviceAddress, ...], MaxLen(64)]
    arch: Arch
    accelerator: Accelerator
    pretended: Flag = False
    copies: Count = 0
    copies_at_least: Flag = False
    runs_out: Annotated[tuple[Annotated[str, Strict(), StringConstraints(max_length=80)], ...], MaxLen(8)] = ()
    usb: Annotated[tuple[UsbPort, ...], MaxLen(USB_DEVICES_MAX)] = ()
    ecc_source: Annotated[str, Strict(), StringConstraints(max_length=16)] = ""
    choice: Annotated[int, Strict(), Ge(0), Le(ALTERNATIVES_MAX - 1)] = 0  # of the alternatives that were asked for


@dataclass(frozen=True, slots=True)
class OfferedVolume(Message):
    vid: Id
    name: Label
    size_mib: Count
    format: ImageFormat
    bootable: Flag
    readonly: Flag
    shareable: Flag
    reach: Reach


@dataclass(frozen=True, slots=True)
class VolumeOffer(Message):
    """A storage host's answer: those of the asked volumes that it has and holds. One offer id for all of them. Where
    room was asked for, it is held, and `left_mib` says what is left beside it."""

    pledge_id: Id
    offer_id: Id
    host: Label
    hosts_known: Count
    expires_in_ms: Annotated[int, Strict(), Ge(0), Le(HOLD_MS_MAX)]
    volumes: Annotated[tuple[OfferedVolume, ...], MaxLen(VOLUMES_MAX)]
    front_door_port: Annotated[int, Strict(), Ge(0), Le(65535)] = 0  # where it is asked; 0: by its own host alone
    left_mib: Count = 0


@dataclass(frozen=True, slots=True)
class Unfit(Message):
    """All the reasons why a host does not offer. Sent for dry pledges, and by storage for a volume that it has but
    cannot give. `left_off` counts those for which the datagram had no room."""

    pledge_id: Id
    host: Label
    role: Role
    hosts_known: Count
    reasons: Annotated[tuple[Reason, ...], MaxLen(REASONS_MAX)]
    left_off: Count = 0


@dataclass(frozen=True, slots=True)
class Reveal(Message):
    """*Enough* carries H(x): who has not offered stays silent. *Done* carries x: every other hold is freed.

    Unsigned: only whoever made the seal can open it. If it is lost, holds lapse.
    """

    pledge_id: Id
    secret: Digest32
    keep: Id | None = None  # with x: the offer that was confirmed


@dataclass(frozen=True, slots=True)
class Query(Message):
    """Who is there, and who has VMs of mine whose name or id is `match`, or starts with it (empty: any)?"""

    query_id: Id
    sent_at_ms: Millis
    reply: Annotated[tuple[Address, ...], MaxLen(2)]
    match: Label
    exact: Flag


@dataclass(frozen=True, slots=True)
class Answer(Message):
    """One daemon's answer to a query; detail comes by HTTPS from `front_door_port` (0: this daemon has none)."""

    query_id: Id
    host: Label
    role: Role
    front_door_port: Annotated[int, Strict(), Ge(0), Le(65535)]
    hosts_known: Count
    version: Word
    vms_matching: Count
    cpu_model: Label
    arch: Word
    accelerator: Word  # "kvm", "tcg", or empty for storage
    threads_total: Count
    threads_free: Count
    ram_total_mib: Mib
    ram_free_mib: Mib
    vms: Count
    volumes: Count
    drained: Flag = False  # takes no new VMs, on its sysadmin's word
    realm: Word = ""  # 16 digits of the digest of what it knows of the realm: who knows something else asks


@dataclass(frozen=True, slots=True)
class Clock(Message):
    """Rate-limited answer to a validly signed but stale question: the host's wall clock, so that a person can act."""

    about: Id
    host: Label
    now_ms: Millis


@dataclass(frozen=True, slots=True)
class VolumeClaim(Message):
    """A volume that the VM is to have, in boot order, and the storage host whose offer is taken.

    `door` is where the client heard of that host, for a compute host that is another one. Whoever answers there has to
    have `server`'s key, before anything is said. `readonly`: this VM shall not write it, whoever else may; `cdrom`: it
    is to be a CD in the guest's drive.
    """

    vid: Id
    server: Fingerprint
    offer_id: Id
    door: Address | None = None
    readonly: Flag = False
    cdrom: Flag = False


@dataclass(frozen=True, slots=True)
class Confirm(Message):
    """The client takes an offer. Signed by the user for one compute host; forwarded by it to storage as it is."""

    vm_id: Id
    generation: Generation
    pledge_id: Id
    offer_id: Id
    host_id: Fingerprint
    name: Label
    vm: VmAsk
    volumes: Annotated[tuple[VolumeClaim, ...], MaxLen(VOLUMES_MAX)]
    specfile: Annotated[str, Strict(), StringConstraints(max_length=65_536)]  # canonical JSON, as the user wrote it


@dataclass(frozen=True, slots=True)
class ConfirmVolume(Message):
    """The client takes the offer of one more volume, for a VM that is on `host_id` already. Signed by the user for that
    host, and forwarded to storage as it is, like a `Confirm`."""

    vm_id: Id
    generation: Generation
    pledge_id: Id
    host_id: Fingerprint
    name: Label  # of the VM
    volume: VolumeClaim


@dataclass(frozen=True, slots=True)
class Abandon(Message):
    """The client will not take this offer: durable at the host, even where the confirm never came."""

    vm_id: Id
    generation: Generation
    offer_id: Id
    host_id: Fingerprint


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """A typed no: `code` for programs, `reasons` for people."""

    code: Word
    reasons: Annotated[tuple[Reason, ...], MaxLen(REASONS_MAX)]


@dataclass(frozen=True, slots=True)
class VmVolume(Message):
    """`server` is the host whose storaged gives it. `change` is "detaching" where it is to go, for `change_s` by now:
    it is the VM's until the guest has let go of it. It is "keeping" where its user has taken that back."""

    vid: Id
    format: ImageFormat
    readonly: Flag
    bootable: Flag
    server: Fingerprint | None = None
    cdrom: Flag = False
    change: Word = ""
    change_s: Annotated[int, Strict(), Ge(0), Le(2**40)] = 0


@dataclass(frozen=True, slots=True)
class VmView(Message):
    """A VM as its user sees it; what the front door answers. `why` is a sentence about the state, or empty."""

    id: Id
    generation: Generation
    name: Label
    user: Label
    host: Label
    host_id: Fingerprint
    state: Word
    why: Annotated[str, Strict(), StringConstraints(max_length=4096)]
    domain: Label
    accelerator: Word
    arch: Word
    addresses: Annotated[tuple[Annotated[str, Strict(), StringConstraints(max_length=64)], ...], MaxLen(64)]
    vcpus: Count
    threads: Threads
    threads_per_core: Count
    overprovision: Count
    numa: Annotated[int, Strict(), Ge(-1), Le(4095)]
    ram_mib: Mib
    pci: Annotated[tuple[DeviceAddress, ...], MaxLen(64)]
    volumes: Annotated[tuple[VmVolume, ...], MaxLen(VOLUMES_MAX)]
    specfile: Annotated[str, Strict(), StringConstraints(max_length=65_536)]
    lease_ends_s: Annotated[int, Strict(), Ge(0), Le(2**40)] = 0  # since the epoch; 0: it has no lease
    usb: Annotated[tuple[UsbPort, ...], MaxLen(USB_DEVICES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class VmViews(Message):
    vms: Annotated[tuple[VmView, ...], MaxLen(VMS_MAX)]


@dataclass(frozen=True, slots=True)
class Progress(Message):
    """One line of a confirm's answer: "committed", then "running" or "failed"."""

    event: Word
    vm: VmView


@dataclass(frozen=True, slots=True)
class Abandoned(Message):
    """The offer is let go for good; or `committed` tells of the VM that it had become already, and stays."""

    committed: VmView | None = None
