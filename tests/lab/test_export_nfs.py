"""Folders by NFSv4: a real ganesha on loopback, with a client in userspace."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio

from matcher.wire.messages import ImageFormat
from storaged.export import keeping
from storaged.export.child import Child
from storaged.export.description import Access, Cut, Export, Image, Kind, Refused, Unknown, target_name
from storaged.export.ganesha_words import number_for
from storaged.export.nfs import Nfs, Place
from storaged.testing import H1, H2, make_volume, vid_of
from storaged.volume import Epoch
from tests.fakes.exporter_contract import MANY, PATIENCE_S, SETTLE_S, exported, served
from tests.fakes.iscsi_world import free_port

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("ganesha.nfsd") is None, reason="ganesha is not installed: packaging/setup"),
]

CALL_S = 3.0
HOME = IPv4Address("127.0.0.1")
ROOT = Path(__file__).resolve().parents[2]


class GaneshaWorld:
    """A ganesha of its own with its bus, a pool of folders, and an exporter that runs."""

    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.nursery, self.pool = nursery, root / "pool"
        self.place = Place(HOME, root / "nfs", root / "numbers.json", free_port())
        self.exporter = Nfs(self.place, call_s=CALL_S)
        self.running = trio.CancelScope()

    async def begin(self) -> None:
        self.exporter = Nfs(self.place, call_s=CALL_S)
        self.running = await self.nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as running:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.exporter.run)
                task_status.started(running)

    async def restart(self) -> None:
        self.running.cancel()
        await self.begin()

    def image(self, number: int, *, readonly: bool = False) -> Image:
        vid = vid_of(number)
        folder = next(iter(self.pool.glob(f"*{number:012x}.elimg")), None)
        if folder is None:
            folder = make_volume(self.pool, vid, shareable=True)
            (folder / "share").mkdir()
            (folder / "share" / "there").write_bytes(b"hello")
        return Image(vid, str(self.pool), str(folder), "share", ImageFormat.RAW, readonly)

    def command(self, access: Access, *words: str) -> list[str]:
        return [sys.executable, "-m", "tests.fakes.nfs_client", str(access.port), access.name, *words]

    async def ask(self, access: Access, *words: str) -> bytes | None:
        with trio.fail_after(20):
            done = await trio.run_process(
                self.command(access, *words), cwd=ROOT, capture_stdout=True, capture_stderr=True, check=False
            )
        return done.stdout if done.returncode == 0 else None

    @asynccontextmanager
    async def stamping(self, access: Access) -> AsyncIterator[trio.Process]:
        process = await trio.lowlevel.open_process(
            self.command(access, "stamp", "stamps"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert await process.stdout.receive_some(1), await process.stderr.receive_some()
            yield process
        finally:
            process.kill()
            await process.wait()

    def signal(self, number: int) -> None:
        child = Child.find(self.place.command)
        assert child is not None
        with closing(child):
            os.kill(child.pid, number)

    async def end(self) -> None:
        self.running.cancel()
        for command in (self.place.command, self.place.bus_command):
            child = Child.find(command)
            if child is not None:
                child.kill()
                await child.ended()
                child.close()


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="atomos-") as folder:
        yield Path(folder)


@pytest.fixture
async def world(root: Path, nursery: trio.Nursery) -> AsyncIterator[GaneshaWorld]:
    world = GaneshaWorld(root, nursery)
    await world.begin()
    yield world
    await world.end()


def export_of(image: Image, counter: int = 1, client: str = "127.0.0.1") -> Export:
    epoch = Epoch(counter, f"{counter * 7919:016x}")
    return Export(image, epoch, Kind.NFS, H1 if counter == 1 else H2, client=IPv4Address(client))


def stamps_in(image: Image) -> bytes:
    return Path(image.file, "stamps").read_bytes()


async def test_two_hosts_share_a_folder(world: GaneshaWorld) -> None:
    image = world.image(1)
    one = await exported(world, export_of(image, 1))
    two = await exported(world, export_of(image, 2))
    assert one.kind is Kind.NFS
    assert await world.ask(one, "read", "there") == b"hello"
    assert await world.ask(one, "write", "new", "data") is not None
    assert await world.ask(two, "read", "new") == b"data"


async def test_another_clients_address_is_refused(world: GaneshaWorld) -> None:
    access = await exported(world, export_of(world.image(1), client="192.0.2.7"))
    assert await world.ask(access, "read", "there") is None


async def test_nobody_but_root_of_a_hosts_address_is_admitted(world: GaneshaWorld) -> None:
    """Its local users and, by NAT, its guests have that address as well."""
    access = await exported(world, export_of(world.image(1)))
    plain = ["setpriv", "--bounding-set", "-net_bind_service", *world.command(access, "read", "there")]
    with trio.fail_after(20):
        done = await trio.run_process(plain, cwd=ROOT, capture_stdout=True, capture_stderr=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert await world.ask(access, "read", "there") == b"hello"


async def test_a_readonly_volume_refuses_writes_by_nfs(world: GaneshaWorld) -> None:
    image = world.image(1, readonly=True)
    export = export_of(image)
    access = await exported(world, export)
    assert await world.ask(access, "read", "there") == b"hello"
    assert await world.ask(access, "write", "new", "data") is None
    await served(world, export)


async def test_the_same_folder_export_again_gives_the_same_answer(world: GaneshaWorld) -> None:
    export = export_of(world.image(1))
    assert await exported(world, export) == await exported(world, export)
    await served(world, export)


async def test_a_cut_ends_a_client_that_writes_and_leaves_the_other(world: GaneshaWorld) -> None:
    image = world.image(1)
    one = await exported(world, export_of(image, 1))
    two = await exported(world, export_of(image, 2))
    async with world.stamping(one) as process:
        assert await world.exporter.cut(image, export_of(image, 1).epoch) == Cut()
        at_the_cut = stamps_in(image)
        await trio.sleep(SETTLE_S)
        assert stamps_in(image) == at_the_cut
        with trio.fail_after(PATIENCE_S):
            assert await process.wait() == 1
    assert await world.ask(one, "read", "there") is None
    assert await world.ask(two, "read", "there") == b"hello"
    assert await world.exporter.cut(image) == Cut()
    await served(world)


async def test_a_killed_ganesha_comes_back_with_all_exports(world: GaneshaWorld) -> None:
    one, two = export_of(world.image(1)), export_of(world.image(2))
    access = await exported(world, one)
    await exported(world, two)
    world.signal(signal.SIGKILL)
    await served(world, one, two)
    assert await world.ask(access, "write", "new", "data") is not None  # waits for the grace to end


async def test_two_that_want_one_number_are_both_served_and_keep_theirs(world: GaneshaWorld) -> None:
    one = export_of(world.image(1))
    first = number_for(one.target, ())
    epochs = (Epoch(1, f"{count:016x}") for count in range(2**20))
    other = next(epoch for epoch in epochs if number_for(target_name(vid_of(2), epoch), ()) == first)
    two = dataclasses.replace(export_of(world.image(2)), epoch=other)
    for export in (one, two):
        assert await world.ask(await exported(world, export), "read", "there") == b"hello"
    numbers = json.loads(world.place.numbers.read_text())
    assert sorted(numbers) == sorted((one.target, two.target))
    world.signal(signal.SIGKILL)
    await served(world, one, two)
    assert json.loads(world.place.numbers.read_text()) == numbers


async def test_a_frozen_ganesha_makes_a_cut_unknown_and_the_next_one_certain(world: GaneshaWorld) -> None:
    image = world.image(1)
    await exported(world, export_of(image))
    world.signal(signal.SIGSTOP)
    with trio.fail_after(PATIENCE_S):
        assert isinstance(await world.exporter.cut(image), Unknown)
    world.signal(signal.SIGCONT)
    assert await world.exporter.cut(image) == Cut()
    await served(world)


async def test_a_bus_that_dies_takes_ganesha_along_and_both_come_back(
    world: GaneshaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "HUNG_S", 1.0)
    monkeypatch.setattr(keeping, "LOOK_S", 0.2)
    export = export_of(world.image(1))
    await exported(world, export)
    bus = Child.find(world.place.bus_command)
    assert bus is not None
    with closing(bus):
        bus.kill()
        await served(world, export)


async def test_a_new_daemon_finds_ganesha_and_what_it_serves(world: GaneshaWorld) -> None:
    one, two, three = (export_of(world.image(n)) for n in (1, 2, 3))
    await exported(world, one)
    await exported(world, two)
    before = Child.find(world.place.command)
    await world.restart()
    await served(world, one, two)
    assert not await world.exporter.reconcile((one, three))
    await served(world, one, three)
    after = Child.find(world.place.command)
    assert before is not None
    assert after is not None
    with closing(before), closing(after):
        assert before.pid == after.pid


async def test_fifty_folders_at_once_are_all_exported(world: GaneshaWorld) -> None:
    exports = [export_of(world.image(n)) for n in range(1, MANY + 1)]
    async with trio.open_nursery() as nursery:
        for export in exports:
            nursery.start_soon(exported, world, export)
    await served(world, *exports)
    assert not await world.exporter.reconcile(())
    await served(world)


async def test_what_is_no_folder_beneath_the_pool_is_refused(world: GaneshaWorld) -> None:
    image = world.image(1)
    for name in ("data.img", "gone"):
        answer = await world.exporter.export(export_of(dataclasses.replace(image, name=name)))
        assert isinstance(answer, Refused)
        assert answer.code == "no-folder"
    os.symlink("/etc", Path(image.path, "link"))
    assert isinstance(await world.exporter.export(export_of(dataclasses.replace(image, name="link"))), Refused)


async def test_a_path_that_would_end_its_quotes_is_refused(world: GaneshaWorld) -> None:
    image = world.image(1)
    evil = 'share"; } EXPORT { Path = "'
    answer = await world.exporter.export(export_of(dataclasses.replace(image, name=evil)))
    assert isinstance(answer, Refused)
    assert answer.code == "path"


async def test_a_client_without_an_address_is_refused(world: GaneshaWorld) -> None:
    answer = await world.exporter.export(dataclasses.replace(export_of(world.image(1)), client=None))
    assert isinstance(answer, Refused)
