"""The rooms of the realm: what its members ask of a host's board, or its desk."""

from starlette.responses import Response

from matcher.net.door.asking import Asking, Handler, granted, octets, said
from matcher.net.door.behind import Board, Desk
from matcher.wire.realm import ChangeGrant, InviteHost, InviteUser, Renew, Revoke


class BoardRooms:
    """What every host has of its realm."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {"status": self._status, "bundle": self._bundle, "offer": self._offer}

    async def _status(self, _: Asking) -> Response:
        return said(self._board.status())

    async def _bundle(self, _: Asking) -> Response:
        return octets(self._board.bundle())

    async def _offer(self, asking: Asking) -> Response:
        return said(granted(await self._board.offer(await asking.body(), asking.caller)))


class RealmRooms:
    """What an issuer does besides."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return BoardRooms(self._desk).handlers() | {
            "renew": self._renew,
            "invite_host": self._invite_host,
            "invite_user": self._invite_user,
            "change_grant": self._change_grant,
            "revoke": self._revoke,
            "make_issuer": self._make_issuer,
            "members": self._members,
        }

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
