"""`electros volume`: what several storage hosts have is one list, and one volume is found by name, UUID or prefix."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from matcher.cli import image, importing, making, reshaping, volume
from matcher.cli.failures import Exit, Failure
from matcher.wire.messages import ImageFormat, Reason, Refused, Role, VmViews
from matcher.wire.realm import Done
from matcher.wire.volumes import VolumeView, VolumeViews
from specs.ids import dashed
from tests.fakes.door import VM
from tests.fakes.hosts import Host, Link, keyboard


def view(digit: str, name: str, host: str, **more: Any) -> VolumeView:
    traits = {"bootable": False, "private": False, "shareable": False, "readonly": False}
    known = {"owner": None, "host_id": "1" * 64, "pool": "/srv/atomos", "state": "free", **traits, **more}
    return VolumeView(vid=digit * 32, name=name, size_mib=1152, format=ImageFormat.RAW, host=host, **known)


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    with keyboard(tmp_path, monkeypatch, "h1", "h2") as link:
        for name in ("h1", "h2"):
            link.hosts.append(Host(link, link.realm[name], role=Role.STORAGE))
        has(link, "h1", view("a", "data", "h1", state="attached", vms=("web",)), view("b", "database", "h1"))
        has(link, "h2", view("c", "boot", "h2", bootable=True, readonly=True))
        yield link


def has(link: Link, name: str, *views: VolumeView, left_out: int = 0) -> None:
    storage = next(host for host in link.hosts if host.name == name and host.role is Role.STORAGE)
    storage.answers["GET /v1/volumes"] = VolumeViews(views, left_out)


def computes(link: Link, name: str, vm_id: str) -> None:
    """The host has a VM of mine."""
    link[name].answers["GET /v1/vms"] = VmViews((replace(VM, id=vm_id),))


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_volumes_of_all_storage_hosts_are_one_list(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    volume.ls(output="json")
    shown = printed(capsys)["volumes"]
    assert [(each["name"], each["host"], each["size_gb"]) for each in shown] == [
        ("boot", "h2", 1.125),
        ("data", "h1", 1.125),
        ("database", "h1", 1.125),
    ]
    volume.ls()
    table = capsys.readouterr().out
    assert "bootable,readonly" in table
    assert "attached: web" in table
    assert "1.125 GB" in table


def test_a_seed_whose_vm_no_host_has_is_told_of_with_the_command_that_removes_it(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    private = {"private": True, "readonly": True, "owner": link.realm["ada"].principal.id}
    gone, living, held = "d" * 32, "e" * 32, "f" * 32
    seeds = [
        view("1", "gone-seed", "h1", goes_with=gone, **private),
        view("2", "living-seed", "h1", goes_with=living, **private),
        view("4", "anothers", "h1", goes_with=gone, owner="9" * 64),
        view("3", "held-seed", "h1", goes_with=held, state="attached", **private),
    ]
    has(link, "h1", *seeds)
    computes(link, "h2", living)
    volume.ls()
    told = capsys.readouterr().err
    assert f"electros volume rm {dashed('1' * 32)}" in told
    assert "living-seed" not in told
    assert "anothers" not in told
    assert f"takeover {dashed('3' * 32)} --host-is-dead; electros volume rm {dashed('3' * 32)}" in told
    assert f"takeover {dashed('1' * 32)}" not in told


def test_what_does_not_fit_one_answer_is_told_of(link: Link, capsys: pytest.CaptureFixture[str]) -> None:
    has(link, "h2", left_out=7)
    volume.ls()
    assert "h2 has 7 more" in capsys.readouterr().err


@pytest.mark.parametrize("meant", ["data", "a" * 32, "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "AAAA"])
def test_a_volume_is_found_by_name_uuid_or_the_start_of_it(
    link: Link, capsys: pytest.CaptureFixture[str], meant: str
) -> None:
    volume.inspect(meant, output="json")
    assert printed(capsys)["volume"]["vid"].startswith("aaaaaaaa-")


def test_a_name_that_could_be_several_says_which(link: Link) -> None:
    with pytest.raises(Failure, match=r"data \(aaaaaaaa on h1\), database \(bbbbbbbb on h1\)") as failed:
        volume.inspect("dat")
    assert failed.value.exit_code == Exit.USAGE


def test_a_name_that_nobody_has_is_not_found(link: Link) -> None:
    with pytest.raises(Failure, match='no volume in reach is named "nothing"') as failed:
        volume.inspect("nothing")
    assert failed.value.exit_code == Exit.NOT_FOUND


def test_hosts_without_storage_are_told_as_such(link: Link) -> None:
    link.hosts[:] = [host for host in link.hosts if host.role is not Role.STORAGE]
    with pytest.raises(Failure, match="no host in reach has volumes") as failed:
        volume.ls()
    assert failed.value.exit_code == Exit.UNREACHABLE


def test_a_refusal_of_a_storage_host_is_a_sentence(link: Link) -> None:
    storage = link.hosts[-1]
    storage.answers["GET /v1/volumes"] = Refused("denied", (Reason("grant", "GET", "your grant lacks it", ""),))
    with pytest.raises(Failure, match="your grant lacks it") as failed:
        volume.ls()
    assert failed.value.exit_code == Exit.DENIED


# ---- one that several servers serve


@pytest.mark.parametrize("lender", ["h1", "h2", ""])
def test_what_two_servers_serve_is_one_volume_at_the_one_that_has_given_it_away(
    link: Link, capsys: pytest.CaptureFixture[str], lender: str
) -> None:
    ids = {"h1": "1" * 64, "h2": "2" * 64}
    for host, host_id in ids.items():
        state = "attached" if lender else "bad" if host == "h1" else "free"
        has(link, host, view("d", "ours", host, host_id=host_id, state=state, shared=True, lent_by=ids.get(lender)))
    volume.inspect("ours", output="json")
    assert printed(capsys)["volume"]["host"] == (lender or "h2")
    volume.ls(output="json")
    assert len(printed(capsys)["volumes"]) == 2


def test_a_copy_that_two_hosts_have_each_for_itself_is_for_a_person_to_sort_out(link: Link) -> None:
    for host, digit in (("h1", "1"), ("h2", "2")):
        has(link, host, view("d", "twice", host, host_id=digit * 64))
    with pytest.raises(Failure, match="could be several volumes"):
        volume.inspect("twice")


def test_a_takeover_from_a_server_that_is_away_is_for_another_to_judge(
    link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says whether a person has to know that the server is dead."""
    ours = view("d", "ours", "h1", state="attached", vms=("web",), shared=True, lent_by="2" * 64)
    has(link, "h1", ours)
    storage = next(host for host in link.hosts if host.name == "h1" and host.role is Role.STORAGE)
    for dead in (0, 1):
        storage.answers[f"POST /v1/volumes/{'d' * 32}/takeover?dead={dead}"] = Done(f"dead: {dead}")
        reshaping.takeover("ours", host_is_dead=bool(dead))
        assert f"dead: {dead}" in capsys.readouterr().err
    has(link, "h1", replace(ours, lent_by=ours.host_id))
    with pytest.raises(Failure, match="your VM web has it"):
        reshaping.takeover("ours")


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\x1b[31mb"])
def test_a_name_that_nobody_could_say_is_told_before_anybody_is_asked(link: Link, name: str) -> None:
    with pytest.raises(Failure, match="can't be a volume's name") as failure:
        making.create(size=1, name=name)
    assert failure.value.exit_code is Exit.USAGE
    with pytest.raises(Failure, match="can't be a volume's name"):
        reshaping.rename("database", name)


def test_a_volume_that_is_no_image_is_not_removed_as_one(link: Link) -> None:
    with pytest.raises(Failure, match="database is no image") as failure:
        image.rm("boot", "database", yes=True)
    assert failure.value.exit_code is Exit.USAGE
    assert all(not asked.startswith("DELETE") for host in link.hosts for asked in host.asked)


def test_what_is_no_file_is_not_waited_for(link: Link, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Failure, match="is no file") as failure:
        importing.import_(str(tmp_path / "fifo"), name="data")
    assert failure.value.exit_code is Exit.USAGE
