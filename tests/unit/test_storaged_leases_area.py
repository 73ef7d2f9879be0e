"""Each server of a pool has a number of its own, and says there whether a watchdog ends it."""

import os
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from storaged.beneath import Unusable
from storaged.leases import area as area_module
from storaged.leases.area import FOLDER, LOCKSPACE, MEMBERS, NEW, Area, ground_of
from storaged.leases.pools import port_of
from storaged.leases.sanlock import Sanlock
from storaged.leases.takeover import Member
from storaged.leases.words import Lease, Lockspace
from storaged.testing import H1, H2, vid_of

POOL = "a" * 32


@pytest.fixture
def area(tmp_path: Path) -> Area:
    (tmp_path / FOLDER / MEMBERS).mkdir(parents=True)
    return Area(POOL, tmp_path)


def test_servers_get_numbers_of_their_own_and_keep_them(area: Area) -> None:
    assert area.join(H1, watched=True) == 1
    assert area.join(H2, watched=True) == 2
    assert area.join(H1, watched=True) == 1
    assert area.members() == (Member(1, H1, watched=True), Member(2, H2, watched=True))


def test_what_a_server_says_of_its_watchdog_is_what_it_said_last(area: Area) -> None:
    area.join(H1, watched=True)
    area.join(H1, watched=False)
    assert area.members() == (Member(1, H1, watched=False),)


def test_who_was_slower_gets_the_next_number(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other server's link comes between the look and ours."""
    link = os.link

    def slower(new: Path, name: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        assert area.join(H2, watched=False) == 1
        link(new, name)

    monkeypatch.setattr(os, "link", slower)
    assert area.join(H1, watched=False) == 2
    assert [member.host_id for member in area.members()] == [H2, H1]
    assert sorted(os.listdir(area.folder / MEMBERS)) == ["1", "2"]


def test_a_full_pool_refuses(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(area_module, "NUMBER_MAX", 1)
    area.join(H1, watched=True)
    with pytest.raises(Unusable, match="1 servers already"):
        area.join(H2, watched=True)


@pytest.mark.parametrize("data", ["", "{}", "[]", '{"host_id": 1, "watched": true}', '{"host_id": "x", "watched": 1}'])
def test_a_damaged_member_is_nobodys_number(area: Area, data: str) -> None:
    (area.folder / MEMBERS / "1").write_text(data)
    for look in (area.members, lambda: area.join(H1, watched=True)):
        with pytest.raises(Unusable, match="damaged"):
            look()


class Never(Sanlock):
    """For what has to be refused before sanlock opens anything."""

    async def init(self, what: Lockspace | Lease) -> None:
        raise AssertionError(what)


@pytest.mark.parametrize("name", [FOLDER, f"{FOLDER}/{MEMBERS}"])
async def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unusable, match="its server alone"):
        await Area(POOL, tmp_path).open(Never())


async def test_a_folder_that_others_can_change_is_refused(area: Area) -> None:
    area.folder.chmod(0o777)
    with pytest.raises(Unusable, match="its server alone"):
        await area.open(Never())


async def test_a_path_that_sanlock_can_not_be_told_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="blank"):
        await Area(POOL, tmp_path / "my pool").open(Never())


class Made(Sanlock):
    """For what is made beside the leases."""

    async def init(self, what: Lockspace | Lease) -> None:
        await trio.lowlevel.checkpoint()


async def test_what_a_server_left_half_made_is_swept_and_what_is_being_made_is_not(area: Area) -> None:
    old, young = (area.folder / f"{NEW}{name}" for name in ("old", "young"))
    member = area.folder / MEMBERS / f"{NEW}member"
    kept = [area.folder / vid_of(1), area.folder / MEMBERS / "7"]
    for file in (old, young, member, *kept):
        file.write_text("")
        if file is not young:
            os.utime(file, (1, 1))
    await area.open(Made())
    assert not old.exists()
    assert not member.exists()
    assert young.exists()
    assert all(file.exists() for file in kept)
    assert (area.folder / LOCKSPACE).stat().st_mode & 0o077 in (0, 0o060)


def test_the_lease_of_a_volume_that_is_gone_goes_too(area: Area) -> None:
    (area.folder / vid_of(1)).write_text("")
    for _ in range(2):
        area.drop_lease(vid_of(1))
    assert not (area.folder / vid_of(1)).exists()


def test_each_pool_has_a_port_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    assert [port_of(file, pool, 7770) for pool in ("a", "b", "a", "c")] == [7770, 7771, 7770, 7772]
    assert port_of(file, "b", 8000) == 8000, "the settings say otherwise by now"
    assert port_of(file, "d", 7770) == 7771
    file.write_text("damaged")
    assert port_of(file, "b", 7770) == 7770


def test_the_ground_is_the_mounts_own(tmp_path: Path) -> None:
    assert ground_of(Path("/proc")).filesystem == "proc"
    assert "rw" in ground_of(tmp_path).options
