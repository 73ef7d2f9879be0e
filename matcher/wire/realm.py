"""Messages about who belongs to a realm and what they may do there, as frozen dataclasses with their limits.

*Documents* (`Anchor`, `Revocation`, `Heartbeat`, `TagKey`) are signed on their own, by the root or by an issuer, and go
from hand to hand: whoever passes them on can neither change nor forge them. See `matcher.trust.documents`.
The others are questions and answers, as in `matcher.wire.messages`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import StringConstraints
from pydantic.types import Strict

from matcher.wire.messages import (
    RAM_MIB_MAX,
    SLOTS_MAX,
    Count,
    Digest32,
    Fingerprint,
    Flag,
    Label,
    Line,
    Message,
    Millis,
)

GROUPS_MAX = 8
PCI_LIMITS_MAX = 16
DER_MAX = 4096
BUNDLE_MAX_BYTES = 8 << 20  # with as many revocations as a realm can have, and its links
MEMBERS_MAX = 10_000  # in one answer
USERS_IN_NEWS_MAX = 8
KEY_HINT_BYTES = 4
HOST_USES_MAX = 256  # hosts that are told of in one answer

ShortId = Annotated[str, Strict(), StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Group = Annotated[str, Strict(), StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
Name = Annotated[str, Strict(), StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Seconds = Annotated[int, Strict(), Ge(0), Le(2**40)]  # wall clock, since the epoch
Der = Annotated[bytes, Strict(), MaxLen(DER_MAX)]
MemberKind = Literal["host", "user"]


class Verb(StrEnum):
    """What a user may do at all; what with how much, the rest of the grant says."""

    PLEDGE = "pledge"  # see hosts, ask who could serve, see one's own VMs
    RUN = "run"  # have VMs: run, start, stop, reboot, rm
    CONSOLE = "console"  # talk to their guests, read what these said
    ADMIN = "admin"  # invite and remove hosts, add and revoke users


@dataclass(frozen=True, slots=True)
class PciLimit(Message):
    """At most `quantity` devices of this vendor and model, on PCI or on USB; `*` is any model. What no limit names is
    not given."""

    vendor: Annotated[str, Strict(), StringConstraints(pattern=r"^([0-9a-f]{4}|\*)$")]
    model: Annotated[str, Strict(), StringConstraints(pattern=r"^([0-9a-f]{4}|\*)$")]
    quantity: Annotated[int, Strict(), Ge(0), Le(4096)]


@dataclass(frozen=True, slots=True)
class Grant(Message):
    """What a user may do, and how much of each host at one time; `None`: as much as there is.

    `slots` are those of specfiles: whole cores or threads, as asked. `vms` counts stopped ones too, since these keep
    name and volumes. `volumes_gb` is the size of the volumes attached. `overprovision_min`: nothing more exclusive.
    `lease_max_s`: a VM ends that long after its start. `until_s`: no certificate of this user reaches further.
    """

    verbs: Annotated[tuple[Verb, ...], MaxLen(len(Verb))] = ()
    slots: Annotated[int, Strict(), Ge(0), Le(SLOTS_MAX)] | None = None
    ram_mib: Annotated[int, Strict(), Ge(0), Le(RAM_MIB_MAX)] | None = None
    vms: Annotated[int, Strict(), Ge(0), Le(4096)] | None = None
    volumes_gb: Annotated[int, Strict(), Ge(0), Le(2**31 - 1)] | None = None
    pci: Annotated[tuple[PciLimit, ...], MaxLen(PCI_LIMITS_MAX)] = ()
    overprovision_min: Annotated[int, Strict(), Ge(1), Le(64)] = 1
    lease_max_s: Annotated[int, Strict(), Ge(60), Le(2**31 - 1)] | None = None
    groups: Annotated[tuple[Group, ...], MaxLen(GROUPS_MAX)] = ()
    until_s: Seconds | None = None
    usb: Annotated[tuple[PciLimit, ...], MaxLen(PCI_LIMITS_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Use(Message):
    """What one user has, in the units of `Grant`; `pci` and `usb` are vendor:model with their number. `volumes_mib`, as
    volumes come in parts of a GB; `None`: not known."""

    slots: Count = 0
    ram_mib: Annotated[int, Strict(), Ge(0), Le(2**40)] = 0
    vms: Count = 0
    volumes_mib: Annotated[int, Strict(), Ge(0), Le(2**40)] | None = 0
    pci: Annotated[tuple[PciLimit, ...], MaxLen(64)] = ()
    usb: Annotated[tuple[PciLimit, ...], MaxLen(64)] = ()


# ---- documents


@dataclass(frozen=True, slots=True)
class Anchor(Message):
    """What the root says: who may issue. The higher epoch counts. Signed by a root of the anchor before it.

    `roots` and `issuers` are certificates (DER), framed. More than one root stands there while a new one takes over.
    """

    realm_id: ShortId
    name: Name
    epoch: Annotated[int, Strict(), Ge(1), Le(2**31 - 1)]
    roots: Annotated[bytes, Strict(), MaxLen(16 * 1024)]
    issuers: Annotated[bytes, Strict(), MaxLen(64 * 1024)]


@dataclass(frozen=True, slots=True)
class Revocation(Message):
    """This member's leaves are good for nothing any more: all of them, or (`before_s` > 0) those that start earlier.

    Signed by an issuer. Never taken back: who comes again comes with another key.
    """

    realm_id: ShortId
    kind: MemberKind
    id: Fingerprint
    before_s: Seconds
    at_ms: Millis
    why: Annotated[str, Strict(), StringConstraints(max_length=120)] = ""


@dataclass(frozen=True, slots=True)
class Heartbeat(Message):
    """An issuer lives, and had signed so many revocations: who has all of them is as fresh as this."""

    realm_id: ShortId
    at_ms: Millis
    revocations: Count


@dataclass(frozen=True, slots=True)
class TagKey(Message):
    """The key of the datagrams' tags; the higher number counts. Signed by an issuer, shown to members alone."""

    realm_id: ShortId
    number: Annotated[int, Strict(), Ge(1), Le(2**31 - 1)]
    key: Digest32 = field(repr=False)
    at_ms: Millis


