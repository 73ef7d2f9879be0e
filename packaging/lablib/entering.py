"""`lab exec`: a command inside a host, as if typed there. Terminal, working folder, signals and exit code pass through.

Imports next to nothing: every command of a demo or a test pays for this file's start.
"""

from __future__ import annotations

import os
import signal
import sys

from lablib.kernel import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    die_with_parent,
    enter,
    started_at,
)

SPACES = {"uts": CLONE_NEWUTS, "net": CLONE_NEWNET, "pid": CLONE_NEWPID, "mnt": CLONE_NEWNS}  # mnt hides /proc: last
FORWARDED = {signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
FROM_THE_KERNEL = 0x80  # si_code of a key on the terminal, which the command has received as well
NOT_FOUND, NOT_RUNNABLE, FAILED = 127, 126, 1


def enter_and_run(lab: str, host: str, command: list[str]) -> int:
    """The command's exit code; 128 + n if signal n ended it."""
    pid = _pid_of(lab, host)
    if pid is None:
        print(f'lab: no host "{host}" is up in lab "{lab}"', file=sys.stderr)
        return FAILED
    here = os.getcwd()
    for key, value in _environment(lab, host).items():
        os.environ[key] = value
    try:
        spaces = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), kind) for name, kind in SPACES.items()]
        for fd, kind in spaces:
            enter(fd, kind)
            os.close(fd)
    except PermissionError:
        print("lab: needs root (try: sudo packaging/lab ...)", file=sys.stderr)
        return FAILED
    try:
        os.chdir(here)
    except OSError:
        os.chdir("/")
    return _run(host, command)


def _pid_of(lab: str, host: str) -> int | None:
    try:
        with open(f"/run/atomos-lab/{lab}/{host}.pid") as file:
            pid, start = file.read().split()
    except (OSError, ValueError):
        return None
    return int(pid) if str(started_at(int(pid))) == start else None


def _environment(lab: str, host: str) -> dict[str, str]:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    home = f"/var/lib/atomos-lab/{lab}/hosts/{host}"  # who types is somebody else on each host, and not root out there
    return {
        "PATH": f"{root}/.venv/bin:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        "ATOMOS_LAB_HOST": host,
        "ATOMOS_ALLOW_EMULATION": "1",
        **{f"XDG_{kind}_HOME": f"{home}/{kind.lower()}" for kind in ("CONFIG", "STATE", "CACHE", "DATA")},
    }


def _run(host: str, command: list[str]) -> int:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        _become(host, command, before)
    while True:
        info = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code < FROM_THE_KERNEL:
                os.kill(child, info.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if ended == 0:
            continue
        if os.WIFSTOPPED(status):
            os.kill(os.getpid(), signal.SIGSTOP)  # Ctrl-Z: the shell sees us stop as well, and wakes us with `fg`
            os.kill(child, signal.SIGCONT)
            continue
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def _become(host: str, command: list[str], mask: set[int | signal.Signals]) -> None:
    code = NOT_RUNNABLE
    try:
        die_with_parent(signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores these two; a command expects them
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execvp(command[0], command)
    except FileNotFoundError:
        code = NOT_FOUND
        print(f"lab: {host}: {command[0]}: no such command", file=sys.stderr, flush=True)
    except OSError as error:
        print(f"lab: {host}: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)
