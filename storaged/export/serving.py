"""What all exporters with a server do alike: remember what is wanted, take turns, give up in time, converge.

A driver says how its server is asked to make, find and remove one export; nothing of that runs while something else of
it does. What is asked of a server that does not answer in time is *unknown*: it may yet happen, and `_converge`, called
whenever the server is looked at, makes it good.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TypeVar

import trio

from specs.ids import Vid
from storaged.export.description import Access, Cut, Export, Image, Observed, Refused, Unknown
from storaged.export.exporter import Problems
from storaged.export.wanted import Wanted
from storaged.looking import Hangs, Looks
from storaged.volume import Epoch

CALL_S = 4.0  # for one export or cut, with the wait for its turn
AGAIN_S = 0.02  # between two looks at what is still busy

T = TypeVar("T")


class Silent(Exception):
    """No answer can be had from the server: the message says why."""


class Rejected(Exception):
    """The server's no to one request, in a sentence."""


class Serving(ABC):
    """Most of an `Exporter`."""

    def __init__(self, call_s: float) -> None:
        self._call_s = call_s
        self._turn = trio.Lock()
        self._looks = Looks()
        self._wanted = Wanted()

    @abstractmethod
    def _unfit(self, export: Export) -> Refused | None:
        """Why it can't be exported this way, whatever the server says."""

    @abstractmethod
    async def _look(self, vid: Vid | None = None) -> frozenset[Observed]:
        """What the server has of ours, or of one volume. Raises `Silent` or `Rejected`, as all of these do."""

    @abstractmethod
    async def _make(self, export: Export, found: frozenset[Observed]) -> Refused | None:
        """Make it, which is not there; `found` are others of its volume. `Refused` only where nothing of it remains."""

    @abstractmethod
    async def _remove(self, name: str) -> None:
        """Return when the server no longer has the target."""

    @abstractmethod
    def _is_dead(self) -> bool:
        """Whether it is certain that the server's process is gone."""

    @abstractmethod
    def _still_open(self, image: Image) -> str:
        """Why what the server has let go of may yet be written to; empty when it can't. In a thread."""

    @abstractmethod
    def _access(self, export: Export) -> Access: ...

    async def observe(self) -> frozenset[Observed] | Unknown:
        return await self._in_time(self._look)

    async def export(self, export: Export) -> Access | Refused | Unknown:
        refusal = self._unfit(export) or self._wanted.want(export)
        if refusal is not None:
            return refusal
        answer = await self._made(export)
        if isinstance(answer, Refused):
            self._wanted.forget(export)
        return answer

    async def cut(self, image: Image, epoch: Epoch | None = None) -> Cut | Unknown:
        self._wanted.let_go(image, epoch)
        deadline_s = trio.current_time() + self._call_s
        ended = await self._in_time(partial(self._end, image, epoch))
        if isinstance(ended, Unknown):
            return ended
        while why := await self._why_open(image):
            if trio.current_time() >= deadline_s:
                return Unknown(f"volume {image.vid}: {why}")
            await trio.sleep(AGAIN_S)
        return Cut()

    async def _why_open(self, image: Image) -> str:
        try:
            return await self._looks.at(image.pool, lambda: self._still_open(image))
        except Hangs as problem:
            return f"whether it is closed can't be seen: {problem}"

    async def reconcile(self, wanted: Collection[Export]) -> Problems:
        self._wanted.tell(wanted)
        return await self._converge()

    async def _converge(self) -> Problems:
        """What can't be made now stays wanted: a pool may be mounted later."""
        problems: dict[str, Refused | Unknown] = {}
        found = await self.observe()
        if isinstance(found, Unknown):
            return dict.fromkeys(self._wanted, found)
        for seen in self._wanted.too_many(found):
            gone = await self._in_time(partial(self._remove, seen.target))
            if isinstance(gone, Unknown):
                problems[seen.target] = gone
        for export in self._wanted.missing(found):
            made = await self._made(export)
            if not isinstance(made, Access):
                problems[export.target] = made
        return problems

    async def _made(self, export: Export) -> Access | Refused | Unknown:
        answer = await self._in_time(partial(self._ensure, export))
        return answer or self._access(export)

    async def _ensure(self, export: Export) -> Refused | Unknown | None:
        if export.target not in self._wanted:
            return Unknown("it was cut meanwhile")
        found = await self._look(export.image.vid)
        mine = next((seen for seen in found if seen.target == export.target), None)
        if mine is not None and mine.serves(export):
            return None
        if mine is not None:
            await self._remove(mine.target)
        return await self._make(export, found - {mine})

    async def _end(self, image: Image, epoch: Epoch | None) -> None:
        try:
            for seen in await self._look(image.vid):
                if epoch in (None, seen.epoch):
                    await self._remove(seen.target)
        except Silent:
            if not self._is_dead():
                raise

    async def _in_time(self, work: Callable[[], Awaitable[T]]) -> T | Unknown:
        """`work` in its turn, or *unknown*: what was asked may yet happen."""
        with trio.move_on_after(self._call_s):
            async with self._turn:
                try:
                    return await work()
                except (Silent, Rejected) as problem:
                    return Unknown(str(problem))
        return Unknown(f"its server has not done it within {self._call_s:g} s")
