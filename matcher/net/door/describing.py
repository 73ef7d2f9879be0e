"""A door's own description, for programs."""

import json
from collections.abc import Collection
from functools import cache

import trio
from starlette.responses import Response

from matcher.net.door import openapi
from matcher.net.door.asking import Asking, Handler
from matcher.net.door.routes import ROUTES

OPENAPI = "openapi"


def described(names: Collection[str]) -> dict[str, Handler]:
    """The room that describes a door with the routes of these names, by its own."""
    document = cache(lambda: _document(frozenset(names)))

    async def describe(_: Asking) -> Response:
        return Response(await trio.to_thread.run_sync(document), media_type="application/json")

    return {OPENAPI: describe}


def _document(names: frozenset[str]) -> bytes:
    """45 ms, and so in a thread."""
    return json.dumps(openapi.document([route for route in ROUTES if route.name in names])).encode()
