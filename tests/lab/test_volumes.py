"""Volumes as their users make, change and remove them, on the storage hosts of a real lab."""

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.qcow2 import DATA_FILE, Qcow2
from tests.lab.conftest import until as eventually
from tests.lab.vms import (
    HELIUM,
    Vms,
    booted,
    boots,
    commands_with,
    electros,
    login_as,
    places_with,
    plainly,
    serial_of,
)

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.lab


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


@pytest.fixture
def names(lab: Any) -> Iterator[list[str]]:
    """Names of volumes that are removed at the end, if they are still there."""
    made: list[str] = []
    yield made
    eventually(lambda: not (left := [one["vid"] for one in listed(lab) if one["name"] in made]) or removed(lab, left))


def removed(lab: Any, vids: list[str]) -> bool:
    """Not where a host was too busy to answer."""
    return plainly(lab, "volume", "rm", "--yes", *vids, code=None).code == 0


def listed(lab: Any) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = electros(lab, "volume", "ls").document["volumes"]
    return volumes


def folder_of(lab: Any, volume: dict[str, Any]) -> Path:
    folder: Path = lab.folder(volume["host"]) / "srv" / f"{volume['vid']}.elimg"
    return folder


def test_a_volume_lives_from_create_to_rm(lab: Any, names: list[str]) -> None:
    names += ["life", "afterlife", "copy", "second"]
    made = electros(lab, "volume", "create", "--size", "1", "--name", "life").document["volume"]
    assert (made["size_gb"], made["format"], made["state"], made["private"]) == (1, "raw", "free", False)
    image = folder_of(lab, made) / "data.img"
    assert image.stat().st_size == 2**30
    assert image.stat().st_blocks == 0, "it is thin"
    assert any(volume["vid"] == made["vid"] for volume in listed(lab))
    renamed = electros(lab, "volume", "rename", "life", "afterlife").document["volume"]
    assert (renamed["vid"], renamed["name"]) == (made["vid"], "afterlife")
    assert electros(lab, "volume", "resize", "afterlife", "--size", "1.5").document["volume"]["size_gb"] == 1.5
    assert electros(lab, "volume", "convert", "afterlife", "--format", "qcow2").document["volume"]["format"] == "qcow2"
    copied = electros(lab, "volume", "clone", "afterlife", "--name", "copy").document["volume"]
    assert (copied["host"], copied["format"], copied["size_gb"]) == (made["host"], "qcow2", 1.5)
    said = plainly(lab, "volume", "clone", "afterlife", "--name", "second").err
    assert "are copied, in" in said or "shares its blocks" in said, "as its filesystem can"
    removed = electros(lab, "volume", "rm", "afterlife", "copy").document["removed"]
    assert [volume["name"] for volume in removed] == ["afterlife", "copy"]
    assert not folder_of(lab, made).exists()
    assert electros(lab, "volume", "inspect", made["vid"], code=4).error["code"] == "not-found"


def test_a_volume_is_made_where_its_person_says_or_where_there_is_most_room(lab: Any, names: list[str]) -> None:
    names += ["here", "there"]
    made = electros(lab, "volume", "create", "--size", "0.125", "--name", "here", "--host", "h3").document["volume"]
    assert made["host"] == "h3"
    nowhere = electros(lab, "volume", "create", "--size", "1", "--name", "there", "--host", "h9", code=4).error
    assert 'is named "h9"' in nowhere["message"]
    refused = electros(lab, "volume", "create", "--size", "60000", "--name", "there", code=3).error
    assert {said["host"] for said in refused["refusals"]} == {"h1", "h2", "h3"}
    assert all("in one pool" in said["reasons"][0]["has"] for said in refused["refusals"])


@pytest.mark.parametrize("size", ["0.3", "0", "-1", "8589934592", "nan", "inf"])
def test_a_size_that_makes_no_sense_is_told_before_anybody_is_asked(lab: Any, size: str) -> None:
    ended = electros(lab, "volume", "create", f"--size={size}", "--name", "odd", code=2)
    assert "multiple of 0.125 GB" in ended.error["message"]


