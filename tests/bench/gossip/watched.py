"""The bench's `host`, whose member also tells what it sees, and changes what it says is free when it is told to.

python -m tests.bench.gossip.watched SETTINGS.toml

Each thing seen is one `SEEN` on the standard output, written once the daemon has done its own part. A datagram to the
socket `control` beside the settings is a number of 8 bytes, big-endian: from now on so many GB of disk are free here.
"""

import dataclasses
import os
import socket
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any

import trio

import atomd.daemon
from atomd.config import Config
from matcher.gossip.effects import Changed, Effect, Shout
from matcher.gossip.roster import RANK, short_of
from matcher.net.gossip.member import Member
from matcher.net.starting import run_daemon
from tests.bench.gossip.host import opens

SEEN = Struct(">8sBQd")  # of whom, state, GB free, when
SPOKE = 255  # in place of a state: this host's first datagram is about to go out
STDOUT = 1


class Watched(Member):
    def __init__(self, *args: Any, control: Path, **settings: Any) -> None:
        digest = settings.pop("digest")
        super().__init__(*args, digest=lambda: dataclasses.replace(digest(), disk_free_gb=self._free_gb), **settings)
        self._control, self._free_gb, self._has_spoken = control, 0, False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey)
            await super().run(task_status=task_status)

    async def _obey(self) -> None:
        self._control.unlink(missing_ok=True)
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            await told.bind(str(self._control))
            while True:
                self._free_gb = int.from_bytes(await told.recv(8), "big")
                self.look()

    def _perform(self, effects: Iterable[Effect]) -> None:
        effects = [*effects]
        if not self._has_spoken and any(isinstance(effect, Shout) for effect in effects):
            self._has_spoken = True
            os.write(STDOUT, SEEN.pack(bytes(8), SPOKE, 0, time.monotonic()))
        super()._perform(effects)
        for effect in effects:
            if isinstance(effect, Changed) and self._core is not None:
                short = short_of(effect.host_id)
                record = self._core.roster.records.get(short)
                free_gb = record.alive.digest.disk_free_gb if record is not None else 0
                os.write(STDOUT, SEEN.pack(short, RANK[effect.state], free_gb, time.monotonic()))


if __name__ == "__main__":
    settings = Path(sys.argv[1])
    atomd.daemon.Member = partial(Watched, control=settings.parent / "control")  # type: ignore[attr-defined, assignment]
    run_daemon("atomd", settings, Config, partial(atomd.daemon.run, opens=opens), ())
