"""The kernel's own target on loopback for tests."""

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from threading import Event

import trio

from specs.ids import Vid
from storaged.export.configfs import Configfs
from storaged.export.description import Export, Observed
from storaged.export.lio import Lio, Portal
from tests.fakes.iscsi_world import IscsiWorld, free_port

CALL_S = 10.0  # the kernel does not freeze, but the machine that has such a kernel may be an emulated one


class SlowConfigfs(Configfs):
    """The kernel's, which does nothing while it is held up."""

    def __init__(self, portal: str) -> None:
        super().__init__(portal)
        self.goes_on = Event()
        self.goes_on.set()

    def look(self, vid: Vid | None = None) -> frozenset[Observed]:
        self.goes_on.wait()
        return super().look(vid)

    def make(self, export: Export) -> None:
        self.goes_on.wait()
        super().make(export)

    def remove(self, target: str) -> None:
        self.goes_on.wait()
        super().remove(target)


class LioWorld(IscsiWorld):
    """There is no process to hurt: the kernel's answers can be held up, and the daemon can die amid a call."""

    exporter: Lio

    def __init__(
        self,
        root: Path,
        nursery: trio.Nursery,
        *,
        call_s: float = CALL_S,
        address: IPv4Address | IPv6Address = IPv4Address("127.0.0.1"),  # noqa: B008  it never changes
        port: int = 0,
    ) -> None:
        """`port` 0: a free one."""
        self.portal, self.call_s = Portal(address, port or free_port()), call_s
        self.configfs = SlowConfigfs(str(self.portal))
        super().__init__(root, nursery)

    def new_exporter(self) -> Lio:
        return Lio(self.portal, configfs=self.configfs, call_s=self.call_s)

    async def freeze(self) -> None:
        self.configfs.goes_on.clear()

    async def thaw(self) -> None:
        self.configfs.goes_on.set()

    async def kill(self) -> None:
        """The daemon, amid whatever it does."""
        await self.restart()

    async def end(self) -> None:
        await self.thaw()
        assert not await self.exporter.reconcile(())
        self.running.cancel()
