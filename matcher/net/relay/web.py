"""The user's side of a WebSocket at a front door: opened blocking, read without waiting."""

import ssl
from collections.abc import Iterator

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from matcher.net.https import Connection
from matcher.wire.codec import BadBytes, from_json
from matcher.wire.messages import Refused

READ_BYTES = 65_536
MESSAGE_MAX_BYTES = 256 * 1024


class Broken(Exception):
    """Nothing more comes or goes by it: why, for a person."""


class Web:
    """Raises `Unreachable` where no connection comes about, `Broken` where it is no WebSocket then."""

    def __init__(self, connection: Connection, path: str) -> None:
        self.door = connection.door
        self._tls = connection.websocket()
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._waiting: list[Event] = []
        try:
            self._tls.sendall(self._protocol.send(Request(host="host", target=path)))
            self._upgrade()
            self._tls.setblocking(False)
        except (OSError, ProtocolError) as error:
            self.close()
            raise Broken(f"{self.door.host}: {error}") from error
        except Broken:
            self.close()
            raise

    def fileno(self) -> int:
        return self._tls.fileno()

    def close(self) -> None:
        self._tls.close()

    def send(self, data: bytes, timeout_s: float | None = None) -> None:
        """All of it. Raises `Broken`."""
        try:
            self._tls.settimeout(timeout_s)
            self._tls.sendall(self._protocol.send(BytesMessage(data)))
            self._tls.setblocking(False)
        except (OSError, ProtocolError) as error:
            raise Broken(f"{self.door.host}: {error}") from error

    def receive(self) -> Iterator[bytes | Refused]:
        """What is there, whole messages; none is no end. Raises `Broken` at the end."""
        waiting, self._waiting = self._waiting, []
        yield from self._messages(waiting)
        while True:
            try:
                events = self._read()
            except ssl.SSLWantReadError:
                return
            yield from self._messages(events)

    def first(self, timeout_s: float) -> bytes:
        """Wait for one message. Raises `Broken`."""
        self._tls.settimeout(timeout_s)
        try:
            while True:
                for message in self._messages(self._waiting):
                    if isinstance(message, bytes):
                        self._waiting = []
                        return message
                self._waiting = self._read()
        finally:
            self._tls.setblocking(False)

    def _messages(self, events: list[Event]) -> Iterator[bytes | Refused]:
        for event in events:
            match event:
                case Ping():
                    self._tls.sendall(self._protocol.send(event.response()))
                case BytesMessage(data=data):
                    yield bytes(data)
                case TextMessage(data=text):
                    yield _refusal(text)
                case CloseConnection():
                    raise Broken(f"{self.door.host} has ended it")

    def _upgrade(self) -> None:
        refusal = bytearray()
        while True:
            events = self._read()
            for number, event in enumerate(events):
                match event:
                    case AcceptConnection():
                        self._waiting = events[number + 1 :]
                        return
                    case RejectConnection(has_body=False, status_code=status):
                        raise Broken(f"{self.door.host} refuses: HTTP status {status}")
                    case RejectData(data=data, body_finished=is_all):
                        refusal += data
                        if is_all:
                            raise Broken(f"{self.door.host} says no: {_said(bytes(refusal))}")

    def _read(self) -> list[Event]:
        try:
            data = self._tls.recv(READ_BYTES)
            self._protocol.receive_data(data or None)
            return list(self._protocol.events())
        except ssl.SSLWantReadError:
            raise
        except (OSError, ProtocolError) as error:
            raise Broken(f"{self.door.host}: {error}") from error


def _refusal(text: str) -> Refused:
    try:
        return from_json(Refused, text)
    except BadBytes:
        return Refused("unknown", ())


def _said(body: bytes) -> str:
    try:
        refused = from_json(Refused, body)
    except BadBytes:
        return "it is no relay"
    return "; ".join(reason.has for reason in refused.reasons) or refused.code
