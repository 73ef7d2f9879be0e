"""tgtd keeps the exporters' contract: a real one on loopback, with QEMU's own initiator."""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
import trio

from matcher.wire.messages import ImageFormat
from storaged.export import keeping
from storaged.export import tgt_words as words
from storaged.export.child import Child
from storaged.export.description import Access, Cut, Kind, Refused, Unknown
from storaged.export.tgt import Portal, Tgt
from tests.fakes.exporter_contract import ServerContract, export_of, exported, served, stamped
from tests.fakes.iscsi_world import CALL_S, free_port
from tests.fakes.tgt_world import TgtWorld

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("tgtd") is None, reason="tgtd is not installed: packaging/setup"),
]


@pytest.fixture
def root() -> Iterator[Path]:
    """Short: a control socket's path has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        yield Path(folder)


@pytest.fixture
async def world(root: Path, nursery: trio.Nursery) -> AsyncIterator[TgtWorld]:
    world = TgtWorld(root, nursery)
    await world.begin()
    yield world
    await world.end()


DAEMON = """
import sys
from ipaddress import ip_address
from pathlib import Path
import trio
from storaged.export.tgt import Portal, Tgt
from tests.fakes.exporter_contract import export_of
from tests.fakes.tgt_world import TgtWorld

async def main(root, port):
    async with trio.open_nursery() as nursery:
        world = TgtWorld(Path(root), nursery)
        world.portal = Portal(ip_address("127.0.0.1"), Path(root) / "tgt", int(port))
        await world.begin()
        print(await world.exporter.export(export_of(world.image(1))), flush=True)
        await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""


def told(world: TgtWorld) -> bytes:
    """All that others on the host can read of tgtd."""
    with closing(world.child()) as child:
        seen = b"".join(Path(f"/proc/{child.pid}/{file}").read_bytes() for file in ("cmdline", "environ"))
    return seen + (world.portal.folder / "tgtd.log").read_bytes()


class TestTgt(ServerContract):
    async def test_the_secret_is_in_no_argument_and_no_log(self, world: TgtWorld) -> None:
        access = await exported(world, export_of(world.image(1)))
        await world.read(access, 4)
        assert access.chap is not None
        assert access.chap.secret.encode() not in told(world)

    async def test_what_was_half_made_lets_nobody_in_and_is_made_anew(self, world: TgtWorld) -> None:
        export = export_of(world.image(1))
        assert export.chap is not None
        for request in (
            words.new_target(7, export.target),
            words.new_lun(7, export.image.file),
            words.new_account(export.chap),
            words.bind_account(7, export.chap.user),
        ):
            await world.exporter._tell(request)
        found = await world.exporter.observe()
        assert not isinstance(found, Unknown)
        assert [seen.whole for seen in found] == [False]
        half = Access(Kind.ISCSI, export.target, ImageFormat.RAW, False, "127.0.0.1", world.portal.port, 1)
        assert await world.read(dataclasses.replace(half, initiator=export.initiator, chap=export.chap), 4) is None
        assert await world.read(await exported(world, export), 4) == bytes(4)
        await served(world, export)

    async def test_an_image_that_became_a_link_is_refused(self, world: TgtWorld) -> None:
        image = world.image(1)
        os.rename(image.file, world.root / "elsewhere")
        os.symlink(world.root / "elsewhere", image.file)
        answer = await world.exporter.export(export_of(image))
        assert isinstance(answer, Refused)
        assert answer.code == "image-changed"
        await served(world)

    async def test_a_guests_flush_reaches_the_disk(self, world: TgtWorld) -> None:
        access = await exported(world, export_of(world.image(1)))
        trace = world.root / "trace"
        with closing(world.child()) as child:
            options = ["-f", "-e", "trace=fdatasync", "-o", str(trace), "-p", str(child.pid)]
            async with trio.open_nursery() as nursery:
                tracer = await nursery.start(
                    partial(trio.run_process, ["strace", *options], stderr=subprocess.PIPE, check=False)
                )
                async for said in tracer.stderr:
                    if b"attached" in said:
                        break
                await world.write(access, b"data")
                tracer.terminate()
        assert "fdatasync(" in trace.read_text()

    async def test_a_tgtd_that_hangs_is_ended_and_its_exports_are_served_again(
        self, world: TgtWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeping, "HUNG_S", 1.0)
        monkeypatch.setattr(keeping, "LOOK_S", 0.2)
        export = export_of(world.image(1))
        async with world.writing(await exported(world, export)) as writer:
            await stamped(writer)
            with closing(world.child()) as first:
                await world.freeze()
                await served(world, export)
                await stamped(writer, 64)
                with closing(world.child()) as second:
                    assert second.pid != first.pid

    async def test_a_program_that_is_missing_makes_every_answer_unknown(self, world: TgtWorld) -> None:
        portal = dataclasses.replace(world.portal, folder=world.root / "none", program="tgtd-that-is-not-there")
        exporter = Tgt(portal, call_s=CALL_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exporter.run)
            assert isinstance(await exporter.export(export_of(world.image(1))), Unknown)
            assert await exporter.cut(world.image(1)) == Cut()
            nursery.cancel_scope.cancel()

    async def test_it_listens_on_ipv6_beside_ipv4(self, world: TgtWorld) -> None:
        """As hosts on a link without IPv4 need it."""
        portal = Portal(IPv4Address("0.0.0.0"), world.root / "both", port=free_port(), more=(IPv6Address("::"),))
        exporter = Tgt(portal, call_s=CALL_S)
        async with trio.open_nursery() as nursery:
            await nursery.start(exporter.run)
            try:
                access = await exporter.export(export_of(world.image(1)))
                assert isinstance(access, Access)
                for address in ("127.0.0.1", "::1"):
                    assert await world.read(dataclasses.replace(access, address=address), 4) == bytes(4), address
            finally:
                nursery.cancel_scope.cancel()
                child = Child.find(portal.command)
                assert child is not None
                child.kill()
                child.close()

    async def test_a_tgtd_outlives_a_daemon_that_is_killed_and_the_next_one_takes_it_over(
        self, root: Path, nursery: trio.Nursery
    ) -> None:
        world = TgtWorld(root, nursery)
        command = [sys.executable, "-c", DAEMON, str(root), str(world.portal.port)]
        daemon = await trio.lowlevel.open_process(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert daemon.stdout is not None
        assert b"Access(" in await daemon.stdout.receive_some()
        export = export_of(world.image(1))
        with closing(world.child()) as before:
            daemon.kill()
            await daemon.wait()
            await world.begin()
            try:
                access = await exported(world, export)
                assert await world.read(access, 4) == bytes(4), "with the same secret"
                with closing(world.child()) as after:
                    assert after.pid == before.pid
                assert not await world.exporter.reconcile((export,))
                assert await world.exporter.cut(export.image) == Cut()
            finally:
                await world.end()
