"""Images from outside: what is wicked is refused in a sentence and leaves nothing, what is good arrives clean."""

import hashlib
import io
import os
import struct
import subprocess
from pathlib import Path

import pytest
import trio

from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.images.importing import Imported, Incoming, import_image
from storaged.images.sandbox import Sandbox
from storaged.index import Index
from storaged.metadata import Metadata
from storaged.testing import vid_of
from storaged.volume import Volume
from tests.fakes.qcow2 import BITMAPS, CLUSTER, DATA_FILE, Qcow2

ONE = vid_of(1)
MIB = 2**20
SANDBOX = Sandbox.of()
RAW, QCOW2 = ImageFormat.RAW, ImageFormat.QCOW2


def take(
    pool: Path,
    data: bytes,
    stated: ImageFormat | None = None,
    stored: ImageFormat = RAW,
    *,
    most_mib: int = 1024,
    sha256: str | None = None,
    size_bytes: int | None = None,
) -> Imported:
    incoming = Incoming(io.BytesIO(data), stated, sha256, len(data) if size_bytes is None else size_bytes)
    return import_image(SANDBOX, str(pool), ONE, Metadata(128, "new", format=stored), incoming, most_mib=most_mib)


def volume_in(pool: Path) -> Volume:
    return Index().scan([pool]).volumes[ONE]


def content(volume: Volume) -> bytes:
    """What a guest reads, by qemu-img and with the format that the metadata says."""
    image = f"{volume.path}/{volume.image}"
    command = ["qemu-img", "dd", "-f", volume.format.value, "-O", "raw", f"if={image}", "bs=1M", "count=8"]
    subprocess.run([*command, f"of={volume.path}/.out"], check=True, capture_output=True)
    return Path(f"{volume.path}/.out").read_bytes()


@pytest.fixture
def qcow2_with_data(tmp_path: Path) -> bytes:
    path = tmp_path / "in.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "100M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 2M", path], check=True, capture_output=True)
    data = path.read_bytes()
    path.unlink()
    return data


@pytest.mark.parametrize("stored", [RAW, QCOW2])
@pytest.mark.parametrize("stated", [None, QCOW2])
def test_a_qcow2_arrives_in_the_format_that_was_asked_for(
    tmp_path: Path, qcow2_with_data: bytes, stored: ImageFormat, stated: ImageFormat | None
) -> None:
    imported = take(tmp_path, qcow2_with_data, stated, stored)
    volume = volume_in(tmp_path)
    assert (volume.format, volume.size_mib, volume.note) == (stored, 128, "")  # 100 MiB, rounded up
    assert imported.sha256 == hashlib.sha256(qcow2_with_data).hexdigest()
    assert content(volume) == bytes(MIB) + b"\7" * 2 * MIB + bytes(5 * MIB)
    assert os.listdir(tmp_path) == [Path(volume.path).name]
    image = Path(volume.path) / volume.image
    assert image.stat().st_uid == os.geteuid()
    assert image.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("stored", [RAW, QCOW2])
def test_a_raw_disk_arrives_with_its_holes_and_rounded_up(tmp_path: Path, stored: ImageFormat) -> None:
    data = b"boot".ljust(2 * MIB, b"\0") + b"tail"
    imported = take(tmp_path, data, None, stored)
    volume = volume_in(tmp_path)
    assert (volume.format, volume.size_mib) == (stored, 128)
    assert imported.sha256 == hashlib.sha256(data).hexdigest()
    assert content(volume) == data.ljust(8 * MIB, b"\0")
    assert os.stat(f"{volume.path}/{volume.image}").st_blocks * 512 < MIB


def test_a_larger_size_may_be_asked_for(tmp_path: Path, qcow2_with_data: bytes) -> None:
    incoming = Incoming(io.BytesIO(qcow2_with_data))
    import_image(SANDBOX, str(tmp_path), ONE, Metadata(512, "new"), incoming, most_mib=512)
    assert (volume_in(tmp_path).size_mib, volume_in(tmp_path).note) == (512, "")


