"""What a storage host tells its realm of the room in its pools; see `matcher.wire.gossip.Digest`."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from matcher.wire.gossip import Digest
from matcher.wire.messages import Role

LOOK_S = 30.0
GB = 1 << 30


class Room:
    """The last look at the pools' filesystems; they may be another machine's, and slow, so a thread looks."""

    def __init__(self, pools: Sequence[Path]) -> None:
        self.digest = Digest((Role.STORAGE,))
        self._pools = tuple(pools)

    async def keep_looked(self, look: Callable[[], None]) -> None:
        while True:
            self.digest = await trio.to_thread.run_sync(room_in, self._pools, abandon_on_cancel=True)
            look()
            await trio.sleep(LOOK_S)


def room_in(pools: Sequence[Path]) -> Digest:
    """Each filesystem counts once."""
    found: dict[int, os.statvfs_result] = {}
    for pool in pools:
        try:
            found[os.stat(pool).st_dev] = os.statvfs(pool)
        except OSError:  # what is not there has no room
            continue
    return Digest(
        (Role.STORAGE,),
        disk_gb=sum(each.f_blocks * each.f_frsize for each in found.values()) // GB,
        disk_free_gb=sum(each.f_bavail * each.f_frsize for each in found.values()) // GB,
    )
