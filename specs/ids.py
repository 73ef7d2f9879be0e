"""Identifiers, as text inside and on the wire.

Ids that we make are 32 lowercase hex digits: a UUID without its dashes. A `host_id` or `user_id` is the SHA-256 of the
public key (SubjectPublicKeyInfo, DER) as 64 hex digits, so that nobody can claim another's.
Pure: randomness comes in as an argument.
"""

import re
from random import Random
from typing import NewType

HostId = NewType("HostId", str)
UserId = NewType("UserId", str)
RealmId = NewType("RealmId", str)  # 16 hex digits: the first half of the root key's fingerprint
VmId = NewType("VmId", str)
Vid = NewType("Vid", str)
PledgeId = NewType("PledgeId", str)
OfferId = NewType("OfferId", str)
QueryId = NewType("QueryId", str)

_ID = re.compile(r"[0-9a-f]{32}")
_DASHED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id(random: Random) -> str:
    """A random (version 4) UUID as 32 hex digits; `random` should be a `SystemRandom` outside of tests."""
    bits = random.getrandbits(128)
    bits = bits & ~(0xF << 76) | (0x4 << 76)
    bits = bits & ~(0x3 << 62) | (0x2 << 62)
    return f"{bits:032x}"


def parse_id(text: str) -> str | None:
    """32 hex digits, or a UUID with its dashes in place, in any case; `None` for anything else."""
    lowered = text.lower()
    if _ID.fullmatch(lowered):
        return lowered
    return lowered.replace("-", "") if _DASHED.fullmatch(lowered) else None


def dashed(identifier: str) -> str:
    """The UUID form that libvirt and people read: 8-4-4-4-12."""
    i = identifier
    return f"{i[:8]}-{i[8:12]}-{i[12:16]}-{i[16:20]}-{i[20:]}"