def test_nothing_of_a_foreign_header_survives(tmp_path: Path) -> None:
    wicked = Qcow2(extensions=((BITMAPS, bytes(24)), (0x12345678, b"hello from outside")))
    take(tmp_path, wicked.image(), QCOW2, QCOW2)
    volume = volume_in(tmp_path)
    assert b"hello" not in Path(f"{volume.path}/{volume.image}").read_bytes()


@pytest.mark.parametrize("stored", [RAW, QCOW2])
def test_a_raw_disk_with_a_qcow2_header_needs_a_word_and_stays_raw(tmp_path: Path, stored: ImageFormat) -> None:
    """The guest's own bytes: never followed, never judged, whatever file they name."""
    data = Qcow2(backing=b"/etc/passwd").image()
    take(tmp_path, data, RAW, stored)
    volume = volume_in(tmp_path)
    assert content(volume)[: len(data)] == data
    assert b"root:" not in content(volume)


@pytest.mark.parametrize(
    ("data", "stated", "words"),
    [
        (Qcow2(backing=b"/etc/passwd").image(), None, "backing file"),
        (Qcow2(backing=b"json:{}").image(), QCOW2, "backing file"),
        (Qcow2(backing=b"nbd://127.0.0.1/x").image(), QCOW2, "backing file"),
        (Qcow2(incompatible=4, extensions=((DATA_FILE, b"/etc/shadow"),)).image(), None, "another file"),
        (Qcow2(extensions=((DATA_FILE, b"/etc/shadow"),)).image(), None, "external data file"),
        (Qcow2(snapshots=1).image(), None, "internal snapshots"),
        (Qcow2(encryption=1).image(), None, "encrypted"),
        (Qcow2(l1_at=2**40).image(), None, "outside of the file"),
        (Qcow2(size=2**63).image(), None, "8192 PiB"),
        (Qcow2(size=2**31, l1_entries=4).image(), None, "would have 2 GB; you may have 1 GB"),
        (Qcow2().image()[:CLUSTER], None, "outside of the file"),
        (b"KDMV\1\0\0\0".ljust(512, b"\0"), None, "VMDK"),
        (b"KDMV\1\0\0\0".ljust(512, b"\0"), QCOW2, "VMDK, not qcow2"),
        (bytes(4096), QCOW2, "not qcow2"),
        (b"", None, "empty"),
        (b"", RAW, "empty"),
        (b"", QCOW2, "not qcow2"),
    ],
)
def test_a_wicked_image_is_refused_and_leaves_nothing(
    tmp_path: Path, data: bytes, stated: ImageFormat | None, words: str
) -> None:
    with pytest.raises(Unusable, match=words):
        take(tmp_path, data, stated)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "l1",
    [
        (2**62 | 7,),  # unaligned
        (1 << 63 | 2**40,),  # far behind the end
        (1 << 63 | 3 * CLUSTER,),  # itself
        (1 << 63 | CLUSTER,),  # the reference counts
        (2**64 - 1,),
    ],
)
def test_tables_that_lead_astray_are_found_by_the_check(tmp_path: Path, l1: tuple[int, ...]) -> None:
    with pytest.raises(Unusable, match=r"damaged|qemu-img failed"):
        take(tmp_path, Qcow2(l1=l1).image())
    assert os.listdir(tmp_path) == []


def test_the_size_is_judged_before_anything_is_written(tmp_path: Path) -> None:
    """The stream isn't even read on, and the pool may be read-only for all that matters."""

    class Counting(io.BytesIO):
        asked = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.asked += 1
            return super().read(size)

    stream = Counting(Qcow2(size=2**33, l1_entries=16).image())
    with pytest.raises(Unusable, match="would have 8 GB"):
        import_image(SANDBOX, str(tmp_path / "no pool"), ONE, Metadata(128), Incoming(stream), most_mib=1024)
    incoming = Incoming(io.BytesIO(b"x"), RAW, None, 2**33)
    with pytest.raises(Unusable, match="would have 8 GB"):
        import_image(SANDBOX, str(tmp_path / "no pool"), ONE, Metadata(128), incoming, most_mib=1024)
    assert stream.asked <= 2


