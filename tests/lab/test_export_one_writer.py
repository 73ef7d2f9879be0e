"""No second writer: takeovers amid accidents, two initiators that stamp their epochs into all blocks, and the image."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest
import trio

from storaged.export.description import Cut, Image
from storaged.testing import H1, H2
from tests.fakes.exporter_contract import bytes_of, export_of, exported, served, stamped
from tests.fakes.iscsi_world import BLOCK, BLOCKS, QemuWriter
from tests.fakes.tgt_world import TgtWorld

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("tgtd") is None, reason="tgtd is not installed: packaging/setup"),
]

PATIENCE_S = 30.0
CALL_S = 0.3


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        yield Path(folder)


@pytest.fixture
async def world(root: Path, nursery: trio.Nursery) -> AsyncIterator[TgtWorld]:
    world = TgtWorld(root, nursery, call_s=CALL_S)
    await world.begin()
    yield world
    await world.end()


def stamps_of(image: Image) -> set[int]:
    """All that stands in the blocks that are written."""
    return set(bytes_of(image)[: BLOCK * BLOCKS])


async def accident(world: TgtWorld, random: Random) -> None:
    """Of the exporter, or of the daemon; or none."""
    match random.choice(("none", "kill", "freeze", "freeze and kill", "restart")):
        case "kill":
            await world.kill()
        case "freeze":
            await world.freeze()
        case "freeze and kill":
            await world.freeze()
            await world.kill()
        case "restart":
            await world.restart()


async def cut(world: TgtWorld, image: Image) -> None:
    """As a takeover does: until it is proven. What was frozen goes on some time."""
    with trio.fail_after(PATIENCE_S):
        while await world.exporter.cut(image) != Cut():
            await world.thaw()


@pytest.mark.parametrize("runs", [12, pytest.param(200, marks=pytest.mark.slow)])
async def test_a_stamp_of_an_old_epoch_never_lands_after_a_takeover(world: TgtWorld, runs: int) -> None:
    random = Random(7)
    image = world.image(1)
    async with AsyncExitStack() as old:
        for run in range(1, runs + 1):
            stamp = run % 255 + 1
            export = export_of(image, run, random.choice((H1, H2)))
            with trio.fail_after(PATIENCE_S):
                access = await exported(world, export)
            writers = AsyncExitStack()
            writer: QemuWriter = await writers.enter_async_context(world.writing(access, stamp))
            await stamped(writer, 2 * BLOCKS)
            assert stamps_of(image) == {stamp}, f"run {run}: another epoch's stamps"
            await old.aclose()  # the old writer was there, and tried, until all was written anew
            assert stamps_of(image) == {stamp}, f"run {run}: an old epoch's stamp landed late"
            old.push_async_exit(writers)
            await accident(world, random)
            await cut(world, image)
            at_the_cut = bytes_of(image)
            await trio.sleep(random.random() * 0.02)
            assert bytes_of(image) == at_the_cut, f"run {run}: a write after the cut"
            await served(world)
