"""Redeeming a token, blocking: what `electros login` and `atomd join` do. The side of who joins.

The token names addresses; each is tried in turn, and the same request at each, so that an answer lost on the way can be
had again. Whoever answers is held to the root in the token before anything is said to it: see `matcher.trust.joining`.
"""

import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from matcher.trust import files
from matcher.trust.identity import is_identity, load_identity
from matcher.trust.joining import ALPN, JoinError, Joining
from matcher.trust.principal import Principal, name_problem
from matcher.trust.spreading import Peer
from matcher.trust.tokens import Token
from matcher.wire.codec import BadBytes, decode, encode
from matcher.wire.framing import frame
from matcher.wire.messages import Refused
from matcher.wire.realm import Admitted, Join, Welcome
from specs.ids import HostId

TIMEOUT_S = 20.0
CONNECT_S = 3.0  # at one address
TRIES = 2
FRAME_MAX_BYTES = 768 * 1024  # a bundle of 512 KiB at most, as `Welcome` says
_LENGTH_BYTES = 4


class _Elsewhere(Exception):
    """Nothing came of this address; another one may do. The higher `rank` is the better thing to tell."""

    def __init__(self, said: str, rank: int) -> None:
        super().__init__(said)
        self.rank = rank


class NobodyAnswers(JoinError):
    """At none of the token's addresses; later somebody may."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Who one is now, and the host that said so."""

    principal: Principal
    by: Peer


def redeem(token: Token, name: str, folder: Path, *, timeout_s: float = TIMEOUT_S) -> Joined:
    """Become a member of the token's realm, with an identity in `folder`. `name`: a host's own; a user's stands in the
    token's record, so that theirs may be empty.

    Raises `JoinError`, with a sentence for a person.
    """
    if is_identity(folder):
        raise JoinError(f"There is an identity in {folder} already, and it stays. Choose another folder.")
    if token.kind == "host" and (problem := name_problem(name)):
        raise JoinError(problem)
    try:
        files.make_folder(folder)
    except OSError as error:
        raise JoinError(f"{folder} can't be written: {error.strerror}. The token is still good.") from error
    admitted, joining, address = _admitted(token, name, time.monotonic() + timeout_s)
    try:
        joining.finish(admitted, folder)
    except OSError as error:
        said = f"The realm has admitted you, but {folder} can't be written: {error.strerror}. Ask for a new token."
        raise JoinError(said) from error
    by = joining.server
    assert by is not None, "somebody has answered"
    return Joined(load_identity(folder).principal, Peer(HostId(by.id), by.name, address, token.port))


def _admitted(token: Token, name: str, until_s: float) -> tuple[Admitted, Joining, str]:
    """Every address twice: where an answer was lost, the same request gets it again."""
    joining = Joining(token, name or token.kind)
    best = _Elsewhere("The token names no address that could be tried.", -1)
    for address in token.addresses * TRIES:
        if (left_s := until_s - time.monotonic()) <= 0:
            break
        try:
            answer = _ask(joining, address, left_s)
        except _Elsewhere as error:
            best = error if error.rank > best.rank else best
            continue
        if isinstance(answer, Refused):
            raise JoinError(_no(answer))
        return answer, joining, address
    raise (NobodyAnswers if best.rank == 0 else JoinError)(str(best)) from best


def _ask(joining: Joining, address: str, left_s: float) -> Admitted | Refused:
    """The whole of joining at one address. Raises `_Elsewhere`."""
    until_s = time.monotonic() + left_s
    where = f"{address} port {joining.token.port}"
    with _connected(address, joining.token.port, min(CONNECT_S, left_s)) as plain:
        try:
            with _tls().wrap_socket(plain) as tls:
                if tls.selected_alpn_protocol() != ALPN:
                    raise _Elsewhere(
                        f"At {where} nobody waits for this token: its 15 minutes are over, or that host has started "
                        "anew since. Ask for a new token.",
                        2,
                    )
                leaf = tls.getpeercert(binary_form=True) or b""
                welcome = decode(Welcome, _frame(tls, until_s), max_bytes=FRAME_MAX_BYTES)
                tls.sendall(frame([encode(_held_to(joining, welcome, leaf))]))
                return _answer(_frame(tls, until_s))
        except ssl.SSLError as error:
            raise _Elsewhere(f"At {where} answers something else than a host: {error.reason or error}.", 1) from error
        except (OSError, EOFError) as error:
            raise _Elsewhere(
                f"At {where} a host answers, but breaks off. Try again, or ask for a new token.", 1
            ) from error
        except BadBytes as error:
            raise _Elsewhere(f"At {where} a host answers what can't be read: {error}.", 1) from error


def _held_to(joining: Joining, welcome: Welcome, leaf: bytes) -> Join:
    try:
        return joining.answer(welcome, leaf, time.time())
    except JoinError as error:
        raise _Elsewhere(str(error), 3) from error


def _connected(address: str, port: int, timeout_s: float) -> socket.socket:
    try:
        return socket.create_connection((address, port), timeout=timeout_s)
    except OSError as error:
        said = f"Nobody answers at {address} port {port}: {error.strerror or error}. Is that host up and in reach?"
        raise _Elsewhere(said, 0) from error


def _tls() -> ssl.SSLContext:
    """No authority is known yet; the server's leaf is held to the token's root by `Joining`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    return context


def _frame(tls: ssl.SSLSocket, until_s: float) -> bytes:
    """What stands behind its length. Raises `BadBytes`, `EOFError` or `OSError`."""
    length = int.from_bytes(_exactly(tls, _LENGTH_BYTES, until_s), "big")
    if length > FRAME_MAX_BYTES:
        raise BadBytes("length", f"{length} bytes")
    return _exactly(tls, length, until_s)


def _answer(data: bytes) -> Admitted | Refused:
    try:
        return decode(Admitted, data, max_bytes=FRAME_MAX_BYTES)
    except BadBytes:
        return decode(Refused, data, max_bytes=FRAME_MAX_BYTES)


def _exactly(tls: ssl.SSLSocket, size: int, until_s: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        tls.settimeout(max(0.01, until_s - time.monotonic()))
        chunk = tls.recv(min(size - len(data), 65_536))
        if not chunk:
            raise EOFError
        data += chunk
        if time.monotonic() > until_s:
            raise TimeoutError
    return bytes(data)


def _no(answer: Refused) -> str:
    reasons = "; ".join(reason.has for reason in answer.reasons) or answer.code
    hints = ", ".join(reason.hint for reason in answer.reasons if reason.hint)
    return f"The host says no: {reasons}." + (f" What helps: {hints}." if hints else "")
