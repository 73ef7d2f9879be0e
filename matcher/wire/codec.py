"""Messages as bytes and as JSON, and back. Whatever arrives, decoding gives a valid message or raises `BadBytes`.

Msgpack maps with field names; the annotations in `messages` are the schema. The bytes are walked once before anything
is built from them, since a header of three bytes can claim an array of 65,535: depth, counts and lengths must be ones
that the rest of the bytes can hold, so that memory stays in proportion to what was received. Pure.
"""

import json
import math
from struct import Struct
from typing import Any, NoReturn, TypeVar, get_type_hints

import msgpack  # type: ignore[import-untyped]
from pydantic import TypeAdapter, ValidationError

from matcher.wire.messages import DATAGRAM_MAX_BYTES, Message

M = TypeVar("M", bound=Message)

BODY_MAX_BYTES = 128 * 1024  # of a request by HTTPS
DEPTH_MAX = 16
NOWHERE = 1 << 62
ITEMS_MAX = 16_384  # keys, values and containers in one message; the largest honest one has some 4,200


_adapters: dict[type[Message], TypeAdapter[Any]] = {}
_bytes_fields: dict[type[Message], tuple[str, ...]] = {}  # none of them may be `None`, or is inside another message


class BadBytes(Exception):
    """What was received is not a message. `reason` is one of few words, fit for a counter; `detail` is for a person."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


def encode(message: Message) -> bytes:
    """The message as msgpack; a field of the wrong type is a bug and raises whatever pydantic raises.

    Fields at their defaults are left out: it is shorter, and what is new in a message stops no earlier daemon from
    reading those that make no use of it.
    """
    fields = _adapter(type(message)).dump_python(message, warnings="error", exclude_defaults=True)
    packed: bytes = msgpack.packb(fields)
    return packed


def decode(cls: type[M], data: bytes, *, max_bytes: int = DATAGRAM_MAX_BYTES) -> M:
    """The one message of class `cls` that `data` is. Raises `BadBytes`, and nothing else whatever the bytes."""
    if len(data) > max_bytes:
        raise BadBytes("length", f"{len(data)} bytes, at most {max_bytes}")
    bins = _walk(data)
    try:
        fields = msgpack.unpackb(
            data, use_list=False, raw=False, strict_map_key=True, object_pairs_hook=_no_repeats, max_ext_len=0
        )
        message = _message(cls, _adapter(cls).validate_python(fields))
    except ValidationError as error:
        raise _shape(error) from None
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise BadBytes("msgpack", str(error)[:160]) from None
    if bins != sum(name in fields for name in _bytes_fields[cls]):
        raise BadBytes("shape", "bytes where text belongs")  # pydantic takes them for an enum's
    return message


def to_json(message: Message) -> str:
    """The message as JSON: bytes as base64url, enums as their text."""
    return _adapter(type(message)).dump_json(message, warnings="error").decode()


def from_json(cls: type[M], text: str | bytes, *, max_bytes: int = BODY_MAX_BYTES) -> M:
    """The message that `to_json` wrote. Raises `BadBytes`, and nothing else whatever the text.

    The text is parsed twice: Python's parser sees repeated keys, pydantic's knows base64 and tuples in JSON.
    """
    if len(text) > max_bytes:
        raise BadBytes("length", f"{len(text)} bytes, at most {max_bytes}")
    try:
        plain = text if isinstance(text, str) else text.decode()
        _walk_json(json.loads(plain, object_pairs_hook=_no_repeats, parse_constant=_no_constants), 0)
        return _message(cls, _adapter(cls).validate_json(plain))
    except ValidationError as error:
        raise _shape(error) from None
    except (ValueError, RecursionError) as error:
        raise BadBytes("json", str(error)[:160]) from None


def prepare(*classes: type[Message]) -> None:
    """Make ahead of time what messages of these classes will need; from any thread, and twice is as good as once."""
    for cls in classes:
        _adapter(cls)


def _adapter(cls: type[Message]) -> TypeAdapter[Any]:
    """1 to 3 ms each (20 the first), so only for the messages that a process meets."""
    adapter = _adapters.get(cls)
    if adapter is None:
        _bytes_fields[cls] = tuple(name for name, hint in get_type_hints(cls).items() if hint is bytes)
        adapter = _adapters[cls] = TypeAdapter(cls)
    return adapter


def _message(cls: type[M], message: Any) -> M:
    assert isinstance(message, cls)
    return message


def _shape(error: ValidationError) -> BadBytes:
    """The first thing wrong, and where; what was sent is not repeated."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or error.title
    return BadBytes("shape", f"{where[:80]}: {first['msg']}"[:240])


