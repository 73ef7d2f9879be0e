"""Runs a program on an image that nobody trusts, where it can do little harm.

The program has no privileges, no network (where the kernel lets us take it away), an empty environment, bounds on
memory, processor time, files and their size, and a deadline. It gets files by descriptor, so that no name can be
exchanged under it, and dies with us: when the caller's `Progress` raises, when the thread that waits for it ends, when
storaged is killed. Where we may (as root, or with four capabilities) it runs as a user of its own, who for that time
owns the files that it is lent; otherwise as we do, without our capabilities. It still sees what any user may read.
Only this file starts processes for storaged.
"""

import errno
import fcntl
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

from storaged.beneath import Unusable

USERS = ("atomos-img", "nobody")  # the first that the machine has
MEMORY_MAX_BYTES = 2**30  # of addresses: room for 64 threads of qemu-img's, each with its stack
STACK_MAX_BYTES = 2**21
PROCESSOR_MAX_S = 3600
DEADLINE_S = 4 * 3600.0
FILES_MAX = 64
PROCESSES_MAX = 256  # of that user, threads as well
SAID_MAX_BYTES = 16 * 1024
TICK_S = 0.1

_CHOWN, _KILL, _SETGID, _SETUID, _SETPCAP, _SYS_ADMIN = 0, 5, 6, 7, 8, 21  # linux/capability.h
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# By itself malloc takes 64 MiB of addresses for each thread: with many at once, on a busy machine, qemu-img aborts.
_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"}
_PERCENT = re.compile(rb"\((\d+)\.\d+/100%\)")
_PLACES = re.compile(r"(json:\{.*\}|'?/proc/self/fd/\d+'?)")
_SIGNALS = {
    signal.SIGXFSZ: "would have grown larger than is allowed",
    signal.SIGXCPU: "took more processor time than is allowed",
    signal.SIGKILL: "was killed, for want of memory or of time",
}

Tick = Callable[[int], None]  # percent; may raise, which ends the program


class Failed(Unusable):
    """The program ended with another code than 0."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Sandbox:
    """For one user. `uid` and `gid` are those that the program runs as."""

    uid: int
    gid: int
    deadline_s: float = DEADLINE_S

    @classmethod
    def of(cls, user: str | None = None, *, deadline_s: float = DEADLINE_S) -> "Sandbox":
        """As `user` where we may become another, by default the first of `USERS`; otherwise as ourselves. Raises
        `Unusable`."""
        if not _may(_CHOWN, _KILL, _SETGID, _SETUID):
            return cls(os.geteuid(), os.getegid(), deadline_s)
        for name in (user,) if user is not None else USERS:
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid, deadline_s)
        raise Unusable(f"there is no user {user or ' or '.join(USERS)} for qemu-img to run as")

    @contextmanager
    def lent(self, file: int) -> Iterator[None]:
        """The program may open the file: for the time it belongs to its user."""
        facts = os.fstat(file)
        if facts.st_uid == self.uid:
            yield
            return
        self._give(file, self.uid, self.gid)
        try:
            yield
        finally:
            os.fchown(file, facts.st_uid, facts.st_gid)

    def _give(self, file: int, uid: int, gid: int) -> None:
        try:
            os.fchown(file, uid, gid)
        except PermissionError as problem:
            owner = os.fstat(file).st_uid
            raise Unusable(
                f"the image belongs to user {owner}, and storaged may not borrow it (CAP_CHOWN)"
            ) from problem

    def run(self, words: Sequence[str], *, files: Sequence[int], file_max_bytes: int, tick: Tick | None = None) -> str:
        """What the program said. `files` are open for it under their numbers. Raises `Failed` or `Unusable`."""
        program = [_program(words[0]), *words[1:]]
        command = [*self._apart(), *_limits(file_max_bytes), *self._privileges(), *program]
        with _started(command, files) as child:
            said = _listen(child, time.monotonic() + self.deadline_s, tick or _ignore)
            code = child.wait()
        if code:
            raise Failed(_sentence(words[0], code, said), code)
        return said

    def _apart(self) -> list[str]:
        """What takes the network away; nothing where the kernel allows no namespaces."""
        if _may(_SYS_ADMIN):
            return _tried("unshare", "--net", "--")
        # In a user namespace of its own nobody can become another user any more, so that this comes first.
        becoming = ["setpriv", *self._user(), "--"] if self._user() else []
        return _tried(*becoming, "unshare", "--user", "--map-current-user", "--net", "--") or becoming

    def _user(self) -> list[str]:
        if self.uid == os.geteuid():
            return []
        return [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]

    def _privileges(self) -> list[str]:
        # setpriv sets the death signal last, after what would clear it.
        words = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--pdeathsig=KILL"]
        if _may(_SYS_ADMIN):
            words += self._user()
            if _may(_SETPCAP):
                words += ["--bounding-set=-all"]
        return [*words, "--"]


def _limits(file_max_bytes: int) -> list[str]:
    return [
        "prlimit",
        f"--as={MEMORY_MAX_BYTES}",
        f"--stack={STACK_MAX_BYTES}",
        f"--cpu={PROCESSOR_MAX_S}",
        f"--fsize={file_max_bytes}",
        f"--nofile={FILES_MAX}",
        f"--nproc={PROCESSES_MAX}",
        "--core=0",
        "--",
    ]


@cache
def _tried(*words: str) -> list[str]:
    """The words, if they work here."""
    done = subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, env={"PATH": _PATH})  # noqa: S603
    return list(words) if done.returncode == 0 else []


def _may(*capabilities: int) -> bool:
    with open("/proc/thread-self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return all(effective >> capability & 1 for capability in capabilities)


def _program(name: str) -> str:
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise Unusable(f"{name} is not installed (Debian: qemu-utils)")
    return path


@contextmanager
def _started(command: Sequence[str], files: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
    """Killed when left, with all of its group."""
    try:
        child = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_ENVIRONMENT,
            pass_fds=files,
            start_new_session=True,
        )
    except OSError as problem:
        raise Unusable(f"{command[0]} can't be started: {problem.strerror}") from problem
    try:
        yield child
    finally:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        assert child.stdout is not None
        child.stdout.close()


def _listen(child: subprocess.Popen[bytes], deadline: float, tick: Tick) -> str:
    """Its last words, without those on progress, which go to `tick`."""
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_NONBLOCK)
    said, percent = b"", 0
    while True:
        if time.monotonic() > deadline:
            raise Unusable("qemu-img took too long and was ended")
        tick(percent)
        if not select.select([pipe], [], [], TICK_S)[0]:
            continue
        part = os.read(pipe, 4096)
        if not part:
            return said.decode(errors="replace")
        said += part
        percents = _PERCENT.findall(said)
        percent = int(percents[-1]) if percents else percent
        said = _PERCENT.sub(b"", said)[-SAID_MAX_BYTES:]


def _sentence(program: str, code: int, said: str) -> str:
    if code < 0 and signal.Signals(-code) in _SIGNALS:
        return f"{program} {_SIGNALS[signal.Signals(-code)]}"
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Try '")]
    if any(line.endswith(os.strerror(errno.ENOSPC)) for line in lines):  # after which it may abort as well
        return "the pool is full"
    ended = f"it ended with code {code}" if code > 0 else f"it was ended by signal {-code}"
    last = _PLACES.sub("the image", lines[-1]).removeprefix("qemu-img: ") if lines else ended
    return f"{program} failed: " + "".join(c if c.isprintable() else " " for c in last)[:300]


def _ignore(_percent: int) -> None:
    pass
