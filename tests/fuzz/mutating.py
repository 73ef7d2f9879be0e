"""Valid samples made a little, or quite, wrong. Seeded: the same seed gives the same inputs."""

from collections.abc import Callable, Sequence
from random import Random

MUTATIONS_MAX = 4
INTERESTING = (0, 1, 0x7F, 0x80, 0xC0, 0xC1, 0xC4, 0xCB, 0xD9, 0xDC, 0xDD, 0xDF, 0xFE, 0xFF)
PIECES = (  # what parsers of msgpack, DER, JSON and JSON5 have tripped over elsewhere
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\x08\xff" + bytes(8)),
    *(b"\xcb\x7f\xf0" + bytes(6), b"\xcb\x7f\xf8" + bytes(6), b"\x91" * 40, b"\x81\xa1a" * 20, b"\xff" * 8, bytes(9)),
    *(b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", b"\x06\x03\x55\x04\x03", b"\x02\x01\xff", b"\x05\x00"),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"0x", b"[" * 200, b"{" * 100, b'{"a":' * 50, b"null"),
    *(b'"', b"\\u0000", b"\\ud800", b"\\", b"/*", b"//", b"'", b",", b"}", b"]", b"\n", b"\r\n", b"\t", b"true"),
    *("\u202e".encode(), "\u2028".encode(), b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", b"../", b"<!--"),
    *(b"]]>", b"&lt;", b"<!DOCTYPE", b",id=x", b"%00", b"%s%n", b"__proto__", b"10.0.0.1", b"::1", b"\xf0\x9f\x98\x80"),
)

Change = Callable[[bytearray, Random, Sequence[bytes]], None]


def _at(data: bytearray, random: Random) -> int:
    return int(random.random() * (len(data) + 1))


def _flip(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    if data:
        data[_at(data, random) - 1] ^= 1 << int(random.random() * 8)


def _set(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    if data:
        data[_at(data, random) - 1] = random.choice(INTERESTING)


def _insert(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at = _at(data, random)
    data[at:at] = random.choice(PIECES)


def _overwrite(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at, piece = _at(data, random), random.choice(PIECES)
    data[at : at + len(piece)] = piece


def _cut(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at = _at(data, random)
    del data[at : at + 1 + int(random.random() * 8)]


def _end(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    del data[_at(data, random) :]


def _repeat(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at = _at(data, random)
    data[at:at] = data[at : at + 1 + int(random.random() * 64)]


def _splice(data: bytearray, random: Random, samples: Sequence[bytes]) -> None:
    other = random.choice(samples)
    start, at = int(random.random() * (len(other) + 1)), _at(data, random)
    piece = other[start : start + 1 + int(random.random() * 64)]
    data[at : at + (len(piece) if random.random() < 0.5 else 0)] = piece


CHANGES: tuple[Change, ...] = (_flip, _flip, _set, _insert, _overwrite, _cut, _end, _repeat, _splice)


def mutated(samples: Sequence[bytes], random: Random) -> bytes:
    """One of `samples`, changed in one to `MUTATIONS_MAX` ways; once in a hundred as it is, so that what is valid goes
    through as well."""
    data = bytearray(random.choice(samples))
    if random.random() < 0.01:
        return bytes(data)
    for _ in range(1 + int(random.random() * MUTATIONS_MAX)):
        random.choice(CHANGES)(data, random, samples)
    return bytes(data)
