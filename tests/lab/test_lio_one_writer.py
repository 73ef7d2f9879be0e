"""No second writer where the kernel serves: the takeovers of `test_export_one_writer`, where there is such a kernel."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from storaged.export.configfs import Configfs
from tests.fakes.lio_world import LioWorld
from tests.lab import test_export_one_writer

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not Configfs("").is_there(), reason="this kernel has no iSCSI target (LIO, configfs)"),
]

CALL_S = 1.0  # on an emulated machine


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        yield Path(folder)


@pytest.fixture
async def world(root: Path, nursery: trio.Nursery) -> AsyncIterator[LioWorld]:
    world = LioWorld(root, nursery, call_s=CALL_S)
    await world.begin()
    yield world
    await world.end()


test_a_stamp_of_an_old_epoch_never_lands_after_a_takeover = (
    test_export_one_writer.test_a_stamp_of_an_old_epoch_never_lands_after_a_takeover
)
