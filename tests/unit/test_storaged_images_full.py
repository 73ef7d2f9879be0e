"""A pool that is full under way: said in a sentence, and nothing half-made remains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small pool of its own")

ACTS = """
import io, json, os, sys
from matcher.wire.messages import ImageFormat
from storaged.beneath import Unusable
from storaged.images import changing, importing, making, snapshots, sweeping
from storaged.images.sandbox import Sandbox
from storaged.index import Index
from storaged.metadata import Metadata
from storaged.testing import vid_of

pool, incoming = sys.argv[1:]
sandbox, one, two = Sandbox.of(), vid_of(1), vid_of(2)
RAW, QCOW2 = ImageFormat.RAW, ImageFormat.QCOW2

def volume():
    return Index().scan([pool]).volumes[one]

def bring(data, stored):
    wanted = Metadata(128, "two", format=stored)
    importing.import_image(sandbox, pool, two, wanted, importing.Incoming(data), most_mib=128)

making.create(sandbox, pool, one, Metadata(128, "one"), most_mib=128)
with open(f"{volume().path}/data.img", "r+b") as image:
    image.write(os.urandom(5 * 2**20))
acts = {
    "import raw": lambda: bring(io.BytesIO(os.urandom(8 * 2**20)), RAW),
    "import raw as qcow2": lambda: bring(io.BytesIO(os.urandom(2**20 * 3)), QCOW2),
    "import qcow2": lambda: bring(open(incoming, "rb"), RAW),
    "clone": lambda: making.clone(pool, volume(), two, Metadata(128, "two"), most_mib=128),
    "convert": lambda: changing.convert(sandbox, volume(), QCOW2),
    "snapshot": lambda: snapshots.take(volume(), "kept"),
}
said = {}
for name, act in acts.items():
    try:
        act()
        said[name] = "it went well"
    except Unusable as refused:
        said[name] = str(refused)
    left = [path for path in os.listdir(pool)] + os.listdir(volume().path)
    said[name + " leaves"] = sorted(left)
for number in range(3, 1000):
    try:
        making.create(sandbox, pool, vid_of(number), Metadata(128, format=QCOW2), most_mib=128)
    except Unusable as refused:
        said["create"] = str(refused)
        break
found = Index().scan([pool])
said["create leaves"] = [len(os.listdir(pool)) - len(found.volumes), len(found.bad)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What each act said in a pool of 8 MiB, in which a volume of 5 has its place."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "pool").mkdir()
    incoming = folder / "in.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", incoming, "128M"], check=True)
    # Compressed, it has room in the pool; what it holds has not.
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 5 0 16M", incoming], check=True, stdout=subprocess.DEVNULL
    )
    small = folder / "small.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-c", incoming, small], check=True)
    mount = f'mount -t tmpfs -o size=8m pool {folder}/pool && exec "$@"'
    python = [sys.executable, "-c", ACTS, str(folder / "pool"), str(small)]
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", *python]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return json.loads(done.stdout)


NAMES = ["import raw", "import raw as qcow2", "import qcow2", "clone", "convert", "snapshot", "create"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_said(said: dict[str, object], name: str) -> None:
    assert said[name] == "the pool is full"


@pytest.mark.parametrize("name", NAMES[:-1])
def test_nothing_half_made_remains(said: dict[str, object], name: str) -> None:
    assert said[f"{name} leaves"] == ["00000000-0000-0000-0000-000000000001.elimg", "data.img", "meta.json"]


def test_of_many_that_are_made_all_are_whole(said: dict[str, object]) -> None:
    assert said["create leaves"] == [0, 0]
