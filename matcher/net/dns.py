"""DNS messages, as far as two of its users need them: SRV look-ups and mDNS (RFC 1035, 4.1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

HEADER = Struct(">HHHHHH")  # id, flags, and how many questions, answers, authorities, others
QUESTION = Struct(">HH")  # type, class
RECORD = Struct(">HHIH")  # type, class, time to live, length
PLACE = Struct(">HHH")  # of a SRV record (RFC 2782): priority, weight, port, and then the target
PTR, TXT, SRV, ANY, IN = 12, 16, 33, 255, 1
RESPONSE = 0x8000
_JUMPS_MAX = 16


@dataclass(frozen=True, slots=True)
class Record:
    """`data` begins at `at` and is `length` bytes long: names inside may go on elsewhere in the message."""

    name: str
    kind: int
    family: int
    at: int
    length: int


def records(message: bytes, number: int, most: int) -> Iterator[Record]:
    """What it answers to question `number`. Raises `ValueError`, `IndexError` or `struct.error` if it is no answer."""
    said, flags, questions, answers, _, _ = HEADER.unpack_from(message)
    if said != number or not flags & RESPONSE:
        raise ValueError("no answer to this")
    at = HEADER.size
    for _ in range(questions):
        at = read_name(message, at)[1] + QUESTION.size
    for _ in range(min(answers, most)):
        name, at = read_name(message, at)
        kind, family, _, length = RECORD.unpack_from(message, at)
        at += RECORD.size
        yield Record(name, kind, family, at, length)
        at += length


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """A name, and where it ends; it may go on elsewhere (RFC 1035, 4.1.4)."""
    labels: list[str] = []
    end, jumps = -1, 0
    while length := data[at]:
        if length >= 0xC0:
            end = at + 2 if end < 0 else end
            at = (length & 0x3F) << 8 | data[at + 1]
            jumps += 1
            if jumps > _JUMPS_MAX:
                raise ValueError("a name without end")
            continue
        labels.append(data[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), (at + 1 if end < 0 else end)


def name_bytes(name: str) -> bytes:
    """Raises `ValueError` for what is no name."""
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError("no name")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
