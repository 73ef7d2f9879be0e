"""A seed as a guest takes it: Debian's own cloud-init reads it, and what it says is nowhere but in the seed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import HELIUM, Vms, commands_with, electros, places_with, serial_of

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "5eed0000-0000-4000-8000-00000000c10d"
SECRET = "kelp-anchovy-9c2f41d7"  # in the seed's text, and nowhere else
BOOT_S = 180.0  # Python starts four times, emulated, on a machine that has other work too
SIZE_GB = 0.5

pytestmark = [pytest.mark.lab, pytest.mark.slow]  # the image alone takes minutes to build, once


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


@pytest.fixture
def image(lab: Any) -> Iterator[str]:
    """The name of an image with cloud-init, on h1; it goes at the end, and what was made of it as well."""
    built = subprocess.run([ROOT / "packaging" / "guest-cloud-init"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    folder = lab.folder("h1") / "srv" / f"{IMAGE}.elimg"
    folder.mkdir()
    subprocess.run(["cp", "--sparse=always", built.stdout.strip(), folder / "data.img"], check=True)
    meta = {"size": SIZE_GB, "name": "cloud", "bootable": True, "readonly": True}
    (folder / "meta.json").write_text(json.dumps(meta))
    yield "cloud"
    (folder / "data.img").unlink()
    (folder / "meta.json").unlink()
    folder.rmdir()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; beside it the public one."""
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sower", "-f", path], check=True)
    return path


def test_a_guest_takes_name_and_key_from_its_seed_which_is_secret_and_goes_with_it(
    lab: Any, vms: Vms, until: Any, tmp_path: Path, image: str, key: Path
) -> None:
    user_data = tmp_path / "user-data"
    public = key.with_suffix(".pub").read_text().strip()
    user_data.write_text(
        f"#cloud-config\nssh_authorized_keys: [ {public} ]\n"
        f"write_files: [ {{ path: /etc/secret, content: {SECRET}, permissions: '0644' }} ]\n"
    )
    words = [*vms.arguments("sown", HELIUM), "--image", image, "--user-data", str(user_data), "--allow-emulation"]
    vm = electros(lab, *words, "--wait", "address").document["vm"]
    volumes = {each["name"]: each for each in electros(lab, "volume", "ls").document["volumes"]}
    seed, disk = volumes["sown-seed"], volumes["sown"]
    seed_folder = lab.folder(seed["host"]) / "srv" / f"{seed['vid']}.elimg"
    disk_folder = lab.folder(disk["host"]) / "srv" / f"{disk['vid']}.elimg"
    assert (seed["goes_with"], seed["private"], seed["readonly"]) == (vm["id"], True, True)
    assert (seed_folder / "data.img").stat().st_mode & 0o777 == 0o600

    until(lambda: "ATOMOS-CLOUD-INIT sown" in serial_of(lab, vm), within_s=BOOT_S)
    address = electros(lab, "inspect", "sown").document["vm"]["addresses"][0]
    quiet = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    asked = "hostname; cat .ssh/authorized_keys /etc/secret"
    said = lab.exec(vm["host"], "ssh", "-q", "-i", str(key), *quiet, f"debian@{address}", asked).stdout.splitlines()
    assert said == ["sown", public, SECRET]

    elsewhere = places_with(SECRET, lab) - {str(seed_folder / "data.img"), str(disk_folder / "data.img")}
    assert elsewhere == set(), "the seed has it, and the disk to which the guest copied it"
    assert commands_with(SECRET) == []
    assert SECRET not in lab.virsh(vm["host"], "dumpxml", f"atomos-{vm['id']}")
    assert str(seed_folder / "data.img") in places_with(SECRET, lab), "the search finds what is there"

    electros(lab, "rm", "--force", "sown")
    names = {each["name"] for each in electros(lab, "volume", "ls").document["volumes"]}
    assert "sown-seed" not in names
    assert "sown" in names, "the disk is its user's"
    assert not seed_folder.exists()
    electros(lab, "volume", "rm", "--yes", "sown")
    assert places_with(SECRET, lab) == set()
