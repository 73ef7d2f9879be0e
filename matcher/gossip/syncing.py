"""Push/pull repair of two views that differ: marks of buckets, then lists, then what the other lacks.

    Summary --> Listing of some of what differs --> Want (it knows more) and Tidings (it knows less)

One exchange carries a few datagrams at most; what is left differs still, and comes with the next. Pure.
"""

from collections.abc import Iterator
from random import Random

from matcher.gossip.roster import RANK, Charge, Record, Roster, bucket_of
from matcher.gossip.rumors import Told
from matcher.wire.gossip import (
    BUCKETS,
    ENTRIES_MAX_BYTES,
    ENTRY,
    MARK_BYTES,
    WANTED,
    HostState,
    Listing,
    Summary,
    Want,
    entries,
)

TOLD_MAX_BYTES = 1040  # of statements in one datagram, beside the envelope and a message
TIDINGS_MAX = 12  # datagrams in one exchange
_LISTED_MAX = ENTRIES_MAX_BYTES // ENTRY.size
_FIRST, _LAST = bytes(8), b"\xff" * 8
_LOST_RANK = RANK[HostState.GONE]

Parcel = tuple[tuple[Told, ...], bool]  # for one datagram; with certificates


def listing(roster: Roster, summary: Summary, random: Random) -> Listing | None:
    """What is here in some of the buckets that differ; a bucket too full for one datagram is listed in part."""
    mine, theirs = roster.marks(), summary.marks
    cuts = range(0, BUCKETS * MARK_BYTES, MARK_BYTES)
    differing = [at // MARK_BYTES for at in cuts if mine[at : at + MARK_BYTES] != theirs[at : at + MARK_BYTES]]
    random.shuffle(differing)
    buckets, listed = 0, list[bytes]()
    for number in differing:
        here = roster.in_bucket(number)
        if len(here) > _LISTED_MAX and not buckets:
            start = random.randrange(len(here))
            part = here[start : start + _LISTED_MAX]
            first = part[0] if start else _FIRST
            last = part[-1] if start + len(part) < len(here) else _LAST
            return Listing(roster.me, 1 << number, first, last, b"".join(map(roster.entry, part)))
        if len(listed) + len(here) <= _LISTED_MAX:
            buckets |= 1 << number
            listed += here
    if not buckets:
        return None
    return Listing(roster.me, buckets, _FIRST, _LAST, b"".join(map(roster.entry, listed)))


def compare(roster: Roster, theirs: Listing) -> tuple[Want | None, list[Parcel]]:
    """What to ask the sender of a listing for, and what to tell it. Raises `BadBytes`."""
    wanted, told = list[bytes](), list[bytes]()
    new = list[bytes]()
    listed = entries(theirs.entries, ENTRY)
    for short, *key in listed:
        mine = roster.key(short)
        known = short in roster.records
        if tuple(key) > mine and (known or key[2] < _LOST_RANK):
            wanted.append(WANTED.pack(short, not known))
        elif tuple(key) < mine:
            told.append(short)
    seen = {short for short, *_ in listed}
    for short in _in(roster, theirs):
        if short not in seen and short not in roster.lost:
            new.append(short)
    parcels = [*packed(roster, told, certified=False), *packed(roster, new, certified=True)][:TIDINGS_MAX]
    limit = ENTRIES_MAX_BYTES // WANTED.size
    return (Want(roster.me, b"".join(wanted[:limit])) if wanted else None), parcels


def answer(roster: Roster, want: Want) -> list[Parcel]:
    """Raises `BadBytes`."""
    plain, whole = list[bytes](), list[bytes]()
    for short, certified in entries(want.hosts, WANTED):
        if short in roster.records:
            (whole if certified else plain).append(short)
    return [*packed(roster, plain, certified=False), *packed(roster, whole, certified=True)][:TIDINGS_MAX]


def packed(roster: Roster, shorts: list[bytes], *, certified: bool) -> Iterator[Parcel]:
    """All that is known of these hosts, as datagrams' worth."""
    parcel, size = list[Told](), 0
    for told in (each for short in shorts for each in known_of(roster, short)):
        bytes_ = size_of(told, certified=certified)
        if parcel and size + bytes_ > TOLD_MAX_BYTES:
            yield tuple(parcel), certified
            parcel, size = [], 0
        parcel.append(told)
        size += bytes_
    if parcel:
        yield tuple(parcel), certified


def known_of(roster: Roster, short: bytes) -> list[Told]:
    """What a host says of itself, and what is held against it."""
    trouble = roster.troubles.get(short)
    held: list[Charge] = [*trouble.charges.values()] if trouble is not None else []
    return [roster.records[short], *held]


def size_of(told: Told, *, certified: bool) -> int:
    return len(told.proof) + (len(told.certificate) if certified and isinstance(told, Record) else 0)


def _in(roster: Roster, listing: Listing) -> Iterator[bytes]:
    return (
        short
        for short in roster.records
        if listing.buckets >> bucket_of(short) & 1 and listing.first <= short <= listing.last
    )
