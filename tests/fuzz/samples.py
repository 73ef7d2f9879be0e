"""Valid messages to begin from: some of each class, with whatever their annotations allow, the same for each seed."""

from typing import Any

import hypothesis
from hypothesis import HealthCheck, given, settings

from matcher.wire import backdoor, messages, realm
from matcher.wire.messages import Message
from tests.property.test_wire_codec_property import fields_of

EACH = 6


def message_classes() -> list[type[Message]]:
    found = {
        thing
        for module in (messages, realm, backdoor)
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Message) and thing is not Message
    }
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


def some_of(cls: type[Message], seed: int) -> list[Any]:
    found: list[Any] = []

    @hypothesis.seed(seed)
    @settings(max_examples=EACH, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(fields_of(cls))
    def keep(message: Message) -> None:
        found.append(message)

    keep()
    return found
