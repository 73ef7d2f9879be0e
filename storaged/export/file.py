"""A volume for a VM on the volume's own host: its image as a plain file.

The volume is read afresh, since a scan may be old: what is handed to the domain is what was checked. Owner and mode of
the image are libvirt's to set for QEMU's user while the VM runs (its DAC driver with `dynamic_ownership`, the
default, also where `security_driver` is "none"); the folders above it must let that user pass.

QEMU holds locks on an image that it has open; `writer_of` looks at them. They are advisory, and prove only that a
program that takes part has the image open or has let it go.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Collection
from dataclasses import replace

from matcher.wire.volumes import AttachedVolume
from storaged.beneath import Unusable, open_beneath, open_file, shown
from storaged.index import read_volume
from storaged.volume import Volume

_LOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, process
_QEMU_WRITES = 101  # byte that QEMU locks while it may write: RAW_LOCK_PERM_BASE + BLK_PERM_WRITE, block/file-posix.c


def attach(volume: Volume) -> AttachedVolume:
    """The volume as a domain may use it. Raises `Unusable` when it is no longer what the scan saw."""
    try:
        with open_beneath(volume.pool, volume.path) as folder:
            fresh = read_volume(folder, volume.pool, volume.path, volume.vid)
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
    ask = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _QEMU_WRITES, 1, 0)
    try:
        with open_beneath(volume.pool, volume.path) as folder, open_file(volume.image, folder) as (file, _):
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
