"""A pool whose filesystem does not answer: nothing of it is known, and nobody else waits for it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENDS_S = 60.0
ALONE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("tgtd") is None, reason="tgtd is not installed: packaging/setup"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount something"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="no FUSE, with which a pool is made to hang"),
]

CUTTING = """
import sys
from pathlib import Path
import trio
from storaged.export.description import Cut, Unknown
from tests.fakes.exporter_contract import export_of, exported
from tests.fakes.hung_pool import hung
from tests.fakes.tgt_world import TgtWorld

async def ticking(ticks):
    while True:
        await trio.sleep(0.01)
        ticks.append(0)

async def main(root):
    async with trio.open_nursery() as nursery:
        world = TgtWorld(Path(root), nursery)
        await world.begin()
        image, ticks = world.image(1), []
        await exported(world, export_of(image))
        nursery.start_soon(ticking, ticks)
        with hung(Path(image.pool)):
            said = await world.exporter.cut(image)
            assert isinstance(said, Unknown), said
            assert "its pool does not answer" in said.why, said
            assert len(ticks) > 10, "the loop waits with it"
        assert await world.exporter.cut(image) == Cut()
        await world.end()
        nursery.cancel_scope.cancel()

trio.run(main, sys.argv[1])
"""


def test_a_cut_in_a_pool_that_hangs_is_unknown_and_the_loop_goes_on() -> None:
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        words = (*ALONE, sys.executable, "-c", CUTTING, folder)
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=ENDS_S, check=False)
    assert done.returncode == 0, done.stderr
