"""Grants: what a user may do and how much, inside their certificate. Pure.

In a leaf a grant is msgpack under letters, with what is as by default left out: every datagram carries it. A letter
that is not known here makes the whole grant unreadable, since it may take something away.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import MaxLen
from pydantic import StringConstraints
from pydantic.types import Strict

from matcher.wire.codec import BadBytes, decode, encode
from matcher.wire.messages import Message
from matcher.wire.realm import GROUPS_MAX, PCI_LIMITS_MAX, Grant, PciLimit, Verb

NOTHING = Grant()
GRANT_MAX_BYTES = 640
_LETTERS = {Verb.PLEDGE: "p", Verb.RUN: "r", Verb.CONSOLE: "c", Verb.ADMIN: "a"}
_VERBS = {letter: verb for verb, letter in _LETTERS.items()}
_Number = Annotated[int, Strict()]  # "9" is none: pydantic would make one of any length


@dataclass(frozen=True, slots=True)
class _Letters(Message):
    v: Annotated[str, StringConstraints(pattern=r"^p?r?c?a?$")] = ""
    s: _Number | None = None
    r: _Number | None = None
    n: _Number | None = None
    g: _Number | None = None
    d: Annotated[tuple[str, ...], MaxLen(PCI_LIMITS_MAX)] = ()
    o: _Number = 1
    l: _Number | None = None  # noqa: E741  a letter is what it is
    m: Annotated[tuple[str, ...], MaxLen(GROUPS_MAX)] = ()
    u: _Number | None = None
    b: Annotated[tuple[str, ...], MaxLen(PCI_LIMITS_MAX)] = ()


def grant_bytes(grant: Grant) -> bytes:
    """As it stands in a leaf."""
    letters = _Letters(
        "".join(letter for verb, letter in _LETTERS.items() if verb in grant.verbs),
        grant.slots,
        grant.ram_mib,
        grant.vms,
        grant.volumes_gb,
        tuple(show_pci_limit(limit) for limit in grant.pci),
        grant.overprovision_min,
        grant.lease_max_s,
        grant.groups,
        grant.until_s,
        tuple(show_pci_limit(limit) for limit in grant.usb),
    )
    return encode(letters)


def read_grant(data: bytes) -> Grant:
    """The grant in a leaf. Raises `BadBytes`."""
    letters = decode(_Letters, data, max_bytes=GRANT_MAX_BYTES)
    try:
        grant = Grant(
            tuple(_VERBS[letter] for letter in letters.v),
            letters.s,
            letters.r,
            letters.n,
            letters.g,
            tuple(parse_pci_limit(text) for text in letters.d),
            letters.o,
            letters.l,
            letters.m,
            letters.u,
            tuple(parse_pci_limit(text) for text in letters.b),
        )
        return decode(Grant, encode(grant), max_bytes=4096)  # its own limits
    except ValueError as error:
        raise BadBytes("grant", str(error)[:160]) from None


def grant_problem(grant: Grant) -> str | None:
    """A sentence where no leaf can carry this grant, as what it says could not be read again; else `None`."""
    try:
        again = read_grant(grant_bytes(grant))
    except (BadBytes, ValueError) as error:
        return f"what is granted can't be written down: {error}"[:120]
    verbs = tuple(verb for verb in Verb if verb in grant.verbs)
    return None if again == replace(grant, verbs=verbs) else "what is granted can't be written down as it is"


def show_pci_limit(limit: PciLimit) -> str:
    return f"{limit.vendor}:{limit.model}={limit.quantity}"


def parse_pci_limit(text: str) -> PciLimit:
    """`10de:*=1`, `10de:24b0=2`, `*:*=4`; without a number, one. Raises `ValueError` with a sentence."""
    devices, equals, number = text.lower().partition("=")
    vendor, colon, model = devices.partition(":")
    if not colon or not _is_pci_id(vendor) or not _is_pci_id(model) or (vendor == "*" and model != "*"):
        raise ValueError(f"{text[:40]!r} is no limit of devices; such as 10de:24b0=2, or 10de:*=1 for any model")
    if equals and not (number.isascii() and number.isdigit() and len(number) <= 4 and int(number) <= 4096):
        raise ValueError(f"{text[:40]!r}: how many is a number up to 4096")
    return PciLimit(vendor, model, int(number) if number else 1)


def limit_for(limits: Iterable[PciLimit], vendor: str, model: str) -> PciLimit | None:
    """The limit that counts for a device: the most exact one that names it; of two such, the lower."""
    naming = [limit for limit in limits if limit.vendor in (vendor, "*") and limit.model in (model, "*")]
    return min(naming, key=lambda limit: (limit.vendor == "*", limit.model == "*", limit.quantity), default=None)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What a host takes away from every grant, by its own settings. It can never give anything.

    `users` are names and `@groups`; empty: everybody. `hours` are [from, to) in minutes of the host's local day, and a
    span may go over midnight; empty: always. The other fields are limits as in `Grant`; `pci` and `usb` `None`: nothing
    taken, else a limit of its own beside the grant's: both must allow a device, since two lists of patterns make no
    third.
    """

    users: tuple[str, ...] = ()
    hours: tuple[tuple[int, int], ...] = ()
    pci: tuple[PciLimit, ...] | None = None
    slots: int | None = None
    ram_mib: int | None = None
    vms: int | None = None
    volumes_gb: int | None = None
    lease_max_s: int | None = None
    overprovision_min: int = 1
    usb: tuple[PciLimit, ...] | None = None

    def admits_user(self, name: str, groups: Collection[str]) -> bool:
        return not self.users or name in self.users or any(f"@{group}" in self.users for group in groups)

    def is_open(self, minute: int) -> bool:
        """Whether new VMs may start at this minute of the local day."""
        return not self.hours or any(_within(span, minute) for span in self.hours)

    def narrowed(self, grant: Grant) -> Grant:
        """At most what `grant` gives and at most what this host allows, but for devices: see above."""
        return replace(
            grant,
            slots=_least(grant.slots, self.slots),
            ram_mib=_least(grant.ram_mib, self.ram_mib),
            vms=_least(grant.vms, self.vms),
            volumes_gb=_least(grant.volumes_gb, self.volumes_gb),
            overprovision_min=max(grant.overprovision_min, self.overprovision_min),
            lease_max_s=_least(grant.lease_max_s, self.lease_max_s),
        )


def _least(one: int | None, other: int | None) -> int | None:
    given = [limit for limit in (one, other) if limit is not None]
    return min(given, default=None)


def _within(span: tuple[int, int], minute: int) -> bool:
    start, end = span
    return start <= minute < end if start <= end else minute >= start or minute < end


def _is_pci_id(text: str) -> bool:
    return text == "*" or (len(text) == 4 and all(digit in "0123456789abcdef" for digit in text))
