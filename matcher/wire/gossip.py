"""What hosts say to each other about each other: who is there, what is free there, who does not answer.

Two kinds of statement are *signed*, by the host that speaks: `Alive`, which only the host that it is about can make,
and `Claim`, hearsay about another. Both travel as envelopes of their own (multicast, or in answer to one) and are
passed on without it, as a `Statement`, inside of the rest. The rest is unsigned and under the realm's tag alone: it
decides nothing, as whatever it carries that counts is signed by itself or answers a number that nobody else has seen.

`Short`: the first 8 bytes of a host's fingerprint. Pure.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from struct import Struct
from typing import Annotated, Any

from annotated_types import Ge, Le, Lt, MaxLen, MinLen
from pydantic import BeforeValidator, PlainSerializer
from pydantic.types import Strict

from matcher.wire.codec import BadBytes
from matcher.wire.messages import DATAGRAM_MAX_BYTES, Address, Arch, Count, Fingerprint, Flag, Message, Mib, Role, Word
from matcher.wire.signature import SIGNATURE_BYTES

SHORT_BYTES = 8
BUCKETS = 64
MARK_BYTES = 4  # of a bucket, in a `Summary`; of what is known of the realm, in an `Ack`
ENTRY = Struct(">8sQQB")  # short id, incarnation, counter, state
WANTED = Struct(">8sB")  # short id, 1: with its certificate
ENTRIES_MAX_BYTES = 1000

Short = Annotated[bytes, Strict(), MinLen(SHORT_BYTES), MaxLen(SHORT_BYTES)]
Mark = Annotated[bytes, Strict(), MinLen(MARK_BYTES), MaxLen(MARK_BYTES)]
Nonce = Annotated[int, Strict(), Ge(0), Le(2**53)]
Version = Annotated[int, Strict(), Ge(0), Le(2**53)]
Statements = Annotated[bytes, Strict(), MaxLen(DATAGRAM_MAX_BYTES)]
Entries = Annotated[bytes, Strict(), MaxLen(ENTRIES_MAX_BYTES)]

_STATEMENT = Struct(">B8sHH")  # kind, signer, lengths of certificate and payload


class HostState(StrEnum):
    """What a host holds another for. Within one incarnation it only moves down this list."""

    ALIVE = "alive"
    SUSPECT = "suspect"  # silent, and still has time to object
    DOWN = "daemon-down"  # the machine answers, the daemon does not: its VMs may well be running
    GONE = "gone"  # silent for good: what ran there may be run again elsewhere
    LEFT = "left"  # it said so


class Says(StrEnum):
    """What one host can say of another."""

    SUSPECT = "suspect"
    REFUSED = "refused"  # its machine says that nobody listens there
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Digest(Message):
    """What is free on a host, and what kind of host it is: enough to list it, and to know whom to ask.

    `level` is the widest x86-64 level of its CPU, or empty; `like` is the same for hosts of one make.
    `accelerator`: one of `ACCELERATORS`, empty where it runs no VMs.
    """

    roles: Annotated[tuple[Role, ...], MaxLen(len(Role))] = ()
    arch: Word = ""
    level: Word = ""
    slots: Count = 0
    slots_free: Count = 0
    ram_mib: Mib = 0
    ram_free_mib: Mib = 0
    devices: Count = 0
    devices_free: Count = 0
    disk_gb: Count = 0
    disk_free_gb: Count = 0
    vms: Count = 0
    drained: Flag = False
    like: Word = ""
    accelerator: Word = ""


ACCELERATORS = ("", "kvm", "tcg", "pretended")  # the place is the number; the last plays a recorded machine
DIGEST_FIELDS = tuple(field.name for field in fields(Digest))
_LEVEL = "x86-64-v"


def to_values(digest: Digest) -> tuple[int | bool | str, ...]:
    """A digest as it goes in datagrams: its values in order, since their names would be four times as long. Roles and
    architectures are bits, in the order of their enums; the level and the accelerator are numbers."""
    roles = sum(1 << at for at, role in enumerate(Role) if role in digest.roles)
    archs = sum(1 << at for at, arch in enumerate(Arch) if arch in digest.arch.split("+"))
    level = int(digest.level.removeprefix(_LEVEL) or 0)
    plain = (getattr(digest, name) for name in DIGEST_FIELDS[3:-1])
    return (roles, archs, level, *plain, ACCELERATORS.index(digest.accelerator))


def of_values(values: object) -> object:
    """What pydantic is to make the digest of; it checks the values themselves. Raises `ValueError`."""
    if isinstance(values, Digest):
        return values
    if not isinstance(values, tuple | list):
        raise ValueError("a digest is the list of its values")
    roles, archs, level, *plain, accelerator = values
    roles, archs, level = _number(roles, 4), _number(archs, 128), _number(level, 10)
    of_roles = tuple(role for at, role in enumerate(Role) if roles >> at & 1)
    of_archs = "+".join(sorted(arch.value for at, arch in enumerate(Arch) if archs >> at & 1))
    of_accelerator = ACCELERATORS[_number(accelerator, len(ACCELERATORS))]
    given = (of_roles, of_archs, f"{_LEVEL}{level}" if level else "", *plain, of_accelerator)
    return dict(zip(DIGEST_FIELDS, given, strict=True))  # not one more, nor one less


def _number(value: object, below: int) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise ValueError(f"a number below {below} belongs there")
    return value


Packed = Annotated[Digest, BeforeValidator(of_values), PlainSerializer(to_values)]


@dataclass(frozen=True, slots=True)
class Alive(Message):
    """A host about itself. The newest (incarnation, counter) is what counts: a new incarnation after each start and to
    refute a claim, the counter for each change of the rest.

    `fresh`: it has just started and knows nobody, so that others should say who they are. `leaving`: its last word.
    """

    incarnation: Version
    counter: Version
    addresses: Annotated[tuple[Address, ...], MinLen(1), MaxLen(2)]  # where it hears gossip; the one to use comes first
    front_door_port: Annotated[int, Strict(), Ge(0), Le(65535)]
    digest: Packed
    fresh: Flag = False
    leaving: Flag = False


@dataclass(frozen=True, slots=True)
class Claim(Message):
    """What the signer says of another host, of this incarnation of it and no other."""

    about: Fingerprint
    incarnation: Version
    says: Says


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there? `view` is the mark of all that the sender knows of the realm's hosts."""

    nonce: Nonce
    sender: Short
    target: Short
    view: Short
    told: Statements = b""


