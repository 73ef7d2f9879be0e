"""The front door: HTTPS for users, JSON out, signed envelopes in; both sides show certificates of the realm.

    GET    /v1/host
    POST   /v1/pledges                a pledge too long for a datagram; the answers as envelopes, length-prefixed
    POST   /v1/confirms               NDJSON: {"event":"committed","vm":…} then {"event":"running"|"failed",…}
    POST   /v1/abandons
    GET    /v1/vms                    one's own
    GET    /v1/vms/ID
    POST   /v1/vms/ID/stop?force=0|1  POST /v1/vms/ID/reboot   DELETE /v1/vms/ID
    GET    /v1/vms/ID/log             what the guest has written on its serial console
    WS     /v1/vms/ID/console

A refusal is a typed `Refused` with a 4xx status. What is not the user's own is "not found", whether it exists or not.
This file knows HTTP and TLS and nothing of VMs: a `Host` decides.
"""

import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ssl import SSLContext
from typing import Any, Protocol, TypeVar, cast

import anycorn
import trio
from anycorn.config import Config, Sockets
from anycorn.typing import ASGIFramework
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from matcher.net.caller import Caller
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity, peer_principal, pem_to_der, server_tls
from matcher.trust.verifier import Verifier
from matcher.wire.codec import BODY_MAX_BYTES, to_json
from matcher.wire.framing import frame
from matcher.wire.messages import Abandoned, Answer, Message, Progress, Reason, Refused, VmView, VmViews
from specs.ids import VmId, parse_id

T = TypeVar("T")

PORT = 7766
BACKLOG = 256
IDLE_S = 5  # what is left of a connection stays as long, even where the other side has gone: 50 KiB
STATUS = {"not-found": 404, "denied": 403, "bad-request": 400, "too-large": 413, "unavailable": 503}


class Console(Protocol):
    """A guest's serial console, both ways; `receive` gives b"" when the guest is gone."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes: ...

    async def aclose(self) -> None: ...


class Host(Protocol):
    """What stands behind the door. Every method judges by the user who calls."""

    def about(self, caller: Caller) -> Answer: ...

    async def pledge(self, envelope: bytes, caller: Caller) -> list[bytes] | Refused: ...

    async def confirm(self, envelope: bytes, caller: Caller) -> VmView | Refused: ...

    async def up(self, vm_id: VmId, generation: int) -> VmView | None: ...

    async def abandon(self, envelope: bytes, caller: Caller) -> Abandoned | Refused: ...

    async def vms(self, caller: Caller) -> VmViews: ...

    async def vm(self, vm_id: VmId, caller: Caller) -> VmView | Refused: ...

    async def stop(self, vm_id: VmId, caller: Caller, *, force: bool) -> VmView | Refused: ...

    async def reboot(self, vm_id: VmId, caller: Caller) -> VmView | Refused: ...

    async def remove(self, vm_id: VmId, caller: Caller, generation: int | None) -> VmView | Refused: ...

    async def console_log(self, vm_id: VmId, caller: Caller) -> bytes | Refused: ...

    async def console(self, vm_id: VmId, caller: Caller) -> Console | Refused: ...


class Door(Config):
    """anycorn's configuration, with the realm's own TLS context in place of files and flags."""

    def __init__(self, tls: SSLContext, port: int) -> None:
        super().__init__()
        self._tls, self._port = tls, port
        self.backlog = BACKLOG
        self.alpn_protocols = ["http/1.1"]
        self.errorlog = None
        self.include_server_header = False
        self.keep_alive_timeout = IDLE_S
        self.ssl_handshake_timeout = 5
        self.h11_max_incomplete_size = 16 * 1024
        self.graceful_timeout = 1
        self.websocket_max_message_size = 64 * 1024

    @property
    def ssl_enabled(self) -> bool:
        return True

    def create_sockets(self) -> Sockets:
        """IPv4 and IPv6 each on a socket of its own; one of them may be missing on a machine."""
        families = [socket.AF_INET] + ([socket.AF_INET6] if socket.has_dualstack_ipv6() else [])
        return Sockets([_listening(family, self._port) for family in families], [], [])

    def create_ssl_context(self) -> SSLContext:
        self._tls.set_alpn_protocols(self.alpn_protocols)
        return self._tls


def _listening(family: socket.AddressFamily, port: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listening.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104  users come by any link
    listening.setblocking(False)
    return listening


async def serve(
    identity: Identity,
    host: Host,
    *,
    port: int = PORT,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, on IPv4 and IPv6; started once the sockets listen."""
    door = Door(server_tls(identity), port)
    rooms = app(host, identity.verifier)
    logging.getLogger("anyio").setLevel(logging.CRITICAL)  # a stranger's failed handshake is no traceback in our log

    async def entrance(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # left to its default, it turns a cancelled server into an error
            raise NotImplementedError
        await rooms(scope, receive, send)

    await anycorn.serve(
        cast(ASGIFramework, entrance),
        door,
        mode="asgi",
        shutdown_trigger=trio.sleep_forever,
        task_status=cast(Any, task_status),  # anyio's and trio's are one at run time
    )


def app(host: Host, verifier: Verifier) -> Starlette:
    rooms = _Rooms(host, verifier)
    return Starlette(
        routes=[
            Route("/v1/host", rooms.about),
            Route("/v1/pledges", rooms.pledge, methods=["POST"]),
            Route("/v1/confirms", rooms.confirm, methods=["POST"]),
            Route("/v1/abandons", rooms.abandon, methods=["POST"]),
            Route("/v1/vms", rooms.vms),
            Route("/v1/vms/{id}", rooms.vm),
            Route("/v1/vms/{id}", rooms.remove, methods=["DELETE"]),
            Route("/v1/vms/{id}/stop", rooms.stop, methods=["POST"]),
            Route("/v1/vms/{id}/reboot", rooms.reboot, methods=["POST"]),
            Route("/v1/vms/{id}/log", rooms.console_log),
            WebSocketRoute("/v1/vms/{id}/console", rooms.console),
        ],
        exception_handlers={_Denied: _denied},
    )


class _Denied(Exception):
    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.code)
        self.refused = refused


