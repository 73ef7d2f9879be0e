"""The user's side of a WebSocket at a front door: opened blocking, read without waiting."""

import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
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


class Ended(Broken):
    """The host has ended it."""


class Rejected(Broken):
    """There is none. `refused`: the host's typed no; `None` where it gives none."""

    def __init__(self, said: str, refused: Refused | None = None) -> None:
        super().__init__(said)
        self.refused = refused


class Web:
    """Raises `Unreachable` where no connection comes about, `Broken` where it is no WebSocket then."""

    def __init__(self, connection: Connection, path: str) -> None:
        self.door = connection.door
        self._tls = connection.websocket()
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: deque[Event] = deque()  # that nobody has looked at yet
        self._parts = bytearray()  # of a message that is not whole yet
        try:
            self._say(Request(host="host", target=path))
            self._upgrade()
            self._tls.setblocking(False)
        except (OSError, Broken):
            self.close()
            raise

    def fileno(self) -> int:
        return self._tls.fileno()

    def close(self) -> None:
        self._tls.close()

    def send(self, data: bytes, timeout_s: float | None = None) -> None:
        """All of it. Raises `Broken`."""
        self._tls.settimeout(timeout_s)
        self._say(BytesMessage(data))
        self._tls.setblocking(False)

    def receive(self) -> Iterator[bytes | Refused]:
        """What is there, whole messages; none is no end. Raises `Broken` at the end."""
        while True:
            yield from self._messages()
            try:
                self._read()
            except ssl.SSLWantReadError:
                return

    def first(self, timeout_s: float) -> bytes:
        """Wait for one message. Raises `Broken`."""
        self._tls.settimeout(timeout_s)
        try:
            while True:
                for message in self._messages():
                    if isinstance(message, bytes):
                        return message
                self._read()
        finally:
            self._tls.setblocking(False)

    def _messages(self) -> Iterator[bytes | Refused]:
        while self._events:
            match self._events.popleft():
                case Ping() as ping:
                    self._say(ping.response())
                case Message() as part:
                    self._parts += part.data.encode() if isinstance(part.data, str) else part.data
                    if len(self._parts) > MESSAGE_MAX_BYTES:
                        raise Broken(f"{self.door.host}: a message without end")
                    if part.message_finished:
                        whole, self._parts = bytes(self._parts), bytearray()
                        yield _refusal(whole) if isinstance(part, TextMessage) else whole
                case CloseConnection():
                    raise Ended(f"{self.door.host} has ended it")

    def _upgrade(self) -> None:
        refusal = bytearray()
        while True:
            self._read()
            while self._events:
                match self._events.popleft():
                    case AcceptConnection():
                        return
                    case RejectConnection(has_body=False, status_code=status):
                        raise Rejected(f"{self.door.host} refuses: HTTP status {status}")
                    case RejectData(data=data, body_finished=is_all):
                        refusal += data
                        if is_all:
                            raise _rejected(self.door.host, bytes(refusal))
                    case CloseConnection():
                        raise Ended(f"{self.door.host} has closed the connection")

    def _say(self, event: Event) -> None:
        with self._told():
            self._tls.sendall(self._protocol.send(event))

    def _read(self) -> None:
        """Raises `ssl.SSLWantReadError` where nothing is there."""
        with self._told():
            data = self._tls.recv(READ_BYTES)
            self._protocol.receive_data(data or None)
            self._events.extend(self._protocol.events())

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What ends it as `Broken`."""
        try:
            yield
        except ssl.SSLWantReadError:
            raise
        except (OSError, ProtocolError) as error:
            raise Broken(f"{self.door.host}: {getattr(error, 'strerror', None) or error}") from error


def _refusal(text: bytes) -> Refused:
    try:
        return from_json(Refused, text)
    except BadBytes:
        return Refused("unknown", ())


def _rejected(host: str, body: bytes) -> Rejected:
    try:
        refused = from_json(Refused, body)
    except BadBytes:
        return Rejected(f"{host} says no")
    said = "; ".join(reason.has for reason in refused.reasons) or refused.code
    return Rejected(f"{host} says no: {said}", refused)
