"""What a member tells of all hosts: states, since when, how old each word is, and who holds what against whom."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from matcher.net.gossip import member as member_module
from matcher.net.gossip import viewing
from matcher.net.gossip.member import Member
from matcher.net.gossip.viewing import View
from matcher.wire.gossip import HostState, Says
from matcher.wire.hosts import MEMBERS_MAX, PAGE_MAX, HostView, MemberRow
from tests.fakes.gossip import charge, host_id, member, record


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(viewing, "now_s", made)
    monkeypatch.setattr(member_module, "now_s", made)
    return made


class Viewed:
    """Host 0's view of so many, by the real member around a real core, with no sockets."""

    def __init__(self, clock: Clock, hosts: int) -> None:
        identity = SimpleNamespace(
            folder=SimpleNamespace(), short_digest="", certificate=b"", principal=SimpleNamespace(id=host_id(0))
        )
        self.clock, self.core = clock, member(1, now_s=clock.s)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(member_module, "Parts", lambda *_: None)
            self.member = Member(cast(Any, identity), digest=lambda: record(0).alive.digest)
        self.member._core, self.member._spoke_s = self.core, clock.s
        for number in range(1, hosts):
            self.hear(number)
        self.view = View()
        self.view.member = self.member

    def hear(self, number: int, **said: Any) -> None:
        self.member._perform(self.core.heard(record(number, **said), self.clock.s))

    def hosts(self) -> dict[str, HostView]:
        return {each.name: each for page in self.view.pages() for each in page.hosts}

    def rows(self) -> dict[str, MemberRow]:
        return {row.host.name: row for row in self.view.members("").rows}


def test_before_there_is_a_member_nothing_is_known() -> None:
    (page,) = View().pages()
    assert (page.hosts, page.total, page.listens_s) == ((), 0, -1)
    assert View().members("").rows == ()


def test_how_old_a_word_is_grows_until_the_next(clock: Clock) -> None:
    viewed = Viewed(clock, 3)
    clock.s += 40
    assert {name: host.told_s for name, host in viewed.hosts().items()} == {"h0": 0, "h1": 40, "h2": 40}
    viewed.hear(1, counter=1)
    viewed.hear(2)  # which says nothing new
    clock.s += 2
    assert {name: host.told_s for name, host in viewed.hosts().items()} == {"h0": 0, "h1": 2, "h2": 42}
    assert {page.listens_s for page in viewed.view.pages()} == {42}


def test_a_claim_of_others_does_not_make_a_word_younger(clock: Clock) -> None:
    viewed = Viewed(clock, 4)
    clock.s += 40
    viewed.member._perform(viewed.core.charged(charge(1, 2, Says.SUSPECT), clock.s))
    clock.s += 3
    shown = viewed.hosts()["h2"]
    assert (shown.state, shown.state_s, shown.told_s) == (HostState.SUSPECT, 3, 43)
    row = viewed.rows()["h2"]
    assert [(each.by, each.says) for each in row.accusations] == [("h1", Says.SUSPECT)]
    assert 0 < row.gone_in_s < 20
    assert viewed.rows()["h1"].gone_in_s == -1


def test_a_daemon_that_is_down_is_told_with_its_witnesses_until_it_is_back(clock: Clock) -> None:
    viewed = Viewed(clock, 4)
    for by in (1, 3):
        viewed.member._perform(viewed.core.charged(charge(by, 2, Says.REFUSED), clock.s))
    row = viewed.rows()["h2"]
    assert row.host.state is HostState.DOWN
    assert {(each.by, each.says) for each in row.accusations} == {("h1", Says.REFUSED), ("h3", Says.REFUSED)}
    viewed.hear(2, incarnation=2)
    row = viewed.rows()["h2"]
    assert (row.host.state, row.host.state_s, row.accusations) == (HostState.ALIVE, -1, ())


def test_one_that_has_left_has_said_so_then(clock: Clock) -> None:
    viewed = Viewed(clock, 3)
    viewed.hear(1, counter=1, leaving=True)
    clock.s += 9
    shown = viewed.hosts()["h1"]
    assert (shown.state, shown.state_s, shown.told_s) == (HostState.LEFT, 9, 9)


def test_this_host_is_told_from_the_others(clock: Clock) -> None:
    viewed = Viewed(clock, 3)
    assert {name for name, row in viewed.rows().items() if row.is_me} == {"h0"}


def test_pages_and_members_are_all_hosts_once(clock: Clock) -> None:
    count = PAGE_MAX + MEMBERS_MAX
    viewed = Viewed(clock, count)
    assert [len(page.hosts) for page in viewed.view.pages()] == [PAGE_MAX, MEMBERS_MAX]
    found, after, more = list[str](), "", True
    while more:
        page = viewed.view.members(after)
        found += [row.host.id for row in page.rows]
        after, more = found[-1], page.more
    assert found == sorted(host_id(number) for number in range(count))


def test_what_is_remembered_of_hosts_has_a_limit(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "HOSTS_MAX", 5)
    viewed = Viewed(clock, 9)
    assert len(viewed.member._told) == 5
    assert viewed.hosts()["h1"].told_s == -1
