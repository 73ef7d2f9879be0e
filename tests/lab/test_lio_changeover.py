"""One driver takes over from the other, where the kernel has a target: VMs go on, and no image is served by both."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from storaged.export.choosing import TGTD, end, end_exports
from storaged.export.configfs import Configfs
from storaged.export.writers import Writers, writers_of
from tests.fakes.exporter_contract import bytes_of, export_of, exported, served, stamped
from tests.fakes.lio_world import CALL_S, LioWorld
from tests.fakes.tgt_world import TgtWorld

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not Configfs("").is_there(), reason="this kernel has no iSCSI target (LIO, configfs)"),
    pytest.mark.skipif(shutil.which("tgtd") is None, reason="tgtd is not installed: packaging/setup"),
]


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        yield Path(folder)


async def test_a_writer_goes_on_when_the_kernel_takes_over_from_tgtd_and_when_tgtd_takes_over_from_it(
    root: Path, nursery: trio.Nursery
) -> None:
    tgt = TgtWorld(root, nursery, call_s=CALL_S)
    kernel = LioWorld(root, nursery, port=tgt.portal.port)
    image = tgt.image(1)
    export = export_of(image)
    await tgt.begin()
    async with tgt.writing(await exported(tgt, export)) as writer:
        await stamped(writer)
        tgt.running.cancel()
        assert await end(tgt.portal.command, TGTD) == ""
        assert writers_of(image, None)[0] is Writers.NONE
        await kernel.begin()
        await exported(kernel, export)
        await stamped(writer, 64)
        kernel.running.cancel()
        assert await end_exports(kernel.new_exporter()) == ""
        assert writers_of(image, None)[0] is Writers.NONE
        at_the_end = bytes_of(image)
        await tgt.begin()
        await served(tgt)
        assert bytes_of(image) == at_the_end
        await exported(tgt, export)
        await stamped(writer, 64)
        assert not writer.error
    await tgt.end()
