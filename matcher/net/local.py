"""How the daemons of one host talk: one question, one answer over a Unix socket, admitted by who is at the other end.

    length 4 | kind 1 | msgpack

The kernel says who connects (SO_PEERCRED); root alone and the daemon's own user are heard.
"""

import os
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, decode, encode
from matcher.wire.messages import (
    Asked,
    Attach,
    Attached,
    Detach,
    Detached,
    Forget,
    Forgotten,
    Message,
    Refused,
    Replies,
)

FRAME_MAX_BYTES = BODY_MAX_BYTES + 64 * 1024
QUESTION_S = 5.0  # to write a question, once connected
CONNECTIONS_MAX = 32
KINDS: tuple[type[Message], ...] = (Attach, Attached, Detach, Detached, Asked, Replies, Forget, Forgotten, Refused)

_HEADER = struct.Struct(">IB")
_PEER = struct.Struct("3i")

A = TypeVar("A", bound=Message)


class LocalError(Exception):
    """The other daemon could not be asked, or did not answer; what it did is not known."""


async def ask(path: Path, question: Message, answer: type[A], *, timeout_s: float) -> A | Refused:
    """Ask the daemon at `path`. Raises `LocalError`."""
    try:
        with trio.fail_after(timeout_s):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(_frame(question))
                said = await _read(stream)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError, BadBytes) as error:
        raise LocalError(f"{path}: {str(error) or f'no answer in {timeout_s:g} s'}") from error
    if isinstance(said, answer | Refused):
        return said
    raise LocalError(f"{path}: an answer of another kind")


async def serve(
    path: Path,
    answer: Callable[[Message], Awaitable[Message]],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer questions at `path` until cancelled."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(_listening(path)))
    places = trio.CapacityLimiter(CONNECTIONS_MAX)
    handler = partial(_serve_one, answer=answer, places=places)
    await trio.serve_listeners(handler, [listener], task_status=task_status)


def _listening(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    listening.listen(socket.SOMAXCONN)  # who finds no place in line is refused, and a host that starts asks all at once
    return listening


async def _serve_one(
    stream: trio.SocketStream, *, answer: Callable[[Message], Awaitable[Message]], places: trio.CapacityLimiter
) -> None:
    async with stream, places:
        if _peer_uid(stream) not in (0, os.geteuid()):
            return
        try:
            with trio.fail_after(QUESTION_S):
                question = await _read(stream)
            await stream.send_all(_frame(await answer(question)))
        except (BadBytes, trio.TooSlowError, trio.BrokenResourceError):
            return


def _peer_uid(stream: trio.SocketStream) -> int:
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    uid: int = _PEER.unpack(raw)[1]
    return uid


def _frame(message: Message) -> bytes:
    body = encode(message)
    return _HEADER.pack(len(body), KINDS.index(type(message))) + body


async def _read(stream: trio.SocketStream) -> Message:
    length, kind = _HEADER.unpack(await _exactly(stream, _HEADER.size))
    if length > FRAME_MAX_BYTES or kind >= len(KINDS):
        raise BadBytes("frame")
    message: Message = decode(KINDS[kind], await _exactly(stream, length), max_bytes=FRAME_MAX_BYTES)
    return message


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        if not chunk:
            raise BadBytes("frame", "it ended early")
        data += chunk
    return bytes(data)
