"""The kernel's own target keeps the exporters' contract, where there is one."""

import dataclasses
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio

from storaged.export.configfs import ROOT, Configfs
from storaged.export.description import Refused
from storaged.export.lio import Lio, Portal
from tests.fakes.exporter_contract import ExporterContract, export_of, exported, served
from tests.fakes.iscsi_world import IscsiWorld, free_port

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not Configfs("").is_there(), reason="this kernel has no iSCSI target (LIO, configfs)"),
]

CALL_S = 10.0  # the kernel does not freeze, but the machine that has such a kernel may be an emulated one


class LioWorld(IscsiWorld):
    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.portal = Portal(IPv4Address("127.0.0.1"), free_port())
        super().__init__(root, nursery)

    def new_exporter(self) -> Lio:
        return Lio(self.portal, call_s=CALL_S)

    async def end(self) -> None:
        assert not await self.exporter.reconcile(())
        self.running.cancel()


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        yield Path(folder)


@pytest.fixture
async def world(root: Path, nursery: trio.Nursery) -> AsyncIterator[LioWorld]:
    world = LioWorld(root, nursery)
    await world.begin()
    yield world
    await world.end()


class TestLio(ExporterContract):
    async def test_the_secret_is_read_by_root_alone(self, world: LioWorld) -> None:
        export = export_of(world.image(1))
        await exported(world, export)
        auth = ROOT / "iscsi" / export.target / "tpgt_1" / "acls" / export.initiator / "auth"
        assert {(auth / name).stat().st_mode & 0o077 for name in ("userid", "password")} == {0}

    async def test_what_was_half_made_is_made_anew(self, world: LioWorld) -> None:
        export = export_of(world.image(1))
        (ROOT / "iscsi" / export.target / "tpgt_1").mkdir(parents=True)
        assert await world.read(await exported(world, export), 4) == bytes(4)
        await served(world, export)

    async def test_a_flush_is_an_fsync(self, world: LioWorld) -> None:
        export = export_of(world.image(1))
        await exported(world, export)
        (device,) = (ROOT / "core" / "fileio_0").glob(f"{export.image.vid}.*")
        assert "Buffered-WCE" in (device / "info").read_text()
        assert (device / "attrib" / "emulate_write_cache").read_text().strip() == "1"

    async def test_an_image_that_became_a_link_is_refused(self, world: LioWorld) -> None:
        image = world.image(1)
        os.rename(image.file, world.root / "elsewhere")
        os.symlink(world.root / "elsewhere", image.file)
        assert isinstance(await world.exporter.export(export_of(image)), Refused)
        gone = dataclasses.replace(image, name="gone")
        assert isinstance(await world.exporter.export(export_of(gone)), Refused)
        assert os.listdir(image.path).count("gone") == 0, "the kernel makes what is missing, if it is let"
        await served(world)
