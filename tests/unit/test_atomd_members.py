"""A sysadmin reads what the daemon believes of the others, since when and on whose word."""

import json
from pathlib import Path

import pytest

from atomd import members
from atomd.backdoor import BackDoor
from matcher.net import local
from matcher.net.gossip.viewing import View
from matcher.wire.gossip import HostState, Says
from matcher.wire.hosts import Accusation, ListMembers, MemberRow, MemberRows
from matcher.wire.messages import Message
from tests.fakes.neighbours import host
from tests.unit.test_atomd_atomctl import run
from tests.unit.test_cli_output import HOSTILE

REFUSED = (Accusation("h3", Says.REFUSED), Accusation("h1", Says.REFUSED))
SILENT = (Accusation("h1", Says.SUSPECT), Accusation("h3", Says.GONE))


def row(number: int, state: HostState = HostState.ALIVE, *said: Accusation, **changed: object) -> MemberRow:
    fields: dict[str, object] = {"gone_in_s": -1, "incarnation": 7, "is_me": False} | changed
    return MemberRow(host(number, state), said, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (row(1), ""),
        (row(1, is_me=True), "this host"),
        (row(1, HostState.DOWN, *REFUSED), "refused by h1, h3"),
        (row(1, HostState.SUSPECT, *SILENT[:1], gone_in_s=4), "silent for h1; gone in 4 s unless it objects"),
        (row(1, HostState.GONE, *SILENT), "silent for h1; given up by h3"),
        (row(1, HostState.LEFT), "said so itself"),
        (row(1, HostState.ALIVE, REFUSED[0]), "refused by h3"),  # which is not enough, and told all the same
    ],
)
def test_it_is_said_on_whose_word_a_host_is_held_for_what(held: MemberRow, why: str) -> None:
    assert members.why(held) == why


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[MemberRow]:
    """What atomd tells, two rows in a page."""
    rows = list[MemberRow]()

    async def ask(path: Path, question: Message, answer: type[Message], *, timeout_s: float) -> Message:
        assert isinstance(question, ListMembers)
        later = sorted((each for each in rows if each.host.id > question.after), key=lambda each: each.host.id)
        return MemberRows(90 if rows else -1, tuple(later[:2]), len(later) > 2)

    monkeypatch.setattr(local, "ask", ask)
    return rows


def test_all_pages_are_listed_and_those_in_trouble_come_first(
    told: list[MemberRow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told += [row(1), row(2, HostState.DOWN, *REFUSED), row(3, is_me=True), row(4), row(5, HostState.GONE, *SILENT)]
    assert run(tmp_path, "members") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["HOST", "h2", "h5", "h1", "h3", "h4"]
    assert "daemon-down  40 s" in lines[1]
    assert lines[1].endswith("refused by h1, h3")
    assert run(tmp_path, "members", "-o", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["listens_s"] == 90
    first = document["members"][0]
    assert (first["name"], first["state"], first["state_s"]) == ("h2", "daemon-down", 40)
    assert first["accusations"] == [{"by": "h3", "says": "refused"}, {"by": "h1", "says": "refused"}]
    assert document["members"][2]["state_s"] is document["members"][2]["gone_in_s"] is None


@pytest.mark.parametrize("words", [("members",), ("members", "-o", "json")])
def test_hostile_names_reach_no_terminal(
    told: list[MemberRow], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    told.append(MemberRow(host(1, name=HOSTILE), (Accusation(HOSTILE, Says.SUSPECT),), 3, 7, False))
    assert run(tmp_path, *words) == 0
    out, err = capsys.readouterr()
    assert not {*"\x1b\x07\x9b\r\x00\u202e"} & {*out, *err}
    assert "owned" in out


def test_a_daemon_that_hears_of_nobody_is_said_to(
    told: list[MemberRow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "members") == 0
    assert "does not hear of others" in capsys.readouterr().err


async def test_the_back_door_tells_what_the_view_has() -> None:
    door = BackDoor.__new__(BackDoor)
    door.view = View()
    answer = await door.answer(ListMembers(), local.Peer(1, 0, frozenset()))
    assert answer == MemberRows(-1, (), False)
