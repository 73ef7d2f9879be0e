"""The rooms of the realm: what its members ask of a host's desk, and the door's own description."""

import json
from functools import cache

import trio
from starlette.responses import Response

from matcher.net.door import openapi
from matcher.net.door.asking import Asking, Denied, Handler, granted, octets, refused, said
from matcher.net.door.behind import Desk
from matcher.wire.realm import ChangeGrant, InviteHost, InviteUser, Renew, Revoke


class RealmRooms:
    """`desk` is `None` where nothing of the realm can be asked."""

    def __init__(self, desk: Desk | None) -> None:
        self._with_desk = desk

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {
            "openapi": self._openapi,
            "status": self._status,
            "bundle": self._bundle,
            "offer": self._offer,
            "renew": self._renew,
            "invite_host": self._invite_host,
            "invite_user": self._invite_user,
            "change_grant": self._change_grant,
            "revoke": self._revoke,
            "make_issuer": self._make_issuer,
            "members": self._members,
        }

    @property
    def _desk(self) -> Desk:
        if self._with_desk is None:
            raise Denied(refused("unavailable", "realm", "the realm's desk", "this host has none", "ask another host"))
        return self._with_desk

    async def _openapi(self, _: Asking) -> Response:
        return Response(await trio.to_thread.run_sync(_document), media_type="application/json")

    async def _status(self, _: Asking) -> Response:
        return said(self._desk.status())

    async def _bundle(self, _: Asking) -> Response:
        return octets(self._desk.bundle())

    async def _offer(self, asking: Asking) -> Response:
        return said(granted(await self._desk.offer(await asking.body(), asking.caller)))

    async def _renew(self, asking: Asking) -> Response:
        return said(granted(await self._desk.renew(await asking.message(Renew), asking.caller, asking.leaf)))

    async def _invite_host(self, asking: Asking) -> Response:
        return said(granted(await self._desk.invite_host(await asking.message(InviteHost), asking.caller)))

    async def _invite_user(self, asking: Asking) -> Response:
        return said(granted(await self._desk.invite_user(await asking.message(InviteUser), asking.caller)))

    async def _change_grant(self, asking: Asking) -> Response:
        return said(granted(await self._desk.change_grant(await asking.message(ChangeGrant), asking.caller)))

    async def _revoke(self, asking: Asking) -> Response:
        return said(granted(await self._desk.revoke(await asking.message(Revoke), asking.caller)))

    async def _make_issuer(self, asking: Asking) -> Response:
        return said(granted(await self._desk.make_issuer(asking.caller)))

    async def _members(self, asking: Asking) -> Response:
        return said(granted(self._desk.members(asking.caller)))


@cache
def _document() -> bytes:
    """45 ms the first time, and so in a thread."""
    return json.dumps(openapi.document()).encode()
