"""Where a pool keeps its leases: `.leases` in its root, a file for the lockspace and one for each volume.

A lease is never made anew over one that somebody may hold: it is made under a name that nobody knows, and linked to its
own, where another server may have been quicker. It lies beside the volumes and not in them, so that whatever changes
about a volume's folder (a rename, a rollback, a copy) takes no lease from under its holder.

Each server has a number, that of the file in `.leases/members` that has its id: linked as well, so that no two have the
same.
"""

import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from pwd import getpwnam
from secrets import token_hex

import trio

from specs.ids import HostId, Vid
from storaged.beneath import Unusable
from storaged.leases.sanlock import Sanlock
from storaged.leases.takeover import Ground, Member
from storaged.leases.words import AREA_BYTES, NUMBER_MAX, Lease, Lockspace, is_speakable

FOLDER = ".leases"
MEMBERS = "members"
LOCKSPACE = "lockspace"
NEW = ".new-"
USER = "sanlock"  # whose daemon opens the files
MEMBER_MAX_BYTES = 512
TIDY_S = 1.0
LEFT_S = 3600.0  # who makes a lease is done in a second; a clock may be wrong by minutes
MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Area:
    """The leases of one pool."""

    pool_id: str
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / FOLDER

    @property
    def lockspace(self) -> Lockspace:
        return Lockspace(self.pool_id, str(self.folder / LOCKSPACE))

    def lease(self, vid: Vid) -> Lease:
        return Lease(self.pool_id, vid, str(self.folder / vid))

    async def open(self, sanlock: Sanlock) -> None:
        """Make what the pool still lacks for servers to join. Raises `Unusable`, `OSError` or `Silent`."""
        if not is_speakable(str(self.folder)):
            raise Unusable("its path is too long for sanlock, or has a blank or a backslash")
        await trio.to_thread.run_sync(self._make_folders)
        await trio.to_thread.run_sync(self._sweep)
        await self._make(self.lockspace, sanlock)

    async def make_lease(self, vid: Vid, sanlock: Sanlock) -> Lease:
        """The volume's, as it is or new. This host has joined. Raises `OSError` or `Silent`."""
        lease = self.lease(vid)
        await self._make(lease, sanlock)
        return lease

    def drop_lease(self, vid: Vid) -> None:
        """Of a volume that is gone for good. Only who holds it may: whoever waits for it finds no file, or this one
        held."""
        with suppress(FileNotFoundError):
            os.unlink(self.lease(vid).file)

    async def _make(self, what: Lockspace | Lease, sanlock: Sanlock) -> None:
        if await trio.to_thread.run_sync(os.path.lexists, what.file, abandon_on_cancel=True):
            return
        new = replace(what, file=str(self.folder / f"{NEW}{token_hex(8)}"))
        try:
            await trio.to_thread.run_sync(_reserve, new.file)
            await sanlock.init(new)
            if isinstance(new, Lease):
                await sanlock.begin(new)
            await trio.to_thread.run_sync(_publish, new.file, what.file)
        finally:
            with trio.move_on_after(TIDY_S, shield=True):  # what a pool that hangs keeps is swept
                await trio.to_thread.run_sync(_forget, new.file, abandon_on_cancel=True)

    def _make_folders(self) -> None:
        for folder in (self.folder, self.folder / MEMBERS):
            with suppress(FileExistsError):
                folder.mkdir(mode=0o755)
            facts = folder.lstat()
            # sanlock opens by path, and may be root: nobody else may put a link there.
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
                raise Unusable(f"{folder.name} is not a folder that its server alone can change")

    def _sweep(self) -> None:
        """What servers left half-made when they died. One that is slow instead finds its file gone, and tries again."""
        for folder in (self.folder, self.folder / MEMBERS):
            for name in os.listdir(folder):
                with suppress(FileNotFoundError):  # another server is quicker
                    if name.startswith(NEW) and (folder / name).lstat().st_mtime < time.time() - LEFT_S:
                        os.unlink(folder / name)

    def join(self, host_id: HostId, *, watched: bool) -> int:
        """This server's number, its own from now on. What it says of its watchdog is on the disk before it joins.
        Raises `Unusable` or `OSError`."""
        for number in range(1, NUMBER_MAX + 1):
            file = self.folder / MEMBERS / str(number)
            if self._claim(file, host_id, watched=watched):
                return number
        raise Unusable(f"the pool has {NUMBER_MAX} servers already")

    def _claim(self, file: Path, host_id: HostId, *, watched: bool) -> bool:
        member = _member(file)
        if member is not None and member.host_id != host_id:
            return False
        new = file.parent / f"{NEW}{token_hex(8)}"
        data = json.dumps({"host_id": host_id, "watched": watched}).encode()
        try:
            _write(new, data)
            if member is not None:
                os.rename(new, file)
            else:
                os.link(new, file)
        except FileExistsError:
            return False
        finally:
            with suppress(FileNotFoundError):
                os.unlink(new)
        _sync(file.parent)
        return True

    def members(self) -> tuple[Member, ...]:
        """Raises `Unusable` or `OSError`."""
        names = [name for name in os.listdir(self.folder / MEMBERS) if name.isdecimal()]
        found = (_member(self.folder / MEMBERS / name) for name in sorted(names, key=int))
        return tuple(member for member in found if member is not None)


def ground_of(path: Path) -> Ground:
    """What the pool lies on, by the kernel's own table of mounts. Raises `OSError`."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            kind, _, options = right.split(" ", 2)
            return Ground(kind, frozenset(options.split(",")))
    return Ground("a filesystem without name")


def _member(file: Path) -> Member | None:
    """`None` where nobody has the number yet."""
    try:
        with file.open("rb") as stream:
            value = json.loads(stream.read(MEMBER_MAX_BYTES))
        host_id, watched = value["host_id"], value["watched"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as problem:
        raise Unusable(f"{FOLDER}/{MEMBERS}/{file.name} is damaged") from problem
    if not isinstance(host_id, str) or not isinstance(watched, bool):
        raise Unusable(f"{FOLDER}/{MEMBERS}/{file.name} is damaged")
    return Member(int(file.name), HostId(host_id), watched)


def _reserve(path: str) -> None:
    """All of it on the disk, so that a full pool can't keep a lease from being renewed. storaged reads it as well, by
    its group where it is not root."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, AREA_BYTES)
        with suppress(KeyError):  # where sanlock runs as root
            user = getpwnam(USER)
            os.fchown(file, user.pw_uid, user.pw_gid)
            os.fchmod(file, 0o660)
        os.fsync(file)
    finally:
        os.close(file)


def _forget(path: str) -> None:
    """Published it was, or never made."""
    with suppress(OSError):
        os.unlink(path)


def _publish(new: str, name: str) -> None:
    """Where another server was quicker, its lease stands."""
    with suppress(FileExistsError):
        os.link(new, name, follow_symlinks=False)
    os.unlink(new)
    _sync(Path(name).parent)


def _write(file: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(file, flags, 0o644), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
