"""Each server of a pool has a number of its own, and says there whether a watchdog ends it."""

import os
from pathlib import Path

import pytest

from storaged.beneath import Unusable
from storaged.leases import area as area_module
from storaged.leases.area import FOLDER, MEMBERS, Area, ground_of
from storaged.leases.takeover import Member
from storaged.testing import H1, H2

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


def test_the_ground_is_the_mounts_own(tmp_path: Path) -> None:
    assert ground_of(Path("/proc")).filesystem == "proc"
    assert "rw" in ground_of(tmp_path).options
