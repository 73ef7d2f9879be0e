"""Whatever bytes arrive: a valid message or `BadBytes`, in memory that the bytes themselves bound."""

import json
import re
import tracemalloc
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgpack
import pytest
from annotated_types import Ge, Le, MaxLen
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import StringConstraints

from matcher.wire import hosts, messages, volumes
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, decode, encode, from_json, to_json
from matcher.wire.messages import Message
from matcher.wire.ranges import NUMBER_MAX

MESSAGES = sorted(
    (
        thing
        for thing in {**vars(messages), **vars(volumes), **vars(hosts)}.values()
        if isinstance(thing, type) and issubclass(thing, Message) and thing is not Message
    ),
    key=lambda cls: cls.__name__,
)
TEXT = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def text(limits: list[StringConstraints]) -> st.SearchStrategy[str]:
    pattern = next((str(limit.pattern) for limit in limits if limit.pattern), None)
    longest = min((limit.max_length for limit in limits if limit.max_length), default=100)
    if pattern and (digits := re.fullmatch(r"\^\[0-9a-f\]\{(\d+)\}\$", pattern)):
        width = int(digits[1])  # as from_regex below, and much faster
        return st.integers(0, 16**width - 1).map(lambda number: f"{number:0{width}x}")
    if pattern:
        return st.from_regex(pattern.replace("$", r"\Z")).filter(lambda value: len(value) <= longest)
    return st.text(TEXT, max_size=min(longest, 20))


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values that an annotation of `messages` allows."""
    if hint == messages.Threads:
        return st.sets(st.integers(0, NUMBER_MAX), max_size=8).map(lambda numbers: tuple(sorted(numbers)))
    base, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    low = next((limit.ge for limit in limits if isinstance(limit, Ge)), None)
    high = next((limit.le for limit in limits if isinstance(limit, Le)), None)
    longest = min(next((limit.max_length for limit in limits if isinstance(limit, MaxLen)), 4), 4)
    if get_origin(base) in (Union, UnionType):
        return st.one_of([st.none() if arm is type(None) else values(arm) for arm in get_args(base)])
    if get_origin(base) is Literal:
        return st.sampled_from(get_args(base))
    if get_origin(base) is tuple:
        return st.lists(values(get_args(base)[0]), max_size=longest).map(tuple)
    if is_dataclass(base):
        return fields_of(base)
    if isinstance(base, type) and issubclass(base, Enum):
        return st.sampled_from(base)
    simple: dict[type, Any] = {
        bool: st.booleans,
        int: lambda: st.integers(low, high),  # type: ignore[arg-type]
        float: lambda: st.floats(low, high),  # type: ignore[arg-type]
        str: lambda: text([limit for limit in limits if isinstance(limit, StringConstraints)]),
        bytes: lambda: st.binary(max_size=longest),
    }
    strategy: st.SearchStrategy[Any] = simple[base]()
    return strategy


@cache
def fields_of(cls: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{name: values(hint) for name, hint in hints.items() if not name.startswith("__")})


ANY_MESSAGE = st.one_of([fields_of(cls) for cls in MESSAGES])
ANY_CLASS = st.sampled_from(MESSAGES)
ANY_TREE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**40), st.integers(0, 999_999_999)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.binary(max_size=4), inner),
    max_leaves=12,
)


def judge(cls: type[Message], data: bytes) -> Message | None:
    try:
        message = decode(cls, data, max_bytes=BODY_MAX_BYTES)
    except BadBytes as bad:
        assert bad.reason  # noqa: PT017
        return None
    assert type(message) is cls
    return message


@given(ANY_MESSAGE)
@settings(max_examples=60)
def test_any_message_survives_both_ways(message: Message) -> None:
    assert decode(type(message), encode(message), max_bytes=BODY_MAX_BYTES) == message
    assert from_json(type(message), to_json(message)) == message


@given(ANY_CLASS, st.binary(max_size=200))
def test_any_bytes_are_a_message_or_bad(cls: type[Message], data: bytes) -> None:
    judge(cls, data)


@given(ANY_CLASS, ANY_TREE)
def test_any_tree_is_a_message_or_bad(cls: type[Message], tree: Any) -> None:
    judge(cls, msgpack.packb(tree))


@given(ANY_MESSAGE, st.data())
@settings(max_examples=60)
def test_a_changed_message_is_a_message_or_bad(message: Message, data: st.DataObject) -> None:
    changed = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    judged = judge(type(message), bytes(changed))
    if judged is not None:
        assert decode(type(message), encode(judged), max_bytes=BODY_MAX_BYTES) == judged


@given(ANY_MESSAGE, st.data())
def test_a_field_of_another_kind_is_a_message_or_bad(message: Message, data: st.DataObject) -> None:
    plain = msgpack.unpackb(encode(message))
    if plain:
        plain[data.draw(st.sampled_from(sorted(plain)))] = data.draw(ANY_TREE)
    judge(type(message), msgpack.packb(plain))


@given(ANY_CLASS, st.text(max_size=100) | st.recursive(st.none() | st.text(), st.lists, max_leaves=4).map(json.dumps))
def test_any_text_is_a_message_or_bad(cls: type[Message], sent: str) -> None:
    try:
        assert type(from_json(cls, sent)) is cls
    except BadBytes as bad:
        assert bad.reason  # noqa: PT017


HEADERS = [
    b"\xdd\x00\x00\x04\x00",
    b"\xdc\x04\x00",
    b"\xdc\xff\xff",
    b"\xde\x02\x00",
    b"\xdf\x00\x00\x02\x00",
    b"\x9f",
    b"\x8f",
    b"\x81\xa1a",
    b"\xdb\x00\x00\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x00",
    b"\x90",
]


@given(st.lists(st.sampled_from(HEADERS), min_size=1, max_size=6), st.sampled_from([1200, BODY_MAX_BYTES]))
@settings(max_examples=30, deadline=None)
def test_no_bytes_make_memory_grow_beyond_their_own_size(parts: list[bytes], size: int) -> None:
    data = (b"".join(parts) * size)[:size]
    judge(messages.Pledge, data)  # what is built once is not counted
    tracemalloc.start()
    try:
        judge(messages.Pledge, data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * 1024 + 40 * size


@pytest.mark.parametrize("cls", MESSAGES)
def test_every_message_refuses_unknown_fields(cls: type[Message]) -> None:
    with pytest.raises(BadBytes, match="shape"):
        decode(cls, msgpack.packb({"never_a_field": 1}))