def _no_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadBytes("repeated key")
    return fields


def _no_constants(name: str) -> NoReturn:
    raise BadBytes("number", f"{name} is not one")


def _walk_json(value: Any, depth: int) -> None:
    """Refuse what msgpack may not hold either: too deep, or text with a NUL, which C libraries read as its end."""
    if depth > DEPTH_MAX:
        raise BadBytes("container", "too deep")
    if isinstance(value, str) and "\0" in value:
        raise BadBytes("nul", "text with a NUL")
    if isinstance(value, dict):
        for item in value.items():
            _walk_json(item, depth)
    elif isinstance(value, list | tuple):
        for inner in value:
            _walk_json(inner, depth + isinstance(value, list))


# The size of an item by its first byte (msgpack's specification, "Formats"); 0 where more must be read to know.
_SIZES = [0] * 256
_SIZES[0x00:0x80] = [1] * 0x80  # positive fixint
_SIZES[0xA0:0xC0] = range(1, 0x21)  # fixstr
_SIZES[0xE0:0x100] = [1] * 0x20  # negative fixint
_SIZES[0xC0], _SIZES[0xC2], _SIZES[0xC3] = 1, 1, 1  # nil, false, true
_SIZES[0xCC:0xD4] = [2, 3, 5, 9, 2, 3, 5, 9]  # uint 8 to 64, int 8 to 64

_BINS = frozenset({0xC4, 0xC5, 0xC6})
_FLOATS = {0xCA: Struct(">f"), 0xCB: Struct(">d")}
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bin 8/16/32, str 8/16/32
_COUNT_BYTES = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}  # array 16/32, map 16/32


def _walk(data: bytes) -> int:
    """Refuse what must not reach a parser: too deep, too many, too long, extensions, NaN, NUL in text, a tail.

    Gives how many items are bytes and not text.
    """
    end = len(data)
    nul = _next_nul(data, 0)
    at = items = bins = 0
    outer: list[int] = []
    left = 1  # items still to come in this container; `outer`: in those around it
    while left or outer:
        if not left:
            left = outer.pop()
            continue
        left -= 1
        if at >= end:
            raise BadBytes("truncated")
        first = data[at]
        size = _SIZES[first]
        if size:
            if nul < at + size:
                if nul >= at and 0xA0 < first < 0xC0:
                    raise BadBytes("nul", "text with a NUL")
                nul = _next_nul(data, at + size)
            at += size
            continue
        bins += first in _BINS
        at, count = _long(data, at, first)
        if count:
            items += count
            if count > end - at or items > ITEMS_MAX or len(outer) >= DEPTH_MAX:
                raise BadBytes("container", "too deep, or more items than bytes")
            outer.append(left)
            left = count
    if at != end:
        raise BadBytes("truncated") if at > end else BadBytes("tail", "more bytes than one message")
    return bins


def _long(data: bytes, at: int, first: int) -> tuple[int, int]:
    """Step over long text, bytes or a float, or into a container: where to go on, and how many items that opens."""
    if 0x80 <= first <= 0x9F:
        return at + 1, (first & 0x0F) * (2 if first < 0x90 else 1)
    if first in _LENGTH_BYTES:
        start = at + 1 + _LENGTH_BYTES[first]
        stop = start + int.from_bytes(data[at + 1 : start], "big")
        if first >= 0xD9:
            _no_nul(data, start, stop)
        return stop, 0
    if first in _COUNT_BYTES:
        start = at + 1 + _COUNT_BYTES[first]
        return start, int.from_bytes(data[at + 1 : start], "big") * (2 if first >= 0xDE else 1)
    if first in _FLOATS:
        return _float(data, at + 1, _FLOATS[first]), 0
    raise BadBytes("type", "an extension, or no msgpack")


def _next_nul(data: bytes, at: int) -> int:
    """Where the next one is; beyond all that bytes can claim to reach to, if there is none."""
    found = data.find(0, at)
    return found if found >= 0 else NOWHERE


def _no_nul(data: bytes, start: int, stop: int) -> None:
    if data.find(0, start, stop) >= 0:
        raise BadBytes("nul", "text with a NUL")


def _float(data: bytes, at: int, form: Struct) -> int:
    if at + form.size > len(data):
        raise BadBytes("truncated")
    if not math.isfinite(form.unpack_from(data, at)[0]):
        raise BadBytes("number", "not finite")
    return at + form.size
