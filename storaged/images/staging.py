"""What is being made, or thrown away, lies hidden in its pool's root, and is seen all at once or not at all.

    .new-<hex>/   being made: renamed into place when all of it is on the disk
    .gone-<hex>/  being deleted: renamed out of place first

Whoever makes something holds a lock on its folder, which the kernel drops when the process ends, however it ends. So
`sweeping` knows what is left over from a crash.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from secrets import token_hex

from storaged import reopening
from storaged.beneath import Unusable, open_beneath

NEW, GONE = ".new-", ".gone-"
IMAGE_MODE = 0o600  # libvirt gives the image to QEMU's user while a VM runs
TEXT_MODE = 0o644
FOLDER_MODE = 0o755  # which that user has to pass
SHARE_MODE = 0o700  # of what holds a folder of guests' files: root serves those, and nobody else here may come by them

_LENT = 200  # the pool's root, in a program that is lent it

_SENTENCES = {
    errno.ENOSPC: "the pool is full",
    errno.EDQUOT: "the pool's quota on the host is used up",
    errno.EFBIG: "the image is too large for the pool's filesystem",
    errno.EXDEV: "the volume lies on another filesystem than its pool's root; make that folder a pool of its own",
    errno.EROFS: "the pool is mounted read-only",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A hidden folder in the root of `pool`, whose mark says `pool_id`. `folder` and `root` are descriptors of it and
    of the pool."""

    pool: str
    pool_id: str | None
    name: str
    root: int
    folder: int

    @contextmanager
    def new_file(self, name: str) -> Iterator[int]:
        """A new file for reading and writing. On the disk when left without an error."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, IMAGE_MODE, dir_fd=self.folder)
        try:
            yield file
            os.fsync(file)
        finally:
            os.close(file)

    def write(self, name: str, data: bytes) -> None:
        """A small file, readable for all, on the disk."""
        with self.new_file(name) as file, open(file, "wb", closefd=False) as stream:
            os.fchmod(file, TEXT_MODE)
            stream.write(data)

    def new_folder(self, name: str) -> None:
        """An empty one, root's where that can be: it is what guests see as their own."""
        os.mkdir(name, FOLDER_MODE, dir_fd=self.folder)
        with suppress(PermissionError):
            os.chown(name, 0, 0, dir_fd=self.folder, follow_symlinks=False)

    def publish(self, name: str, within: int, mode: int = FOLDER_MODE) -> None:
        """The folder becomes `name` in the open folder `within`, and is on the disk there."""
        os.chmod(self.folder, mode)
        os.fsync(self.folder)
        if exists(name, within):
            raise Unusable(f"{name} is there already")
        os.rename(self.name, name, src_dir_fd=self.root, dst_dir_fd=within)
        os.fsync(within)
        os.fsync(self.root)


@contextmanager
def staged(pool: str, pool_id: str | None = None) -> Iterator[Stage]:
    """Room to make something in, in the pool alone whose mark says `pool_id`. Whatever is still there when it is left
    is deleted. Errors are `Unusable`."""
    try:
        with open_beneath(pool, pool, reopening.is_still(pool_id)) as root:
            name, folder = _locked_folder(root)
            try:
                yield Stage(pool, pool_id, name, root, folder)
            finally:
                if is_still(folder, name, root):
                    delete(name, root)
                os.close(folder)
    except OSError as problem:
        raise Unusable(sentence(problem)) from problem


def sentence(problem: OSError) -> str:
    """For a person: what kept us from writing into a pool."""
    return _SENTENCES.get(problem.errno or 0, f"the pool can't be written: {problem.strerror}")


def _locked_folder(root: int) -> tuple[str, int]:
    while True:  # a sweep may come between any two of these steps
        name = f"{NEW}{token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=root)
        with suppress(FileNotFoundError):
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
            if lock(folder, without=True) and is_still(folder, name, root):
                return name, folder
            os.close(folder)


def lock(folder: int, *, without: bool) -> bool:
    """Whether nobody else has it. `without`: what to say where folders can't be locked, as on NFS."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without
    return True


def is_still(folder: int, name: str, root: int) -> bool:
    try:
        there, here = os.stat(name, dir_fd=root, follow_symlinks=False), os.fstat(folder)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def exists(name: str, folder: int) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


def delete(name: str, root: int) -> None:
    """Links in it are removed, never followed."""
    try:
        shutil.rmtree(name, ignore_errors=True, dir_fd=root)
    except RecursionError:  # guests may make folders in folders for ever; `rm` needs no stack for each
        words = ["rm", "-rf", "--one-file-system", "--", f"/proc/self/fd/{_LENT}/{name}"]
        actions = [(os.POSIX_SPAWN_DUP2, root, _LENT), (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)]
        os.waitpid(os.posix_spawnp(words[0], words, {"PATH": "/usr/bin:/bin"}, file_actions=actions), 0)


def discard(root: int, name: str, within: int) -> None:
    """The folder `name` in `within` is gone at once, for good when this returns; its space comes back a little later.
    `root` is the root of its pool."""
    trash = f"{GONE}{token_hex(8)}"
    os.rename(name, trash, src_dir_fd=within, dst_dir_fd=root)
    os.fsync(within)
    os.fsync(root)
    delete(trash, root)
