"""Whatever bytes come as an image, they are judged, and never a reason to fall over; what is taken stands alone."""

import json
import os
import subprocess
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storaged.images.formats import decide_format
from storaged.images.qcow2 import START_BYTES, Qcow2Facts, judge_qcow2
from storaged.metadata import Bad
from tests.fakes.qcow2 import BACKING_FORMAT, BITMAPS, CLUSTER, DATA_FILE, ENCRYPTION, Qcow2

OFFSETS = st.sampled_from([0, 1, 8, CLUSTER, 3 * CLUSTER, 4 * CLUSTER, 2**32, 2**63, 2**64 - CLUSTER])
KINDS = st.sampled_from([0, BACKING_FORMAT, DATA_FILE, ENCRYPTION, BITMAPS, 0x12345678])
IMAGES = st.builds(
    Qcow2,
    version=st.sampled_from([1, 2, 3, 4]),
    size=st.sampled_from([0, 512, 1000, 2**20, 2**27, 2**40, 2**60, 2**63, 2**64 - 1]),
    cluster_bits=st.integers(0, 40),
    backing=st.sampled_from([b"", b"/etc/passwd", b"json:{}"]),
    backing_at=st.one_of(st.none(), OFFSETS),
    encryption=st.integers(0, 3),
    l1_entries=st.integers(0, 2**32 - 1) | st.just(1),
    l1_at=OFFSETS,
    refcounts_at=OFFSETS,
    refcount_clusters=st.integers(0, 2**32 - 1) | st.just(1),
    snapshots=st.sampled_from([0, 1, 2**32 - 1]),
    incompatible=st.sampled_from([0, 1, 2, 4, 8, 16, 32, 2**63]),
    refcount_order=st.integers(0, 2**32 - 1) | st.just(4),
    header_bytes=st.sampled_from([0, 72, 104, 112, 120, 2**31]),
    compression=st.integers(0, 255),
    extensions=st.lists(st.tuples(KINDS, st.binary(max_size=40)), max_size=3).map(tuple),
)
# One lie in an image that is good otherwise: these come far.
NEARLY = st.builds(
    lambda at, byte: Qcow2().image()[:at] + bytes([byte]) + Qcow2().image()[at + 1 :],
    st.integers(0, 130),
    st.integers(0, 255),
)


@given(st.one_of(st.binary(max_size=300), IMAGES.map(Qcow2.header), NEARLY), st.integers(0, 2**40))
def test_any_bytes_are_judged(start: bytes, file_bytes: int) -> None:
    assert isinstance(judge_qcow2(start[:START_BYTES], max(file_bytes, len(start))), Qcow2Facts | Bad)
    decide_format(start, None)


@given(NEARLY)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_taken_leads_qemu_to_no_other_file(tmp_path: Path, image: bytes) -> None:
    """QEMU itself says so; were it to open another file, it would be named here."""
    if isinstance(judge_qcow2(image[:START_BYTES], len(image)), Bad):
        return
    path = tmp_path / "image"
    path.write_bytes(image)
    command = ["qemu-img", "info", "-f", "qcow2", "--output=json", "--backing-chain", path]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode == 0:
        (facts,) = json.loads(said.stdout)
        assert "backing-filename" not in facts
        assert "data-file" not in facts["format-specific"]["data"]
    os.unlink(path)
