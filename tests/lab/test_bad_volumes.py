"""Volumes that somebody has spoilt, asked for wrongly, or may not have, at the daemons of a real lab: each is told for
what it is, none stops the others, and nothing half-made remains. (Wicked images: `test_volumes.py`.)
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.lab.vms import TINY, Vms, electros, login_as, plainly

pytestmark = pytest.mark.lab

HOST = "h1"
CURL = ("curl", "-sS", "--path-as-is", "--max-time", "10")


class Pool:
    """That of `HOST`, from outside, as somebody with root there would spoil it."""

    def __init__(self, lab: Any) -> None:
        self.lab, self.root = lab, lab.folder(HOST) / "srv"
        self.good = lab.volumes(HOST)["h1-data"]

    def put(self, meta: bytes | None = None, **fields: object) -> Path:
        """A volume like any other, but for `meta` or some fields of it."""
        vid = str(uuid4())
        folder: Path = self.root / f"{vid}.elimg"
        folder.mkdir()
        value = {"vid": vid, "name": "odd", "size": 0.125, "bootable": False, "format": "raw", "image": "data.img"}
        (folder / "meta.json").write_bytes(meta if meta is not None else json.dumps(value | fields).encode())
        with (folder / "data.img").open("wb") as image:
            image.truncate(2**27)
        return folder

    def told(self) -> str:
        done = self.lab.exec(HOST, "storaged", "volumes", check=False)
        return str(done.stdout + done.stderr)

    def listed(self) -> set[str]:
        return {volume["vid"] for volume in electros(self.lab, "volume", "ls").document["volumes"]}


@pytest.fixture
def pool(lab: Any) -> Iterator[Pool]:
    """As it was, in the end."""
    pool = Pool(lab)
    before = {*pool.root.iterdir()}
    yield pool
    for path in {*pool.root.iterdir()} - before:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@pytest.fixture
def vms(lab: Any, tmp_path: Path) -> Iterator[Vms]:
    mine = Vms(lab, tmp_path)
    yield mine
    mine.remove_all()


def vid_of(folder: Path) -> str:
    return folder.name.removesuffix(".elimg")


def is_passed_over(pool: Pool, folder: Path, until: Callable[..., Any], why: str) -> None:
    """It is named with its reason on its host, given to nobody, and the volume beside it is as it was."""
    until(lambda: vid_of(folder) in pool.told())
    line = next(line for line in pool.told().splitlines() if vid_of(folder) in line)
    assert why in line, line
    assert vid_of(folder) not in pool.listed()
    assert pool.good in pool.listed()
    assert pool.lab.daemon(HOST, "storaged")["state"] == "up"


# ---- ids that are none


@pytest.mark.parametrize("vid", ["zz", "../../etc/passwd", "ffffffff-0b9a-48f7-a6d5", "a\x1b[2Jb", "%00", "0\0"])
def test_a_vid_that_is_none_is_told_so(lab: Any, tmp_path: Path, vid: str) -> None:
    wanted = tmp_path / "wanted.json"
    wanted.write_text(json.dumps([{"vid": vid}]))
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(TINY))
    error = electros(lab, "run", str(spec), "--volumes", str(wanted), "--name", "odd", code=2).error
    assert "vid" in json.dumps(error)
    assert "\x1b" not in json.dumps(error, ensure_ascii=False)
    if "\0" not in vid:  # which no command line can hold
        assert electros(lab, "volume", "inspect", vid, code=4).error["code"] == "not-found"


@pytest.mark.parametrize("path", ["..%2f..%2fetc%2fpasswd", "../../../etc/passwd", "%00", "a%00b", "%ff", "z" * 2000])
def test_nor_is_one_at_a_storage_hosts_door(lab: Any, path: str) -> None:
    identity = f"{lab.folder('client')}/config/atomos/default"
    files = ["--cert", f"{identity}/leaf.pem", "--key", f"{identity}/key.pem", "--cacert", f"{identity}/root.pem"]
    url = f"https://10.98.0.1:7767/v1/volumes/{path}"  # of h1 in every lab
    status = lab.exec("client", *CURL, *files, "-o", "/dev/null", "-w", "%{http_code}", url).stdout
    assert status in ("400", "404")
    assert lab.daemon(HOST, "storaged")["state"] == "up"


# ---- what lies in a pool


def test_a_volume_that_is_a_link_is_not_followed(pool: Pool, until: Callable[..., Any]) -> None:
    real = pool.put()
    elsewhere = pool.root / f".{uuid4()}"
    real.rename(elsewhere)
    real.symlink_to(elsewhere.name)
    is_passed_over(pool, real, until, "link")


@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_an_image_that_is_none_is_not_opened(pool: Pool, until: Callable[..., Any], kind: str) -> None:
    folder = pool.put()
    (folder / "data.img").unlink()
    if kind == "link":
        (folder / "data.img").symlink_to("/etc/shadow")
    else:
        os.mkfifo(folder / "data.img")
    is_passed_over(pool, folder, until, "data.img")


def test_an_image_that_becomes_a_link_after_it_was_offered_goes_to_nobody(
    pool: Pool, vms: Vms, until: Callable[..., Any]
) -> None:
    folder = pool.put()
    until(lambda: vid_of(folder) in pool.listed())
    (folder / "data.img").rename(folder / "was.img")
    (folder / "data.img").symlink_to("/etc/shadow")
    ended = electros(pool.lab, *vms.arguments("odd", TINY, volumes=[vid_of(folder)]), code=None)
    assert ended.code != 0
    assert vid_of(folder).replace("-", "") in ended.err.replace("-", "")
    assert not any("/etc/shadow" in pool.lab.virsh(HOST, "dumpxml", name) for name in _domains(pool.lab))


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        (b"[" * 60_000, "meta.json"),
        (b"\x00\xff nonsense", "meta.json"),
        (b'{"vid": 7}', "meta.json"),
        (b" " * (100 * 2**20), "meta.json"),
    ],
    ids=["deep", "nonsense", "little", "100 MB"],
)
def test_metadata_that_is_none_spoils_its_own_volume_alone(
    pool: Pool, until: Callable[..., Any], meta: bytes, why: str
) -> None:
    is_passed_over(pool, pool.put(meta), until, why)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"size": 0.3}, "0.125"),
        ({"size": 0}, "size"),
        ({"size": -1}, "size"),
        ({"size": 2**33}, "size"),
        ({"shareable": True, "bootable": True}, "bootable"),
        ({"image": "../../../etc/shadow"}, "image"),
    ],
)
def test_metadata_that_makes_no_sense_spoils_its_own_volume_alone(
    pool: Pool, until: Callable[..., Any], fields: dict[str, Any], why: str
) -> None:
    is_passed_over(pool, pool.put(**fields), until, why)


def test_a_pool_that_is_unmounted_under_way_takes_its_volumes_and_brings_them_back(
    pool: Pool, until: Callable[..., Any]
) -> None:
    lab = pool.lab
    lab.exec(HOST, "mount", "-t", "tmpfs", "tmpfs", "/srv/atomos")
    try:
        until(lambda: pool.good not in pool.listed())
        assert "mount that one" in pool.told()
        assert not [*(lab.exec(HOST, "ls", "-A", "/srv/atomos").stdout.split())], "nothing is begun on what lies there"
    finally:
        lab.exec(HOST, "umount", "/srv/atomos")
    until(lambda: pool.good in pool.listed())


# ---- what is asked for


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--size", "1", "--shareable", "--bootable"], 2, "can't be bootable"),
        (["--size", "0.2"], 2, "multiple of 0.125 GB"),
        (["--size=-1"], 2, "multiple of 0.125 GB"),
        (["--size", "0"], 2, "multiple of 0.125 GB"),
        (["--size", "8589934592"], 2, "multiple of 0.125 GB"),  # 8 EiB
        (["--size", "4"], 3, "grant"),
    ],
)
def test_a_volume_that_may_not_be_is_not_made(
    lab: Any, tmp_path: Path, pool: Pool, words: list[str], code: int, why: str
) -> None:
    before = {*pool.root.iterdir()}
    lim = login_as(lab, f"lim{uuid4().hex[:8]}", tmp_path, "--volumes", "2GB")
    done = lab.exec("client", *lim, "volume", "create", "--name", "odd", *words, "-o", "json", check=False)
    assert done.returncode == code, done.stderr
    assert why in done.stderr
    assert {*pool.root.iterdir()} == before


def test_a_url_that_finds_no_room_says_how_to_ask_for_less(lab: Any, tmp_path: Path) -> None:
    """Nobody knows how large its image is before it is fetched."""
    lim = login_as(lab, f"lim{uuid4().hex[:8]}", tmp_path, "--volumes", "2GB")
    words = ["volume", "import", "http://127.0.0.1/x", "--name", "odd", "-o", "json"]
    done = lab.exec("client", *lim, *words, check=False)
    assert done.returncode == 3
    assert "16 GB were asked for; if it is less: --size 2" in json.loads(done.stderr)["error"]["hint"]
    assert "the host itself" in lab.exec("client", *lim, *words, "--size", "2", check=False).stderr


def test_a_volume_that_a_vm_has_is_neither_removed_nor_resized_nor_cloned_nor_rolled_back(lab: Any, vms: Vms) -> None:
    vid = lab.volumes(HOST)["h1-data"]
    vms.run("keeper", TINY, volumes=[vid])
    for words in (
        ["rm", "--yes", vid],
        ["resize", vid, "--size", "4"],
        ["clone", vid, "--name", "copy"],
        ["snapshot", vid, "s1"],
        ["takeover", vid],
    ):
        error = electros(lab, "volume", *words, code=None)
        assert error.code != 0, words
        assert "keeper" in error.err, words
    plainly(lab, "volume", "inspect", vid)


def test_another_users_private_volume_is_not_there_whatever_is_done_to_it(lab: Any, tmp_path: Path) -> None:
    """As one that nobody has."""
    made = electros(lab, "volume", "create", "--size", "0.125", "--name", "diary", "--private").document["volume"]
    try:
        eve = login_as(lab, f"eve{uuid4().hex[:8]}", tmp_path, "--volumes", "2GB")
        for verb in (["inspect"], ["rm", "--yes"], ["snapshots"], ["takeover"]):
            said = [
                lab.exec("client", *eve, "volume", *verb, vid, "-o", "json", check=False).stderr.replace(vid, "VID")
                for vid in (made["vid"], str(uuid4()))
            ]
            assert said[0] == said[1], verb
            assert "not-found" in said[0]
    finally:
        plainly(lab, "volume", "rm", "--yes", made["vid"])


def _domains(lab: Any) -> list[str]:
    return list(lab.virsh(HOST, "list", "--all", "--name").split())