# ---- between hosts


@dataclass(frozen=True, slots=True)
class UserUse(Message):
    user: ShortId
    slots: Count
    ram_mib: Annotated[int, Strict(), Ge(0), Le(2**40)]
    vms: Count


@dataclass(frozen=True, slots=True)
class News(Message):
    """A host tells the others what it knows, now and then and when something is new. A datagram, signed by the host.

    `digest` is that of its bundle: who has another one asks at `front_door_port` (0: this daemon has none). `fresh` are
    the newest signed documents, framed, so that a revocation is everywhere at once. `uses` are what users have on this
    host: the first 16 digits of each user's id, with their use; what is not named here has not changed.
    `key_hint` tells today's tag key from another one of its number, as long as some may not have heard of it.
    """

    host: Label
    sent_at_ms: Millis
    digest: Digest32
    key_number: Count
    front_door_port: Annotated[int, Strict(), Ge(0), Le(65535)]
    fresh: Annotated[bytes, Strict(), MaxLen(512)]
    uses: Annotated[tuple[UserUse, ...], MaxLen(USERS_IN_NEWS_MAX)] = ()
    key_hint: Annotated[bytes, Strict(), MaxLen(KEY_HINT_BYTES)] = b""


# ---- joining: over an ALPN of its own, see `matcher.trust.joining`


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """The host that issued a token shows what it stands on: the bundle, to be held against the root in the token."""

    bundle: Annotated[bytes, Strict(), MaxLen(BUNDLE_MAX_BYTES)]


@dataclass(frozen=True, slots=True)
class Join(Message):
    """A certificate request (PKCS#10, DER), bound to the token's secret; the secret itself never travels.

    `proof` is HMAC-SHA256 under the secret over the request and the host's leaf. The request's common name is the name
    that a host wishes for; a user's stands in the token's own record.
    """

    token_id: ShortId
    request: Der
    proof: Digest32


