"""The rooms of a relay: lines and tunnels for users, and what other hosts relay to this one."""

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from matcher.net.door.asking import Asking, Denied, Handler, granted, octets, refused
from matcher.net.door.behind import Relay
from matcher.net.door.rooms import talk
from matcher.net.relay.lines import Ends
from matcher.trust.principal import is_fingerprint
from matcher.wire.codec import to_json
from matcher.wire.framing import frame
from matcher.wire.messages import Refused


class RelayRooms:
    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {"relay": self._line, "tunnel": self._tunnel, "relayed": self._relayed}

    async def _line(self, asking: Asking) -> None:
        line = granted(self._relay.line(asking.caller))
        try:
            await asking.websocket.accept()
            await line.run(_ends(asking.websocket))
        except* WebSocketDisconnect:  # while something was said to them
            pass
        finally:
            line.close()

    async def _tunnel(self, asking: Asking) -> None:
        host_id, port = asking.arguments["host"], asking.query()
        if not is_fingerprint(host_id) or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
            raise Denied(refused("bad-request", "host", "a host's id, and ?port=", "no such host or port"))
        await talk(granted(await self._relay.tunnel(host_id, int(port), asking.caller)), asking.websocket)

    async def _relayed(self, asking: Asking) -> Response:
        return octets(frame(granted(await self._relay.relayed(await asking.body(), asking.caller))))


def _ends(websocket: WebSocket) -> Ends:
    async def hear() -> bytes:
        try:
            return await websocket.receive_bytes()
        except (WebSocketDisconnect, KeyError, TypeError):  # the latter: text, which no user says here
            return b""

    async def refuse(refusal: Refused) -> None:
        await websocket.send_text(to_json(refusal))

    return Ends(hear, websocket.send_bytes, refuse)
