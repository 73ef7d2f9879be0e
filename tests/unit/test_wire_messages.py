"""Every field of every message is strict and has a limit: what the codec promises rests on it."""

from dataclasses import fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Ge, Le, MaxLen
from pydantic import StringConstraints
from pydantic.types import Strict

from matcher.wire import messages, volumes
from matcher.wire.messages import Message

HINTS = [
    pytest.param(get_type_hints(cls, include_extras=True)[field.name], id=f"{cls.__name__}.{field.name}")
    for cls in {**vars(messages), **vars(volumes)}.values()
    if isinstance(cls, type) and issubclass(cls, Message) and is_dataclass(cls)
    for field in fields(cls)
]


def limited(hint: Any) -> bool:
    if hint == messages.Threads:
        return True  # has a parser of its own, with a limit
    base, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    kinds = {type(limit) for limit in limits}
    if get_origin(base) in (Union, UnionType):
        return all(limited(arm) for arm in get_args(base))
    if get_origin(base) is tuple:
        return MaxLen in kinds and limited(get_args(base)[0])
    if base in (int, float):
        return {Strict, Ge, Le} <= kinds
    if base is str:
        texts = [limit for limit in limits if isinstance(limit, StringConstraints)]
        return Strict in kinds and any(text.max_length or "{" in str(text.pattern) for text in texts)
    if base is bytes:
        return {Strict, MaxLen} <= kinds
    if base is bool:
        return Strict in kinds
    return base is type(None) or is_dataclass(base) or issubclass(base, Enum)


@pytest.mark.parametrize("hint", HINTS)
def test_every_field_is_strict_and_limited(hint: Any) -> None:
    assert limited(hint)
