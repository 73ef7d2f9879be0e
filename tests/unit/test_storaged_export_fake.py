"""The fake keeps the exporters' contract, so that what is tried on it may be believed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.fakes.exporter import FakeWorld
from tests.fakes.exporter_contract import ServerContract


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[FakeWorld]:
    world = FakeWorld(tmp_path, nursery)
    await world.begin()
    yield world
    world.running.cancel()


class TestFake(ServerContract):
    pass
