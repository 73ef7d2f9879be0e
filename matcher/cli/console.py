"""`electros console`: the guest's serial terminal, or what it has written there so far."""

import gc
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLSocket, SSLWantReadError
from typing import Annotated

from cyclopts import Parameter
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
)

from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.session import ANSWER_S, Found, Session, refused, session
from matcher.net.https import Unreachable
from matcher.wire.codec import BadBytes, from_json
from matcher.wire.messages import Refused

ESCAPE = b"\x1d"  # Ctrl-], as virsh and telnet have it
READ_BYTES = 65_536
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[^\[])?|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # ECMA-48


def console(
    vm: str,
    *,
    log: Annotated[bool, Parameter(help="print what the guest has written so far, and end")] = False,
    output: Output = "table",
) -> None:
    """Talk to the guest on its serial console; Ctrl-] ends the session, the VM goes on.

    Parameters
    ----------
    vm
        Its name, its UUID, or the start of either.
    """
    with session() as mine:
        found = mine.one(vm)
        if log:
            _print_log(mine, found, output)
        else:
            gc.enable()  # people stay for hours
            _attach(mine, found)


def _print_log(mine: Session, found: Found, output: str) -> None:
    """As the guest wrote it; on a terminal without what could change the terminal."""
    data = mine.ask(found.door, lambda connection: connection.ask_bytes("GET", f"/v1/vms/{found.vm.id}/log"))
    if output != "table":
        emit(output, {"log": data.decode(errors="replace")}, Table(("LOG",), [], [found.vm.name]))
        return
    if sys.stdout.isatty():
        data = _ESCAPES.sub(b"", data)
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _attach(mine: Session, found: Found) -> None:
    connection = mine.client.connect(found.door, timeout_s=ANSWER_S)
    try:
        tls = connection.websocket()
    except Unreachable as error:
        raise Failure(Exit.UNREACHABLE, str(error)) from None
    with tls:
        socket = _WebSocket(tls)
        socket.open(f"/v1/vms/{found.vm.id}/console", found.door.host)
        note(f"electros: connected to {found.vm.name} on {found.vm.host}; Ctrl-] ends the session")
        with _raw_terminal(), mine.client.interrupts.waiting():  # Ctrl-C is the guest's, but where a pipe is typing
            said = _pump(socket)
    sys.stderr.write("\n")
    note(f"electros: {said}")


def _pump(socket: "_WebSocket") -> str:
    """Both ways, until either side ends; why it ended."""
    typing, awaited = True, [sys.stdin.fileno(), socket.tls.fileno()]
    while True:
        ready, _, _ = select.select(awaited if typing else awaited[1:], [], [])
        if sys.stdin.fileno() in ready:
            typed = os.read(sys.stdin.fileno(), READ_BYTES)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                socket.send(before)
            if escape:
                return "session ended; the VM goes on"
            typing = bool(typed)  # at the end of a pipe, the guest is still listened to
        if socket.tls.fileno() in ready:
            for event in socket.receive():
                if not isinstance(event, BytesMessage):
                    return "the console has ended"
                sys.stdout.buffer.write(bytes(event.data))
            sys.stdout.flush()


class _WebSocket:
    """wsproto over the pinned TLS connection, blocking."""

    def __init__(self, tls: SSLSocket) -> None:
        self.tls = tls
        self._protocol = WSConnection(ConnectionType.CLIENT)

    def open(self, path: str, host: str) -> None:
        self.tls.sendall(self._protocol.send(Request(host=host, target=path)))
        refusal = bytearray()
        while True:
            for event in self._read():
                match event:
                    case AcceptConnection():
                        self.tls.setblocking(False)
                        return
                    case RejectData(data=data, body_finished=finished):
                        refusal += data
                        if finished:
                            raise _refusal(host, bytes(refusal))
                    case RejectConnection(has_body=False, status_code=status):
                        raise Failure(Exit.FAILED, f"{host} refuses the console: HTTP status {status}")
                    case CloseConnection():
                        raise Failure(Exit.FAILED, f"{host} has closed the connection")

    def send(self, data: bytes) -> None:
        self.tls.setblocking(True)
        try:
            self.tls.sendall(self._protocol.send(BytesMessage(data)))
        except OSError as error:
            raise _lost(error) from None
        finally:
            self.tls.setblocking(False)

    def receive(self) -> Iterator[Event]:
        """What has arrived; TLS may hold more than the socket shows, so it is read until it is empty."""
        while True:
            try:
                for event in self._read():
                    if isinstance(event, Ping):
                        self.tls.sendall(self._protocol.send(event.response()))
                    else:
                        yield event
            except SSLWantReadError:
                return

    def _read(self) -> Iterator[Event]:
        try:
            data = self.tls.recv(READ_BYTES)
        except SSLWantReadError:
            raise
        except OSError as error:
            raise _lost(error) from None
        self._protocol.receive_data(data or None)
        yield from self._protocol.events()


def _lost(error: OSError) -> Failure:
    said = f"the connection to its host is lost: {error.strerror or error}; the VM goes on"
    return Failure(Exit.UNREACHABLE, said)


def _refusal(host: str, body: bytes) -> Failure:
    try:
        return refused(host, from_json(Refused, body))
    except BadBytes:
        return Failure(Exit.FAILED, f"{host} refuses the console")


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C too; the terminal is given back as it was."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
