"""A VM whose host is silent: it runs again elsewhere where that host is gone, or where a person says so."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from matcher.cli.failures import Exit, Failure
from matcher.cli.records import Record
from matcher.cli.rerun import SAID, judge
from matcher.cli.session import session
from matcher.wire.gossip import HostState
from specs.ids import HostId, VmId
from tests.fakes.hosts import Link, keyboard
from tests.fakes.neighbours import host
from tests.unit.test_cli_hosts import hear_of_all, tell, views_of


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """ada is at the keyboard; h0 and h1 are on her link. h7, where web was, is silent."""
    with keyboard(tmp_path, monkeypatch, "h1") as link:
        yield link


LOST = host(7)
KEPT = Record(VmId("a" * 32), 1, "web", "h7", HostId(LOST.id), (), frozenset(), frozenset(), "{}")


def test_a_host_that_is_gone_is_no_obstacle_nor_one_that_nobody_knows(link: Link) -> None:
    hear_of_all(link)
    for told in (host(7, HostState.GONE),), ():
        tell(link, *views_of(link, *told))
        with session() as mine:
            judge(mine, KEPT)


@pytest.mark.parametrize("state", [state for state in HostState if state is not HostState.GONE])
def test_a_host_in_any_other_state_may_be_running_it(link: Link, state: HostState) -> None:
    hear_of_all(link)
    tell(link, *views_of(link, host(7, state)))
    with session() as mine, pytest.raises(Failure) as raised:
        judge(mine, KEPT)
    said = raised.value
    assert re.fullmatch(rf"h7 is {SAID[state]}, as h[01] has heard: web may be running there", said.message)
    assert (said.exit_code, said.code) == (Exit.FAILED, "host-not-gone")
    assert "electros start web --elsewhere --host-is-dead" in said.helps


def test_a_host_that_answers_for_itself_lives_whatever_others_say(link: Link) -> None:
    hear_of_all(link)
    mine_view, other = views_of(link)
    tell(link, mine_view, replace(other, state=HostState.GONE), listens_s=1)
    with session() as mine, pytest.raises(Failure, match=f"{other.name} is alive"):
        judge(mine, replace(KEPT, host=other.name, host_id=other.id))