async def _denied(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Denied)
    return _answer(error.refused, STATUS.get(error.refused.code, 409))


class _Rooms:
    """One handler for each route: who asks, what for, what the host says."""

    def __init__(self, host: Host, verifier: Verifier) -> None:
        self._host, self._verifier = host, verifier

    async def about(self, request: Request) -> Response:
        return _answer(self._host.about(self._caller(request)))

    async def pledge(self, request: Request) -> Response:
        answers = _granted(await self._host.pledge(await _body(request), self._caller(request)))
        return Response(frame(answers), media_type="application/octet-stream")

    async def confirm(self, request: Request) -> Response:
        vm = _granted(await self._host.confirm(await _body(request), self._caller(request)))
        return StreamingResponse(self._progress(vm), media_type="application/x-ndjson")

    async def _progress(self, vm: VmView) -> AsyncIterator[str]:
        yield to_json(Progress("committed", vm)) + "\n"
        now = await self._host.up(VmId(vm.id), vm.generation)
        if now is not None:
            yield to_json(Progress("running" if now.state == "running" else "failed", now)) + "\n"

    async def abandon(self, request: Request) -> Response:
        return _answer(_granted(await self._host.abandon(await _body(request), self._caller(request))))

    async def vms(self, request: Request) -> Response:
        return _answer(await self._host.vms(self._caller(request)))

    async def vm(self, request: Request) -> Response:
        return _answer(_granted(await self._host.vm(_vm_id(request), self._caller(request))))

    async def stop(self, request: Request) -> Response:
        force = request.query_params.get("force", "0") == "1"
        return _answer(_granted(await self._host.stop(_vm_id(request), self._caller(request), force=force)))

    async def reboot(self, request: Request) -> Response:
        return _answer(_granted(await self._host.reboot(_vm_id(request), self._caller(request))))

    async def remove(self, request: Request) -> Response:
        text = request.query_params.get("generation", "")
        generation = int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None
        return _answer(_granted(await self._host.remove(_vm_id(request), self._caller(request), generation)))

    async def console_log(self, request: Request) -> Response:
        log = _granted(await self._host.console_log(_vm_id(request), self._caller(request)))
        return Response(log, media_type="application/octet-stream")

    async def console(self, websocket: WebSocket) -> None:
        try:
            console = _granted(await self._host.console(_vm_id(websocket), self._caller(websocket)))
        except _Denied as denied:
            response = _answer(denied.refused, STATUS.get(denied.refused.code, 409))
            await websocket.send_denial_response(response)
            return
        await websocket.accept()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_first, nursery, _from_guest, console, websocket)
                nursery.start_soon(_until_first, nursery, _to_guest, console, websocket)
        finally:
            with trio.move_on_after(5, shield=True):
                await console.aclose()

    def _caller(self, connection: HTTPConnection) -> Caller:
        tls = connection.scope.get("extensions", {}).get("tls", {})
        chain = tls.get("client_cert_chain") or ("",)
        try:
            peer, _ = peer_principal(pem_to_der(chain[0]), self._verifier, time.time())
            if peer.kind != "user":
                raise Untrusted("it is a host's, and this door is for users")
        except Untrusted as error:
            raise _Denied(_refused("denied", "certificate", "a user of this realm", error.reason)) from None
        return Caller(peer, connection.client.host if connection.client else "")


async def _until_first(
    nursery: trio.Nursery,
    pump: Callable[[Console, WebSocket], Awaitable[None]],
    console: Console,
    websocket: WebSocket,
) -> None:
    """When one direction ends, so does the other."""
    await pump(console, websocket)
    nursery.cancel_scope.cancel()


async def _from_guest(console: Console, websocket: WebSocket) -> None:
    while data := await console.receive():
        await websocket.send_bytes(data)
    await websocket.close()


async def _to_guest(console: Console, websocket: WebSocket) -> None:
    try:
        while True:
            await console.send(await websocket.receive_bytes())
    except (WebSocketDisconnect, KeyError):  # KeyError: a text frame, which this console does not speak
        return


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX_BYTES:
            raise _Denied(_refused("too-large", "body", "more", f"at most {BODY_MAX_BYTES} bytes"))
    return bytes(body)


def _vm_id(connection: HTTPConnection) -> VmId:
    vm_id = parse_id(connection.path_params["id"])
    if vm_id is None:
        raise _Denied(_refused("not-found", "vm", "a VM", "no such VM of yours here"))
    return VmId(vm_id)


def _granted(answer: T | Refused) -> T:
    if isinstance(answer, Refused):
        raise _Denied(answer)
    return answer


def _refused(code: str, resource: str, asked: str, has: str) -> Refused:
    return Refused(code, (Reason(resource, asked, has, ""),))


def _answer(message: Message, status: int = 200) -> Response:
    return Response(to_json(message), status_code=status, media_type="application/json")
