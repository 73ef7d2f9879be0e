"""A volume for a VM on the volume's own host: its image as a plain file.

The volume is read afresh, since a scan may be old: what is handed to the domain is what was checked. Owner and mode of
the image are libvirt's to set for QEMU's user while the VM runs (its DAC driver with `dynamic_ownership`, the
default, also where `security_driver` is "none"); the folders above it must let that user pass.

QEMU holds locks on an image that it has open; `writer_of` looks at them. They are advisory, and prove only that a
program that takes part has the image open or has let it go. A cut is therefore proven by the kernel's own count of
writers, and by the locks only where there is none. It ends no VM: that is for whoever runs it.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Collection
from dataclasses import replace

import trio

from matcher.wire.volumes import AttachedVolume
from storaged.beneath import Unusable, open_file, shown
from storaged.export.description import Access, Cut, Export, Image, Kind, Observed, Refused, Unknown, refused
from storaged.export.exporter import Problems
from storaged.export.writers import Writers, writers_of
from storaged.index import read_volume
from storaged.reopening import Lies, reopened
from storaged.volume import Epoch, Volume

CALL_S = 4.0  # a VM that was ended has closed its image by then
AGAIN_S = 0.02

_LOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, process
_QEMU_WRITES = 101  # byte that QEMU locks while it may write: RAW_LOCK_PERM_BASE + BLK_PERM_WRITE, block/file-posix.c


def attach(volume: Volume) -> AttachedVolume:
    """The volume as a domain may use it. Raises `Unusable` when it is no longer what the scan saw."""
    try:
        with reopened(volume) as folder:
            fresh = read_volume(folder, volume.pool, volume.pool_id, volume.path, volume.vid)
    except OSError as problem:
        raise Unusable(f"its folder can't be opened: {problem.strerror}") from problem
    if _essence(fresh) != _essence(volume):
        raise Unusable("its metadata has changed since the last scan; try again")
    return AttachedVolume(
        vid=volume.vid,
        path=f"{volume.path}/{volume.image}",
        format=volume.format,
        readonly=volume.readonly,
        shareable=volume.shareable,
        bootable=volume.bootable,
    )


def writer_of(volume: Volume) -> int | None:
    """The process that has the image open for writing as QEMU does, -1 where the kernel doesn't say which, `None` for
    nobody. Raises `Unusable` where it can't be told."""
    return _locked_by(volume, volume.image)


class Files:
    """The `Exporter` for VMs on the volume's own host. There is nothing to start: QEMU opens the image itself."""

    kind = Kind.FILE

    def __init__(self, *, call_s: float = CALL_S) -> None:
        self._wanted: dict[str, Export] = {}
        self._call_s = call_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def observe(self) -> frozenset[Observed] | Unknown:
        """Those that are wanted; a session is a QEMU that may write."""
        try:
            return frozenset(map(_observed, self._wanted.values()))
        except Unusable as problem:
            return Unknown(str(problem))

    async def export(self, export: Export) -> Access | Refused | Unknown:
        image = export.image
        try:
            with reopened(image) as folder, open_file(image.name, folder):
                self._wanted[export.target] = export
        except (Unusable, OSError) as problem:
            return refused(export, "unusable", str(problem), "electros pledge says more")
        return Access(Kind.FILE, image.file, image.format, image.readonly)

    async def cut(self, image: Image, epoch: Epoch | None = None) -> Cut | Unknown:
        """Wait until nothing on this host can write the image: the file can't tell one epoch from another."""
        for name, export in [*self._wanted.items()]:
            if export.image.vid == image.vid and epoch in (None, export.epoch):
                del self._wanted[name]
        deadline_s = trio.current_time() + self._call_s
        while (why := _open_why(image)) and not image.readonly:
            if trio.current_time() >= deadline_s:
                return Unknown(f"volume {image.vid}: {why}")
            await trio.sleep(AGAIN_S)
        return Cut()

    async def reconcile(self, wanted: Collection[Export]) -> Problems:
        self._wanted = {}
        answers = {export.target: await self.export(export) for export in wanted}
        return {name: answer for name, answer in answers.items() if not isinstance(answer, Access)}


def _observed(export: Export) -> Observed:
    image = export.image
    writes = _locked_by(image, image.name) is not None
    initiators = frozenset({export.initiator})
    return Observed(image.vid, export.epoch, initiators, frozenset(), image.file, image.readonly, int(writes))


def _open_why(image: Image) -> str:
    """Why the image may still be written to; empty when it can't."""
    answer, why = writers_of(image, None)
    if answer is Writers.NONE:
        return ""
    try:
        writer = _locked_by(image, image.name)
    except Unusable as problem:
        return str(problem)
    if writer is not None:
        return f"{why}, by process {writer}" if writer > 0 else why
    return "" if answer is Writers.UNKNOWN else why


def _locked_by(lies: Lies, name: str) -> int | None:
    ask = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _QEMU_WRITES, 1, 0)
    try:
        with reopened(lies) as folder, open_file(name, folder) as (file, _):
            kind, _, _, _, process = _LOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, ask))
    except OSError as problem:
        if problem.errno in (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):
            return None  # a filesystem without locks: QEMU can't lock there either
        raise Unusable(f"its image can't be opened: {problem.strerror}") from problem
    return None if kind == fcntl.F_UNLCK else int(process)


def blocked_at(path: str, uid: int, gids: Collection[int]) -> str | None:
    """The first folder above `path` that the user may not pass, by owner, group and mode; `None` when all let pass.

    Access lists aren't read, so that this is a hint for a start that failed, and no reason to refuse one.
    """
    folder = "/"
    for name in ["", *os.path.dirname(path).strip("/").split("/")]:
        folder = os.path.join(folder, name)
        try:
            facts = os.stat(folder)
        except OSError:
            return shown(folder)
        if not _may_pass(facts, uid, gids):
            return shown(folder.rstrip("/") or "/")
    return None


def _may_pass(facts: os.stat_result, uid: int, gids: Collection[int]) -> bool:
    if uid == 0:
        return True
    if facts.st_uid == uid:
        return bool(facts.st_mode & stat.S_IXUSR)
    return bool(facts.st_mode & (stat.S_IXGRP if facts.st_gid in gids else stat.S_IXOTH))


def _essence(volume: Volume) -> Volume:
    return replace(volume, right=None, note="", pool="")
