"""The kernel's own iSCSI target (LIO), as its folders in configfs: one target for each export.

    core/fileio_0/VID.COUNTER.NONCE/             the image, open
    iscsi/TARGET/tpgt_1/{lun/lun_1, np/PORTAL}   where it is served
    iscsi/TARGET/tpgt_1/acls/INITIATOR/          who may log in, with which secret

Every call may block for as long as the kernel does, so that they belong into threads. Secrets are written and read by
those who have CAP_SYS_ADMIN alone: the kernel looks at nothing else there. Source: the kernel's
Documentation/target and drivers/target, of which these names are the stable interface.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from specs.ids import Vid
from storaged.beneath import open_file
from storaged.export.description import LUN, Export, Observed, parse_target
from storaged.reopening import reopened
from storaged.volume import Epoch

ROOT = Path("/sys/kernel/config/target")
UDEV_PATH_MAX = 511  # what the kernel remembers of the image's path
ATTRIBUTES = {
    "emulate_write_cache": "1",  # and so a flush is an fsync
    "emulate_3pc": "0",  # no initiator makes the kernel copy between images
    "emulate_pr": "0",  # nor reserves one, and has the kernel keep a file about it
}
_BACKED = "core/fileio_0"
_SESSION = re.compile(r"^InitiatorName: ", re.MULTILINE)


class Configfs:
    """One tree. `OSError` is the kernel's no."""

    def __init__(self, portal: str, root: Path = ROOT) -> None:
        self._portal, self.root = portal, root

    def is_there(self) -> bool:
        """Whether this kernel has an iSCSI target; loads its modules where they are only installed."""
        with suppress(OSError):
            (self.root / "iscsi").mkdir(exist_ok=True)
        return (self.root / "iscsi").is_dir()

    def is_writable(self) -> bool:
        """Whether this process may make targets: a unit may see the tree without that."""
        return os.access(self.root / "iscsi", os.W_OK, effective_ids=True)

    def look(self, vid: Vid | None = None) -> frozenset[Observed]:
        """Our targets, or those of one volume: each costs a dozen files to read."""
        named = ((path, parse_target(path.name)) for path in _folders(self.root / "iscsi"))
        return frozenset(self._observed(path, *name) for path, name in named if name and vid in (None, name[0]))

    def make(self, export: Export) -> None:
        """The door last. What is half made serves nobody; `remove` takes it away."""
        self._open_image(export)
        group = self._group(export.target)
        group.mkdir(parents=True)
        (group / "lun" / f"lun_{LUN}").mkdir()
        (group / "lun" / f"lun_{LUN}" / "image").symlink_to(self._image(export.target))
        _write(group / "attrib" / "authentication", "1")
        _write(group / "attrib" / "generate_node_acls", "0")
        (group / "np" / self._portal).mkdir()
        self._admit(group, export)
        _write(group / "enable", "1")

    def remove(self, target: str) -> None:
        """In the order in which the kernel lets go: first no more logins and no more sessions, last the image."""
        group = self._group(target)
        with suppress(OSError):  # not enabled yet, or not there at all
            _write(group / "enable", "0")
        for acl in _folders(group / "acls"):
            for lun in (path for path in _folders(acl) if path.name.startswith("lun_")):
                _unlink_all(lun)
                lun.rmdir()
            acl.rmdir()
        for lun in _folders(group / "lun"):
            _unlink_all(lun)
            lun.rmdir()
        for portal in _folders(group / "np"):
            portal.rmdir()
        for folder in (group, group.parent, self._image(target)):
            with suppress(FileNotFoundError):
                folder.rmdir()

    def withdraw(self) -> int:
        """End all of ours, and say how many. Raises the last `OSError`, when all others have ended."""
        problem: OSError | None = None
        found = self.look()
        for seen in found:
            try:
                self.remove(seen.target)
            except OSError as error:
                problem = error
        if problem is not None:
            raise problem
        return len(found)

    def _open_image(self, export: Export) -> None:
        """By a descriptor of ours, so that it is the file that was checked; its path is kept beside it."""
        image = self._image(export.target)
        image.mkdir(parents=True)
        with _opened(export) as (file, size_bytes):
            control = f"fd_dev_name=/proc/self/fd/{file},fd_dev_size={size_bytes},fd_buffered_io=1"
            _write(image / "control", control)
            _write(image / "udev_path", export.image.file)
            _write(image / "enable", "1")
        for attribute, value in ATTRIBUTES.items():
            _write(image / "attrib" / attribute, value)
        _write(image / "wwn" / "vpd_unit_serial", export.image.vid)

    def _admit(self, group: Path, export: Export) -> None:
        assert export.chap is not None
        acl = group / "acls" / export.initiator
        acl.mkdir()
        _write(acl / "auth" / "userid", export.chap.user)
        _write(acl / "auth" / "password", export.chap.secret)
        lun = acl / f"lun_{LUN}"
        lun.mkdir()
        (lun / "lun").symlink_to(group / "lun" / f"lun_{LUN}")
        _write(lun / "write_protect", str(int(export.image.readonly)))

    def _observed(self, path: Path, vid: Vid, epoch: Epoch) -> Observed:
        group = path / "tpgt_1"
        acls = [*_folders(group / "acls")]
        users = frozenset(_read(acl / "auth" / "userid") for acl in acls) - {""}
        file = _read(self._image(path.name) / "udev_path")
        readonly = any(_read(acl / f"lun_{LUN}" / "write_protect") == "1" for acl in acls)
        sessions = sum(len(_SESSION.findall(_read(acl / "info"))) for acl in acls)
        parts = (group / "np" / self._portal, group / "lun" / f"lun_{LUN}" / "image")
        whole = _read(group / "enable") == "1" and bool(users) and all(part.exists() for part in parts)
        return Observed(vid, epoch, frozenset(acl.name for acl in acls), users, file, readonly, sessions, whole)

    def _group(self, target: str) -> Path:
        return self.root / "iscsi" / target / "tpgt_1"

    def _image(self, target: str) -> Path:
        named = parse_target(target)
        assert named is not None
        return self.root / _BACKED / _device(*named)


def _device(vid: str, epoch: Epoch) -> str:
    return f"{vid}.{epoch.counter}.{epoch.nonce}"


@contextmanager
def _opened(export: Export) -> Iterator[tuple[int, int]]:
    image = export.image
    with reopened(image) as folder, open_file(image.name, folder) as (file, facts):
        yield file, facts.st_size


def _folders(path: Path) -> Iterator[Path]:
    """Those inside, without links; none where there is no such folder."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for name in names:
        if name not in ("discovery_auth", "stat"):
            yield path / name


def _unlink_all(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_symlink():
            entry.unlink()


def _write(path: Path, value: str) -> None:
    """The kernel's no to a value comes without the place."""
    try:
        path.write_text(value)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, str(path)) from problem


def _read(path: Path) -> str:
    try:
        return path.read_text().strip().strip("\0")
    except OSError:
        return ""
