"""A copy of an image is thin: it shares blocks where the filesystem can, and elsewhere its holes stay holes."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storaged.images import copying
from storaged.images.copying import copy_file

MIB = 2**20
PIECES = ((0, 64 * 1024), (3 * MIB, 1 * MIB), (200 * MIB, 9 * MIB))  # of data; all else of 256 MiB is a hole

# In a filesystem of their own: a copy, what it took, and whether either shows what is written into the other.
ACTS = """
import json, os, subprocess, sys
from storaged.images.copying import copy_file

root, mib = sys.argv[1], 2**20
def free():
    subprocess.run(["sync", "-f", root], check=True)
    facts = os.statvfs(root)
    return facts.f_bfree * facts.f_bsize

with open(f"{root}/source", "w+b") as source, open(f"{root}/copy", "w+b") as copy:
    source.truncate(1024 * mib)
    source.write(os.urandom(32 * mib))
    source.flush()
    before, told = free(), []
    is_shared = copy_file(source.fileno(), copy.fileno(), lambda *now: told.append(now))
    took, same = before - free(), subprocess.run(["cmp", f"{root}/source", f"{root}/copy"]).returncode == 0
    os.pwrite(copy.fileno(), b"only here", 4096)
    os.pwrite(source.fileno(), b"only there", 8192)
    apart = os.pread(source.fileno(), 9, 4096) != b"only here" and os.pread(copy.fileno(), 10, 8192) != b"only there"
print(json.dumps({"shared": is_shared, "took": took, "same": same, "apart": apart, "told": told[-1]}))
"""


@contextmanager
def opened(folder: Path) -> Iterator[tuple[int, int]]:
    """A sparse image, and an empty file beside it."""
    with (folder / "source").open("w+b") as source, (folder / "copy").open("w+b") as target:
        source.truncate(256 * MIB)
        for at, length in PIECES:
            os.pwrite(source.fileno(), os.urandom(length), at)
        yield source.fileno(), target.fileno()


def refuses(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The filesystem shares no blocks, and says so with this error."""

    def no(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", no)


def is_same(folder: Path) -> bool:
    return subprocess.run(["cmp", folder / "source", folder / "copy"], check=False).returncode == 0


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS])
def test_where_no_blocks_are_shared_holes_stay_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuses(monkeypatch, number)
    told: list[tuple[str, int, int]] = []
    with opened(tmp_path) as (source, target):
        assert copy_file(source, target, lambda *now: told.append(now)) is False
        assert os.fstat(target).st_size == 256 * MIB
        assert os.fstat(target).st_blocks <= os.fstat(source).st_blocks
    data = sum(length for _, length in PIECES)
    assert is_same(tmp_path)
    assert told[0] == ("copy", 0, data)
    assert told[-1] == ("copy", data, data), "the data alone is counted"


def test_where_the_kernel_copies_no_ranges_bytes_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses(monkeypatch, errno.EOPNOTSUPP)

    def no_ranges(*_: object) -> int:
        raise OSError(errno.EXDEV, "")

    monkeypatch.setattr(os, "copy_file_range", no_ranges)
    with opened(tmp_path) as (source, target):
        assert copy_file(source, target) is False
        assert os.fstat(target).st_blocks <= os.fstat(source).st_blocks
    assert is_same(tmp_path)


def test_an_image_without_data_is_a_copy_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses(monkeypatch, errno.EOPNOTSUPP)
    with (tmp_path / "source").open("w+b") as source, (tmp_path / "copy").open("w+b") as target:
        source.truncate(8 << 40)
        copy_file(source.fileno(), target.fileno())
        assert (os.fstat(target.fileno()).st_size, os.fstat(target.fileno()).st_blocks) == (8 << 40, 0)


def test_the_filesystem_is_asked_to_share_and_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda *words: asked.append(words))
    told: list[tuple[str, int, int]] = []
    with opened(tmp_path) as (source, target):
        assert copy_file(source, target, lambda *now: told.append(now)) is True
        assert asked == [(target, 0x40049409, source)], "FICLONE of linux/fs.h"
        assert os.fstat(target).st_size == 0, "nothing is copied by us"
    assert told == [("share", 256 * MIB, 256 * MIB)]


def test_a_full_disk_is_no_reason_to_copy_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses(monkeypatch, errno.ENOSPC)
    with opened(tmp_path) as (source, target), pytest.raises(OSError, match="No space left"):
        copy_file(source, target)


def test_one_that_is_cut_short_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuses(monkeypatch, errno.EOPNOTSUPP)
    with opened(tmp_path) as (source, target):

        def cut(*_: object) -> None:
            os.ftruncate(source, 0)

        with pytest.raises(copying.Unusable, match="became shorter"):
            copy_file(source, target, cut)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a filesystem")
@pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="this machine has no loop devices")
@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="mkfs.xfs is not installed: packaging/setup")
@pytest.mark.parametrize(("kind", "is_shared"), [("xfs", True), ("ext4", False)])
def test_on_real_filesystems_a_copy_takes_no_space_or_that_of_its_data(
    tmp_path: Path, kind: str, is_shared: bool
) -> None:
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this machine's kernel has no {kind}")
    image, root = tmp_path / "disk", tmp_path / "mounted"
    root.mkdir()
    with image.open("wb") as disk:
        disk.truncate(512 * MIB)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    mount = f'mount -o loop "{image}" "{root}" && exec "$@"'
    python = [sys.executable, "-c", ACTS, str(root)]
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", *python]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    said = json.loads(done.stdout)
    assert (said["shared"], said["same"], said["apart"]) == (is_shared, True, True)
    assert said["took"] < MIB if is_shared else 31 * MIB < said["took"] < 34 * MIB
    assert said["told"] == (["share", 1024 * MIB, 1024 * MIB] if is_shared else ["copy", 32 * MIB, 32 * MIB])
