"""The rooms for VMs: what users ask of this host. A `Host` decides; what is not the user's own is "not found"."""

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import trio
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from matcher.net.door.asking import Asking, Handler, News, granted, octets, said
from matcher.net.door.behind import Console, Host
from matcher.trust.verifier import Verifier
from matcher.wire.codec import to_json
from matcher.wire.framing import frame
from matcher.wire.messages import Progress, VmView
from specs.ids import VmId

CONSOLE_CLOSE_S = 5.0


class Rooms:
    def __init__(self, host: Host, verifier: Verifier) -> None:
        self._host, self._verifier = host, verifier

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {
            "about": self._about,
            "whoami": self._whoami,
            "uses": self._uses,
            "pledge": self._pledge,
            "confirm": self._confirm,
            "abandon": self._abandon,
            "vms": self._vms,
            "vm": self._vm,
            "stop": self._stop,
            "reboot": self._reboot,
            "remove": self._remove,
            "attach_volume": self._attach_volume,
            "detach_volume": self._detach_volume,
            "console_log": self._console_log,
            "console": self._console,
        }

    async def _about(self, asking: Asking) -> Response:
        return said(self._host.about(asking.caller))

    async def _whoami(self, asking: Asking) -> Response:
        known = await self._host.whoami(asking.caller)
        return said(dataclasses.replace(known, ends_s=int(self._verifier.certified(asking.leaf).ends_s)))

    async def _uses(self, asking: Asking) -> Response:
        return said(await self._host.uses(asking.user_id))

    async def _pledge(self, asking: Asking) -> Response:
        return octets(frame(granted(await self._host.pledge(await asking.body(), asking.caller))))

    async def _confirm(self, asking: Asking) -> Response:
        vm = granted(await self._host.confirm(await asking.body(), asking.caller))
        return News(self._progress(vm))

    async def _progress(self, vm: VmView) -> AsyncGenerator[str, None]:
        yield to_json(Progress("committed", vm)) + "\n"
        now = await self._host.up(VmId(vm.id), vm.generation)
        if now is not None:
            yield to_json(Progress("running" if now.state == "running" else "failed", now)) + "\n"

    async def _abandon(self, asking: Asking) -> Response:
        return said(granted(await self._host.abandon(await asking.body(), asking.caller)))

    async def _vms(self, asking: Asking) -> Response:
        return said(await self._host.vms(asking.caller))

    async def _vm(self, asking: Asking) -> Response:
        return said(granted(await self._host.vm(asking.vm_id, asking.caller)))

    async def _stop(self, asking: Asking) -> Response:
        force = asking.query("0") == "1"
        return said(granted(await self._host.stop(asking.vm_id, asking.caller, force=force)))

    async def _reboot(self, asking: Asking) -> Response:
        return said(granted(await self._host.reboot(asking.vm_id, asking.caller)))

    async def _remove(self, asking: Asking) -> Response:
        text = asking.query()
        generation = int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None
        return said(granted(await self._host.remove(asking.vm_id, asking.caller, generation)))

    async def _attach_volume(self, asking: Asking) -> Response:
        return said(granted(await self._host.attach_volume(asking.vm_id, await asking.body(), asking.caller)))

    async def _detach_volume(self, asking: Asking) -> Response:
        return said(granted(await self._host.detach_volume(asking.vm_id, asking.vid, asking.caller)))

    async def _console_log(self, asking: Asking) -> Response:
        return octets(granted(await self._host.console_log(asking.vm_id, asking.caller)))

    async def _console(self, asking: Asking) -> None:
        """Both ways, until either ends."""
        await talk(granted(await self._host.console(asking.vm_id, asking.caller)), asking.websocket)


async def talk(console: Console, websocket: WebSocket) -> None:
    """Both ways, until either ends."""
    try:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_first, nursery, _from_guest, console, websocket)
            nursery.start_soon(_until_first, nursery, _to_guest, console, websocket)
    finally:
        with trio.move_on_after(CONSOLE_CLOSE_S, shield=True):
            await console.aclose()


async def _until_first(
    nursery: trio.Nursery,
    pump: Callable[[Console, WebSocket], Awaitable[None]],
    console: Console,
    websocket: WebSocket,
) -> None:
    """When one direction ends, or breaks, so does the other."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, WebSocketDisconnect):
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
    except (WebSocketDisconnect, KeyError, TypeError):  # the latter: a text frame, which this console does not speak
        return
