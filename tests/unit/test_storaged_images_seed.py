"""A seed is an ISO image that cloud-init finds, reads back as it was written, and that nobody else reads."""

import io
import os
import subprocess
import time
from pathlib import Path

import pycdlib
import pytest

from matcher.wire.messages import ImageFormat
from matcher.wire.volumes import NewSeed, NewVolume
from storaged.beneath import Unusable
from storaged.images import seed as seeds
from storaged.images.seed import Seed, make_seed, render_seed
from storaged.index import Index
from storaged.metadata import Metadata
from storaged.testing import ALICE, vid_of

ONE = vid_of(1)
USER_DATA = "#cloud-config\nhostname: röslein\nssh_authorized_keys: [ssh-ed25519 AAAA]\n"
SEED = Seed(USER_DATA, "i-1", network_config="version: 2\n")


def files_in(image: bytes) -> dict[str, bytes]:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    names = [child.file_identifier().decode("utf-16-be") for child in iso.list_children(joliet_path="/")]
    found = {}
    for name in names[2:]:
        data = io.BytesIO()
        iso.get_file_from_iso_fp(data, joliet_path=f"/{name}")
        found[name] = data.getvalue()
    iso.close()
    return found


def test_a_guest_reads_what_was_written() -> None:
    assert files_in(render_seed(SEED)) == {
        "user-data": USER_DATA.encode(),
        "meta-data": b"instance-id: i-1\n",
        "network-config": b"version: 2\n",
    }
    assert set(files_in(render_seed(Seed("#!/bin/sh\n", "i-2")))) == {"user-data", "meta-data"}


def test_cloud_init_finds_it_by_its_label(tmp_path: Path) -> None:
    (tmp_path / "seed").write_bytes(render_seed(SEED))
    said = subprocess.run(
        ["blkid", "-p", "-o", "export", tmp_path / "seed"], check=True, capture_output=True, text=True
    )
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(said.stdout.splitlines())


def test_the_same_seed_gives_the_same_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = render_seed(SEED)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    second = render_seed(SEED)
    monkeypatch.undo()
    time.tzset()
    assert first == second


def test_the_volume_is_small_private_and_read_only(tmp_path: Path) -> None:
    make_seed(str(tmp_path), ONE, Metadata(128, "init", owner=ALICE), SEED, most_mib=128)
    volume = Index().scan([tmp_path]).volumes[ONE]
    assert (volume.size_mib, volume.private, volume.readonly, volume.owner) == (128, True, True, ALICE)
    assert (volume.bootable, volume.shareable, volume.note) == (False, False, "")
    image = Path(volume.path) / volume.image
    assert image.stat().st_mode & 0o777 == 0o600
    assert files_in(image.read_bytes())["user-data"] == USER_DATA.encode()


def test_a_seed_without_an_owner_would_be_everybodys(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="owner"):
        make_seed(str(tmp_path), ONE, Metadata(128, "init"), SEED, most_mib=128)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "user_data",
    [
        "#cloud-config\n",
        "#!/bin/sh\ntrue\n",
        "Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n",
        "MIME-Version: 1.0\n",
        "## template: jinja\n#cloud-config\n",
    ],
)
def test_what_cloud_init_takes_is_taken(user_data: str) -> None:
    assert files_in(render_seed(Seed(user_data, "i")))["user-data"] == user_data.encode()


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (Seed("hostname: x\n", "i"), "must begin with #cloud-config"),
        (Seed("#cloud-configuration\n", "i"), "must begin with #cloud-config"),
        (Seed("", "i"), "user-data is empty"),
        (Seed(" \n", "i"), "user-data is empty"),
        (Seed("#cloud-config\n" + "x" * seeds.USER_DATA_MAX_BYTES, "i"), "user-data is larger than 256 KiB"),
        (Seed("#cloud-config\n\0", "i"), "control characters"),
        (Seed("#cloud-config\n\x1b[2J", "i"), "control characters"),
        (Seed("#cloud-config\n\udcff", "i"), "not UTF-8"),
        (Seed(USER_DATA, "i", meta_data="local-hostname: x\n"), "instance-id"),
        (Seed(USER_DATA, "i", meta_data=""), "instance-id"),
        (Seed(USER_DATA, "i", meta_data="instance-id: x\n" + "y" * seeds.OTHERS_MAX_BYTES), "larger than 64 KiB"),
        (Seed(USER_DATA, "i", network_config="\n"), "network-config is empty"),
        (Seed(USER_DATA, "i", network_config="x" * 70_000), "network-config is larger"),
        (Seed(USER_DATA, "i\nlocal-hostname: x"), "instance id"),
        (Seed(USER_DATA, ""), "instance id"),
    ],
)
def test_what_cloud_init_would_not_take_is_refused(seed: Seed, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        render_seed(seed)


@pytest.mark.parametrize("meta_data", ["instance-id: x\n", '{"instance-id": "x"}', "local-hostname: a\ninstance-id: x"])
def test_meta_data_of_ones_own_is_kept(meta_data: str) -> None:
    assert files_in(render_seed(Seed(USER_DATA, "i", meta_data=meta_data)))["meta-data"] == meta_data.encode()


def test_no_message_repeats_a_secret() -> None:
    assert "swordfish" not in repr(Seed("#cloud-config\npassword: swordfish", "i", "swordfish", "swordfish"))
    new = NewVolume("0" * 32, "", "init", 128, ImageFormat.RAW, False, True, False, True)
    assert "swordfish" not in repr(NewSeed(new, "swordfish", "swordfish", "swordfish"))
    for secret in ("swordfish", "#cloud-config\nswordfish\udcff", "#cloud-config\nswordfish\0"):
        with pytest.raises(Unusable) as refused:
            render_seed(Seed(secret, "i"))
        assert "swordfish" not in f"{refused.value!r} {refused.value.__cause__!r}"
