"""Several byte strings as one, each behind its length in four bytes, big-endian. Pure."""

from collections.abc import Iterable, Iterator


def frame(parts: Iterable[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def unframe(framed: bytes) -> Iterator[bytes]:
    """The parts; what is cut short at the end is left out."""
    at = 0
    while at + 4 <= len(framed):
        end = at + 4 + int.from_bytes(framed[at : at + 4], "big")
        if end > len(framed):
            return
        yield framed[at + 4 : end]
        at = end