def test_another_users_private_volume_is_not_there(lab: Any, tmp_path: Path, names: list[str]) -> None:
    names += ["secret"]
    made = electros(lab, "volume", "create", "--size", "1", "--name", "secret", "--private").document["volume"]
    bob = login_as(lab, "volbob", tmp_path, "--volumes", "1GB")
    seen = json.loads(lab.exec("client", *bob, "volume", "ls", "-o", "json").stdout)["volumes"]
    assert made["vid"] not in {volume["vid"] for volume in seen}
    for words in (["inspect"], ["rm", "--yes"], ["resize", "--size", "2"], ["clone", "--name", "mine"]):
        verb, *options = words
        done = lab.exec("client", *bob, "volume", verb, made["vid"], *options, check=False)
        assert done.returncode == 4, done.stderr
    over = lab.exec("client", *bob, "volume", "create", "--size", "2", "--name", "secret", check=False)
    assert over.returncode == 3
    assert "1 GB of your 1 GB are left" in over.stderr
    plainly(lab, "user", "revoke", "volbob", "--yes")


def test_a_volume_that_was_made_just_now_is_a_vms_disk_and_stays_while_it_is(
    lab: Any, vms: Vms, names: list[str]
) -> None:
    names += ["disk"]
    made = electros(lab, "volume", "create", "--size", "1", "--name", "disk").document["volume"]
    vms.run("withdisk", volumes=[made["vid"]])
    shown = electros(lab, "volume", "inspect", "disk").document["volume"]
    assert (shown["state"], shown["vms"]) == ("attached", ["withdisk"])
    for words in (["rm", "--yes", "disk"], ["resize", "disk", "--size", "2"], ["clone", "disk", "--name", "x"]):
        error = electros(lab, "volume", *words, code=1).error
        assert error["code"] == "volume-in-use"
        assert "electros rm" in error["hint"]
    electros(lab, "rm", "--force", "withdisk")
    assert electros(lab, "volume", "inspect", "disk").document["volume"]["state"] == "free"


def test_a_storaged_that_is_killed_while_it_copies_leaves_no_half_of_anything(
    lab: Any, names: list[str], until: Callable[..., Any]
) -> None:
    names += ["source", "half"]
    made = electros(lab, "volume", "create", "--size", "2", "--name", "source", "--host", "h2").document["volume"]
    image = f"/srv/atomos/{made['vid']}.elimg/data.img"
    lab.exec("h2", "dd", "if=/dev/urandom", f"of={image}", "bs=1M", "count=600", "conv=notrunc")
    copying = lab.popen("client", "electros", "volume", "clone", "source", "--name", "half")
    pool = lab.folder("h2") / "srv"
    until(lambda: [path for path in pool.iterdir() if path.name.startswith(".new-")], every_s=0.002)
    lab.kill("h2", "storaged")
    copying.communicate(timeout=120)
    files = {path.name for path in pool.iterdir()}
    whole = [volume for volume in listed(lab) if volume["name"] == "half"]
    assert not any(name.startswith((".new-", ".gone-")) for name in files), "what was left over is swept up"
    for volume in whole:
        lab.exec("h2", "cmp", image, f"/srv/atomos/{volume['vid']}.elimg/data.img")


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_an_import_that_was_a_mistake_is_ended_and_leaves_nothing(
    lab: Any, tmp_path: Path, names: list[str], until: Callable[..., Any], is_interrupted: bool
) -> None:
    names.append("mistake")
    image = tmp_path / "mistake.img"
    image.write_bytes(os.urandom(32 << 20))
    pool = lab.folder("h2") / "srv"
    before = {*pool.iterdir()}
    asked = ("volume", "import", str(image), "--name", "mistake", "--format", "qcow2", "--image-format", "raw")
    going = lab.popen("client", "electros", *asked, "--host", "h2")
    stopped = "until pkill -STOP -x qemu-img && pgrep -r T -x qemu-img; do :; done"  # none that was ending anyway
    lab.exec("h2", "timeout", "60", "sh", "-c", stopped)
    (mine,) = (volume for volume in listed(lab) if volume["name"] == "mistake")
    assert mine["state"] == "busy"
    assert mine["why"].startswith("it is being imported, ")
    if is_interrupted:
        going.send_signal(signal.SIGINT)
        said = going.communicate(timeout=60)[1]
        assert going.returncode == 130
        assert "h2 was asked to import mistake, and goes on with it" in said
        assert f"electros volume cancel {mine['vid']} ends it" in said
    error = electros(lab, "volume", "rm", "--yes", "mistake", code=1).error
    assert (error["code"], f"electros volume cancel {mine['vid']}" in error["hint"]) == ("busy", True)
    assert "all is as it was before" in plainly(lab, "volume", "cancel", "mistake").err
    if not is_interrupted:
        assert "it was cancelled" in going.communicate(timeout=60)[1]
        assert going.returncode == 1
    assert {*pool.iterdir()} == before
    assert [volume for volume in listed(lab) if volume["name"] == "mistake"] == []
    assert electros(lab, "volume", "cancel", "mistake", code=4).error["code"] == "not-found"
    assert lab.exec("h2", "pgrep", "-x", "qemu-img", check=False).stdout == ""


