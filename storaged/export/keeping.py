"""Keeps a server alive: found or started, looked at, ended when it no longer answers, started again.

    (none) --found, or started--> starting --answers--> up --silent for HUNG_S--> killed --> (none)
                                                         '--ends, however--> (none), started again after a delay

What it has to serve is told again each time that it comes up, and whenever it is looked at.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from storaged.export.child import Child, Command
from storaged.export.exporter import Problems

DELAY_S = 0.1
DELAY_MAX_S = 2.0
STEADY_S = 10.0  # up for this long: the delay starts small again
READY_POLL_S = 0.01
LOOK_S = 2.0
HUNG_S = 10.0  # no answer for this long, and it serves nobody: a new one does

log = logging.getLogger("storaged")


class Kept:
    """One server. `answers` is true when it can be asked; `converge` makes its exports as they are wanted."""

    def __init__(
        self,
        name: str,
        command: Command,
        answers: Callable[[], Awaitable[bool]],
        converge: Callable[[], Awaitable[Problems]],
    ) -> None:
        self._name, self._command, self._answers, self._converge = name, command, answers, converge
        self._delay_s = 0.0
        self._has_started = False
        self._told: Problems = {}

    @property
    def command(self) -> Command:
        return self._command

    @property
    def pid(self) -> int | None:
        """Its process now; `None` is proof that there is none."""
        child = Child.find(self._command)
        if child is None:
            return None
        child.close()
        return child.pid

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever. Says *started* when the server answers for the first time."""
        while True:
            child = await self._begin()
            begun_s = trio.current_time()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, child, task_status)
                    await child.ended()
                    nursery.cancel_scope.cancel()
            finally:
                child.close()
            if trio.current_time() - begun_s > STEADY_S:
                self._delay_s = 0.0
            await self._rest(f"{self._name} (pid {child.pid}) has ended")

    async def _rest(self, why: str) -> None:
        self._delay_s = min(max(self._delay_s * 2, DELAY_S), DELAY_MAX_S)
        log.warning("%s; again in %.1f s", why, self._delay_s)
        await trio.sleep(self._delay_s)

    async def _begin(self) -> Child:
        while True:
            found = await trio.to_thread.run_sync(Child.find, self._command)  # who listens may stand still
            if found is not None:
                log.info("%s runs (pid %d)", self._name, found.pid)
                return found
            try:
                return Child.start(self._command)
            except OSError as problem:
                await self._rest(f"{self._command.words[0]} can't be started: {problem.strerror}")

    async def _watch(self, child: Child, task_status: trio.TaskStatus[None]) -> None:
        answered_s = trio.current_time()
        pause_s = READY_POLL_S
        while trio.current_time() - answered_s < HUNG_S:
            is_up = False
            with trio.move_on_after(LOOK_S):
                is_up = await self._answers()
            if is_up:
                answered_s, pause_s = trio.current_time(), LOOK_S
                with trio.move_on_after(HUNG_S):  # what is left of it is done at the next look
                    self._tell(await self._converge())
                if not self._has_started:
                    self._has_started = True
                    task_status.started()
            await trio.sleep(pause_s)
        log.error("%s (pid %d) has not answered for %g s: killed", self._name, child.pid, HUNG_S)
        child.kill()
        await trio.sleep_forever()

    def _tell(self, problems: Problems) -> None:
        """Once, and again when they change."""
        if problems != self._told:
            self._told = problems
            for target, problem in problems.items():
                log.warning("%s does not serve %s: %s", self._name, target, problem)
