"""A storage host's door, real, with a store behind it that grants what a test says; and a host's own storaged."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import trio

from matcher.net import local
from matcher.net.caller import Caller
from matcher.net.door.behind import Store
from matcher.net.door.serving import serve
from matcher.trust.identity import Identity
from matcher.wire.messages import Address, Message, Refused
from matcher.wire.volumes import Attach, Attached, Detach, Detached, VolumeView, VolumeViews
from specs.ids import Vid


class FakeStore:
    """Answers as told; `heard` are the questions, with who asked."""

    def __init__(self, gives: Attached | Refused, *, is_silent: bool = False) -> None:
        self.gives: Attached | Refused = gives
        self.lets_go: Detached | Refused = Detached()
        self.is_silent = is_silent
        self.withouts: list[tuple[str, ...]] = []
        self.heard: list[tuple[str, bytes | Detach]] = []
        self.asks = trio.Event()

    async def attach(self, confirm: bytes, caller: Caller, without: Sequence[Vid]) -> Attached | Refused:
        self.withouts.append(tuple(without))
        return await self._attach(confirm, caller.id)

    async def detach(self, detach: Detach, caller: Caller) -> Detached | Refused:
        return await self._detach(detach, caller.id)

    async def at_home(self, question: Message, _: local.Peer) -> Message:
        """As a host's own storaged."""
        if isinstance(question, Attach):
            self.withouts.append(question.without)
            return await self._attach(question.confirm, "home")
        assert isinstance(question, Detach)
        return await self._detach(question, "home")

    async def volumes(self, caller: Caller) -> VolumeViews:
        return VolumeViews(())

    async def volume(self, vid: Vid, caller: Caller) -> VolumeView | Refused:
        raise AssertionError("nobody asks for it here")

    def denied(self, caller: Caller, asked: str, why: str) -> None:
        raise AssertionError(f"{caller.name} was denied {asked}: {why}")

    async def _attach(self, confirm: bytes, who: str) -> Attached | Refused:
        await self._hear(who, confirm)
        return self.gives

    async def _detach(self, question: Detach, who: str) -> Detached | Refused:
        await self._hear(who, question)
        return self.lets_go

    async def _hear(self, who: str, what: bytes | Detach) -> None:
        self.heard.append((who, what))
        self.asks.set()
        if self.is_silent:
            await trio.sleep_forever()


@asynccontextmanager
async def storage_host(identity: Identity, store: FakeStore) -> AsyncIterator[Address]:
    async with trio.open_nursery() as nursery:
        opened = await nursery.start(partial(serve, identity, store=cast(Store, store), port=0))
        yield Address("127.0.0.1", opened.port)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def home_storage(path: Path, store: FakeStore) -> AsyncIterator[Path]:
    async with trio.open_nursery() as nursery:
        await nursery.start(local.serve, path, store.at_home)
        yield path
        nursery.cancel_scope.cancel()