@dataclass(frozen=True, slots=True)
class Admitted(Message):
    """`keys` are signed `TagKey`s, framed."""

    leaf: Der
    keys: Annotated[bytes, Strict(), MaxLen(4096)] = field(repr=False)


# ---- at the front door


@dataclass(frozen=True, slots=True)
class Renew(Message):
    """A member asks for a new leaf for the key that it shows in TLS; `request` is PKCS#10, DER."""

    request: Der


@dataclass(frozen=True, slots=True)
class InviteHost(Message):
    """An admin asks for a host's token; `name` empty: the host says its own."""

    name: Annotated[str, Strict(), StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""


@dataclass(frozen=True, slots=True)
class InviteUser(Message):
    name: Name
    grant: Grant


@dataclass(frozen=True, slots=True)
class Invited(Message):
    """`token` is text for a person to carry; it ends after `expires_in_s`."""

    token: Annotated[str, Strict(), StringConstraints(max_length=512)] = field(repr=False)
    expires_in_s: Count


@dataclass(frozen=True, slots=True)
class Revoke(Message):
    """An admin revokes a member, by name or id."""

    kind: MemberKind
    member: Label
    why: Annotated[str, Strict(), StringConstraints(max_length=120)] = ""


@dataclass(frozen=True, slots=True)
class ChangeGrant(Message):
    """An admin gives a user another grant: older leaves are revoked, the next one carries it."""

    name: Name
    grant: Grant


@dataclass(frozen=True, slots=True)
class Member(Message):
    """A member as its issuer knows it. `state` is "member", "revoked", or "expired"."""

    kind: MemberKind
    id: Fingerprint
    name: Name
    state: Annotated[str, Strict(), StringConstraints(max_length=16)]
    since_s: Seconds
    ends_s: Seconds
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class Members(Message):
    members: Annotated[tuple[Member, ...], MaxLen(MEMBERS_MAX)]


@dataclass(frozen=True, slots=True)
class RealmStatus(Message):
    """What a host knows of its realm. `fresh_s`: the age of the newest word of an issuer; -1: none was ever heard.

    `issuers` are the ids of their keys, `issuers_end_s` the ends of their certificates, in one order. `issuer_here` is
    the id of this host's own, or empty."""

    realm_id: ShortId
    name: Name
    host: Label
    epoch: Count
    roots: Annotated[tuple[Fingerprint, ...], MaxLen(8)]
    issuers: Annotated[tuple[Label, ...], MaxLen(64)]
    revocations: Count
    key_number: Count
    fresh_s: Annotated[int, Strict(), Ge(-1), Le(2**40)]
    issues_here: Flag
    tokens_pending: Count
    issuer_here: Label = ""
    issuers_end_s: Annotated[tuple[Seconds, ...], MaxLen(64)] = ()


@dataclass(frozen=True, slots=True)
class WhoAmI(Message):
    """A user as one host sees them: the grant, as narrowed here, and what is used here."""

    name: Name
    id: Fingerprint
    realm: Name
    host: Label
    ends_s: Seconds
    grant: Grant
    here: Grant
    use: Use
    narrowed: Annotated[tuple[Line, ...], MaxLen(16)] = ()


@dataclass(frozen=True, slots=True)
class HostUse(Message):
    """What a host has last told the others of one user, within the last minute or two; it may have changed since."""

    host: Label
    host_id: Fingerprint
    slots: Count
    ram_mib: Annotated[int, Strict(), Ge(0), Le(2**40)]
    vms: Count


@dataclass(frozen=True, slots=True)
class UserUses(Message):
    """What one user has: `here` is exact, `elsewhere` is hearsay."""

    here: Use
    elsewhere: Annotated[tuple[HostUse, ...], MaxLen(HOST_USES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Done(Message):
    """It is done; `said` is a sentence for the person."""

    said: Line
