"""A server is found by what it holds, never by a number that may be another's."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from storaged.export import keeping
from storaged.export.child import Child, Command
from storaged.export.exporter import Problems
from storaged.export.keeping import Kept

T = TypeVar("T")

SERVER = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("serving", os.environ.get("WORD"), os.getsid(0) == os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    mark = tmp_path / "lock"
    words = (sys.executable, "-c", SERVER, str(mark))
    made = Command(words, mark=mark, log=tmp_path / "log", environment={"WORD": "yes"})
    yield made
    child = Child.find(made)
    if child is not None:
        with closing(child):
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)


async def until(condition: Callable[[], T]) -> T:
    """What it gives as soon as that is anything."""
    with trio.fail_after(20):
        while True:
            if value := condition():
                return value
            await trio.sleep(0.01)


async def found(command: Command) -> Child:
    child = await until(lambda: Child.find(command))
    assert child is not None
    return child


async def test_a_server_that_holds_its_lock_is_found_and_one_that_ended_is_not(command: Command) -> None:
    assert Child.find(command) is None
    with closing(Child.start(command)) as child, closing(await found(command)) as same:
        assert same.pid == child.pid
        child.kill()
        with trio.fail_after(20):
            await child.ended()
        assert Child.find(command) is None
        child.kill()  # is harmless


async def test_a_server_has_a_session_an_environment_and_a_log_of_its_own(command: Command) -> None:
    with closing(Child.start(command)), closing(await found(command)):
        await until(lambda: b"\n" in command.log.read_bytes())
    assert command.log.read_bytes() == b"serving yes True\n"


async def test_who_listens_on_a_socket_is_found(tmp_path: Path) -> None:
    mark = tmp_path / "s"
    command = Command((), mark=mark, log=tmp_path / "log")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(mark))
        assert Child.find(command) is None
        listening.listen()
        with closing(await found(command)) as child:
            assert child.pid == os.getpid()
    assert Child.find(command) is None


class Server:
    """Counts what it is asked."""

    def __init__(self, command: Command) -> None:
        self.command, self.answering, self.converged = command, True, 0
        self.kept = Kept("server", command, self.answers, self.converge)

    async def answers(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.answering and self.kept.pid is not None

    async def converge(self) -> Problems:
        await trio.lowlevel.checkpoint()
        self.converged += 1
        return {}


async def test_a_server_that_ends_is_started_again_and_told_what_to_serve(
    command: Command, nursery: trio.Nursery
) -> None:
    server = Server(command)
    await nursery.start(server.kept.run)
    with closing(await found(command)) as first:
        before = server.converged
        first.kill()
        await until(lambda: server.converged > before)
        with closing(await found(command)) as second:
            assert second.pid != first.pid
    nursery.cancel_scope.cancel()


async def test_a_server_outlives_its_keeper_and_the_next_one_finds_it(command: Command) -> None:
    pids = []
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            server = Server(command)
            await nursery.start(server.kept.run)
            pids.append(server.kept.pid)
            nursery.cancel_scope.cancel()
    assert pids[0] == pids[1] is not None


async def test_a_server_that_does_not_answer_is_ended(
    command: Command, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "HUNG_S", 0.2)
    monkeypatch.setattr(keeping, "LOOK_S", 0.05)
    server = Server(command)
    await nursery.start(server.kept.run)
    with closing(await found(command)) as first:
        server.answering = False
        with trio.fail_after(20):
            await first.ended()
    nursery.cancel_scope.cancel()


async def test_a_program_that_is_not_there_is_tried_again(tmp_path: Path, nursery: trio.Nursery) -> None:
    command = Command(("program-that-is-not-there",), mark=tmp_path / "lock", log=tmp_path / "log")
    server = Server(command)
    with trio.move_on_after(0.3):
        await nursery.start(server.kept.run)
    assert server.kept.pid is None
    assert server.converged == 0
