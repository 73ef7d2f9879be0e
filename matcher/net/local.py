"""How the daemons of one host talk, and its sysadmins with them: one question, one answer over a Unix socket.

    length 4 | kind 1 | msgpack

The kernel says who connects (SO_PEERCRED, SO_PEERGROUPS). Between daemons, root alone and the daemon's own user are
heard (`serve`); at the back door, root and the members of one group (`serve_sysadmins`). Others are hung up on.
"""

import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from matcher.wire import backdoor
from matcher.wire.codec import BODY_MAX_BYTES, BadBytes, decode, encode
from matcher.wire.hosts import ListMembers, MemberRows
from matcher.wire.messages import Message, Refused
from matcher.wire.realm import Done
from matcher.wire.volumes import (
    Asked,
    AskPools,
    AskVolumesHere,
    AskVolumesUsed,
    Attach,
    Attached,
    Detach,
    Detached,
    Forget,
    Forgotten,
    PoolRows,
    Replies,
    SharePool,
    VolumesHere,
    VolumesUsed,
)

FRAME_MAX_BYTES = BODY_MAX_BYTES + 64 * 1024
QUESTION_S = 5.0  # to write a question, once connected
ANSWER_S = 5.0  # to take the answer
CONNECTIONS_MAX = 32
DAEMONS: tuple[type[Message], ...] = (Attach, Attached, Detach, Detached, Asked, Replies, Forget, Forgotten, Refused)
SYSADMINS: tuple[type[Message], ...] = (
    *(backdoor.AskStatus, backdoor.HostStatus, backdoor.ListVms, backdoor.VmRows, backdoor.InspectVm),
    *(backdoor.Inspected, backdoor.ListHolds, backdoor.HoldRows, backdoor.SetDrained, backdoor.EvictVm),
    *(backdoor.RemoveVm, backdoor.Ended, Done),
)
DEVICES: tuple[type[Message], ...] = (
    backdoor.ListDevices,
    backdoor.DeviceRows,
    backdoor.ReadmitDevice,
)
# The place is the number on the socket: new ones go last.
POOLS: tuple[type[Message], ...] = (AskVolumesUsed, VolumesUsed, SharePool, AskPools, PoolRows)
KINDS = (*DAEMONS, *SYSADMINS, *POOLS, ListMembers, MemberRows, *DEVICES, AskVolumesHere, VolumesHere)

SO_PEERGROUPS = 59  # Linux 4.13; Python has no name for it
GROUPS_MAX = 256  # of a peer; who is in more is judged by its first group alone

_HEADER = struct.Struct(">IB")
_PEER = struct.Struct("iII")

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


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, as the kernel knew it when it connected; `groups` has all of them."""

    pid: int
    uid: int
    groups: frozenset[int]


async def sysadmin(peer: Peer) -> str:
    """How the audit names who is at the other end; directories of users may take their time."""
    return f"sysadmin uid {peer.uid} ({await trio.to_thread.run_sync(_user_name, peer.uid)})"


async def serve(
    path: Path,
    answer: Callable[[Message, Peer], Awaitable[Message]],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer another daemon's questions at `path` until cancelled."""
    door = _Door(answer, lambda peer: peer.uid in (0, os.geteuid()), lambda _: None)
    await door.serve(_listening(path), task_status)


async def serve_sysadmins(
    path: Path,
    answer: Callable[[Message, Peer], Awaitable[Message]],
    *,
    gid: int | None,
    turned_away: Callable[[Peer], None],
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer root's questions, and those of group `gid`, at `path` until cancelled; the others are told of."""
    door = _Door(answer, lambda peer: peer.uid == 0 or (gid is not None and gid in peer.groups), turned_away)
    await door.serve(_listening(path, gid), task_status)


class _Door:
    def __init__(
        self,
        answer: Callable[[Message, Peer], Awaitable[Message]],
        admits: Callable[[Peer], bool],
        turned_away: Callable[[Peer], None],
    ) -> None:
        self._answer, self._admits, self._turned_away = answer, admits, turned_away
        self._places = trio.CapacityLimiter(CONNECTIONS_MAX)

    async def serve(self, listening: socket.socket, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        await trio.serve_listeners(self._serve_one, [listener], task_status=task_status)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        async with stream:
            peer = _peer(stream)
            if not self._admits(peer):
                self._turned_away(peer)
                return
            async with self._places:
                try:
                    with trio.fail_after(QUESTION_S):
                        question = await _read(stream)
                    said = _frame(await self._answer(question, peer))
                    with trio.fail_after(ANSWER_S):
                        await stream.send_all(said)
                except (BadBytes, trio.TooSlowError, trio.BrokenResourceError):
                    return


def _listening(path: Path, gid: int | None = None) -> socket.socket:
    """A socket for its owner alone, or for group `gid` as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    if gid is not None:
        with suppress(PermissionError):  # a daemon that is not root can't give it to the group: it is root's alone
            os.chown(path, -1, gid)
            path.chmod(0o660)
    listening.listen(socket.SOMAXCONN)  # who finds no place in line is refused, and a host that starts asks all at once
    return listening


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "no name"


def _peer(stream: trio.SocketStream) -> Peer:
    pid, uid, gid = _PEER.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    try:
        raw = stream.socket.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * GROUPS_MAX)
    except OSError:
        raw = b""
    return Peer(pid, uid, frozenset((gid, *struct.unpack(f"{len(raw) // 4}I", raw))))


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
