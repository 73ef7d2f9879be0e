"""Volumes by iSCSI, served by the kernel (LIO) where it has a target: no process to keep alive, and none that can hang.

The kernel opens an image through a descriptor of ours, so that it serves the file that was checked. Initiators are
admitted by name and secret. A call that does not return in time goes on in its thread, and the next one waits for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar

import trio

from matcher.wire.messages import ImageFormat
from specs.ids import Vid
from storaged.beneath import Unusable
from storaged.export.configfs import UDEV_PATH_MAX, Configfs
from storaged.export.description import LUN, Access, Export, Image, Kind, Observed, Refused, refused, rivals
from storaged.export.keeping import LOOK_S
from storaged.export.serving import CALL_S, Rejected, Serving
from storaged.export.writers import Writers, writers_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Portal:
    """Where the kernel listens."""

    address: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


class Lio(Serving):
    """An `Exporter`."""

    kind = Kind.ISCSI

    def __init__(self, portal: Portal, *, configfs: Configfs | None = None, call_s: float = CALL_S) -> None:
        """`configfs`: where not the kernel's own."""
        super().__init__(call_s)
        self._portal = portal
        self._configfs = configfs or Configfs(str(portal))
        self._one_at_a_time = Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._in_thread(self._configfs.is_there)
        task_status.started()
        while True:
            await self._converge()
            await trio.sleep(LOOK_S)

    def _unfit(self, export: Export) -> Refused | None:
        assert export.kind is Kind.ISCSI
        assert export.chap is not None, "whoever knows an initiator's name could log in"
        if export.image.format is not ImageFormat.RAW:
            has = f"its image is {export.image.format.value}; iSCSI hands out raw ones alone"
            return refused(export, "not-raw", has, f"electros volume convert {export.image.vid} --format raw")
        if len(export.image.file.encode()) > UDEV_PATH_MAX:
            return refused(export, "path", "its path is too long", "move its pool further up")
        return None

    async def _look(self, vid: Vid | None = None) -> frozenset[Observed]:
        return await self._in_thread(lambda: self._configfs.look(vid))

    async def _make(self, export: Export, found: frozenset[Observed]) -> Refused | None:
        rival = next((seen for seen in found if rivals(seen, export)), None)
        if rival is not None:
            has = f"epoch {rival.epoch.counter} is still exported"
            return refused(export, "another-epoch", has, "that has to be cut first")
        try:
            await self._in_thread(lambda: self._configfs.make(export))
        except (Rejected, Unusable) as problem:
            await self._remove(export.target)
            return refused(export, "not-served", str(problem), "its sysadmin finds more in the kernel's log")
        return None

    async def _remove(self, name: str) -> None:
        await self._in_thread(lambda: self._configfs.remove(name))

    def _is_dead(self) -> bool:
        return False

    def _still_open(self, image: Image) -> str:
        """Nobody can write what was never writable."""
        answer, why = writers_of(image, None)
        return "" if image.readonly or answer is Writers.NONE else why

    def _access(self, export: Export) -> Access:
        return Access(
            Kind.ISCSI,
            export.target,
            ImageFormat.RAW,
            export.image.readonly,
            address=str(self._portal.address),
            port=self._portal.port,
            lun=LUN,
            initiator=export.initiator,
            chap=export.chap,
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """What is given up before its turn is never done: a target would be made after it was cut."""
        given_up = Event()

        def alone() -> T:
            with self._one_at_a_time:
                if given_up.is_set():
                    raise Rejected("it was given up")
                return work()

        try:
            return await trio.to_thread.run_sync(alone, abandon_on_cancel=True)
        except trio.Cancelled:
            given_up.set()
            raise
        except OSError as problem:
            place = "/".join(
                Path(problem.filename or "it").parts[-2:]
            )  # the end says what it was, and a reason is short
            raise Rejected(f"the kernel refuses {place}: {problem.strerror}") from problem
