"""A server that storaged starts and that outlives it: found again by the lock that it holds, or the socket.

    (none) --start--> running --its end, however--> (none)
    running --storaged ends--> running --another storaged looks--> running

A lock on a file and a socket that somebody listens on can't be stale: the kernel says who has it, and frees it with its
holder. So no pid is written anywhere, and a server that was started a moment before storaged died is found like any
other.
"""

import fcntl
import os
import signal
import socket
import stat
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

_LOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, process
_CREDENTIALS = struct.Struct("@iII")  # struct ucred: process, user, group
LISTEN_S = 0.5  # whoever has a full queue for so long does not listen
LOG_MAX_BYTES = 2**20  # a longer one is begun anew at the next start


@dataclass(frozen=True, slots=True)
class Command:
    """How to start the server in the foreground. Before it serves it takes the POSIX lock on `mark`, or listens there
    if that is a socket."""

    words: Sequence[str]
    mark: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A server that runs, or ran: `process` stands for that very one, whoever gets its pid later."""

    def __init__(self, pid: int, process: int) -> None:
        self.pid, self._process = pid, process

    @classmethod
    def find(cls, command: Command) -> "Child | None":
        """The one that holds the mark."""
        pid = _holder_of(command.mark)
        if pid is None:
            return None
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        if _holder_of(command.mark) != pid:  # it ended in between, and its pid may be another's
            os.close(process)
            return None
        return cls(pid, process)

    @classmethod
    def start(cls, command: Command) -> "Child":
        """Raises `OSError` where the program can't be started."""
        pid = _spawn(command)
        return cls(pid, os.pidfd_open(pid))

    async def ended(self) -> None:
        """Wait until it is gone, and bury it if it is our own child."""
        await trio.lowlevel.wait_readable(self._process)
        self._bury()

    def kill(self) -> None:
        """SIGKILL, which a stopped process obeys as well. `ended` returns when it is gone."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it; it lives on."""
        os.close(self._process)

    def _bury(self) -> None:
        with suppress(ChildProcessError):  # another storaged's child: PID 1 buries it
            os.waitpid(self.pid, os.WNOHANG)


def _holder_of(mark: Path) -> int | None:
    try:
        is_socket = stat.S_ISSOCK(mark.lstat().st_mode)
    except FileNotFoundError:
        return None
    return _listener_at(mark) if is_socket else _locker_of(mark)


def _locker_of(lock: Path) -> int | None:
    ask = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    file = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        kind, _, _, _, pid = _LOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, ask))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else int(pid)


def _listener_at(path: Path) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(LISTEN_S)
        try:
            asking.connect(str(path))
        except OSError:
            return None
        credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[0])


def _spawn(command: Command) -> int:
    path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    environment = {"PATH": path, "LANG": "C.UTF-8", **command.environment}
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    if command.log.exists() and command.log.stat().st_size > LOG_MAX_BYTES:
        append |= os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(command.log), append, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawnp(
        command.words[0],
        list(command.words),
        environment,
        file_actions=actions,
        setsid=True,  # a signal to our group is not for it
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )
