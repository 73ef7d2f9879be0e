"""Programs that are asked something, say it and end. Who gives up on one does not wait for its end.

SIGKILL ends all but what hangs in the kernel, in a filesystem whose server is away, say. Such a one is buried when it
ends, by whoever is there then; what it was asked may have been done, or may be yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE

import trio

PART_BYTES = 65536
KILLED_S = 0.5  # all but what hangs have ended by then


@dataclass(frozen=True, slots=True)
class Ended:
    """With this code it did; `out` and `err` are what it has said."""

    code: int
    out: bytes
    err: bytes


async def ask(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Raises `OSError` where it can't be started. `environment`: another than this process's."""
    process = await trio.lowlevel.open_process([*words], stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment)
    out, err = bytearray(), bytearray()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read, process.stdout, out)
            nursery.start_soon(_read, process.stderr, err)
            code = await process.wait()
    except BaseException:
        process.kill()
        with trio.move_on_after(KILLED_S, shield=True):
            await process.wait()
        if process.returncode is None:
            trio.lowlevel.spawn_system_task(process.wait)
        raise
    return Ended(code, bytes(out), bytes(err))


async def _read(stream: trio.abc.ReceiveStream | None, said: bytearray) -> None:
    assert stream is not None, "it was opened with a pipe for each"
    async with stream:
        while part := await stream.receive_some(PART_BYTES):
            said += part
