"""The hosts of a realm as one of them sees them: what its front door tells users, and its back door sysadmins.

Not signed: what a host says of others here is its word alone, though it came to it signed (docs/THREATS.md). Pure.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le, MaxLen
from pydantic import StringConstraints
from pydantic.types import Strict

from matcher.wire.gossip import Digest, HostState, Says
from matcher.wire.messages import Address, Count, Fingerprint, Flag, Label, Message, Word

PAGE_MAX = 64  # hosts in a line of the answer: few enough that the daemon has its turn between them
MEMBERS_MAX = 40  # of a page at the back door: at their largest they fit a frame
ACCUSATIONS_MAX = 12

After = Annotated[str, Strict(), StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
Age = Annotated[int, Strict(), Ge(-1), Le(2**31 - 1)]  # in seconds; -1: not known
Port = Annotated[int, Strict(), Ge(0), Le(65535)]


@dataclass(frozen=True, slots=True)
class HostView(Message):
    """One host. `state_s`: how long it has been in this state, -1 where it never was in another. `told_s`: how long ago
    the one who tells this heard the digest, by whatever way; a host that lives tells each change at once. The first
    address is the one to use; port 0: it has no front door."""

    id: Fingerprint
    name: Label
    state: HostState
    state_s: Age
    told_s: Age
    addresses: Annotated[tuple[Address, ...], MaxLen(2)]
    front_door_port: Port
    digest: Digest


@dataclass(frozen=True, slots=True)
class HostViews(Message):
    """A part of the list. `total` hosts are in all parts together. `listens_s`: for how long this host has listened to
    others, so that a list that is still short is known for one; -1: it does not. `realm` as in `Answer`: who knows
    something else asks."""

    listens_s: Age
    total: Count
    hosts: Annotated[tuple[HostView, ...], MaxLen(PAGE_MAX)]
    realm: Word = ""


@dataclass(frozen=True, slots=True)
class ListMembers(Message):
    """`after`: the id of the last row of the page before, empty for the first."""

    after: After = ""


@dataclass(frozen=True, slots=True)
class Accusation(Message):
    """What is held against a host, and by whom."""

    by: Label
    says: Says


@dataclass(frozen=True, slots=True)
class MemberRow(Message):
    """`gone_in_s`: so long it still has to object, -1 where its time does not run. `is_me`: it is this host."""

    host: HostView
    accusations: Annotated[tuple[Accusation, ...], MaxLen(ACCUSATIONS_MAX)]
    gone_in_s: Age
    incarnation: Annotated[int, Strict(), Ge(0), Le(2**53)]
    is_me: Flag


@dataclass(frozen=True, slots=True)
class MemberRows(Message):
    listens_s: Age
    rows: Annotated[tuple[MemberRow, ...], MaxLen(MEMBERS_MAX)]
    more: Flag
