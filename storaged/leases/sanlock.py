"""This host's sanlock daemon, asked by its own command.

    process --registered, then exec--> known to sanlock --acquire--> holds leases --ends, however--> they are free
                                                                        '--its host can't renew--> SIGTERM, SIGKILL

`registered` makes a server's command one that sanlock knows by the process itself, which then serves: there is nothing
between the lease and whoever writes. A lease is acquired in the version that was seen, never in whatever version there
is. What is not answered in time is *unknown* and may yet happen; asked again, it is found done.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from matcher.net.programs import ask
from matcher.wire.messages import Reason, Refused
from specs.ids import Vid
from storaged.export.child import Command
from storaged.export.description import Unknown
from storaged.leases import words
from storaged.leases.words import Code, Leader, Lease, Lockspace

PROGRAM = "sanlock"
CALL_S = 10.0  # a disk that answers is much quicker
JOIN_S = 240.0  # 20 s at least; more where a server of this number has just ended
SAID_MAX_CHARS = 200
AGAIN_S = 0.05

IN_USE = "in-use"
CHANGED = "lease-changed"
NOT_JOINED = "not-joined"
NO_HOLDER = "no-holder"


class Silent(Exception):
    """sanlock can't be asked, or gives an answer that nobody here expects: the message says what."""


@dataclass(frozen=True, slots=True)
class Held:
    """The process has the lease, in this version."""

    version: int


