"""A qcow2 from outside is judged by its first cluster and its length, before QEMU opens it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from storaged.images.qcow2 import START_BYTES, Qcow2Facts, judge_qcow2
from storaged.metadata import Bad
from tests.fakes.qcow2 import BACKING_FORMAT, BITMAPS, CLUSTER, DATA_FILE, ENCRYPTION, Qcow2

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def judged(image: bytes) -> Qcow2Facts | Bad:
    return judge_qcow2(image[:START_BYTES], len(image))


@needs_qemu_img
def test_the_images_written_by_hand_are_ones_that_qemu_takes(tmp_path: Path) -> None:
    """Otherwise the wicked ones below would prove nothing."""
    for version in (2, 3):
        (tmp_path / "a").write_bytes(Qcow2(version=version).image())
        subprocess.run(["qemu-img", "check", "-f", "qcow2", tmp_path / "a"], check=True, capture_output=True)


@pytest.mark.parametrize("version", [2, 3])
def test_an_image_that_stands_alone_is_taken(version: int) -> None:
    assert judged(Qcow2(version=version).image()) == Qcow2Facts(version, 16, 128 * 2**20)


@needs_qemu_img
@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on,cluster_size=128k",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "refcount_bits=64",
        "compression_type=zstd",
        "preallocation=metadata",
    ],
)
@pytest.mark.parametrize("size", ["512", "128M", "16G"])
def test_whatever_qemu_img_makes_is_taken(tmp_path: Path, options: str, size: str) -> None:
    if size == "16G" and options in ("cluster_size=512", "preallocation=metadata"):
        size = "1G"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, tmp_path / "a", size], check=True)
    facts = judged_file(tmp_path / "a")
    assert isinstance(facts, Qcow2Facts)


def judged_file(path: Path) -> Qcow2Facts | Bad:
    with path.open("rb") as file:
        return judge_qcow2(file.read(START_BYTES), path.stat().st_size)


def test_bitmaps_and_unknown_extensions_are_data_that_a_conversion_drops() -> None:
    assert isinstance(judged(Qcow2(extensions=((BITMAPS, bytes(24)), (0x12345678, b"what"))).image()), Qcow2Facts)


@pytest.mark.parametrize(
    ("wicked", "words"),
    [
        (Qcow2(backing=b"/etc/passwd"), "backing file"),
        (Qcow2(backing=b'json:{"driver":"nbd","host":"10.0.0.1"}'), "backing file"),
        (Qcow2(backing=b"nbd://10.0.0.1/x"), "backing file"),
        (Qcow2(backing_at=1024), "backing file"),
        (Qcow2(incompatible=1 << 2), "another file"),
        (Qcow2(incompatible=1 << 2, extensions=((DATA_FILE, b"/etc/shadow"),)), "another file"),
        (Qcow2(extensions=((DATA_FILE, b"/etc/shadow"),)), "external data file"),
        (Qcow2(version=2, extensions=((DATA_FILE, b"/etc/shadow"),)), "external data file"),
        (Qcow2(extensions=((BITMAPS, bytes(24)), (DATA_FILE, b"/etc/shadow"))), "external data file"),
        (Qcow2(extensions=((BACKING_FORMAT, b"raw"),)), "backing format"),
        (Qcow2(extensions=((ENCRYPTION, bytes(16)),)), "encrypted"),
        (Qcow2(extensions=((0x12345678, b""),) * 100), "more than 64 header extensions"),
        (Qcow2(extensions=((0x12345678, bytes(CLUSTER)),)), "leave its first cluster"),
        (Qcow2(encryption=2), "encrypted"),
        (Qcow2(incompatible=1 << 1), "corrupt"),
        (Qcow2(incompatible=1 << 5), "unknown"),
        (Qcow2(incompatible=1 << 63), "unknown"),
        (Qcow2(snapshots=1), "internal snapshots"),
        (Qcow2(cluster_bits=8), "unknown"),
        (Qcow2(cluster_bits=22), "unknown"),
        (Qcow2(cluster_bits=2**32 - 1), "unknown"),
        (Qcow2(size=0), "no size"),
        (Qcow2(size=2**63), "8192 PiB; at most 1 PiB"),  # 8 EiB
        (Qcow2(size=2**64 - 512), "at most 1 PiB"),
        (Qcow2(size=2**60), "at most 1 PiB"),
        (Qcow2(size=2**20 + 1), "multiple of 512"),
        (Qcow2(l1_entries=0), "too small"),
        (Qcow2(size=2**30), "too small"),
        (Qcow2(l1_entries=2**31), "larger than QEMU allows"),
        (Qcow2(refcount_clusters=2**31), "larger than QEMU allows"),
        (Qcow2(refcount_clusters=0), "outside of the file"),
        (Qcow2(l1_at=0), "outside of the file"),
        (Qcow2(l1_at=4 * CLUSTER), "outside of the file"),
        (Qcow2(l1_at=3 * CLUSTER + 8), "outside of the file"),
        (Qcow2(l1_at=2**64 - CLUSTER), "outside of the file"),
        (Qcow2(refcounts_at=2**63), "outside of the file"),
        (Qcow2(refcounts_at=3 * CLUSTER, refcount_clusters=2), "outside of the file"),
        (Qcow2(refcount_order=7), "counts references"),
        (Qcow2(header_bytes=2**31), "impossible length"),
        (Qcow2(header_bytes=100), "impossible length"),
        (Qcow2(header_bytes=113), "impossible length"),
        (Qcow2(compression=1), "compressed"),
        (Qcow2(incompatible=1 << 3), "compressed"),
        (Qcow2(incompatible=1 << 3, compression=9), "compressed"),
        (Qcow2(incompatible=1 << 4, cluster_bits=13, size=2**20), "clusters are too small"),
        (Qcow2(version=1), "version"),
        (Qcow2(version=4), "version"),
        (Qcow2(magic=b"KDMV"), "not qcow2, as was said"),
    ],
)
def test_what_is_wrong_with_an_image_is_said(wicked: Qcow2, words: str) -> None:
    found = judged(wicked.image())
    assert isinstance(found, Bad), found
    assert words in found.reason


@pytest.mark.parametrize("length", [0, 4, 71, 72, 103, 104, 111, 112, 1000, CLUSTER, 2 * CLUSTER])
def test_an_image_cut_short_is_bad_and_no_error(length: int) -> None:
    assert isinstance(judged(Qcow2().image()[:length]), Bad)
