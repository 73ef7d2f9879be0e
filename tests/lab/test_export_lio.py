"""The kernel's own target keeps the exporters' contract, where there is one."""

import dataclasses
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
import trio

from storaged.export.configfs import ROOT, Configfs
from storaged.export.description import Cut, Refused, Unknown
from storaged.export.writers import Writers, writers_of
from tests.fakes.exporter_contract import SETTLE_S, ExporterContract, bytes_of, export_of, exported, served, stamped
from tests.fakes.lio_world import LioWorld

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not Configfs("").is_there(), reason="this kernel has no iSCSI target (LIO, configfs)"),
]

HELD_UP_S = 2.0  # how long a call is waited for, on an emulated machine
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--ambient-caps=-all")


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


async def shown_to_nobody(path: Path) -> str:
    done = await trio.run_process([*NOBODY, "cat", path], capture_stdout=True, capture_stderr=True, check=False)
    assert done.stdout or b"not permitted" in done.stderr, done.stderr
    return done.stdout.decode()


class TestLio(ExporterContract):
    async def test_the_secret_is_shown_to_nobody_without_rights(self, world: LioWorld) -> None:
        export = export_of(world.image(1))
        await exported(world, export)
        acl = ROOT / "iscsi" / export.target / "tpgt_1" / "acls" / export.initiator
        assert export.chap is not None
        assert (acl / "auth" / "password").read_text().strip() == export.chap.secret
        for name in ("userid", "password"):
            assert await shown_to_nobody(acl / "auth" / name) == ""
        assert await shown_to_nobody(acl / "cmdsn_depth"), "the door is open, the secret is not"

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

    async def test_hosts_come_by_either_internet_protocol(self, root: Path, nursery: trio.Nursery) -> None:
        world = LioWorld(root, nursery, address=IPv6Address("::"))
        await world.begin()
        access = await exported(world, export_of(world.image(1)))
        for address in ("127.0.0.1", "::1"):
            assert await world.read(dataclasses.replace(access, address=address), 4) == bytes(4), address
        await world.end()

    async def test_at_another_port_what_was_exported_is_exported_anew(self, world: LioWorld) -> None:
        export = export_of(world.image(1))
        before = await exported(world, export)
        other = LioWorld(world.root, world.nursery)
        await other.begin()
        after = await exported(other, export)
        assert (await world.read(before, 4), await world.read(after, 4)) == (None, bytes(4))
        await other.end()

    async def test_nothing_of_ours_outlives_a_withdrawal(self, world: LioWorld) -> None:
        images = [world.image(number) for number in (1, 2)]
        async with world.writing(await exported(world, export_of(images[0]))) as writer:
            await exported(world, export_of(images[1]))
            await stamped(writer)
            world.running.cancel()  # as storaged is stopped
            assert await trio.to_thread.run_sync(world.configfs.withdraw) == 2
            assert world.configfs.look() == frozenset()
            assert [writers_of(image, None)[0] for image in images] == [Writers.NONE] * 2

    async def test_a_cut_ends_a_session_whose_initiator_is_frozen(self, world: LioWorld) -> None:
        image = world.image(1)
        async with world.writing(await exported(world, export_of(image))) as writer:
            await stamped(writer)
            writer.process.send_signal(signal.SIGSTOP)
            assert await world.exporter.cut(image) == Cut()
        await served(world)

    async def test_a_kernel_that_is_held_up_makes_a_cut_unknown_and_the_next_one_certain(
        self, root: Path, nursery: trio.Nursery
    ) -> None:
        world = LioWorld(root, nursery, call_s=HELD_UP_S)
        await world.begin()
        one, two = world.image(1), export_of(world.image(2))
        async with world.writing(await exported(world, export_of(one))) as writer:
            await stamped(writer)
            await world.freeze()
            assert isinstance(await world.exporter.cut(one), Unknown)
            assert isinstance(await world.exporter.export(two), Unknown)
            assert isinstance(await world.exporter.observe(), Unknown)
            await world.thaw()
            while await world.exporter.cut(one) != Cut():
                await trio.lowlevel.checkpoint()
            at_the_cut = bytes_of(one)
            await trio.sleep(SETTLE_S)
            assert bytes_of(one) == at_the_cut
        await served(world, two)
        await world.end()
