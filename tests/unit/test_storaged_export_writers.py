"""The kernel says whether an image can still be written."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from matcher.wire.messages import ImageFormat
from storaged.export import writers
from storaged.export.description import Image
from storaged.export.writers import Writers, serves, writers_of
from storaged.testing import make_volume, vid_of


def image_in(pool: Path) -> Image:
    return Image(vid_of(1), str(pool), str(make_volume(pool, vid_of(1))), "data.img", ImageFormat.RAW)


def test_who_has_it_open_for_writing_is_counted_and_who_reads_is_not(tmp_path: Path) -> None:
    image = image_in(tmp_path)
    assert writers_of(image, None) == (Writers.NONE, "")
    reader = os.open(image.file, os.O_RDONLY)
    assert writers_of(image, None)[0] is Writers.NONE
    writer = os.open(image.file, os.O_RDWR)
    assert writers_of(image, None)[0] is Writers.SOME
    os.close(writer)
    assert writers_of(image, None)[0] is Writers.NONE
    os.close(reader)


def test_a_mapping_counts_though_its_file_is_closed(tmp_path: Path) -> None:
    image = image_in(tmp_path)
    writer = os.open(image.file, os.O_RDWR)
    mapping = mmap.mmap(writer, mmap.PAGESIZE)
    os.close(writer)
    assert writers_of(image, None)[0] is Writers.SOME
    mapping.close()
    assert writers_of(image, None)[0] is Writers.NONE


def test_asking_often_leaves_nothing_behind(tmp_path: Path) -> None:
    image = image_in(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        assert writers_of(image, None)[0] is Writers.NONE
        os.close(os.open(image.file, os.O_RDWR))  # breaks no lease, waits for none
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_image_that_is_gone_or_a_link_can_not_be_told(tmp_path: Path) -> None:
    image = image_in(tmp_path)
    os.rename(image.file, tmp_path / "elsewhere")
    assert writers_of(image, None)[0] is Writers.UNKNOWN
    os.symlink(tmp_path / "elsewhere", image.file)
    assert writers_of(image, None)[0] is Writers.UNKNOWN


@contextmanager
def process_with(path: str) -> Iterator[int]:
    """Another process, which has the file open for writing."""
    code = "import sys; file = open(sys.argv[1], 'r+b'); print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def test_a_process_is_seen_to_have_this_very_image(tmp_path: Path) -> None:
    image = image_in(tmp_path)
    with process_with(image.file) as pid:
        assert serves(pid, image)
    (tmp_path / "other").touch()
    with process_with(str(tmp_path / "other")) as pid:
        assert not serves(pid, image)


def test_without_leases_the_servers_own_files_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_in(tmp_path)
    monkeypatch.setattr(writers, "_lease", lambda file: (Writers.UNKNOWN, "no lease on it"))
    assert writers_of(image, None) == (Writers.UNKNOWN, "no lease on it")
    with process_with(image.file) as pid:
        assert writers_of(image, pid)[0] is Writers.SOME
    (tmp_path / "other").touch()
    with process_with(str(tmp_path / "other")) as pid:
        assert writers_of(image, pid) == (Writers.NONE, "")
