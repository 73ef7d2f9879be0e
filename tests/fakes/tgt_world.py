"""A tgtd on loopback for tests."""

import os
import signal
from ipaddress import IPv4Address
from pathlib import Path

import trio

from storaged.export.child import Child
from storaged.export.tgt import Portal, Tgt
from tests.fakes.iscsi_world import CALL_S, IscsiWorld, free_port


class TgtWorld(IscsiWorld):
    """A tgtd of its own; its process can be hurt."""

    exporter: Tgt

    def __init__(self, root: Path, nursery: trio.Nursery, *, call_s: float = CALL_S) -> None:
        self.portal, self.call_s = Portal(IPv4Address("127.0.0.1"), root / "tgt", port=free_port()), call_s
        super().__init__(root, nursery)

    def new_exporter(self) -> Tgt:
        return Tgt(self.portal, call_s=self.call_s)

    def child(self) -> Child:
        child = Child.find(self.portal.command)
        assert child is not None
        return child

    def signal(self, number: int) -> None:
        """It may be dead already."""
        child = Child.find(self.portal.command)
        if child is not None:
            os.kill(child.pid, number)
            child.close()

    async def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    async def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)

    async def end(self) -> None:
        self.running.cancel()
        child = Child.find(self.portal.command)
        if child is not None:
            child.kill()
            await child.ended()
            child.close()