def test_an_image_that_is_sent_becomes_a_volume_of_the_same_bytes(lab: Any, tmp_path: Path, names: list[str]) -> None:
    names += ["sent", "wrong"]
    image = tmp_path / "image.raw"
    image.write_bytes(os.urandom(3 << 20) + bytes(5 << 20) + os.urandom(1 << 20))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    made = electros(lab, "volume", "import", str(image), "--name", "sent", "--sha256", digest).document["volume"]
    assert (made["size_gb"], made["sha256"]) == (0.125, digest)
    assert electros(lab, "volume", "inspect", "sent").document["volume"]["sha256"] == digest
    data = (folder_of(lab, made) / "data.img").read_bytes()
    assert data[: 9 << 20] == image.read_bytes()
    assert not any(data[9 << 20 :])
    error = electros(lab, "volume", "import", str(image), "--name", "wrong", "--sha256", "0" * 64, code=1).error
    assert digest in error["message"]
    assert not [volume for volume in listed(lab) if volume["name"] == "wrong"]


def test_a_wicked_image_and_a_wicked_url_leave_nothing(lab: Any, tmp_path: Path) -> None:
    before = {volume["vid"] for volume in listed(lab)}
    foreign = tmp_path / "image.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", str(foreign), "1G"], check=True)
    by_hand = {
        "backing": Qcow2(backing=b"/etc/shadow"),
        "data-file": Qcow2(incompatible=1 << 2, extensions=((DATA_FILE, b"/etc/shadow"),)),
        "tables": Qcow2(l1=(1 << 63 | 2**40,)),
        "huge": Qcow2(size=2**63),  # 8 EiB
    }
    for name, image in by_hand.items():
        (tmp_path / name).write_bytes(image.image())
    for source, code, why in (
        (f"{tmp_path}/backing", 1, "backing file"),
        (f"{tmp_path}/data-file", 1, "in another file"),
        (f"{tmp_path}/tables", 1, "qemu-img"),
        (f"{tmp_path}/huge", 2, "a volume has at most"),
        (str(foreign), 1, "VMDK"),
        ("http://127.0.0.1:7767/", 1, "the host itself"),
        ("http://[::ffff:127.0.0.1]:7767/", 1, "the host itself"),
        ("http://169.254.169.254/latest/", 1, "nothing is fetched"),
        ("http://user:secret@example.org/x", 1, "password"),
        ("file:///etc/shadow", 2, "https:// and http:// alone"),
    ):
        error = electros(lab, "volume", "import", source, "--name", "wicked", "--size", "1", code=code).error
        assert why in error["message"], error
    assert {volume["vid"] for volume in listed(lab)} == before
    for host in ("h1", "h2", "h3"):
        assert not [path for path in (lab.folder(host) / "srv").iterdir() if path.name.startswith(".new-")]


