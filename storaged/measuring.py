"""What volumes take of their disks, for people: an image's blocks, or those of all that guests put into a folder.

It is a look at the moment of the question, and no more: nothing is charged or refused by it. Blocks that copies share
count for each of them. Whoever asks does not wait for a disk that does not answer.
"""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import trio

from matcher.wire.messages import ImageFormat
from matcher.wire.volumes import VolumeView
from specs.ids import Vid
from specs.units import show_mib
from storaged.beneath import Unusable, open_folder
from storaged.reopening import reopened
from storaged.volume import Snapshot, Volume

LOOK_S = 2.0  # for all that one question is about
FILES_MAX = 200_000  # of one folder; of one with more it is not known
AGAIN_S = 60.0  # as long a folder's sum is good
BLOCK_BYTES = 512  # of st_blocks, whatever the filesystem's are
MIB = 2**20


class Measures:
    """One host's; one question at a time looks."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._folders: dict[Vid, tuple[float, int | None]] = {}  # until when it is good
        self._one = trio.CapacityLimiter(1)

    async def taken(self, views: Iterable[VolumeView]) -> tuple[VolumeView, ...]:
        """The views, with what is known of the volumes' use."""
        views, found = tuple(views), dict[Vid, int]()
        volumes = self._snapshot().volumes
        asked = [volumes[vid] for view in views if (vid := Vid(view.vid)) in volumes]
        now_s = trio.current_time()
        with trio.move_on_after(LOOK_S):
            await trio.to_thread.run_sync(self._look, asked, found, now_s, abandon_on_cancel=True, limiter=self._one)
        return tuple(_with_use(view, found.get(Vid(view.vid))) for view in views)

    def _look(self, volumes: list[Volume], found: dict[Vid, int], now_s: float) -> None:
        """In a worker thread, which may go on when nobody waits any more."""
        for volume in volumes:
            used_mib = self._folder(volume, now_s) if volume.format is ImageFormat.FOLDER else used(volume)
            if used_mib is not None:
                found[volume.vid] = used_mib

    def _folder(self, volume: Volume, now_s: float) -> int | None:
        until_s, used_mib = self._folders.get(volume.vid, (0.0, None))
        if until_s <= now_s:
            self._folders = {vid: known for vid, known in self._folders.items() if known[0] > now_s}
            used_mib = used(volume)
            self._folders[volume.vid] = now_s + AGAIN_S, used_mib
        return used_mib


def used(volume: Volume) -> int | None:
    """In MiB, rounded up; `None` where it can't be told. Links are counted, and never followed."""
    with suppress(OSError, Unusable), reopened(volume) as folder:
        if volume.format is not ImageFormat.FOLDER:
            facts = os.stat(volume.image, dir_fd=folder, follow_symlinks=False)
            return _mib(facts.st_blocks)
        with open_folder(volume.image, within=folder) as root:
            return _sum(root)
    return None


def _sum(root: int) -> int | None:
    """Of all files beneath, those with several names once."""
    blocks, files, linked = 0, 0, set[int]()
    for _, folders, names, within in os.fwalk(".", dir_fd=root):
        for name in (*folders, *names):
            files += 1
            if files > FILES_MAX:
                return None
            with suppress(OSError):  # a guest removes it at this moment
                facts = os.stat(name, dir_fd=within, follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
                    if facts.st_ino in linked:
                        continue
                    linked.add(facts.st_ino)
                blocks += facts.st_blocks
    return _mib(blocks)


def _mib(blocks: int) -> int:
    return -(-blocks * BLOCK_BYTES // MIB)


def _with_use(view: VolumeView, used_mib: int | None) -> VolumeView:
    is_over = view.format is ImageFormat.FOLDER and used_mib is not None and used_mib > view.size_mib
    over = f"its files take {show_mib(used_mib or 0)}, more than its size, which keeps no guest from that"
    return replace(view, used_mib=used_mib, why=view.why or over * is_over)
