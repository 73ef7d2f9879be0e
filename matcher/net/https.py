"""A user's requests at one host's front door, blocking; the host is pinned by its key, never by a name.

Errors are two: `Unreachable` (nothing was asked: no connection, not the host that was meant, or one that does not take
our certificate) and `Unanswered` (it was asked, and what became of it is not known). A refusal is an answer.
"""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from matcher.net.caller import REQUEST
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity, client_tls, peer_principal
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, M, from_json, to_json
from matcher.wire.messages import Message, Progress, Refused

if TYPE_CHECKING:
    import ssl

CONNECT_S = 0.8
ANSWER_MAX_BYTES = 16 << 20
LINE_MAX_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20  # of a file that is sent

# What a host's TLS says of one's own certificate, by OpenSSL's names for the alerts (RFC 8446, 6.2).
_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate, and got none",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "your certificate has expired. An admin can invite you again",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "your certificate was revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not take your certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not take your certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not take your certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know who made your certificate: it belongs to another realm, or lags behind",
}


class Unreachable(Exception):
    """No connection to the host that was meant; nothing can have happened."""


class NotAdmitted(Unreachable):
    """The host that was meant does not take one's own certificate."""


class Unanswered(Exception):
    """The host was asked and did not answer in time, or the connection broke: it may have done it."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a host's front door is, and whose key must be behind it."""

    host: str  # its name, for messages
    host_id: str  # empty: any host's of the realm
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent of an open file, from where it stands."""

    file: BinaryIO
    size_bytes: int


def dial(door: Door, timeout_s: float) -> socket.socket:
    """Straight to that door. Raises `OSError`."""
    plain = socket.create_connection((door.address, door.port), timeout=min(CONNECT_S, timeout_s))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


class Connection:
    """One question at one door: the host is told not to wait for a second one, and forgets the connection at once."""

    def __init__(
        self,
        identity: Identity,
        door: Door,
        *,
        timeout_s: float,
        tls: "ssl.SSLContext | None" = None,
        dial: Callable[[Door, float], socket.socket] = dial,
    ) -> None:
        """`dial` gives what TLS goes by, where that is not simply a connection to the door's address."""
        self._identity, self.door, self._dial = identity, door, dial
        self._tls = tls
        self._timeout_s = timeout_s
        self._socket: ssl.SSLSocket | None = None
        self._response: http.client.HTTPResponse | None = None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        if self._socket is not None:
            self._socket.close()

    def ask(self, method: str, path: str, answer: type[M], body: bytes | Message | None = None) -> M | Refused:
        """One request, one JSON answer; a message in the body goes as JSON. Raises `Unreachable` or `Unanswered`."""
        data = self.ask_bytes(method, path, body)
        return data if isinstance(data, Refused) else _parsed(answer, data)

    def ask_bytes(self, method: str, path: str, body: bytes | Message | None = None) -> bytes | Refused:
        """One request; the answer's octets as they are."""
        response = self._request(method, path, body)
        data = self._read(response, ANSWER_MAX_BYTES)
        return data if response.status < 400 else _refusal(response.status, data)

    def confirm(self, envelope: bytes) -> Progress | Refused:
        """Post a confirm; the first line of the answer. `progress` gives the rest."""
        return self.first("POST", "/v1/confirms", Progress, envelope)

    def progress(self, timeout_s: float) -> Iterator[Progress]:
        """What the host tells after the commit, until it has told all. Raises `Unanswered`."""
        return self.rest(Progress, timeout_s)

    def first(
        self, method: str, path: str, line: type[M], body: bytes | Message | None = None, *, name: str = ""
    ) -> M | Refused:
        """One request that is answered by JSON lines: the first one. `rest` gives the others. Under its `name` it can
        be repeated, and is done once."""
        response = self._request(method, path, body, name)
        if response.status >= 400:
            return _refusal(response.status, self._read(response, ANSWER_MAX_BYTES))
        try:
            return self._line(response, line)
        except EOFError:
            raise Unanswered(f"{self.door.host}: the answer breaks off") from None

    def rest(self, line: type[M], timeout_s: float) -> Iterator[M]:
        """The lines after the first, until the host has told all; each within `timeout_s`. Raises `Unanswered`."""
        assert self._socket is not None, "something was answered here"
        assert self._response is not None
        self._socket.settimeout(timeout_s)
        while True:
            try:
                yield self._line(self._response, line)
            except EOFError:
                return

    def websocket(self) -> "ssl.SSLSocket":
        """The bare TLS connection, pinned, for a protocol of its own."""
        return self._connect()

    def upload(self, path: str, file: BinaryIO, size_bytes: int, answer: type[M]) -> M | Refused:
        """Put so many bytes of a file there; one JSON answer. Raises `Unreachable` or `Unanswered`."""
        response = self._request("PUT", path, Body(file, size_bytes))
        data = self._read(response, ANSWER_MAX_BYTES)
        return _refusal(response.status, data) if response.status >= 400 else _parsed(answer, data)

    def _line(self, lines: http.client.HTTPResponse, of: type[M]) -> M:
        try:
            line = lines.readline(LINE_MAX_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{self.door.host}: {error}") from error
        if not line:
            raise EOFError
        return _parsed(of, line)

    def _request(
        self, method: str, path: str, body: "bytes | Message | Body | None", name: str = ""
    ) -> http.client.HTTPResponse:
        self.close()
        self._socket = self._connect()
        asking = http.client.HTTPConnection("host", blocksize=BLOCK_BYTES)  # only a name for the Host header
        asking.sock = self._socket
        headers = {"Connection": "close"} | ({REQUEST: name} if name else {})
        if body is not None:
            headers["Content-Type"] = "application/json" if isinstance(body, Message) else "application/octet-stream"
        if isinstance(body, Body):
            headers["Content-Length"] = str(body.size_bytes)
        data = to_json(body).encode() if isinstance(body, Message) else body.file if isinstance(body, Body) else body
        try:
            asking.request(method, path, body=data, headers=headers)
            self._response = asking.getresponse()
            return self._response
        except (OSError, http.client.HTTPException) as error:
            if why := _ALERTS.get(getattr(error, "reason", "")):  # TLS 1.3 tells it only now
                raise NotAdmitted(f"{self.door.host} ({self.door.address}): {why}") from error
            raise Unanswered(f"{self.door.host}: {str(error) or type(error).__name__}") from error

    def _read(self, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
        try:
            data = response.read(max_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{self.door.host}: {error}") from error
        if response.length:  # http.client says nothing of an end that came early
            raise Unanswered(f"{self.door.host}: the answer breaks off")
        return data

    def _connect(self) -> "ssl.SSLSocket":
        door = self.door
        try:
            plain = self._dial(door, self._timeout_s)
            plain.settimeout(min(CONNECT_S, self._timeout_s))
            secured = (self._tls or client_tls(self._identity)).wrap_socket(plain)
        except OSError as error:
            said = getattr(error, "verify_message", "") or error.strerror or error
            raise Unreachable(f"{door.host} ({door.address} port {door.port}): {said}") from error
        try:
            peer, _ = peer_principal(secured, self._identity.verifier, time.time())
        except Untrusted as error:
            secured.close()
            raise Unreachable(f"{door.host} ({door.address}): {error.reason}") from error
        if peer.kind != "host" or door.host_id not in ("", peer.id):
            secured.close()
            raise Unreachable(f"{door.host} ({door.address}): another host answers there: {peer.name}")
        self.door = replace(door, host=peer.name, host_id=peer.id)
        secured.settimeout(self._timeout_s)
        return secured


def _parsed(answer: type[M], data: bytes) -> M:
    try:
        return from_json(answer, data, max_bytes=ANSWER_MAX_BYTES)
    except BadBytes as error:
        raise Unanswered(f"an answer that can't be read: {error}") from error


def _refusal(status: int, data: bytes) -> Refused:
    try:
        return from_json(Refused, data, max_bytes=BODY_MAX_BYTES)
    except BadBytes:
        said = json.dumps(data[:80].decode(errors="replace"))
        raise Unanswered(f"HTTP status {status}: {said}") from None