def test_nothing_is_fetched_from_a_guest_that_its_host_alone_reaches(
    lab: Any, names: list[str], vms: Vms, until: Callable[..., Any]
) -> None:
    names += ["stolen"]
    vm = booted(lab, until, vms.run("shy", HELIUM, volumes=[lab.volumes("h1")["h1-boot"]], host="h1"))
    url = f"http://{until(lambda: electros(lab, 'inspect', 'shy').document['vm']['addresses'])[0]}/"
    assert "ATOMOS-GUEST-UP" in lab.exec(vm["host"], "busybox", "wget", "-qO-", url).stdout
    words = ["volume", "import", url, "--name", "stolen", "--size", "0.125", "--host", vm["host"]]
    assert "it is a VM of this host's" in electros(lab, *words, code=1).error["message"]
    electros(lab, "rm", "--force", "shy")


def test_a_volume_goes_back_to_what_a_snapshot_has(lab: Any, names: list[str]) -> None:
    names += ["timed"]
    made = electros(lab, "volume", "create", "--size", "0.125", "--name", "timed", "--host", "h1").document["volume"]
    folder = f"/srv/atomos/{made['vid']}.elimg"

    def write(text: str) -> None:
        image = json.loads(lab.exec("h1", "cat", f"{folder}/meta.json").stdout)["image"]
        lab.exec("h1", "sh", "-c", f"printf {text} | dd of={folder}/{image} conv=notrunc status=none")

    def first() -> str:
        image = json.loads(lab.exec("h1", "cat", f"{folder}/meta.json").stdout)["image"]
        return str(lab.exec("h1", "head", "-c", "3", f"{folder}/{image}").stdout)

    write("one")
    plainly(lab, "volume", "snapshot", "timed", "s1")
    write("two")
    (kept,) = electros(lab, "volume", "snapshots", "timed").document["snapshots"]
    assert (kept["name"], kept["size_gb"]) == ("s1", 0.125)
    electros(lab, "volume", "rollback", "timed", "s1")
    assert first() == "one"
    assert electros(lab, "volume", "rollback", "timed", "s2", code=1).error["message"].count("no snapshot s2")
    plainly(lab, "volume", "snapshot", "timed", "s1", "--drop")
    assert electros(lab, "volume", "snapshots", "timed").document["snapshots"] == []


def test_a_seed_is_private_and_what_it_says_is_nowhere_else(lab: Any, tmp_path: Path, names: list[str]) -> None:
    names += ["init"]
    secret = "hunter2-5f4dcc3b"
    user_data = tmp_path / "user-data"
    user_data.write_text(f"#cloud-config\nhostname: neo\npassword: {secret}\n")
    made = electros(lab, "volume", "seed", "--user-data", str(user_data), "--name", "init").document["volume"]
    assert (made["private"], made["readonly"]) == (True, True)
    image = folder_of(lab, made) / "data.img"
    assert image.stat().st_mode & 0o777 == 0o600
    assert secret.encode() in image.read_bytes()
    assert places_with(secret, lab) == {str(image)}, "neither a log nor a ledger has it"
    assert commands_with(secret) == []
    user_data.write_text(f"{secret}\n")
    error = electros(lab, "volume", "seed", "--user-data", str(user_data), "--name", "init", code=1).error
    assert "must begin with #cloud-config" in error["message"]
    assert secret not in json.dumps(error)
    electros(lab, "volume", "rm", "--yes", "init")
    assert places_with(secret, lab) == set()


