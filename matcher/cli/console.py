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
from typing import Annotated

from cyclopts import Parameter

from matcher.cli.failures import Exit, Failure
from matcher.cli.output import Output, Table, emit, note
from matcher.cli.session import ANSWER_S, Found, Session, refused, session
from matcher.net.https import Unreachable
from matcher.net.web import Broken, Ended, Rejected, Web

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
    web = _opened(mine, found)
    try:
        note(f"electros: connected to {found.vm.name} on {found.vm.host}; Ctrl-] ends the session")
        with _raw_terminal(), mine.client.interrupts.waiting():  # Ctrl-C is the guest's, but where a pipe is typing
            said = _pump(web)
    except Broken as error:
        raise Failure(Exit.UNREACHABLE, f"the connection to its host is lost: {error}; the VM goes on") from None
    finally:
        web.close()
    sys.stderr.write("\n")
    note(f"electros: {said}")


def _pump(web: Web) -> str:
    """Both ways, until either side ends; why it ended. Raises `Broken`."""
    typing, awaited = True, [sys.stdin.fileno(), web.fileno()]
    while True:
        ready, _, _ = select.select(awaited if typing else awaited[1:], [], [])
        if sys.stdin.fileno() in ready:
            typed = os.read(sys.stdin.fileno(), READ_BYTES)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                web.send(before)
            if escape:
                return "session ended; the VM goes on"
            typing = bool(typed)  # at the end of a pipe, the guest is still listened to
        if web.fileno() in ready:
            try:
                for said in web.receive():
                    if isinstance(said, bytes):
                        sys.stdout.buffer.write(said)
            except Ended:
                return "the console has ended"
            finally:
                sys.stdout.flush()


def _opened(mine: Session, found: Found) -> Web:
    """Raises `Failure`."""
    host = found.door.host
    try:
        return Web(mine.client.connect(found.door, timeout_s=ANSWER_S), f"/v1/vms/{found.vm.id}/console")
    except Unreachable as error:
        raise Failure(Exit.UNREACHABLE, str(error)) from None
    except Rejected as error:
        raise (refused(host, error.refused) if error.refused else Failure(Exit.FAILED, str(error))) from None
    except Ended as error:
        raise Failure(Exit.FAILED, str(error)) from None
    except Broken as error:
        raise Failure(Exit.UNREACHABLE, str(error)) from None


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
