"""`atomd` as it is, but for what runs its VMs: domains in memory. Everything else is the daemon's own wiring.

python -m tests.bench.gossip.host SETTINGS.toml
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from atomd.config import Config
from atomd.daemon import run
from atomd.hypervisor.domains import HypervisorLike
from matcher.net.starting import run_daemon
from tests.fakes.hypervisor import FakeHypervisor


@asynccontextmanager
async def opens(_uri: str) -> AsyncIterator[HypervisorLike]:
    await trio.lowlevel.checkpoint()
    yield FakeHypervisor()


if __name__ == "__main__":
    run_daemon("atomd", Path(sys.argv[1]), Config, partial(run, opens=opens), ())