class Sanlock:
    """`run` is the daemon's folder, where it is not the system's own; `io_s` how long one read or write of a lease may
    take, the same on all servers of a pool."""

    def __init__(self, run: Path | None = None, *, io_s: int = 10, call_s: float = CALL_S) -> None:
        assert io_s >= 1
        self._environment = {"SANLOCK_RUN_DIR": str(run)} if run else {}
        self._io_s, self._call_s = io_s, call_s

    def registered(self, command: Command) -> Command:
        """The same process, known to sanlock. Its program is named by its whole path."""
        assert command.words[0].startswith("/"), "sanlock does not search for it"
        registering = (PROGRAM, "client", "command", "-c", *command.words)
        return replace(command, words=registering, environment={**command.environment, **self._environment})

    async def is_watched(self) -> bool:
        """Whether losing a lease ends this host by a watchdog where all else fails. sanlock joins nothing before its
        watchdog is armed. Raises `Silent`, as all of these do."""
        return words.is_watched(await self._say("client", "status", "-D"))

    async def knows(self, pid: int) -> bool:
        """Whether the process is registered, and so would be ended with its leases. A daemon that was started again
        knows none of before."""
        return words.code_of(await self._say("client", "inquire", "-p", str(pid))) in (Code.DONE, Code.BUSY)

    async def held_by(self, pid: int, pool_id: str) -> frozenset[Vid]:
        """The volumes of the pool whose leases the process has. One that is not registered has none."""
        said = await self._say("client", "inquire", "-p", str(pid))
        self._done(said, Code.NO_PROCESS)
        return words.held_of(said, pool_id)

    async def has_joined(self, lockspace: Lockspace, number: int) -> bool:
        """Whether it still is what `join` made it. A daemon that was started again is not."""
        said = await self._say("client", "inq_lockspace", "-s", lockspace.member(number))
        return words.code_of(said) == Code.DONE

    async def join(self, lockspace: Lockspace, number: int) -> None:
        """Be the server of this number in the pool. Harmless to repeat; takes 20 s and more."""
        asked = ("client", "add_lockspace", "-s", lockspace.member(number), "-o", str(self._io_s))
        self._done(await self._say(*asked, within_s=JOIN_S), Code.HAS_IT)

    async def leave(self, lockspace: Lockspace, number: int) -> None:
        """When no process has a lease in it any more. Harmless to repeat."""
        self._done(await self._say("client", "rem_lockspace", "-s", lockspace.member(number)), Code.UNKNOWN)

    async def init(self, what: Lockspace | Lease) -> None:
        """Write an area for leases that nobody uses yet: in a file that has no name that others know."""
        named = ("-r", what.word) if isinstance(what, Lease) else ("-s", what.member(0))
        self._done(await self._say("direct", "init", *named))

    async def begin(self, lease: Lease) -> None:
        """Give a new lease its first version, by having it once. This host has joined."""
        said = await self._say("client", "command", "-r", lease.word, "-c", "/bin/true")
        if words.code_of(said) is not None:  # what it says is lost with it where it becomes the other program
            self._done(said)
        with trio.move_on_after(self._call_s):
            while True:
                leader = await self.leader(lease)
                if leader.is_free and leader.version == 1:
                    return
                await trio.sleep(AGAIN_S)
        raise Silent("sanlock does not let go of a new lease")

    async def leader(self, lease: Lease) -> Leader:
        """As it is on the disk, past every cache."""
        said = await self._say("direct", "read_leader", "-r", lease.word)
        leader = words.leader_of(said, lease)
        if leader is None:
            raise Silent(f"the lease of volume {lease.vid} can't be read: {_short(said)}")
        return leader

    async def acquire(self, lease: Lease, seen: Leader, pid: int) -> Held | Refused | Unknown:
        """For a process that is registered. Where `seen` is another server's, sanlock waits until that has lost it."""
        try:
            said = await self._say("client", "acquire", "-r", lease.at(seen.version), "-p", str(pid))
            code = words.code_of(said)
            if code == Code.HAS_IT:
                return Held((await self.leader(lease)).version)
        except Silent as problem:
            return Unknown(str(problem))
        if code == Code.DONE:
            return Held(seen.version + 1)
        if code == Code.BUSY:
            return Unknown("sanlock is not done yet with a lease that it was asked for before")
        return _refusal(code, lease) or Unknown(_short(said))

    async def release(self, lease: Lease, pid: int) -> None:
        """Only when nothing that the process was sent can be written any more. Harmless to repeat."""
        said = await self._say("client", "release", "-r", lease.word, "-p", str(pid))
        self._done(said, Code.NOT_HELD, Code.NO_PROCESS)

    def _done(self, said: str, *harmless: Code) -> None:
        if words.code_of(said) not in (Code.DONE, *harmless):
            raise Silent(f"sanlock: {_short(said)}")

    async def _say(self, *asked: str, within_s: float | None = None) -> str:
        within_s = self._call_s if within_s is None else within_s
        with trio.move_on_after(within_s):
            return await _run((PROGRAM, *asked), self._environment)
        raise Silent(f"sanlock has not answered {' '.join(asked[:2])} within {within_s:g} s")


async def _run(command: tuple[str, ...], environment: Mapping[str, str]) -> str:
    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    environment = {"PATH": path, "LANG": "C.UTF-8", **environment}
    try:
        ended = await ask(command, environment)
    except OSError as problem:
        raise Silent(f"{command[0]} can't be started: {problem.strerror}") from problem
    return (ended.out + b"\n" + ended.err).decode(errors="replace")


def _refusal(code: int | None, lease: Lease) -> Refused | None:
    match code:
        case Code.LIVE | Code.OWNED | Code.OTHER:
            why = IN_USE, "another server has its lease, and lives", "end its VM there, or wait"
        case Code.CHANGED:
            why = CHANGED, "another server has had its lease meanwhile", "run it again"
        case Code.NO_LOCKSPACE:
            why = NOT_JOINED, "this server has not joined its pool", "wait: that takes half a minute"
        case Code.NO_PROCESS:
            why = NO_HOLDER, "what serves it is not known to sanlock", "its sysadmin finds more in the log"
        case _:
            return None
    return Refused(why[0], (Reason(f"volume {lease.vid}", "to hold its lease", why[1], why[2]),))


def _short(said: str) -> str:
    return " ".join(said.split())[:SAID_MAX_CHARS]
