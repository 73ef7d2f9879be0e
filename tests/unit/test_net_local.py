"""The daemons of one host talk in whole, bounded frames, and a stranger's bytes never hurt the one who listens."""

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from matcher.net import local
from matcher.net.local import CONNECTIONS_MAX, FRAME_MAX_BYTES, KINDS, QUESTION_S, LocalError, ask
from matcher.wire.codec import encode
from matcher.wire.messages import Message, Refused
from matcher.wire.volumes import Attached, Detach, Detached

QUESTION = Detach("a" * 32, 1, "b" * 32)
DONE = Detached()


@asynccontextmanager
async def serving(path: Path, answer: Message = DONE) -> AsyncIterator[list[Message]]:
    """A daemon that gives one answer to everything; the questions that reached it."""
    asked: list[Message] = []

    async def reply(question: Message, _: local.Peer) -> Message:
        asked.append(question)
        return answer

    async with trio.open_nursery() as nursery:
        nursery.start_soon(local.serve, path, reply)
        await trio.testing.wait_all_tasks_blocked()  # it listens
        yield asked
        nursery.cancel_scope.cancel()


async def written(path: Path, data: bytes, *, end: bool = True) -> bytes:
    """What comes back for raw bytes, until the daemon hangs up."""
    async with await trio.open_unix_socket(str(path)) as stream:
        with trio.fail_after(60):
            await stream.send_all(data)
            if end:
                stream.socket.shutdown(socket.SHUT_WR)
            try:
                return b"".join([chunk async for chunk in stream])
            except trio.BrokenResourceError:
                return b""


async def test_a_question_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path / "socket") as asked:
        assert await ask(tmp_path / "socket", QUESTION, Detached, timeout_s=2) == Detached()
    assert asked == [QUESTION]


async def test_a_refusal_is_an_answer_and_another_kind_is_none(tmp_path: Path) -> None:
    refused = Refused("journal", ())
    async with serving(tmp_path / "socket", refused):
        assert await ask(tmp_path / "socket", QUESTION, Detached, timeout_s=2) == refused
    async with serving(tmp_path / "socket", Attached(())):
        with pytest.raises(LocalError, match="another kind"):
            await ask(tmp_path / "socket", QUESTION, Detached, timeout_s=2)


async def test_nobody_there_is_told_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=str(tmp_path / "none")):
        await ask(tmp_path / "none", QUESTION, Detached, timeout_s=2)


async def test_a_daemon_that_does_not_answer_is_waited_for_no_longer_than_asked(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "deaf"))
    listening.listen(1)
    with listening, pytest.raises(LocalError, match="no answer in 10 s"):
        await ask(tmp_path / "deaf", QUESTION, Detached, timeout_s=10)


def frame(length: int, kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", length, kind) + body


BODY = encode(QUESTION)
DETACH = KINDS.index(Detach)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        frame(len(BODY) + 1, DETACH, BODY),
        frame(FRAME_MAX_BYTES + 1, DETACH, b""),
        frame(0xFFFFFFFF, DETACH, b"x" * 100),
        frame(len(BODY), len(KINDS), BODY),
        frame(len(BODY), 255, BODY),
        frame(len(BODY), KINDS.index(Attached), BODY),
        frame(4, DETACH, b"\xc1\xc1\xc1\xc1"),
        frame(0, DETACH, b""),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_question_are_hung_up_on_and_the_next_is_answered(tmp_path: Path, data: bytes) -> None:
    async with serving(tmp_path / "socket") as asked:
        assert await written(tmp_path / "socket", data) == b""
        assert asked == []
        assert await ask(tmp_path / "socket", QUESTION, Detached, timeout_s=2) == Detached()


async def test_a_question_that_is_never_finished_is_hung_up_on(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(tmp_path / "socket") as asked:
        assert await written(tmp_path / "socket", b"\0\0", end=False) == b""
    assert asked == []


async def test_a_frame_that_says_it_is_too_long_is_not_even_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path / "socket"):
        with trio.fail_after(QUESTION_S / 2):
            assert await written(tmp_path / "socket", frame(FRAME_MAX_BYTES + 1, DETACH, b""), end=False) == b""


async def test_more_connections_than_are_served_wait_their_turn(tmp_path: Path) -> None:
    async with serving(tmp_path / "socket") as asked, trio.open_nursery() as nursery:
        for _ in range(3 * CONNECTIONS_MAX):
            nursery.start_soon(partial(ask, tmp_path / "socket", QUESTION, Detached, timeout_s=5))
    assert len(asked) == 3 * CONNECTIONS_MAX


async def test_only_the_daemons_user_may_even_connect(tmp_path: Path) -> None:
    async with serving(tmp_path / "socket"):
        assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can pass for another user")
async def test_another_user_is_hung_up_on_even_where_the_socket_lets_them_in(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    question = frame(len(BODY), DETACH, BODY)
    talk = f"s.connect({str(path)!r})\ntry: s.sendall({question!r}); print(s.recv(9))\nexcept OSError: print(b'')"
    script = f"import socket\ns = socket.socket(socket.AF_UNIX)\n{talk}"
    async with serving(path) as asked:
        for folder in (path, *path.parents[:-2]):
            folder.chmod(0o777)
        command = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", script]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.stdout == b"b''\n", done.stderr
    assert asked == []


async def test_a_socket_left_by_a_crash_is_no_obstacle(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
    async with serving(tmp_path / "socket"):
        assert await ask(tmp_path / "socket", QUESTION, Detached, timeout_s=2) == Detached()
