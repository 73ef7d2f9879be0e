"""Two servers on one machine that see one pool: a real sanlock daemon each, and no watchdog. A tgtd for either that
sanlock knows."""

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import trio

from specs.ids import HostId, Vid
from storaged.export.child import Child, Command
from storaged.export.tgt import Portal
from storaged.leases.area import Area
from storaged.leases.sanlock import Sanlock
from storaged.leases.words import Lease
from storaged.testing import H1, H2
from tests.fakes.iscsi_world import free_port

POOL = "5b" * 16
IO_S = 1  # all of sanlock's waits are multiples of it, and 60 s for a watchdog
# A machine's own sanlock raises its limit of locked memory, which a container may not. Nothing is locked here.
SHIM = """
#include <sys/resource.h>
int setrlimit(__rlimit_resource_t what, const struct rlimit *limit) { return 0; }
"""


@dataclass
class Server:
    """One of the two. `pid` is that of its sanlock."""

    host_id: HostId
    root: Path
    area: Area
    pid: int = 0
    number: int = 0
    _ports: dict[str, int] = field(default_factory=dict)

    @property
    def sanlock(self) -> Sanlock:
        return Sanlock(self.root, io_s=IO_S, call_s=5)

    def portal(self, name: str) -> Portal:
        """Of a tgtd of this server's; the same again for the same name."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        port = self._ports.setdefault(name, free_port())
        return Portal(IPv4Address("127.0.0.1"), folder, port, program=shutil.which("tgtd") or "tgtd")

    async def exporter(self, name: str = "tgt") -> Child:
        """Returns when it has taken its mark, and so is tgtd by then."""
        command = self.sanlock.registered(self.portal(name).command)
        child = Child.start(command)
        with trio.fail_after(20):
            while True:
                found = await trio.to_thread.run_sync(Child.find, command)
                if found is not None:
                    found.close()
                    assert found.pid == child.pid
                    return child
                await trio.sleep(0.02)

    def lease(self, vid: Vid) -> Lease:
        return self.area.lease(vid)

    async def join(self) -> None:
        sanlock = self.sanlock
        await self._up()
        await self.area.open(sanlock)
        self.number = self.area.join(self.host_id, watched=await sanlock.is_watched())
        await sanlock.join(self.area.lockspace, self.number)

    async def _up(self) -> None:
        while True:
            if await trio.Path(self.root / "sanlock.sock").exists():
                return
            await trio.sleep(0.05)


class SanlockWorld:
    """Both have joined when it has begun."""

    def __init__(self, root: Path) -> None:
        pool = root / "pool"
        pool.mkdir()
        self.root = root
        self.one, self.two = (Server(host, root / f"s{host[:4]}", Area(POOL, pool)) for host in (H1, H2))
        self._daemons: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        source = self.root / "shim.c"
        source.write_text(SHIM)
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", self._shim, source], check=True)
        for server in (self.one, self.two):
            server.root.mkdir()
            self.start(server)
        trio.run(self._join)

    @property
    def _shim(self) -> Path:
        return self.root / "shim.so"

    def start(self, server: Server) -> None:
        """A sanlock, where it has none."""
        environment = {**os.environ, "SANLOCK_RUN_DIR": str(server.root), "SANLOCK_PRIVILEGED": "1"}
        words = ("sanlock", "daemon", *["-D", "-w", "0", "-l", "0", "-h", "0", "-U", "root", "-G", "root", "-e"])
        with (server.root / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [*words, server.host_id[:16]],
                env={**environment, "LD_PRELOAD": str(self._shim)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._daemons.append(daemon)
        server.pid = daemon.pid

    async def _join(self) -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for server in (self.one, self.two):
                    nursery.start_soon(server.join)

    def end(self) -> None:
        """The exporters first: a sanlock that is killed leaves them alone."""
        for server in (self.one, self.two):
            for lock in server.root.glob("*/tgtd.0.lock"):
                child = Child.find(Command((), mark=lock, log=lock))
                if child is not None:
                    child.kill()
                    trio.run(child.ended)
                    child.close()
        for daemon in self._daemons:
            with suppress(ProcessLookupError):  # a test has ended it
                os.killpg(daemon.pid, signal.SIGKILL)  # with its helper
            daemon.wait()
