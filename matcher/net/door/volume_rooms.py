"""The rooms for volumes: what users ask of a storage host. A `Store` decides."""

from starlette.responses import Response

from matcher.net.door.asking import Asking, Handler, granted, said
from matcher.net.door.behind import Store
from matcher.wire.volumes import Detach


class VolumeRooms:
    def __init__(self, store: Store) -> None:
        self._store = store

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {
            "volumes": self._volumes,
            "volume": self._volume,
            "attach": self._attach,
            "detach": self._detach,
        }

    async def _volumes(self, asking: Asking) -> Response:
        return said(await self._store.volumes(asking.caller))

    async def _volume(self, asking: Asking) -> Response:
        return said(granted(await self._store.volume(asking.vid, asking.caller)))

    async def _attach(self, asking: Asking) -> Response:
        return said(granted(await self._store.attach(await asking.body(), asking.caller)))

    async def _detach(self, asking: Asking) -> Response:
        return said(granted(await self._store.detach(await asking.message(Detach), asking.caller)))
