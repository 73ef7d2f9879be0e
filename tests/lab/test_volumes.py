"""Volumes as their users make, change and remove them, on the storage hosts of a real lab."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.vms import Vms, electros, login_as, plainly

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
    left = [volume["vid"] for volume in listed(lab) if volume["name"] in made]
    if left:
        plainly(lab, "volume", "rm", "--yes", *left)


def listed(lab: Any) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = electros(lab, "volume", "ls").document["volumes"]
    return volumes


def folder_of(lab: Any, volume: dict[str, Any]) -> Path:
    folder: Path = lab.folder(volume["host"]) / "srv" / f"{volume['vid']}.elimg"
    return folder


def test_a_volume_lives_from_create_to_rm(lab: Any, names: list[str]) -> None:
    names += ["life", "afterlife", "copy"]
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
    removed = electros(lab, "volume", "rm", "afterlife", "copy").document["removed"]
    assert [volume["name"] for volume in removed] == ["afterlife", "copy"]
    assert not folder_of(lab, made).exists()
    assert electros(lab, "volume", "inspect", made["vid"], code=4).error["code"] == "not-found"


def test_a_volume_is_made_where_its_person_says_or_where_there_is_most_room(lab: Any, names: list[str]) -> None:
    names += ["here", "there"]
    made = electros(lab, "volume", "create", "--size", "0.125", "--name", "here", "--host", "h3").document["volume"]
    assert made["host"] == "h3"
    assert electros(lab, "volume", "create", "--size", "1", "--name", "there", "--host", "h9", code=3).error["code"]
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
