"""A host's question at another host's front door, over trio: it can be given up at any moment, and no thread waits.

`https` is the same for who may block. The host is pinned by its key before a word is said. Errors are the same two:
`Unreachable` (nothing was asked) and `Unanswered` (what became of it is not known). A refusal is an answer.
"""

import ssl
import time

import h11
import trio

from matcher.net.https import ANSWER_MAX_BYTES, NotAdmitted, Unanswered, Unreachable
from matcher.trust.certificates import Untrusted
from matcher.trust.identity import Identity, client_tls, peer_principal
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, M, from_json, to_json
from matcher.wire.messages import Address, Message, Refused
from specs.ids import HostId

READ_BYTES = 65_536


class HostDoors:
    """Opens lines to other hosts in this host's name."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._tls: tuple[int, ssl.SSLContext] | None = None

    async def open(self, server: HostId, at: Address) -> "HostLine":
        """A line to the host with this id, and no other. Raises `Unreachable`, with a sentence for this host's own log:
        who chose the address may be told no more than that."""
        stream = await _connected(at)
        try:
            secured = trio.SSLStream(stream, self._context(), https_compatible=True)
            await secured.do_handshake()
            peer, _ = peer_principal(secured.getpeercert(binary_form=True) or b"", self._identity.verifier, time.time())
        except (trio.BrokenResourceError, OSError, Untrusted) as error:
            await trio.aclose_forcefully(stream)
            raise Unreachable(f"{at.ip} port {at.port}: {error.__cause__ or error}") from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        if (peer.kind, peer.id) != ("host", server):
            await trio.aclose_forcefully(stream)
            raise Unreachable(f"{at.ip} port {at.port}: another one answers there: {peer.name}")
        return HostLine(server, peer.name, secured)

    def _context(self) -> ssl.SSLContext:
        """Made anew when the realm or this host's own certificate has changed."""
        if self._tls is None or self._tls[0] != self._identity.version:
            self._tls = self._identity.version, client_tls(self._identity)
        return self._tls[1]


class HostLine:
    """An open line to one host, for one question."""

    def __init__(self, server: HostId, host: str, secured: "trio.SSLStream[trio.SocketStream]") -> None:
        self.server, self.host = server, host
        self._secured = secured

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._secured)

    async def ask(self, path: str, body: bytes | Message, answer: type[M]) -> M | Refused:
        """POST it; a message goes as JSON. Raises `Unanswered`, or `NotAdmitted` where the host does not take our
        certificate, and so has not listened."""
        data = await self.ask_octets(path, body)
        try:
            return data if isinstance(data, Refused) else from_json(answer, data, max_bytes=ANSWER_MAX_BYTES)
        except BadBytes as error:
            raise Unanswered(f"{self.host}: an answer that can't be read") from error

    async def ask_octets(self, path: str, body: bytes | Message) -> bytes | Refused:
        """As `ask`; the answer's octets as they are."""
        try:
            status, data = await self._exchange(path, body)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if isinstance(error.__cause__, ssl.SSLError) and "ALERT" in (error.__cause__.reason or ""):
                raise NotAdmitted(f"{self.host} does not take this host's certificate") from error
            raise Unanswered(f"{self.host}: {error.__cause__ or error or 'the connection broke'}") from error
        except h11.RemoteProtocolError as error:
            raise Unanswered(f"{self.host} gives no whole answer: {error}") from error
        try:
            return data if status < 400 else from_json(Refused, data, max_bytes=BODY_MAX_BYTES)
        except BadBytes as error:
            raise Unanswered(f"{self.host}: HTTP status {status}, and an answer that can't be read") from error

    async def _exchange(self, path: str, body: bytes | Message) -> tuple[int, bytes]:
        is_octets = isinstance(body, bytes)
        data = body if isinstance(body, bytes) else to_json(body).encode()
        http = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", "host"),  # a name for the header alone
            ("Connection", "close"),
            ("Content-Type", "application/octet-stream" if is_octets else "application/json"),
            ("Content-Length", str(len(data))),
        ]
        asked = h11.Request(method="POST", target=path, headers=headers)
        sent = [http.send(each) or b"" for each in (asked, h11.Data(data=data), h11.EndOfMessage())]
        await self._secured.send_all(b"".join(sent))
        return await self._answer(http)

    async def _answer(self, http: h11.Connection) -> tuple[int, bytes]:
        status, data = 0, bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await self._secured.receive_some(READ_BYTES)))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                data += event.data
                if len(data) > ANSWER_MAX_BYTES:
                    raise Unanswered(f"{self.host}: an answer without end")
            elif isinstance(event, h11.EndOfMessage):
                return status, bytes(data)


async def _connected(at: Address) -> trio.SocketStream:
    """To a numeric address: nothing is looked up."""
    family = trio.socket.AF_INET6 if ":" in at.ip else trio.socket.AF_INET
    plain = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await plain.connect((at.ip, at.port))
        return trio.SocketStream(plain)
    except OSError as error:
        plain.close()
        raise Unreachable(f"{at.ip} port {at.port}: {error.strerror or error}") from error
    except BaseException:
        plain.close()
        raise
