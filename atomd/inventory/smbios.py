"""The firmware's tables: DMTF DSP0134, SMBIOS, 6.1 and 7.17. Pure."""

from collections.abc import Iterator

_HEADER_BYTES = 4
_ARRAY_TYPE, _ARRAY_BYTES_MIN = 16, 7
_END_TYPE = 127


def memory_arrays(data: bytes) -> Iterator[bytes]:
    """The tables of the machine's memories, each with its use in byte 5 and its correction in byte 6."""
    return (table for table in _tables(data) if table[0] == _ARRAY_TYPE and len(table) >= _ARRAY_BYTES_MIN)


def is_whole(data: bytes) -> bool:
    """Whether the table is there that ends them all (7.45): before it, any more may have been cut off."""
    return any(table[0] == _END_TYPE for table in _tables(data))


def _tables(data: bytes) -> Iterator[bytes]:
    """Each without its strings, which end at two NULs."""
    at = 0
    while at + _HEADER_BYTES <= len(data):
        length = data[at + 1]
        end = data.find(b"\0\0", at + length)
        if length < _HEADER_BYTES or end < 0:
            return
        yield data[at : at + length]
        at = end + 2


def only_memory(data: bytes) -> bytes:
    """The arrays, and the end where it is there, as the firmware would lay them out; with nothing in words."""
    kept = (table for table in _tables(data) if table[0] in (_ARRAY_TYPE, _END_TYPE))
    return b"".join(table + b"\0\0" for table in kept)
