"""Which driver serves disks, and that nothing is served by two."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from matcher.wire.messages import ImageFormat
from matcher.wire.volumes import AttachedVolume
from specs.ids import UserId, Vid
from storaged import exporting, main
from storaged.attachments import Attachment, State
from storaged.beneath import Unusable
from storaged.claims import SharedVolume
from storaged.config import Config
from storaged.export import choosing
from storaged.export.child import Command
from storaged.export.choosing import MAY_ADMINISTRATE, TGTD, Driver, chosen, end, end_exports, lacks_of
from storaged.export.configfs import Configfs
from storaged.export.description import Export, Image, Observed, Unknown
from storaged.export.lio import Lio, Portal
from storaged.exporting import Iscsi
from storaged.index import Index
from storaged.keeper import Keeper, NotCut
from storaged.testing import H1, H2, make_volume, vid_of, vm_of
from storaged.volume import Epoch
from tests.fakes.exporter import FakeExporter, FakeServer
from tests.fakes.exporter_contract import KEY, export_of

NOTHING = {Driver.LIO: "", Driver.TGT: ""}


@pytest.mark.parametrize(
    ("asked", "lacks", "driver", "why"),
    [
        (None, {}, Driver.LIO, "may use it"),
        (None, {Driver.TGT: "no tgtd"}, Driver.LIO, "may use it"),
        (None, {Driver.LIO: "no target"}, Driver.TGT, "no target"),
        (None, {Driver.LIO: "no target", Driver.TGT: "no tgtd"}, None, "no target; no tgtd"),
        (Driver.TGT, {}, Driver.TGT, "settings"),
        (Driver.TGT, {Driver.TGT: "no tgtd"}, None, "no tgtd"),
        (Driver.LIO, {Driver.TGT: "no tgtd"}, Driver.LIO, "settings"),
        (Driver.LIO, {Driver.LIO: "no target"}, None, "no target"),
    ],
)
def test_the_kernels_target_comes_first_and_the_settings_before_it(
    asked: Driver | None, lacks: dict[Driver, str], driver: Driver | None, why: str
) -> None:
    choice = chosen(asked, NOTHING | lacks)
    assert choice.driver is driver
    assert why in str(choice)


def test_the_kernels_target_needs_a_kernel_that_has_it_a_right_and_a_tree_to_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "which", lambda _: None)
    configfs = Configfs("", tmp_path / "target")
    assert "no iSCSI target" in lacks_of(configfs, MAY_ADMINISTRATE)[Driver.LIO]
    (tmp_path / "target").mkdir()
    assert "CAP_SYS_ADMIN" in lacks_of(configfs, ~MAY_ADMINISTRATE)[Driver.LIO]
    assert lacks_of(configfs, MAY_ADMINISTRATE) == {Driver.LIO: "", Driver.TGT: "there is no tgtd (Debian: tgt)"}
    monkeypatch.setattr(os, "access", lambda path, *_, **__: path != tmp_path / "target" / "iscsi")
    assert "may not write" in lacks_of(configfs, MAY_ADMINISTRATE)[Driver.LIO]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Command, "subprocess.Popen[bytes]"]]:
    """A process that holds the mark, as tgtd does."""
    mark = tmp_path / "exports" / "iscsi" / "tgtd.0.lock"
    mark.parent.mkdir(parents=True)
    holds = (
        "import fcntl,sys; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holds, mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield Command(("tgtd",), mark, tmp_path / "log"), process
        process.kill()


async def test_a_tgtd_that_served_is_gone_before_another_driver_serves(
    server: tuple[Command, "subprocess.Popen[bytes]"],
) -> None:
    command, _ = server
    assert await end(command, TGTD) == ""
    with command.mark.open("r+") as mark:
        fcntl.lockf(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert await end(command, TGTD) == "", "there is none any more"


@pytest.mark.parametrize(
    ("settings", "can", "says", "is_ended"),
    [
        ({}, set(Driver), "(lio)", True),
        ({"iscsi_driver": "tgt"}, set(Driver), "(tgt)", False),
        ({}, {Driver.TGT}, "(tgt)", False),
        ({"iscsi_port": 0}, set(Driver), "alone", False),
        ({}, set(), "alone", False),
    ],
)
async def test_storaged_ends_tgtd_where_the_kernel_serves_and_there_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: tuple[Command, "subprocess.Popen[bytes]"],
    settings: dict[str, Any],
    can: set[Driver],
    says: str,
    is_ended: bool,
) -> None:
    _, process = server
    monkeypatch.setattr(exporting, "lacks_of", lambda *_: {driver: "" if driver in can else "no" for driver in Driver})
    monkeypatch.setattr(exporting, "which", lambda _: None)
    config = Config(state=tmp_path, exports=tmp_path / "exports", **settings)
    exports = exporting.exports_of(config, lambda: Index().scan([tmp_path]), H1)
    assert says in exports.status
    with trio.move_on_after(10 if is_ended else 0.3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exports.run, cast(Keeper, SimpleNamespace(state=State())))
            while process.poll() is None:  # noqa: ASYNC110  it does not say that it ends
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert (process.poll() is not None) is is_ended


class HeldUp(Configfs):
    """A kernel that does nothing while it is held up, and remembers."""

    def __init__(self, *, obeys: bool = True) -> None:
        super().__init__("")
        self.goes_on, self.obeys = Event(), obeys
        self.goes_on.set()
        self.looks = 0
        self.has: dict[str, Observed] = {}

    def look(self, vid: Vid | None = None) -> frozenset[Observed]:
        self.goes_on.wait()
        self.looks += 1
        return frozenset(seen for seen in self.has.values() if vid in (None, seen.vid))

    def make(self, export: Export) -> None:
        self.goes_on.wait()
        assert export.chap is not None
        self.has[export.target] = Observed(
            export.image.vid,
            export.epoch,
            frozenset({export.initiator}),
            frozenset({export.chap.user}),
            export.image.file,
            export.image.readonly,
            0,
        )

    def remove(self, target: str) -> None:
        self.goes_on.wait()
        if not self.obeys:
            raise OSError(30, "Read-only file system", "/sys/kernel/config/target/iscsi")
        self.has.pop(target, None)


def lio(kernel: Configfs, call_s: float = 5.0) -> Lio:
    return Lio(Portal(IPv4Address("127.0.0.1"), 1), configfs=kernel, call_s=call_s)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(vid_of(1), str(tmp_path), str(make_volume(tmp_path, vid_of(1))), "data.img", ImageFormat.RAW)


async def test_what_the_kernel_served_has_ended_before_tgtd_serves(image: Image) -> None:
    kernel = HeldUp()
    await lio(kernel).export(export_of(image))
    assert kernel.has
    assert await end_exports(lio(kernel)) == ""
    assert not kernel.has


async def test_while_the_kernel_can_not_be_told_nothing_else_serves(image: Image) -> None:
    kernel = HeldUp(obeys=False)
    await lio(kernel).export(export_of(image))
    assert "Read-only file system" in await end_exports(lio(kernel))


class Stubborn(HeldUp):
    """It keeps one target."""

    keeps = ""

    def remove(self, target: str) -> None:
        if target == self.keeps:
            raise OSError(16, "Device or resource busy", target)
        super().remove(target)


async def test_a_withdrawal_ends_all_that_the_kernel_lets_go_of_and_tells_of_the_rest(tmp_path: Path) -> None:
    kernel, images = Stubborn(), []
    for number in (1, 2, 3):
        folder = make_volume(tmp_path, vid_of(number))
        images.append(Image(vid_of(number), str(tmp_path), str(folder), "data.img", ImageFormat.RAW))
        await lio(kernel).export(export_of(images[-1]))
    kernel.keeps = export_of(images[1]).target
    with pytest.raises(OSError, match="busy"):
        kernel.withdraw()
    assert [*kernel.has] == [kernel.keeps]
    kernel.keeps = ""
    assert kernel.withdraw() == 1
    assert kernel.withdraw() == 0


def test_what_runs_would_serve_it_anew_and_is_to_be_stopped_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "storaged.toml"
    settings.write_text(f'socket = "{tmp_path}/s"\n')
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/s")
        listening.listen()
        with pytest.raises(SystemExit, match="systemctl stop storaged first"):
            main.withdraw(config=settings)
    main.withdraw(config=settings)
    assert capsys.readouterr().out == "the kernel serves none\n"


async def test_what_was_given_up_before_its_turn_is_not_done_when_the_kernel_goes_on() -> None:
    kernel = HeldUp()
    exporter = lio(kernel, call_s=0.05)
    kernel.goes_on.clear()
    for _ in range(4):
        assert isinstance(await exporter.observe(), Unknown)
    kernel.goes_on.set()
    while trio.to_thread.current_default_thread_limiter().borrowed_tokens:  # noqa: ASYNC110  threads tell nobody
        await trio.sleep(0.01)
    assert kernel.looks == 1, "the first one had its turn"


async def test_nothing_is_given_or_cut_while_another_driver_may_serve_it(
    image: Image, autojump_clock: trio.testing.MockClock
) -> None:
    writes = SharedVolume(image.vid, True, False)
    attachment = Attachment(writes, Epoch(1, "0" * 16), vm_of(1), 1, UserId("a" * 64), H2)
    keeper = cast(Keeper, SimpleNamespace(state=State((attachment,))))
    file = AttachedVolume(image.vid, "", image.format, False, False, False, image.file)
    server, ended = FakeServer(), trio.Event()

    async def before() -> str:
        await trio.lowlevel.checkpoint()
        return "" if ended.is_set() else "tgtd does not end"

    disks = Iscsi(FakeExporter(server), KEY, lambda: Index().scan([image.pool]), H1, before=before)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disks.run, keeper)
        with pytest.raises(Unusable, match="another driver"):
            await disks.give(attachment, file, "127.0.0.1")
        with pytest.raises(NotCut, match="another driver"):
            await disks.cut(attachment)
        assert not server.exports
        ended.set()
        while not server.exports:  # noqa: ASYNC110  what it waits for has no event
            await trio.sleep(0.1)
        await disks.cut(attachment)
        assert not server.exports
        nursery.cancel_scope.cancel()
