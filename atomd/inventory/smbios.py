"""The firmware's tables: DMTF DSP0134, SMBIOS, 6.1 and 7.17. Pure."""

from collections.abc import Iterable, Iterator

_HEADER_BYTES = 4
_ARRAY_TYPE, _ARRAY_BYTES_MIN = 16, 7


def memory_arrays(data: bytes) -> Iterator[bytes]:
    """The tables of the machine's memories, each with its use in byte 5 and its correction in byte 6."""
    return (table for table in _tables(data) if table[0] == _ARRAY_TYPE and len(table) >= _ARRAY_BYTES_MIN)


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


def without_strings(tables: Iterable[bytes]) -> bytes:
    """As the firmware would lay them out, with nothing in words."""
    return b"".join(table + b"\0\0" for table in tables)
