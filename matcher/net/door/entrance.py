"""Every request passes here: whose is it, may they, is it too much; then its room. What is refused is typed JSON.

The leaf of the connection is judged anew for each request, so that a revocation counts for the next one. What can't be
asked with the grant in the leaf is told to the desk, for the audit.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from matcher.net.caller import REQUEST, REQUEST_PATTERN, Caller
from matcher.net.door.admission import Limits, Places
from matcher.net.door.asking import Asking, Denied, Disconnected, Handler, no, refused
from matcher.net.door.routes import ROUTES, Found, Octets, Route, Table, Who
from matcher.net.token_bucket import TokenBuckets
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity
from matcher.trust.principal import Principal
from matcher.trust.verifier import REVOKED, Verifier
from matcher.wire.codec import BODY_MAX_BYTES
from matcher.wire.messages import Refused
from matcher.wire.realm import Verb

Reply = Callable[[Response], Awaitable[None]]
Denial = Callable[[Caller, str, str], None]  # what a caller's grant does not allow: who, method and path, why

log = logging.getLogger("door")


@dataclass(eq=False, slots=True)
class Line:
    """A connection, as requests know it: who has shown what, and how it is ended from outside. `lasting` counts the
    requests in flight that may be answered though their caller is revoked meanwhile."""

    address: str
    leaf: bytes
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    lasting: int = 0
    uploads: bool = False  # the body that is coming in is long, and judged by its pace


class Entrance:
    """The ASGI side of the door: `answer` serves one request."""

    def __init__(
        self,
        identity: Identity,
        handlers: Mapping[str, Handler],
        denied: Denial,
        limits: Limits,
        counters: Counter[str],
    ) -> None:
        self._identity, self._handlers = identity, handlers
        self._denied = denied
        self._table = Table(route for route in ROUTES if route.name in handlers)
        self._counters = counters
        self._rates = TokenBuckets(limits.requests_rate, keys_max=limits.rates_max)
        self._requests = Places(limits.requests_max, limits.requests_per_member_max)
        self._consoles = Places(limits.consoles_max, limits.consoles_per_member_max)

    async def answer(self, line: Line, scope: Any, receive: Any, send: Any) -> None:
        """One request or one console session, to its end."""
        is_console = scope["type"] == "websocket"
        connection = WebSocket(scope, receive, send) if is_console else Request(scope, receive, send)
        found = self._table.find("GET" if is_console else scope["method"], scope["path"], websocket=is_console)

        async def reply(response: Response) -> None:
            if isinstance(connection, WebSocket):
                await connection.send_denial_response(response)
            else:
                await response(scope, receive, send)

        try:
            await self._judged(line, found, connection, reply)
        except Denied as denied:
            self._counters[f"refused {denied.refused.code}"] += 1
            await reply(no(denied.refused, _headers(denied, found)))
        except Disconnected:
            return
        except Exception:
            log.exception("a fault of ours: %s", scope["path"][:100])
            await reply(no(refused("fault", "host", "an answer", "this host has made a mistake; its log has more")))

    async def _judged(self, line: Line, found: Found, connection: HTTPConnection, reply: Reply) -> None:
        route = found.route
        who = judge(line.leaf, self._identity.verifier, is_superseded_enough=route is not None and route.superseded)
        if (refusal := _unclear(connection)) is not None:
            raise Denied(refusal, is_last=True)
        if connection.headers.get("origin"):  # a browser with the user's certificate would ask in the user's name
            raise Denied(refused("denied", "origin", "to be asked by a web page", "this door is not for web pages"))
        if route is None:
            raise Denied(_nothing_there(connection, found))
        caller = Caller(who, line.address, _request(connection))
        self._check_right(route, caller)
        line.uploads = route.question is Octets.IMAGE
        with self._counted(line, route, caller.id):
            asking = Asking(route, found.arguments, caller, line.leaf, connection, _body_max_bytes(route, who))
            response = await self._handlers[route.name](asking)
            if response is not None:
                await reply(response)  # while it is taken, its place is in use

    def _check_right(self, route: Route, caller: Caller) -> None:
        why = _lack(route, caller.who)
        if why is None:
            return
        self._denied(caller, f"{route.method} {route.path}", why)
        hint = "an admin of the realm can give another grant" if caller.who.kind == "user" else ""
        raise Denied(refused("denied", "grant", f"{route.method} {route.path}", why, hint))

    @contextmanager
    def _counted(self, line: Line, route: Route, member_id: str) -> Iterator[None]:
        """Not too often and not too many at once. Raises `Denied`."""
        places = self._consoles if route.websocket else self._requests
        what = "consoles" if route.websocket else "requests"
        if not self._rates.take(member_id, trio.current_time()):
            raise Denied(refused("too-many", "requests", "another one", "you ask too often", "ask again in a second"))
        if (why := places.enter(member_id)) is not None:
            raise Denied(refused("too-many", what, "another one at the same time", why, "wait for an answer first"))
        line.lasting += route.lasts
        try:
            yield
        finally:
            line.lasting -= route.lasts
            places.leave(member_id)


def judge(leaf: bytes, verifier: Verifier, *, is_superseded_enough: bool = False) -> Principal:
    """Whom this leaf names, now. Raises `Denied`.

    `is_superseded_enough`: a leaf that is revoked only because its holder got another grant will do.
    """
    wall_s = time.time()
    try:
        return verifier.principal(leaf, wall_s)[0]
    except Untrusted as error:
        if is_superseded_enough and error.reason == REVOKED:
            certified = verifier.certified(leaf)
            who = certified.principal
            if verifier.is_member(who.kind, who.id) and certified.starts_s <= wall_s <= certified.ends_s:
                return who
        hint = "electros whoami" if error.reason == REVOKED else ""
        raise Denied(refused("denied", "certificate", "as a member of this realm", error.reason, hint)) from None


def _lack(route: Route, who: Principal) -> str | None:
    """What a caller would need for this route and does not have; a phrase."""
    if route.who is Who.USER and who.kind != "user":
        return "your certificate is a host's, and this is for users"
    if route.who is Who.HOST and who.kind != "host":
        return "your certificate is a user's, and this is for hosts"
    if route.verb is None or who.may(route.verb):
        return None
    return f"your grant lacks the verb {route.verb}: it has {', '.join(who.grant.verbs) or 'none'}"


def _body_max_bytes(route: Route, who: Principal) -> int:
    """A whole bundle is for hosts and admins to bring."""
    if route.question is Octets.DOCUMENTS and who.kind == "user" and not who.may(Verb.ADMIN):
        return BODY_MAX_BYTES
    return route.body_max_bytes


def _unclear(connection: HTTPConnection) -> Refused | None:
    """What another reader may take for another request, or for one to another host (RFC 9112, 6.1 and 3.2.2)."""
    if {"content-length", "transfer-encoding"} <= set(connection.headers.keys()):
        return refused("bad-request", "body", "its end", "told twice, by a length and by chunks", "tell it once")
    if connection.scope["path"][:1] != "/":
        return refused("bad-request", "path", connection.scope["path"][:100], "no path; this door is no proxy")
    return None


def _request(connection: HTTPConnection) -> str:
    """The name that the caller gave this request. Raises `Denied`."""
    name: str = connection.headers.get(REQUEST, "")
    if name and not re.fullmatch(REQUEST_PATTERN, name):
        has = "1 to 64 letters, digits, dashes and underscores"
        raise Denied(refused("bad-request", REQUEST, "a name for this request", has))
    return name


def _headers(denied: Denied, found: Found) -> dict[str, str]:
    allow = {"Allow": ", ".join(found.methods)} if found.methods else {}
    return allow | ({"Connection": "close"} if denied.is_last else {})


def _nothing_there(connection: HTTPConnection, found: Found) -> Refused:
    path = connection.scope["path"][:100]
    hint = "GET /v1/openapi.json lists all"
    if found.methods:
        return refused("bad-method", "path", path, f"it takes {' and '.join(found.methods)}", hint)
    return refused("not-found", "path", path, "no such path", hint)