@dataclass(frozen=True, slots=True)
class Ack(Message):
    """I am. The nonce of the ping, which nobody else can know. `hears`: 0, the one who asked is not known here; 1, it
    is; 2, and was heard by multicast. `realm` is the mark of what the sender knows of the realm: who is a member."""

    nonce: Nonce
    sender: Short
    view: Short
    hears: Annotated[int, Strict(), Ge(0), Le(2)]
    realm: Mark
    told: Statements = b""


@dataclass(frozen=True, slots=True)
class Ask(Message):
    """Ping `target` for me, and send me its ack under my nonce; a `Nack` if you hear nothing either."""

    nonce: Nonce
    sender: Short
    target: Short


@dataclass(frozen=True, slots=True)
class Nack(Message):
    """I have heard your `Ask`, and nothing from its target."""

    nonce: Nonce
    sender: Short


@dataclass(frozen=True, slots=True)
class Summary(Message):
    """What I know, as a mark for each of 64 buckets of hosts: who knows something else answers with `Listing`s."""

    sender: Short
    marks: Annotated[bytes, Strict(), MinLen(BUCKETS * MARK_BYTES), MaxLen(BUCKETS * MARK_BYTES)]


@dataclass(frozen=True, slots=True)
class Listing(Message):
    """All that I know of those hosts in these buckets (bit n: bucket n) that lie from `first` to `last`, as `ENTRY`s:
    who knows less asks, who knows more tells."""

    sender: Short
    buckets: Annotated[int, Strict(), Ge(0), Lt(2**BUCKETS)]
    first: Short
    last: Short
    entries: Entries


@dataclass(frozen=True, slots=True)
class Want(Message):
    """Tell me of these hosts, as `WANTED`s."""

    sender: Short
    hosts: Entries


@dataclass(frozen=True, slots=True)
class Tidings(Message):
    """Statements, and nothing else."""

    sender: Short
    told: Statements


Unsigned = Ping | Ack | Ask | Nack | Summary | Listing | Want | Tidings


@dataclass(frozen=True, slots=True)
class Statement:
    """A signed message without its envelope. `certificate` is empty where whoever hears it will have it."""

    kind: int
    signer: bytes
    certificate: bytes
    signature: bytes
    payload: bytes

    def to_bytes(self) -> bytes:
        head = _STATEMENT.pack(self.kind, self.signer, len(self.certificate), len(self.payload))
        return head + self.certificate + self.signature + self.payload


def join(statements: list[bytes]) -> bytes:
    return b"".join(statements)


def split(data: bytes) -> list[Statement]:
    """What `join` put together. Raises `BadBytes`."""
    found, at = [], 0
    while at < len(data):
        if at + _STATEMENT.size > len(data):
            raise BadBytes("statement")
        kind, signer, certificate_bytes, payload_bytes = _STATEMENT.unpack_from(data, at)
        start = at + _STATEMENT.size
        middle = start + certificate_bytes
        payload = middle + SIGNATURE_BYTES
        at = payload + payload_bytes
        if at > len(data):
            raise BadBytes("statement")
        found.append(Statement(kind, signer, data[start:middle], data[middle:payload], data[payload:at]))
    return found


def entries(data: bytes, form: Struct) -> list[tuple[Any, ...]]:
    """The entries of a `Listing` or a `Want`. Raises `BadBytes`."""
    if len(data) % form.size:
        raise BadBytes("entries")
    return list(form.iter_unpack(data))
