"""The link between clients and hosts: datagrams that get lost, doubled, late and out of order; HTTPS that breaks."""

from collections.abc import Callable
from random import Random
from typing import TypeVar

from matcher.scheduler.placing import CONFIRM_REPEAT_S, CONNECT_S
from tests.sim.faults import Faults
from tests.sim.timeline import Timeline

QUICK_S = (0.0002, 0.003)
LATE_S = (0.05, 3.0)
RETRANSMITTED_S = (0.1, 12.0)  # a request outlives the client that has closed its connection

Answer = TypeVar("Answer")


class Network:
    def __init__(self, timeline: Timeline, random: Random, faults: Faults) -> None:
        self.faults = faults
        self._timeline, self._random = timeline, random

    def datagram(self, deliver: Callable[[], None], *, cut: bool) -> None:
        """`deliver` is called once, twice, late, or never."""
        for when_s in self.arrivals_s(cut=cut):
            self._timeline.at(when_s, deliver)

    def arrivals_s(self, *, cut: bool) -> tuple[float, ...]:
        """When one datagram that is sent now arrives: once, twice, late, or never."""
        if cut or self._happens(self.faults.loss):
            return ()
        arrives_s = self._timeline.now_s + self._delay_s()
        if not self._happens(self.faults.duplication):
            return (arrives_s,)
        return arrives_s, self._timeline.now_s + self._delay_s()

    def request(
        self,
        is_cut: Callable[[], bool],
        is_up: Callable[[], bool],
        arrive: Callable[[Callable[[Answer], None]], None],
        *,
        answered: Callable[[Answer], None],
        failed: Callable[[bool], None],
        timeout_s: float = CONFIRM_REPEAT_S,
    ) -> None:
        """One question at a front door. At the client, `answered` or `failed(sent)` is called, once; at the host,
        `arrive(reply)` may be called never, once or twice, and long after the client has given up."""
        if is_cut():
            self._timeline.after(CONNECT_S, lambda: failed(False))
            return
        if not is_up():  # the port is closed
            self._timeline.after(self._delay_s(), lambda: failed(False))
            return
        attempt = _Attempt(answered, failed)
        self._timeline.after(timeout_s, lambda: attempt.fail())

        def reply(answer: Answer) -> None:
            if not is_cut() and not self._happens(self.faults.loss):
                self._timeline.after(self._delay_s(), lambda: attempt.answer(answer))

        def reach() -> None:
            if is_up():
                arrive(reply)
            else:
                attempt.fail()  # the connection is reset

        if not self._happens(self.faults.loss):
            self._timeline.after(self._delay_s(), reach)
        elif self._happens(0.5):
            self._timeline.after(self._random.uniform(*RETRANSMITTED_S), reach)
        if self._happens(self.faults.duplication):
            self._timeline.after(self._random.uniform(*RETRANSMITTED_S), reach)

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance

    def _delay_s(self) -> float:
        return self._random.uniform(*(LATE_S if self._happens(self.faults.delay) else QUICK_S))


class _Attempt:
    """How it ends is told once."""

    def __init__(self, answered: Callable[[Answer], None], failed: Callable[[bool], None]) -> None:
        self._answered, self._failed = answered, failed
        self._over = False

    def answer(self, answer: Answer) -> None:
        if not self._over:
            self._over = True
            self._answered(answer)  # type: ignore[arg-type]

    def fail(self) -> None:
        if not self._over:
            self._over = True
            self._failed(True)
