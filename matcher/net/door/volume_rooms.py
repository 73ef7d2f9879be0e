"""The rooms for volumes: what users ask of a storage host. A `Store` decides."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from starlette.responses import Response

from matcher.net.door.asking import Asking, Handler, News, granted, said
from matcher.net.door.behind import Store, Work
from matcher.wire.codec import to_json
from matcher.wire.volumes import (
    ChangeVolume,
    CloneVolume,
    Detach,
    DropSnapshot,
    ImportVolume,
    NewSeed,
    NewVolume,
    RollBack,
    TakeSnapshot,
)
from specs.ids import Vid


class VolumeRooms:
    def __init__(self, store: Store) -> None:
        self._store = store

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {
            "volumes": self._volumes,
            "volume": self._volume,
            "new_volume": self._create,
            "import_volume": self._import,
            "upload": self._upload,
            "change_volume": self._change,
            "clone_volume": self._clone,
            "remove_volume": self._remove,
            "cancel": self._cancel,
            "take_over": self._take_over,
            "new_seed": self._seed,
            "snapshots": self._snapshots,
            "take_snapshot": partial(self._snapshot, TakeSnapshot),
            "drop_snapshot": partial(self._snapshot, DropSnapshot),
            "roll_back": partial(self._snapshot, RollBack),
            "attach": self._attach,
            "detach": self._detach,
        }

    async def _volumes(self, asking: Asking) -> Response:
        return said(await self._store.volumes(asking.caller))

    async def _volume(self, asking: Asking) -> Response:
        return said(granted(await self._store.volume(asking.vid, asking.caller)))

    async def _create(self, asking: Asking) -> Response:
        return _told(granted(await self._store.create(await asking.message(NewVolume), asking.caller)))

    async def _import(self, asking: Asking) -> Response:
        return _told(granted(await self._store.import_(await asking.message(ImportVolume), asking.caller)))

    async def _upload(self, asking: Asking) -> Response:
        async with aclosing(asking.pieces()) as pieces:
            return said(granted(await self._store.upload(asking.vid, pieces, asking.caller)))

    async def _change(self, asking: Asking) -> Response:
        change = await asking.message(ChangeVolume)
        return _told(granted(await self._store.change(asking.vid, change, asking.caller)))

    async def _clone(self, asking: Asking) -> Response:
        clone = await asking.message(CloneVolume)
        return _told(granted(await self._store.clone(asking.vid, clone, asking.caller)))

    async def _remove(self, asking: Asking) -> Response:
        return _told(granted(await self._store.remove(asking.vid, asking.caller)))

    async def _cancel(self, asking: Asking) -> Response:
        return said(granted(await self._store.cancel(asking.vid, asking.caller)))

    async def _take_over(self, asking: Asking) -> Response:
        is_said_dead = asking.query("0") == "1"
        return said(granted(await self._store.take_over(asking.vid, asking.caller, is_said_dead=is_said_dead)))

    async def _seed(self, asking: Asking) -> Response:
        return _told(granted(await self._store.seed(await asking.message(NewSeed), asking.caller)))

    async def _snapshots(self, asking: Asking) -> Response:
        return said(granted(await self._store.snapshots(asking.vid, asking.caller)))

    async def _snapshot(self, kind: type[TakeSnapshot | RollBack | DropSnapshot], asking: Asking) -> Response:
        return _told(granted(await self._store.snapshot(asking.vid, await asking.message(kind), asking.caller)))

    async def _attach(self, asking: Asking) -> Response:
        without = [Vid(vid) for vid in asking.query().split(",") if vid]
        return said(granted(await self._store.attach(await asking.body(), asking.caller, without)))

    async def _detach(self, asking: Asking) -> Response:
        return said(granted(await self._store.detach(await asking.message(Detach), asking.caller)))


def _told(work: Work) -> Response:
    return News(_lines(work))


async def _lines(work: Work) -> AsyncGenerator[str, None]:
    async with aclosing(work.lines()) as lines:
        async for line in lines:
            yield to_json(line) + "\n"