def test_a_vm_boots_from_a_copy_of_an_image(lab: Any, names: list[str], vms: Vms, until: Callable[..., Any]) -> None:
    names += ["tiny", "copied", "nofit"]
    guest = subprocess.run([str(ROOT / "packaging" / "guest")], capture_output=True, text=True, check=True)
    image = electros(lab, "image", "add", guest.stdout.strip(), "--name", "tiny").document["volume"]
    assert [each["vid"] for each in electros(lab, "image", "ls").document["images"]] == [image["vid"]]
    assert image["sha256"] == hashlib.sha256(Path(guest.stdout.strip()).read_bytes()).hexdigest()
    vm = booted(lab, until, vms.run("copied", HELIUM, "--image", "tiny"))
    (disk,) = [volume for volume in listed(lab) if volume["name"] == "copied"]
    assert (disk["state"], disk["vms"], disk["readonly"], disk["bootable"]) == ("attached", ["copied"], False, True)
    assert [volume["vid"] for volume in vm["volumes"]] == [disk["vid"].replace("-", "")]
    vms.specfile({"slots": 64, "ramsize": 64}, "huge")
    electros(lab, *vms.arguments("nofit", {"slots": 64, "ramsize": 64}), "--image", "tiny", code=3)
    assert not [volume for volume in listed(lab) if volume["name"] == "nofit"], "a disk that nobody has is not left"
    electros(lab, "image", "rm", "tiny")
    assert boots(lab, vm) == [1]


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_a_stopped_vms_volume_is_kept_and_rolled_back_and_a_running_ones_is_not(
    lab: Any, vms: Vms, until: Callable[..., Any], host: str
) -> None:
    vid = lab.volumes("h1")["h1-boot"]
    vm = vms.run("rolled", HELIUM, volumes=[vid], host=host)
    booted(lab, until, vm)
    first = boots(lab, vm)[-1]
    words = electros(lab, "volume", "snapshot", vid, "now", code=None).error["message"]
    assert "your VM rolled has it" in words
    electros(lab, "stop", "--force", "rolled")
    plainly(lab, "volume", "snapshot", vid, "now")
    electros(lab, "start", "rolled")
    until(lambda: boots(lab, vm)[-1] == first + 1, within_s=120)
    assert electros(lab, "volume", "rollback", "--yes", vid, "now", code=None).code != 0
    electros(lab, "stop", "--force", "rolled")
    electros(lab, "volume", "rollback", "--yes", vid, "now")
    electros(lab, "start", "rolled")
    until(lambda: boots(lab, vm)[-2:] == [first + 1, first + 1], within_s=120)
    electros(lab, "rm", "--force", "rolled")
    plainly(lab, "volume", "snapshot", vid, "now", "--drop")


def test_a_raw_disk_into_which_a_guest_wrote_a_qcow2_header_is_raw_at_its_next_boot(
    lab: Any, vms: Vms, until: Callable[..., Any]
) -> None:
    boot, data = lab.volumes("h1")["h1-boot"], lab.volumes("h1")["h1-data"]
    vm = vms.run("faker", HELIUM, volumes=[boot, data], host="h1")
    booted(lab, until, vm)
    electros(lab, "stop", "--force", "faker")
    image = lab.folder("h1") / "srv" / f"{data}.elimg" / "data.img"
    with image.open("r+b") as file:
        file.write(Qcow2(size=2**30, backing=b"/etc/passwd").image())
    electros(lab, "start", "faker")
    until(lambda: len(boots(lab, vm)) == 2, within_s=120)
    announced = [line for line in serial_of(lab, vm).splitlines() if "ATOMOS-GUEST-UP boots" in line]
    assert all("vdb:134217728," in line for line in announced), "neither the header's size nor its backing file"
    electros(lab, "rm", "--force", "faker")
    with image.open("r+b") as file:
        file.write(bytes(len(Qcow2(size=2**30, backing=b"/etc/passwd").image())))
