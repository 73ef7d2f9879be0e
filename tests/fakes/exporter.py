"""An exporter in memory, and a world around it: images are real files, the server and its initiators are not."""

import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio
import trio.lowlevel

from matcher.wire.messages import ImageFormat
from storaged.export.description import LUN, Access, Cut, Export, Image, Kind, Observed, Refused, Unknown, refused
from storaged.export.exporter import Problems
from storaged.testing import make_volume, vid_of
from storaged.volume import Epoch
from tests.fakes.exporter_contract import bytes_of

BLOCK = 4096
SILENT = Unknown("the server does not answer")


class FakeServer:
    """What lives on when the daemon dies. `exports` are those that it serves; each session is a writer's."""

    def __init__(self) -> None:
        self.exports: dict[str, Export] = {}
        self.sessions: dict[str, set[int]] = {}
        self.is_frozen = self.is_dead = False

    def serves(self, access: Access) -> Export | None:
        """The export, if this initiator with this credential may have it."""
        export = self.exports.get(access.name)
        if self.is_frozen or self.is_dead or export is None:
            return None
        return export if (access.initiator, access.chap) == (export.initiator, export.chap) else None

    def drop(self, target: str) -> None:
        del self.exports[target]
        self.sessions.pop(target, None)

    def die(self) -> None:
        self.exports.clear()
        self.sessions.clear()
        self.is_dead = True


class FakeExporter:
    """An `Exporter`."""

    kind = Kind.ISCSI

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.wanted: dict[str, Export] = {}
        self.is_told = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await trio.sleep(0.01)
            if self.server.is_dead:
                self.server.is_dead = False
            self._converge()

    async def observe(self) -> frozenset[Observed] | Unknown:
        await trio.lowlevel.checkpoint()
        if self.server.is_frozen or self.server.is_dead:
            return SILENT
        return frozenset(
            Observed(
                export.image.vid,
                export.epoch,
                frozenset({export.initiator}),
                frozenset({export.chap.user} if export.chap else ()),
                export.image.file,
                export.image.readonly,
                len(self.server.sessions.get(target, ())),
            )
            for target, export in self.server.exports.items()
        )

    async def export(self, export: Export) -> Access | Refused | Unknown:
        await trio.lowlevel.checkpoint()
        if export.image.format is not ImageFormat.RAW:
            return refused(export, "not-raw", "it is qcow2", "electros volume convert VID --format raw")
        self.wanted[export.target] = export
        answer = self._make(export)
        if isinstance(answer, Refused):
            del self.wanted[export.target]
        return answer

    async def cut(self, image: Image, epoch: Epoch | None = None) -> Cut | Unknown:
        await trio.lowlevel.checkpoint()
        self.wanted = {name: e for name, e in self.wanted.items() if not _is_of(e, image, epoch)}
        if self.server.is_frozen:
            return SILENT
        for target in [name for name, e in self.server.exports.items() if _is_of(e, image, epoch)]:
            self.server.drop(target)
        others = any(e.image.vid == image.vid for e in self.server.exports.values())
        return Unknown("it has another writer") if others and not image.readonly else Cut()

    async def reconcile(self, wanted: Collection[Export]) -> Problems:
        await trio.lowlevel.checkpoint()
        self.wanted = {export.target: export for export in wanted}
        self.is_told = True
        return self._converge()

    def _converge(self) -> Problems:
        if self.server.is_frozen or self.server.is_dead:
            return dict.fromkeys(self.wanted, SILENT)
        for target in [target for target in self.server.exports if self.is_told and target not in self.wanted]:
            self.server.drop(target)
        made = {target: self._make(export) for target, export in self.wanted.items()}
        return {target: answer for target, answer in made.items() if not isinstance(answer, Access)}

    def _make(self, export: Export) -> Access | Refused | Unknown:
        if self.server.is_frozen or self.server.is_dead:
            return SILENT
        for other in self.server.exports.values():
            both_read = other.image.readonly and export.image.readonly
            if other.image.vid == export.image.vid and other.epoch != export.epoch and not both_read:
                return refused(export, "another-epoch", "it is still exported", "that has to be cut first")
        if not os.path.exists(export.image.file):
            return refused(export, "not-served", "its image is gone", "")
        self.server.exports[export.target] = export
        readonly, chap = export.image.readonly, export.chap
        access = Access(Kind.ISCSI, export.target, ImageFormat.RAW, readonly, address="192.0.2.1", port=3260, lun=LUN)
        return replace(access, initiator=export.initiator, chap=chap)


def _is_of(export: Export, image: Image, epoch: Epoch | None) -> bool:
    return export.image.vid == image.vid and epoch in (None, export.epoch)


class FakeWriter:
    """An initiator that connects again by itself."""

    def __init__(self, server: FakeServer, access: Access) -> None:
        self.server, self.access = server, access
        self.stamps, self.error = 0, ""

    async def run(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            export = self.server.serves(self.access)
            if export is not None:
                self.server.sessions.setdefault(export.target, set()).add(id(self))
                write_at(export.image, self.stamps % 16 * BLOCK, bytes([self.stamps % 255 + 1]) * BLOCK)
                self.stamps += 1


class FakeWorld:
    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.pool, self.nursery = root / "pool", nursery
        self.server = FakeServer()
        self.exporter = FakeExporter(self.server)
        self.running = trio.CancelScope()

    async def begin(self) -> None:
        self.exporter = FakeExporter(self.server)
        self.running = await self.nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as running:
            task_status.started(running)
            await self.exporter.run()

    def image(self, number: int, *, readonly: bool = False, format: ImageFormat = ImageFormat.RAW) -> Image:  # noqa: A002
        folder = next(iter(self.pool.glob(f"*{number:012x}.elimg")), None)
        folder = folder or make_volume(self.pool, vid_of(number), size_mib=8)
        return Image(vid_of(number), str(self.pool), str(folder), "data.img", format, readonly)

    async def read(self, access: Access, size: int) -> bytes | None:
        export = self.server.serves(access)
        return None if export is None else bytes_of(export.image)[:size]

    async def write(self, access: Access, data: bytes) -> bool:
        export = self.server.serves(access)
        if export is None or export.image.readonly:
            return False
        write_at(export.image, 0, data)
        return True

    @asynccontextmanager
    async def writing(self, access: Access) -> AsyncIterator[FakeWriter]:
        writer = FakeWriter(self.server, access)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            yield writer
            nursery.cancel_scope.cancel()

    async def freeze(self) -> None:
        self.server.is_frozen = True

    async def thaw(self) -> None:
        self.server.is_frozen = False

    async def kill(self) -> None:
        self.server.die()

    async def restart(self) -> None:
        self.running.cancel()
        await self.begin()


def write_at(image: Image, offset: int, data: bytes) -> None:
    with open(image.file, "r+b") as file:
        file.seek(offset)
        file.write(data)