def test_a_raw_stream_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    class Endless:
        def read(self, size: int) -> bytes:
            return bytes(size)

    with pytest.raises(Unusable, match=r"larger than 0\.25 GB"):
        import_image(SANDBOX, str(tmp_path), ONE, Metadata(128), Incoming(Endless()), most_mib=256)
    assert os.listdir(tmp_path) == []


def test_an_image_whose_length_was_not_known_is_judged_again_when_it_is_here(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="outside of the file"):
        take(tmp_path, Qcow2(l1_at=5 * CLUSTER).image(), size_bytes=0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("prefix", ["", "sha256:", "SHA256:"])
def test_a_checksum_that_fits_is_taken(tmp_path: Path, prefix: str) -> None:
    data = Qcow2().image()
    take(tmp_path, data, sha256=prefix + hashlib.sha256(data).hexdigest())
    assert volume_in(tmp_path)


@pytest.mark.parametrize(("sha256", "words"), [("0" * 64, "checksum is another: sha256:"), ("md5:00", "64 hex digits")])
def test_a_checksum_that_does_not_fit_leaves_nothing(tmp_path: Path, sha256: str, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        take(tmp_path, Qcow2().image(), sha256=sha256)
    assert os.listdir(tmp_path) == []


def test_a_stream_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="not whole"):
        take(tmp_path, Qcow2().image(), size_bytes=5 * CLUSTER)
    assert os.listdir(tmp_path) == []


def test_an_import_can_be_stopped_at_each_step(tmp_path: Path, qcow2_with_data: bytes) -> None:
    class Stop(Exception):
        pass

    seen: set[str] = set()

    def stop_at(wanted: str) -> None:
        def progress(step: str, _done: int, _total: int) -> None:
            seen.add(step)
            if step == wanted:
                raise Stop

        incoming = Incoming(io.BytesIO(qcow2_with_data))
        import_image(SANDBOX, str(tmp_path), ONE, Metadata(128), incoming, most_mib=128, progress=progress)

    for step in ("copy", "check", "convert"):
        with pytest.raises(Stop):
            stop_at(step)
        assert os.listdir(tmp_path) == []
    assert seen == {"copy", "check", "convert"}


def test_compressed_clusters_that_unpack_to_more_than_they_may_are_harmless(tmp_path: Path) -> None:
    """A compressed cluster whose bytes are nonsense: the conversion fails, and says so."""
    l2 = struct.pack(">Q", 1 << 62 | 5 * CLUSTER)
    image = Qcow2(l1=(1 << 63 | 4 * CLUSTER,)).image() + l2.ljust(CLUSTER, b"\0") + os.urandom(CLUSTER)
    image = image[: 2 * CLUSTER] + struct.pack(">6H", *[1] * 6).ljust(CLUSTER, b"\0") + image[3 * CLUSTER :]
    with pytest.raises(Unusable, match="qemu-img"):
        take(tmp_path, image)
    assert os.listdir(tmp_path) == []


async def test_a_task_that_is_cancelled_ends_the_program_and_leaves_nothing(tmp_path: Path) -> None:
    """As a daemon does it: the thread is waited for, so that nothing goes on behind its back."""
    data = os.urandom(100 * MIB)
    steps: set[str] = set()
    with trio.CancelScope() as scope:

        def progress(step: str, _done: int, _total: int) -> None:
            steps.add(step)
            if step == "convert":
                trio.from_thread.run_sync(scope.cancel)
            trio.from_thread.check_cancelled()

        def work() -> None:
            wanted, incoming = Metadata(128, "new", format=QCOW2), Incoming(io.BytesIO(data), RAW)
            import_image(SANDBOX, str(tmp_path), ONE, wanted, incoming, most_mib=128, progress=progress)

        await trio.to_thread.run_sync(work)
    assert scope.cancelled_caught
    assert steps == {"copy", "make", "convert"}
    assert os.listdir(tmp_path) == []
