"""Programs that are asked something: what they say, and that none is waited for in vain."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from matcher.net.programs import Ended, ask


async def test_what_it_says_and_how_it_ends_is_told() -> None:
    done = await ask(("sh", "-c", "echo yes; echo no >&2; exit 3"))
    assert done == Ended(3, b"yes\n", b"no\n")


async def test_it_has_the_environment_that_it_is_given_and_no_other() -> None:
    assert (await ask(("/bin/sh", "-c", "echo $A-$HOME"), {"A": "b"})).out == b"b-\n"


async def test_one_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        await ask(("atomos-no-such-program",))


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def given_up(script: str, folder: Path) -> int:
    """The process of a script that was given up on once it had begun."""
    mark = folder / "pid"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, ("sh", "-c", f"echo $$ > {mark}.new; mv {mark}.new {mark}; {script}"))
        while not mark.exists():  # noqa: ASYNC110  the file is what there is to wait for
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return int(mark.read_text())


@pytest.mark.parametrize("script", ["trap '' TERM; while :; do sleep 0.1; done", "kill -STOP $$"])
async def test_one_that_is_deaf_or_stopped_ends_when_it_is_given_up_on(script: str, tmp_path: Path) -> None:
    pid = await given_up(script, tmp_path)
    with trio.fail_after(10):
        while lives(pid):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_one_that_not_even_a_kill_ends_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill: Callable[[trio.Process], None] = trio.Process.kill
    deaf: list[trio.Process] = []
    monkeypatch.setattr(trio.Process, "kill", lambda process: deaf.append(process))  # as in the kernel, on a dead disk
    pid = await given_up("exec sleep 60", tmp_path)
    assert lives(pid)
    kill(deaf[0])
    with trio.fail_after(10):
        while lives(pid):  # noqa: ASYNC110  it is buried as well
            await trio.sleep(0.01)
