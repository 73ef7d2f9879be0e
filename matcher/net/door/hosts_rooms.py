"""The room of the realm's hosts, as this one sees them: for whoever may ask for their resources.

The list is written in parts, and others have their turn between them: it may have thousands of rows.
"""

from collections.abc import AsyncGenerator

from matcher.net.door.asking import Asking, Handler, News
from matcher.net.door.behind import Neighbours
from matcher.wire.codec import to_json


class HostsRooms:
    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {"hosts": self._hosts}

    async def _hosts(self, _: Asking) -> News:
        return News(self._lines())

    async def _lines(self) -> AsyncGenerator[str, None]:
        for page in self._neighbours.pages():
            yield to_json(page) + "\n"
