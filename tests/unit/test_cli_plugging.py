"""`electros volume attach, detach`: what is not known yet is asked again, and nobody waits for minutes."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from matcher.cli import plugging
from matcher.cli.failures import Exit, Failure

UNKNOWN = Failure(Exit.TIMEOUT, "h1 did not give web data: it is not known yet", code="unavailable")
DENIED = Failure(Exit.NO_HOST_FITS, "h1 did not give web data: another's", code="denied")


class Host:
    """Answers each question with the next of `answers`, each after so many seconds."""

    def __init__(self, *answers: tuple[float, object]) -> None:
        self.now_s, self.asked, self._answers = 0.0, 0, [*answers]

    def ask(self, *_: object, **__: object) -> object:
        took_s, answer = self._answers[self.asked]
        self.asked, self.now_s = self.asked + 1, self.now_s + took_s
        if isinstance(answer, Failure):
            raise answer
        return answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Host], object]:
    def ask(host: Host) -> object:
        monkeypatch.setattr(plugging, "time", SimpleNamespace(monotonic=lambda: host.now_s))
        mine: Any = host
        found: Any = SimpleNamespace(door=None, vm=SimpleNamespace(name="web"))
        return plugging._asked(mine, found, "give web data", "POST", "/v1/vms/x/volumes", b"")

    return ask


def test_what_was_not_known_is_asked_again(asked: Callable[[Host], object]) -> None:
    host = Host((5, UNKNOWN), (1, "done"))
    assert asked(host) == "done"


def test_so_many_times_and_no_more(asked: Callable[[Host], object]) -> None:
    host = Host(*[(1, UNKNOWN)] * 9)
    with pytest.raises(Failure) as failure:
        asked(host)
    assert host.asked == plugging.AGAIN_MAX
    assert (failure.value.code, failure.value.message) == ("unknown", UNKNOWN.message)
    assert failure.value.helps == "electros inspect web shows what became of it"


def test_a_host_that_did_not_know_it_for_long_is_not_waited_for_again(asked: Callable[[Host], object]) -> None:
    host = Host((50, UNKNOWN), (50, UNKNOWN))
    with pytest.raises(Failure) as failure:
        asked(host)
    assert (host.asked, failure.value.code) == (1, "unknown")


def test_a_no_is_a_no(asked: Callable[[Host], object]) -> None:
    host = Host((1, DENIED), (1, "done"))
    with pytest.raises(Failure) as failure:
        asked(host)
    assert (host.asked, failure.value.code) == (1, "denied")
