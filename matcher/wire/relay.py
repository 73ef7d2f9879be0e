"""What a user and a relay say to each other: addresses that are lent, and answers as they come.

A relay is a host that asks in a user's stead where the user's own datagrams do not get to. It lends them an address on
each of its links. They sign it into the question, as if it were theirs, and the relay sends that as it is: whoever
hears it answers to there, or not at all. So a relay signs nothing and can change nothing, and what one relay was given
is of no use from another's address. Pure.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import MaxLen

from matcher.wire.codec import BadBytes
from matcher.wire.messages import DATAGRAM_MAX_BYTES, Address, Flag, Message

LENT_MAX = 64  # links of one machine, and ways to members elsewhere
_SOURCE_MAX_BYTES = 64
_PASSED_MAX_BYTES = 1 + _SOURCE_MAX_BYTES + DATAGRAM_MAX_BYTES


@dataclass(frozen=True, slots=True)
class Place(Message):
    """Addresses where answers are awaited together, one for each family at most: one question is signed for each
    place. `has_ipv4`: it is a link with one, by which a question that names volumes goes first."""

    reply: Annotated[tuple[Address, ...], MaxLen(2)]
    has_ipv4: Flag = False


@dataclass(frozen=True, slots=True)
class Lent(Message):
    """A relay's first word."""

    places: Annotated[tuple[Place, ...], MaxLen(LENT_MAX)]


def pack_passed(source: str, envelope: bytes) -> bytes:
    """An answer, and the address that it came from, which nobody has signed."""
    address = source.encode("ascii")
    assert 0 < len(address) <= _SOURCE_MAX_BYTES
    return bytes([len(address)]) + address + envelope


def unpack_passed(data: bytes) -> tuple[str, bytes]:
    """Raises `BadBytes`."""
    if not 1 < len(data) <= _PASSED_MAX_BYTES or not 0 < data[0] <= _SOURCE_MAX_BYTES:
        raise BadBytes("length")
    end = 1 + data[0]
    try:
        return data[1:end].decode("ascii"), data[end:]
    except UnicodeDecodeError:
        raise BadBytes("shape", "an address that is none") from None
