"""What the bench of gossip says of a system: a question that one host leaves unanswered counts as not answered."""

import os
import time

import pytest

from tests.bench.gossip.measure import Load, Rest, breaking, load, percentile
from tests.bench.gossip.rounds import Round
from tests.bench.gossip.table import table
from tests.bench.gossip.way import Way

MYSELF = [os.getpid()]


class Hosts(Way):
    """Three hosts, of which the last answers `deaf_after` questions and no more, in no time at all."""

    def __init__(self, deaf_after: int) -> None:
        super().__init__("fake", 3)
        self._deaf_after, self._asked = deaf_after, 0
        self._received: list[tuple[float, str, str]] = []

    def send(self) -> str:
        self._asked += 1
        talking = ("h0", "h1", "h2") if self._asked <= self._deaf_after else ("h0", "h1")
        self._received += [(time.monotonic(), str(self._asked), host) for host in talking]
        return str(self._asked)

    def receive(self, until_s: float) -> None:
        pass

    @property
    def kept(self) -> int:
        return len(self._received)

    def understand(self) -> None:
        for at_s, question, host in self._received:
            self.answers[question].setdefault(host, at_s)
        self._received.clear()

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.gossip.measure.ANSWERS_S", 0.01)
    monkeypatch.setattr("tests.bench.gossip.way.ANSWERS_S", 0.01)
    monkeypatch.setattr("tests.bench.gossip.measure.IDLE_WITHIN_S", 0.0)


def test_a_question_is_answered_when_all_hosts_have_answered_it() -> None:
    hosts = Hosts(deaf_after=1)
    assert hosts.ask() is not None
    assert hosts.ask() is None


def test_under_load_what_one_host_left_unanswered_is_counted() -> None:
    seen = load(Hosts(deaf_after=4), MYSELF, 1000.0, 0.01, resting_share=0.0)
    assert (seen.sent, seen.complete, seen.share) == (10, 4, 0.4)


def test_the_rate_at_which_a_system_breaks_is_the_last_that_is_tried() -> None:
    seen = breaking(Hosts(deaf_after=25), MYSELF, (1000.0, 2000.0, 4000.0), 0.01, resting_share=0.0)
    assert [each.complete == each.sent for each in seen] == [True, False]


def test_an_answer_that_comes_late_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.bench.gossip.measure.ANSWERS_S", -1.0)
    assert load(Hosts(deaf_after=99), MYSELF, 1000.0, 0.01, resting_share=0.0).complete == 0


def test_one_figure_is_its_own_percentile_and_none_is_no_figure() -> None:
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) != percentile([], 50)


def a_round(ours_ms: float) -> Round:
    rest = Rest(10.0, 1.0, 0.001, 40.0)
    at = [Load(10.0, 10, 10, 5.0, 9.0, 2.0), Load(20.0, 10, 9, 5.0, 9.0, 2.0)]
    return Round(
        asked={"ours": [ours_ms, ours_ms], "signed floor": [10.0, None], "floor": [5.0], "serf": [1000.0]},
        loads={"ours": at, "signed floor": at, "serf": at},
        half=at[0],
        rests={"ours": rest, "serf": rest},
        placed=[20.0, None],
        sustained=[20.0],
        sustained_per_s=60.0,
    )


@pytest.mark.parametrize(("ours_ms", "verdict"), [(20.0, "met"), (21.0, "NOT met")])
def test_the_table_says_which_goals_are_not_met(ours_ms: float, verdict: str) -> None:
    line = next(line for line in table([a_round(ours_ms)]).splitlines() if "p50 / signed floor's " in line)
    assert line.split("goal ≤ 2", 1)[1].strip() == verdict


def test_the_table_tells_what_was_missed() -> None:
    lines = {" ".join(line.split()) for line in table([a_round(20.0)]).splitlines()}
    assert "missed 0 1 0 0" in lines
    assert "not placed 1" in lines
    assert "all answered fully up to, /s 10 10 10" in lines
