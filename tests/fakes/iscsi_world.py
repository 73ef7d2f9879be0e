"""Initiators for tests of iSCSI exporters: QEMU's own, and a world that has a pool for them."""

import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from matcher.wire.messages import ImageFormat
from storaged.export.description import Access, Image, Kind
from storaged.export.exporter import Exporter
from storaged.testing import make_volume, vid_of

BLOCK = 65536
BLOCKS = 64
DEPTH = 8
CALL_S = 2.0  # a frozen server is waited for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def options_of(access: Access) -> str:
    """For `--image-opts` of QEMU's tools."""
    assert access.kind is Kind.ISCSI
    assert access.chap is not None
    host = f"[{access.address}]" if ":" in access.address else access.address
    image = {
        "driver": "raw",
        "file.driver": "iscsi",
        "file.transport": "tcp",
        "file.portal": f"{host}:{access.port}",
        "file.target": access.name,
        "file.lun": str(access.lun),
        "file.user": access.chap.user,
        "file.password": access.chap.secret,
        "file.initiator-name": access.initiator,
    }
    return ",".join(f"{name}={value}" for name, value in image.items())


def qemu_io(access: Access, *, readonly: bool = False) -> list[str]:
    return ["qemu-io", *(["-r"] if readonly else []), "--image-opts", options_of(access)]


class QemuWriter:
    """QEMU's initiator, with up to `DEPTH` writes under way. It takes one line for each prompt."""

    def __init__(self, process: trio.Process, stamp: int | None) -> None:
        self.process, self.stamp = process, stamp
        self.sent = self.stamps = self.prompts = 0
        self.error = ""

    async def run(self) -> None:
        assert self.process.stdout is not None
        said = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for part in self.process.stdout:
                said += part
                *lines, said = said.split(b"\n")
                self.prompts += part.count(b"> ")
                self.stamps += sum(b"wrote" in line for line in lines)
                self.error = next((line.decode() for line in lines if b"rror" in line or b"ailed" in line), self.error)
                if self.prompts > self.sent and self.sent - self.stamps < DEPTH:
                    await self._write()

    async def _write(self) -> None:
        assert self.process.stdin is not None
        stamp = self.sent % 255 + 1 if self.stamp is None else self.stamp
        await self.process.stdin.send_all(f"aio_write -P {stamp} {self.sent % BLOCKS * BLOCK} {BLOCK}\n".encode())
        self.sent += 1


class IscsiWorld(ABC):
    """A pool, and an exporter that runs."""

    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.root, self.nursery, self.pool = root, nursery, root / "pool"
        self.exporter = self.new_exporter()
        self.running = trio.CancelScope()

    @abstractmethod
    def new_exporter(self) -> Exporter: ...

    async def begin(self) -> None:
        self.exporter = self.new_exporter()
        self.running = await self.nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as running:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.exporter.run)
                task_status.started(running)

    async def restart(self) -> None:
        self.running.cancel()
        await self.begin()

    def image(self, number: int, *, readonly: bool = False, format: ImageFormat = ImageFormat.RAW) -> Image:  # noqa: A002
        vid = vid_of(number)
        folder = next(iter(self.pool.glob(f"*{number:012x}.elimg")), None) or make_volume(self.pool, vid, size_mib=8)
        return Image(vid, str(self.pool), str(folder), "data.img", format, readonly)

    async def read(self, access: Access, size: int) -> bytes | None:
        done = await self._once(access, f"read -v 0 {size}", readonly=True)
        if done.returncode or b"failed" in done.stdout:
            return None
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(b"00000000:")]
        return bytes.fromhex(line.decode().partition(":")[2][: 3 * size + 2])

    async def write(self, access: Access, data: bytes) -> bool:
        stamp = self.root / "stamp"
        stamp.write_bytes(data.ljust(512, b"\0"))
        done = await self._once(access, f"write -s {stamp} 0 512", "flush")
        return done.returncode == 0 and b"wrote" in done.stdout

    async def _once(
        self, access: Access, *commands: str, readonly: bool = False
    ) -> "subprocess.CompletedProcess[bytes]":
        line = [*qemu_io(access, readonly=readonly), *(word for c in commands for word in ("-c", c))]
        with trio.fail_after(20):
            return await trio.run_process(line, capture_stdout=True, capture_stderr=True, check=False)

    @asynccontextmanager
    async def writing(self, access: Access, stamp: int | None = None) -> AsyncIterator[QemuWriter]:
        """Each stamp is the next number, or always `stamp`."""
        pipe, to_stdout = subprocess.PIPE, subprocess.STDOUT
        process = await trio.lowlevel.open_process(
            ["stdbuf", "-oL", *qemu_io(access)], stdin=pipe, stdout=pipe, stderr=to_stdout
        )
        writer = QemuWriter(process, stamp)
        self.nursery.start_soon(writer.run)
        try:
            yield writer
        finally:
            process.kill()
            await process.wait()
